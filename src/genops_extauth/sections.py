"""The sections of the configuration, except identity (`issuers`): each a frozen object that is right in itself."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from genops_extauth import notation
from genops_extauth.certificates import CredentialsError, Files, read_credentials
from genops_extauth.fields import (
    Attribute,
    AttributeValue,
    Boolean,
    CheckError,
    DnsName,
    Duration,
    ListenAddress,
    Section,
    TcpAddress,
    between,
    distinct,
    frozen,
    setting,
    sources,
)

DEFAULT_TIER = "free"
"""The tier of tokens that name none, where the configuration does not say: the GenOps guide's smallest."""


def _some_service(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        raise ValueError("name at least one service, or leave it out")
    return distinct(names)


class ServerTls(Section):
    """TLS on the gRPC port. Files are in PEM, relative to this file's folder, and read anew for each connection."""

    cert_file: str = Field(description="Our certificate, followed by those between it and its authority.")
    key_file: str = Field(description="The key of our certificate.")
    client_ca_file: str | None = Field(
        default=None, description="Authorities of clients: who has no certificate of theirs gets no connection."
    )
    client_names: Annotated[tuple[DnsName, ...], AfterValidator(distinct)] = Field(
        default=(), description="DNS names of clients; the calls of others are refused. By default none are."
    )

    def files(self, folder: Path) -> Files:
        """Tell where the files are; `folder` is the configuration file's."""
        client_ca = None if self.client_ca_file is None else folder / self.client_ca_file
        return Files(folder / self.cert_file, folder / self.key_file, client_ca)

    @model_validator(mode="after")
    def _usable(self, info: ValidationInfo) -> Self:
        if self.client_names and self.client_ca_file is None:
            raise CheckError((("client_names",), "nobody vouches for a name: write client_ca_file too"))
        try:
            read_credentials(self.files(sources(info).folder))
        except CredentialsError as error:
            raise CheckError(*(((f"{part}_file",), message) for part, message in error.complaints)) from None
        return self


class Server(Section):
    """Where it listens and how it stops."""

    grpc: ListenAddress = setting(
        notation.listen_address, "127.0.0.1:50051", "Where the gateway asks: HOST:PORT or unix:/path."
    )
    http: TcpAddress = setting(
        notation.tcp_address, "127.0.0.1:8080", "Where probes and Prometheus ask: /healthz, /readyz, /metrics."
    )
    debug: TcpAddress | None = Field(
        default=None,
        description="Where operators ask for /rlconfig and /stats, which may name customers; nowhere by default.",
    )
    metrics: TcpAddress | None = Field(
        default=None, description="A port with what server.http has, for a Prometheus that asks elsewhere."
    )
    tls: ServerTls | None = Field(default=None, description="TLS on the gRPC port, which transport: native has not.")
    json_limits: Boolean = Field(
        default=False, description="Whether the HTTP port answers rate limit requests at /json, and /healthcheck."
    )
    services: Annotated[tuple[Literal["identity", "rate_limits"], ...], AfterValidator(_some_service)] = Field(
        default=("identity", "rate_limits"), description="What it serves; rate_limits alone needs no identity."
    )
    transport: Literal["auto", "grpcio", "native"] = Field(
        default="auto", description="What carries gRPC; auto takes native where it is installed, and without TLS."
    )
    # Istio's terminationDrainDuration. Kubernetes sends SIGTERM and takes the address out of the endpoints at the same
    # time; a proxy that has not heard yet still sends requests. Both defaults fit into its 30 s of grace.
    drain_delay: Annotated[Duration, between("0s", "10m")] = setting(
        notation.duration, "5s", "How long to go on serving after SIGTERM, while gateways learn of it."
    )
    shutdown_grace: Annotated[Duration, between("0s", "10m")] = setting(
        notation.duration, "10s", "How long calls in flight may take once the port is closed."
    )

    @model_validator(mode="after")
    def _ports_apart(self) -> Self:
        taken: dict[object, str] = {self.grpc: "grpc"}
        for name in ("http", "debug", "metrics"):
            address = getattr(self, name)
            if address is not None and address.port != 0 and address in taken:
                raise CheckError(((name,), f"server.{taken[address]} has this address too; choose another port"))
            taken[address] = name
        return self

    @model_validator(mode="after")
    def _tls_is_carried(self) -> Self:
        if self.tls is not None and self.transport == "native":
            raise CheckError((("transport",), "native has no TLS: write auto or grpcio, or leave server.tls out"))
        return self


class Log(Section):
    """What it tells."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info",
        description="The least that is logged: info has a line for each denial, debug for each decision.",
    )
    format: Literal["json", "console"] = Field(default="json", description="json for collectors, console for people.")


class Governance(Section):
    """What must be known of whoever asks."""

    required: Annotated[tuple[Attribute, ...], AfterValidator(distinct)] = Field(
        default=("team", "project", "customer_id"), description="Attributes without which a request is refused."
    )
    defaults: Annotated[Mapping[Attribute, AttributeValue], AfterValidator(frozen)] = Field(
        default_factory=dict,
        validate_default=True,
        description="Attributes of tokens that do not say; customer_tier is `free` unless written here or required.",
        json_schema_extra={"default": {"customer_tier": DEFAULT_TIER}},
    )
    sdk_headers: Boolean = Field(
        default=False,
        description="Whether services are told in X-Customer-ID, X-User-ID and X-Tenant-ID too, for the GenOps SDK.",
    )

    @field_validator("defaults")
    @classmethod
    def _with_tier(cls, defaults: Mapping[str, str], info: ValidationInfo) -> Mapping[str, str]:
        required = info.data.get("required", ())
        for name in defaults:
            if name in required:
                raise CheckError(((name,), "is required too, and a default always satisfies that: keep one of the two"))
        return defaults if "customer_tier" in required else frozen({"customer_tier": DEFAULT_TIER, **defaults})

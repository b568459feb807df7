"""The sections of the configuration, except identity (`issuers`): each a frozen object that is right in itself."""

from collections.abc import Callable, Mapping
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, PrivateAttr, SecretStr, ValidationInfo, field_validator, model_validator

from genops_extauth import bucket, notation
from genops_extauth.fields import (
    Attribute,
    AttributeValue,
    Boolean,
    CheckError,
    Count,
    Duration,
    ListenAddress,
    Name,
    RateText,
    Section,
    TcpAddress,
    between,
    distinct,
    frozen,
    setting,
    sources,
)
from genops_extauth.sources import SourceError

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
"""RFC 9110, 9.3 and RFC 5789, without CONNECT and TRACE, which no gateway routes by path."""

DEFAULT_TIER = "free"
"""The tier of tokens that name none, where the configuration does not say: the GenOps guide's smallest."""


class Server(Section):
    """Where it listens and how it stops."""

    grpc: ListenAddress = setting(
        notation.listen_address, "127.0.0.1:50051", "Where the gateway asks: HOST:PORT or unix:/path."
    )
    http: TcpAddress = setting(
        notation.tcp_address, "127.0.0.1:8080", "Where probes and Prometheus ask: /healthz, /readyz, /metrics."
    )
    transport: Literal["auto", "grpcio", "native"] = Field(
        default="auto", description="What carries gRPC; auto takes native where it is installed."
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
    def _two_ports(self) -> Self:
        if self.http == self.grpc and self.http.port != 0:
            raise CheckError((("http",), "server.grpc has this address too; choose another port"))
        return self


class Log(Section):
    """What it tells."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info",
        description="The least that is logged: info has a line for each denial, debug for each decision.",
    )
    format: Literal["json", "console"] = Field(default="json", description="json for collectors, console for people.")


def _without_password(text: str) -> str:
    url = notation.store_url(text)
    if url.password is not None:
        raise ValueError("holds a password: put it into store.password_file or REDIS_PASSWORD, and leave it out here")
    return url.url


class Store(Section):
    """Where buckets are kept."""

    url: Annotated[str, AfterValidator(_without_password)] = Field(
        default="embedded:",
        description="embedded: (a Valkey of our own, for one replica), redis://HOST:PORT, unix:///PATH or HOST:PORT.",
    )
    # Well over a healthy store's answer. Envoy's own deadline, 20 ms unless its operator says otherwise, comes first.
    timeout: Annotated[Duration, between("1ms", "10s")] = setting(
        notation.duration, "100ms", "The longest to wait for the store; the gateway's own deadline wins where earlier."
    )
    password_file: str | None = Field(
        default=None, description="A file that holds the store's password, relative to this file's folder."
    )
    key_prefix: Name = Field(default="genops", description="What every key in the store begins with.")
    _password: SecretStr | None = PrivateAttr(None)

    @property
    def password(self) -> SecretStr | None:
        """The password, from the file or the environment; its repr is masked."""
        return self._password

    @model_validator(mode="after")
    def _find_password(self, info: ValidationInfo) -> Self:
        found = dict(sources(info).passwords)
        if self.password_file is not None:
            found["store.password_file"] = self._password_of(sources(info).file, self.password_file)
        if len(found) > 1:
            raise CheckError((("password_file",), f"{' and '.join(found)} both give a password; keep one"))
        if found and self.url == "embedded:":
            where = "name the store here or in REDIS_URL"
            raise CheckError((("url",), f"{next(iter(found))} gives a password, and embedded: has none; {where}"))
        self._password = next(iter(found.values()), None)
        return self

    @staticmethod
    def _password_of(read: Callable[[str], bytes], name: str) -> SecretStr:
        try:
            password = read(name).decode().rstrip("\r\n")
        except SourceError as error:
            raise CheckError((("password_file",), f"{error}; it names a file, and is not the password")) from None
        except UnicodeDecodeError:
            raise CheckError((("password_file",), "does not hold UTF-8 text")) from None
        if not password:
            raise CheckError((("password_file",), "is empty"))
        return SecretStr(password)


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

    @field_validator("defaults")
    @classmethod
    def _with_tier(cls, defaults: Mapping[str, str], info: ValidationInfo) -> Mapping[str, str]:
        required = info.data.get("required", ())
        for name in defaults:
            if name in required:
                raise CheckError(((name,), "is required too, and a default always satisfies that: keep one of the two"))
        return defaults if "customer_tier" in required else frozen({"customer_tier": DEFAULT_TIER, **defaults})


class Limit(Section):
    """A token bucket."""

    limit: RateText = Field(description="How much comes back: requests per second, minute, hour, day, ... or year.")
    burst: Count | None = Field(default=None, description="How much fits at once; by default the limit's requests.")

    @property
    def shape(self) -> bucket.Shape:
        """The bucket in exact numbers."""
        return bucket.shape(self.limit.requests, self.limit.period, self.burst)

    @model_validator(mode="after")
    def _countable(self) -> Self:
        if self.burst == 0 and self.limit.requests:
            raise CheckError((("burst",), "a bucket of 0 never admits anything: write 1 or more, or limit: 0/second"))
        try:
            _ = self.shape
        except ValueError as error:
            raise CheckError((("limit",), str(error))) from None
        return self


class RateLimits(Section):
    """The rate limit service's answers."""

    domain: Name = Field(default="genops", description="The domain that gateways ask with.")
    headers: Boolean = Field(default=True, description="Whether to answer with x-ratelimit-* and Retry-After.")
    # A request a second: one person at work behind an address does not meet it, a scan does.
    anonymous: Limit = Field(
        default_factory=lambda: Limit(limit=notation.rate("60/minute")),
        description="The bucket of each client address (descriptor remote_address), for requests without identity.",
        json_schema_extra={"default": {"limit": "60/minute"}},
    )


def _method(name: str) -> str:
    if name not in METHODS:
        raise ValueError(f"methods are upper case: {', '.join(METHODS)}")
    return name


def _methods(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        raise ValueError("an empty list matches nothing: write for example [GET]")
    return distinct(names)


class Route(Section):
    """A route that needs no identity."""

    methods: Annotated[tuple[Annotated[str, AfterValidator(_method)], ...], AfterValidator(_methods)] = Field(
        description="Its methods, for example [GET]."
    )
    path: Annotated[str, AfterValidator(notation.exact_path)] = Field(
        description="Its whole path, compared byte by byte; never a prefix or a pattern."
    )
    auth: Literal["none"] = Field(description="What it needs: none.")

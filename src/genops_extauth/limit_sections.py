"""The sections about limits: ``tiers`` and ``rate_limits``."""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, PrivateAttr, ValidationInfo, model_validator

from genops_extauth import bucket, declared, notation
from genops_extauth.declared import Domain
from genops_extauth.fields import (
    Boolean,
    CheckError,
    Count,
    Duration,
    FileName,
    HeaderName,
    MetadataName,
    MetadataValue,
    Name,
    Prose,
    RateText,
    Section,
    Share,
    Size,
    TcpAddress,
    Visible,
    between,
    frozen,
    setting,
    sources,
)


class Limit(Section):
    """The token bucket of each customer of a tier, or of each address."""

    limit: RateText = Field(description="How much comes back: requests per second, minute, hour, day, ... or year.")
    burst: Count | None = Field(default=None, description="How much fits at once; by default the limit's requests.")
    outage: Literal["open", "closed"] | None = Field(
        default=None, description="What follows the outage allowance; by default what store.outage says."
    )
    outage_allowance: Count | None = Field(
        default=None,
        description="Tokens that a process may grant by itself in an outage; by default the share of store.outage.",
    )
    lease: Count = Field(
        default=0, description="Tokens that a process may take ahead of their use; 0 asks for each request."
    )

    @property
    def meter(self) -> bucket.Bucket:
        """The bucket in exact numbers."""
        return bucket.bucket(self.limit.requests, self.limit.period, self.burst)

    def declared(self, name: str) -> declared.Limit:
        """Return the limit as files declare one, called `name`."""
        return declared.Limit(
            self.limit.requests,
            self.limit.unit,
            name=name,
            burst=self.burst,
            lease=self.lease,
            outage=self.outage,
            outage_allowance=self.outage_allowance,
        )

    @model_validator(mode="after")
    def _countable(self) -> Self:
        if self.burst == 0 and self.limit.requests:
            raise CheckError((("burst",), "a bucket of 0 never admits anything: write 1 or more, or limit: 0/second"))
        try:
            _ = self.meter
        except ValueError as error:
            raise CheckError((("limit",), str(error))) from None
        size = self.limit.requests if self.burst is None else self.burst
        if self.lease > size:
            raise CheckError((("lease",), f"must be at most {size}, which is all that a process could take at once"))
        return self


class HeaderNames(Section):
    """The names of the header fields that tell clients of a limit."""

    limit: HeaderName = Field(default="x-ratelimit-limit", description="The requests per unit.")
    remaining: HeaderName = Field(default="x-ratelimit-remaining", description="What is left.")
    reset: HeaderName = Field(default="x-ratelimit-reset", description="Seconds until all is there again.")

    @model_validator(mode="after")
    def _apart(self) -> Self:
        taken: dict[str, str] = {}
        for field in type(self).model_fields:
            other = taken.setdefault(getattr(self, field).lower(), field)
            if other != field:
                raise CheckError(((field,), f"header_names.{other} has this name too; choose another one"))
        return self


class Xds(Section):
    """A management server that gives the limits: SotW ADS, as Envoy Gateway's."""

    server: TcpAddress = Field(description="Its address.")
    node_id: Visible = Field(default="default", description="What we call ourselves.")
    node_metadata: Annotated[Mapping[str, str], AfterValidator(frozen)] = Field(
        default_factory=dict, validate_default=True, description="What we say of ourselves."
    )
    headers: Annotated[Mapping[MetadataName, MetadataValue], AfterValidator(frozen)] = Field(
        default_factory=dict, validate_default=True, description="Metadata of the stream, for example a tenant."
    )
    tls: Boolean = Field(default=False, description="Whether to speak TLS.")
    ca_file: str | None = Field(default=None, description="Authorities to believe, in PEM.")
    cert_file: str | None = Field(default=None, description="Our certificate, where the server wants one.")
    key_file: str | None = Field(default=None, description="The key of our certificate.")
    server_name: Visible | None = Field(default=None, description="The name in its certificate, if not the host's.")
    # An Envoy Gateway that is rolled out is back within seconds; a minute of doubling ends a storm of reconnects.
    backoff: Annotated[Duration, between("10ms", "10m")] = setting(
        notation.duration, "1s", "How long to wait before connecting again, at first."
    )
    backoff_max: Annotated[Duration, between("10ms", "1h")] = setting(
        notation.duration, "30s", "How long to wait before connecting again, at most."
    )
    max_bytes: Size = Field(default=4 * 1024 * 1024, description="The largest answer that is read, in bytes.")
    start_without: Boolean = Field(
        default=False, description="Whether to serve before the first answer came, with no limit in force."
    )

    @model_validator(mode="after")
    def _secured(self) -> Self:
        if (self.cert_file is None) != (self.key_file is None):
            lacking = "cert_file" if self.cert_file is None else "key_file"
            raise CheckError(((lacking,), "a certificate and its key go together: write both, or neither"))
        if not self.tls and (self.ca_file or self.cert_file or self.server_name):
            raise CheckError((("tls",), "certificates are given, and TLS is off: write tls: true, or leave them out"))
        if self.backoff_max < self.backoff:
            raise CheckError((("backoff_max",), "is shorter than backoff: write the same or more"))
        return self


class RateLimits(Section):
    """The rate limit service's answers."""

    domain: Name = Field(default="genops", description="The domain of `tiers`, that gateways ask with.")
    directory: FileName | None = Field(
        default=None, description="A folder of envoyproxy/ratelimit's files, relative to this file's folder."
    )
    merge_domains: Boolean = Field(
        default=False, description="Whether several files, or resources of xds, may speak of one domain."
    )
    xds: Xds | None = Field(default=None, description="A management server that gives the limits.")
    near_limit_ratio: Share = setting(
        notation.share, "80%", "From which share of a limit on hits are counted as near it."
    )
    shadow_mode: Boolean = Field(default=False, description="Whether nobody is refused, and all is counted.")
    quota_mode: Boolean = Field(
        default=False, description="Whether a request is refused only where all its limits are exhausted."
    )
    dynamic_metadata: Boolean = Field(
        default=False,
        description="Whether answers tell what was asked, and the metadata of what passed.",
    )
    headers: Boolean = Field(default=True, description="Whether clients are told of a limit in header fields.")
    header_names: HeaderNames = Field(default_factory=HeaderNames)
    retry_after: Boolean = Field(default=True, description="Whether a refusal says Retry-After.")
    ietf_headers: Boolean = Field(
        default=False, description="Whether clients are told of all limits, in RateLimit and RateLimit-Policy."
    )
    body: Prose = Field(default="json", description="The body of a refusal: json (ours), none, or the text itself.")
    # A series takes about 500 bytes here, and more in Prometheus, which is told of each of its counters.
    metric_series: Count = Field(
        default=10_000, description="How many limits have counters of their own; the rest shares one."
    )
    # A request a second: one person at work behind an address does not meet it, a scan does.
    anonymous: Limit = Field(
        default_factory=lambda: Limit(limit=notation.rate("60/minute")),
        description="The bucket of each client address (descriptor remote_address), for requests without identity.",
        json_schema_extra={"default": {"limit": "60/minute"}},
    )

    _domains: tuple[Domain, ...] = PrivateAttr(())
    _remarks: tuple[str, ...] = PrivateAttr(())

    @property
    def domains(self) -> tuple[Domain, ...]:
        """What the files of `directory` declare."""
        return self._domains

    @property
    def remarks(self) -> tuple[str, ...]:
        """What in those files loads, but may not mean what it says."""
        return self._remarks

    @model_validator(mode="after")
    def _one_source(self, info: ValidationInfo) -> Self:
        self._domains, self._remarks = sources(info).domains, sources(info).remarks
        if self.directory is not None and self.xds is not None:
            raise CheckError((("xds",), "rate_limits.directory gives the limits already: keep one of the two"))
        return self

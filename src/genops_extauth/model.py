"""The nouns: what a gateway asks, what we answer, and why.

Everything here is frozen. A decision has no truth value: ``if verdict:`` raises, so that it can never compile into a
bypass (the habit is kopf's). Refusals are values (`Denied`); outages are exceptions (`Outage`), converted to a
verdict in `gate` only.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, NamedTuple, NoReturn

from genops_extauth.reasons import Reason


class _NoTruthValue:
    """Mix-in of every decision."""

    __slots__ = ()

    def __bool__(self) -> NoReturn:
        raise TypeError(f"{type(self).__name__} has no truth value: match on its type")


class Outage(Exception):  # noqa: N818 - an outage is what it is; its kinds say of what
    """Raised when something that a decision needs cannot be had now: keys, the store."""


class KeysUnavailable(Outage):
    """Raised when no key of the token's issuer can be had: never fetched, or older than ``max_stale``."""


class StoreUnavailable(Outage):
    """Raised when the store did not answer in time, refused, or could not be reached; the message says which."""


class Peer(NamedTuple):
    """Who is at the other end of the connection to the gateway (envoy AttributeContext.source).

    `address` is its IP address, empty where there is none. Where it proved a certificate, `principal` is the first of
    its URI SANs, else DNS SANs, else its subject, and `certificate` the certificate itself, in PEM and URL encoding,
    if the gateway passes it on (``include_peer_certificate``).
    """

    address: str = ""
    principal: str = ""
    certificate: str = ""


_NO_PEER = Peer()
_NOTHING: Mapping[str, str] = MappingProxyType({})


class Request(NamedTuple):
    """One HTTP request, as a gateway describes it.

    `headers` maps lower-case names to the bytes the client sent; look with ``get``. A name that arrived more than
    once is in `repeated` too, and its value is then the joined list, as Envoy joins (``,``). `path` is the
    origin-form target without its query; it is not decoded. `consistent` is False where the gateway said one thing
    twice and differently: two encodings of the headers, or a pseudo-header beside its attribute. `names` are the
    headers' names, a line each, where whoever read the request has them at hand.

    `query` is what follows the ``?``. `body` is None where the gateway passes none on; it may be cut off. `context` is
    what the gateway's configuration says of the route (envoy ``context_extensions``): no client can write it.
    """

    # A named tuple is made in a third of the time of a frozen dataclass; one is made for every request.
    method: str
    path: str
    host: str
    headers: Mapping[str, bytes]
    repeated: frozenset[str] = frozenset()
    consistent: bool = True
    names: str = ""
    query: str = ""
    body: bytes | None = None
    context: Mapping[str, str] = _NOTHING
    peer: Peer = _NO_PEER


Method = Literal["jwt", "api_key", "certificate"]
"""How a caller can say who it is."""


@dataclass(frozen=True, slots=True, eq=False)
class Identity:
    """Who asks, as a verified credential says.

    `attributes` are the governance attributes (`policy.ATTRIBUTES`) found in the credential, each safe to be a header
    value. `expires_at` is in seconds since the epoch. `method` is the kind of the credential, and `credential_id` what
    tells it from the subject's others: a token's ``jti``, an API key's id; empty where it has none. Two identities are
    equal only when they are the same object: caches use them as keys on the request path.
    """

    issuer: str
    subject: str
    attributes: Mapping[str, str]
    expires_at: float
    method: Method = "jwt"
    credential_id: str = ""
    scopes: frozenset[str] = frozenset()
    roles: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, eq=False)
class Grant:
    """What the upstream and the rate limiter are told about an identity, or about nobody.

    `headers` are set (overwritten), `removed` are the reserved names that are not set; the two are disjoint.
    `metadata` are the same facts as Envoy dynamic metadata, always strings (descriptors match nothing else).
    """

    identity: Identity | None
    headers: tuple[tuple[str, str], ...]
    removed: tuple[str, ...]
    metadata: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Allowed(_NoTruthValue):
    """The request may pass.

    `removed` are further headers that must not arrive upstream: other spellings of reserved ones, and those that hold a
    credential. `removed_parameters` are such parameters of its query. `request_id` is to be set where the request came
    without a usable one.
    """

    grant: Grant
    removed: tuple[str, ...] = ()
    request_id: str | None = None
    removed_parameters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Denied(_NoTruthValue):
    """The request may not pass. `detail` is for logs: it never holds what a client sent, nor a credential."""

    reason: Reason
    detail: str = ""


Verdict = Allowed | Denied


Unit = Literal["second", "minute", "hour", "day", "week", "month", "year"]


class Override(NamedTuple):
    """The limit that a descriptor brings along (envoy RateLimitDescriptor.limit): `requests` per `unit`."""

    requests: int
    unit: Unit


class Descriptor(NamedTuple):
    """One rate limit descriptor: entries in order, as bytes.

    `hits` counts how many hits it adds; 0 looks without consuming; None leaves it to the request (envoy
    RateLimitDescriptor.hits_addend). A `refund` gives them back (is_negative_hits).
    """

    entries: tuple[tuple[bytes, bytes], ...]
    hits: int | None = None
    refund: bool = False
    override: Override | None = None


class CurrentLimit(NamedTuple):
    """The limit that a descriptor met, as Envoy's RateLimitResponse.RateLimit tells it; per `periods` units, ours.

    `length` is that of a calendar's window, in seconds; 0 where the unit tells it.
    """

    requests_per_unit: int
    unit: Unit
    name: str = ""
    periods: int = 1
    length: int = 0


class DescriptorStatus(NamedTuple):
    """The answer for one descriptor. Without a `limit` nothing matched, and it passes.

    `remaining` is in whole hits; of what has no limit on purpose it is `UNLIMITED`. `reset` is in whole seconds: until
    all is there again, or where it is `over`, until the refused request would pass (at least 1).
    """

    over: bool = False
    limit: CurrentLimit | None = None
    remaining: int = 0
    reset: int = 0


UNLIMITED = 2**32 - 1
"""What envoyproxy/ratelimit says remains of an unlimited descriptor."""

Json = None | bool | float | str | list["Json"] | dict[str, "Json"]


class Quota(NamedTuple):
    """A calendar's quota: of which `unit`, and when the next begins (RFC 3339, in the calendar's time zone)."""

    unit: Unit
    renews: str


class Limited(NamedTuple):
    """The answer for a whole rate limit request.

    `told` is the place of the status that clients hear of in headers, None where no limit was met. `retry` is in whole
    seconds, where it is over: when the request could pass. `body` is that of the refusal, where its limit has one of
    its own; `quota` is the calendar's quota that is exhausted, if it is one. `metadata` is that of the descriptors that
    passed.
    """

    over: bool
    statuses: tuple[DescriptorStatus, ...]
    told: int | None = None
    retry: int = 0
    body: bytes | None = None
    quota: Quota | None = None
    metadata: Mapping[str, Json] | None = None

    def __bool__(self) -> NoReturn:
        raise TypeError("Limited has no truth value: ask whether it is `over`")


@dataclass(frozen=True, slots=True)
class Telling:
    """What clients hear of their limits: header fields, and the body of a refusal.

    `names` are those of the limit, of what remains, and of the seconds until the reset; where it is empty none is told.
    `ietf` adds RateLimit and RateLimit-Policy (draft-ietf-httpapi-ratelimit-headers-10). `body` is None for an empty
    one, "json" for ours, or the text itself. `metadata`: whether the gateway is told what it asked, and of whom.
    """

    names: tuple[str, ...] = ("x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset")
    retry_after: bool = True
    ietf: bool = False
    body: str | None = "json"
    metadata: bool = False


Form = Literal["json", "problem", "plain", "grpc"]
"""How a refusal is written: our JSON, RFC 9457's, a sentence, or for callers that speak gRPC."""


class Outcome(NamedTuple):
    """A verdict with what telemetry says of it: `seconds` it took, and the id that joins it with its traces.

    `form` is how a refusal is written. `route` names the route that decided, where it has a name.
    """

    verdict: Verdict
    decision_id: str
    request: Request | None
    seconds: float = 0.0
    form: Form = "json"
    route: str = ""

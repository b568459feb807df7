"""A gate with every way to say who one is, at one moment, and the credentials that it knows.

Nothing here is random, reads a clock or opens a socket: the same bytes get the same answer on every machine.
"""

import base64
import io
import itertools
import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from urllib.parse import quote, unquote_to_bytes

import jwt
import structlog
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from prometheus_client import CollectorRegistry

from genops_extauth import apikeys, logs, spiffe
from genops_extauth.bearer import Bearer
from genops_extauth.body_rules import BodyRules, models
from genops_extauth.claim_rules import matches
from genops_extauth.gate import Clocks, Gate, Generation
from genops_extauth.hits import NOTHING_ASKED, Answer
from genops_extauth.key_guesses import Guesses
from genops_extauth.key_lifecycle import Record, Secret
from genops_extauth.key_lookup import ApiKeys
from genops_extauth.key_places import Places
from genops_extauth.keyset import StaticKeys, from_pem, from_secret
from genops_extauth.limit_compiler import compile_tree
from genops_extauth.limit_rules import Settings
from genops_extauth.metrics import Metrics
from genops_extauth.model import Method
from genops_extauth.paths import pattern
from genops_extauth.peer_certificates import DnsPattern, Hops, PeerCertificates, Rule
from genops_extauth.policy import Policy
from genops_extauth.reserved_headers import ATTRIBUTES
from genops_extauth.revocations import Denylist, Entry, Revoked, handle
from genops_extauth.routes import Requirements, Route
from genops_extauth.shared_secrets import from_bytes
from genops_extauth.telemetry import Telemetry
from genops_extauth.tokens import Issuer, Verifier

NOW = 1_800_000_000
"""The present, in seconds since the epoch."""

ISSUER, PARTNER, AUDIENCE = "https://idp.test/", "https://partner.test/", "genops"
TIERS = frozenset({"free", "premium"})
_KEY = Ed25519PrivateKey.from_private_bytes(b"the key pair of the fuzzer: 32 b")
_STRANGER = Ed25519PrivateKey.from_private_bytes(b"somebody else's key, of 32 bytes")
_SECRET = b"a shared secret of the fuzzer's, 32 bytes or more of it as HS256 needs"
_DIGEST_KEY = b"the key of digests, 32 bytes of it, or a few more"


def claims(customer: str, **changes: object) -> dict[str, object]:
    """What a good token says; a change to None leaves the claim out."""
    said = {"iss": ISSUER, "aud": AUDIENCE, "sub": customer, "iat": NOW, "exp": NOW + 300, "jti": f"id-of-{customer}"}
    said |= {"customer_id": customer, "customer_tier": "premium", "team": "ml", "scope": "llm.invoke openid"}
    return {name: value for name, value in (said | changes).items() if value is not None}


def signed(payload: bytes) -> bytes:
    """A token of the partner's, whatever it says."""
    return jwt.PyJWS().encode(payload, _SECRET, "HS256", {"typ": "JWT"}).encode()


def _token(key: Ed25519PrivateKey = _KEY, **said: object) -> bytes:
    return jwt.encode(claims(**said), key, "EdDSA", {"kid": "k1"}).encode()  # type: ignore[arg-type]  # claims, as above


def _api_key(name: str) -> bytes:
    return apikeys.minted(lambda length: (name.encode() * 32)[:length]).text.encode()


def _certificate() -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "trainer")])
    builder = x509.CertificateBuilder(subject_name=name, issuer_name=name, public_key=_KEY.public_key())
    builder = builder.serial_number(4711).not_valid_before(datetime.fromtimestamp(NOW - 60, UTC))
    builder = builder.not_valid_after(datetime.fromtimestamp(NOW + 3600, UTC))
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(WORKLOAD.decode())])
    return builder.add_extension(names, critical=False).sign(_KEY, None).public_bytes(Encoding.PEM)


TOKEN, TEAMLESS = _token(customer="acme"), _token(customer="teamless", team=None, scope=None)
PARTNERS = signed(json.dumps(claims("globex", iss=PARTNER)).encode())
API_KEY, FOREIGN_KEY = _api_key("initech"), b"a-key-of-the-time-before-us-0123"
WORKLOAD, SERVICE, HOP = b"spiffe://mesh.test/ns/ml/sa/trainer", b"worker.mesh.test", b"spiffe://mesh.test/edge"
CERTIFICATE = quote(_certificate()).encode()

BAD = {
    "expired": _token(customer="expired", exp=NOW - 3600),
    "of another key": _token(_STRANGER, customer="forged"),
    "of another audience": _token(customer="elsewhere", aud="elsewhere"),
    "revoked": _token(customer="revoked"),
    "without a customer": _token(customer="x", customer_id=None),
    "of an unknown tier": _token(customer="gold", customer_tier="gold"),
    "unknown key": _api_key("nobody"),
    "expired key": _api_key("late"),
}
"""Credentials that are good for nothing."""

TOKENS: dict[bytes, str | None] = {TOKEN: "acme", TEAMLESS: "teamless", PARTNERS: "partner:globex"}
TOKENS |= {BAD["revoked"]: "revoked", BAD["without a customer"]: None}
"""Each token that proves who asks, with its customer. What is wrong with the last two is the gate's to know."""

CREDENTIALS = (TOKEN, TEAMLESS, PARTNERS, API_KEY, FOREIGN_KEY, *BAD.values())
"""What must never be seen again. A certificate is no secret."""

_BASE64 = re.compile(rb"[A-Za-z0-9+/]{32,}")


def _held(credential: bytes) -> Callable[[bytes], bool]:
    """Whether a request holds a credential, in a header or, in percent-encoding, in a query."""
    return lambda request: credential in request or credential in unquote_to_bytes(request)


def _named(form: bytes) -> Callable[[bytes], bool]:
    """Whether a request holds such a name, also within a certificate. DNS names have no case."""
    name = re.compile(form, re.IGNORECASE)
    return lambda request: any(map(name.search, (request, *_decoded(request))))


def _decoded(request: bytes) -> list[bytes]:
    runs = _BASE64.findall(re.sub(rb"\s", b"", unquote_to_bytes(request)))
    return [base64.b64decode(cut[: len(cut) // 4 * 4]) for run in runs for cut in (run[at:] for at in range(4))]


PROOFS: Mapping[str, Callable[[bytes], bool]] = {
    "acme": _held(TOKEN),
    "teamless": _held(TEAMLESS),
    "partner:globex": _held(PARTNERS),
    "initech": _held(API_KEY),
    "hooli": _held(FOREIGN_KEY),
    "workload": _named(rb"spiffe://mesh\.test/ns/[^/]+/sa/trainer"),
    "service": _named(rb"worker\.mesh\.test"),
}
"""What a request must hold to be that of a customer: the very bytes, before anything has read them."""

SCOPED = frozenset({"acme", "partner:globex", "initech", "workload"})
"""Those who may ask for chats."""


def _record(name: str, key: bytes, scope: str | None = None, expires: int | None = None) -> Record:
    shown = apikeys.presented(key, _DIGEST_KEY)
    assert shown is not None
    attributes = {"customer_id": name, "customer_tier": "free"}
    secrets = (Secret(shown.digest, NOW - 60),)
    scopes = frozenset({scope} if scope else ())
    return Record(shown.id, name, secrets, NOW - 60, attributes=attributes, scopes=scopes, expires=expires)


_RECORDS = (
    _record("initech", API_KEY, "llm.invoke"),
    _record("hooli", FOREIGN_KEY),
    _record("late", BAD["expired key"], expires=NOW - 1),
)
_CLAIMS = {name: (name,) for name in ATTRIBUTES}
_AUDIENCES = frozenset({AUDIENCE})


def _issuers() -> tuple[Issuer, Issuer]:
    public = _KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    pairs = StaticKeys(from_pem(public, frozenset({"EdDSA"})))
    secret = StaticKeys(from_secret(from_bytes(_SECRET, {"HS256"})))
    rules = (matches(("sub",), "[a-z0-9._@-]+"),)
    return (
        Issuer(ISSUER, _AUDIENCES, frozenset({"EdDSA"}), pairs, _CLAIMS, tiers=TIERS),
        Issuer(
            PARTNER,
            _AUDIENCES,
            frozenset({"HS256"}),
            secret,
            _CLAIMS,
            rules=rules,
            tiers=TIERS,
            customer_prefix="partner:",
            max_lifetime=3600,
        ),
    )


def verifier() -> Verifier:
    """What knows the tokens of both issuers. It remembers little: it is to be right when it forgets, too."""
    return Verifier(_issuers(), cache_bytes=2**18, refused_bytes=2**18)


def _certificates() -> PeerCertificates:
    workload = {"customer_id": "workload", "customer_tier": "premium"}
    rules = (
        Rule(spiffe.pattern("spiffe://mesh.test/ns/{team}/sa/trainer"), workload, frozenset({"llm.invoke"})),
        Rule(DnsPattern(SERVICE.decode()), {"customer_id": "service", "customer_tier": "free"}),
    )
    return PeerCertificates(rules, Hops((), frozenset({HOP.decode()})), capacity=2**18)


_ANYBODY: tuple[Method, ...] = ("jwt", "api_key", "certificate")
_ROUTES = (
    Route("health", methods=frozenset({"GET"}), path=pattern("/healthz"), asks=False),
    Route("public", path=pattern("/public/{rest=**}"), accepts=(*_ANYBODY, "anonymous"), denials="problem"),
    Route("page", path=pattern("/page"), accepts=_ANYBODY, origins=frozenset({b"https://app.test"}), denials="plain"),
    Route(
        "chat",
        methods=frozenset({"POST"}),
        path=pattern("/v1/chat"),
        accepts=_ANYBODY,
        requires=Requirements(scopes=frozenset({"llm.invoke"})),
        body=BodyRules({"*": models(("small-*",)), "premium": models(("small-*", "large"))}, {"*": 1000}),
    ),
    Route("tenant", context={"tenant": "a"}, path=pattern("/v1/{id}"), accepts=("certificate", "api_key")),
)


def _policy() -> Policy:
    return Policy(
        _ROUTES,
        required=("customer_id",),
        defaults={"environment": "test"},
        tiers=TIERS,
        default_tier="free",
        sdk_headers=True,
        api_key_header="x-api-key",
        api_key_parameter="api_key",
    )


class _NoStore:
    async def transact(self, hits: object, within: float | None = None) -> Answer:  # noqa: ARG002 - as `gate.Store`
        return NOTHING_ASKED


class Observed(Telemetry):
    """Telemetry whose `lines` can be read, and the `defects` of which it was told."""

    def __init__(self) -> None:
        self.defects: list[Exception] = []
        self._text = io.StringIO()
        # As `logs.open_log` has it, but for the thread that writes.
        log = structlog.wrap_logger(
            structlog.WriteLogger(self._text),
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt=str(NOW), key="time"),
                logs._tidy,  # noqa: SLF001 - what is tested
                logs._to_json,  # noqa: SLF001
            ],
            wrapper_class=structlog.make_filtering_bound_logger("debug"),
            context_class=dict,
        ).bind()
        # Each decision in a second of its own: none is left out.
        super().__init__(Metrics(CollectorRegistry(), lambda: NOW), log, clock=itertools.count().__next__)

    def failed(self, error: Exception) -> None:
        """Take note of a defect."""
        self.defects.append(error)

    def lines(self) -> list[str]:
        """Everything logged since the last time."""
        text = self._text.getvalue()
        self._text.seek(0)
        self._text.truncate()
        return text.splitlines()


def gate(observed: Observed) -> Gate:
    """The gate."""
    keys = Places(query="api_key")
    # Each guess in an hour of its own: what came before changes no answer.
    guesses = Guesses(itertools.count(step=3600).__next__)
    generation = Generation(
        {
            "jwt": Bearer(verifier(), {}),
            "api_key": ApiKeys(keys, _DIGEST_KEY, tiers=TIERS, guesses=guesses, held=_RECORDS),
            "certificate": _certificates(),
        },
        _policy(),
        compile_tree((), Settings()),
        revoked=Revoked(Denylist([Entry(handle("token_id", "id-of-revoked", ISSUER), NOW + 300)]), Denylist()),
    )
    clocks = Clocks(wall=lambda: NOW, monotonic=lambda: 0.0)
    return Gate(generation, _NoStore(), clocks, observed, new_id=lambda: "0123456789abcdef")

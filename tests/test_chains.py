"""Chains: which credentials a route takes, in which order, and that two of them never mix."""

import os
from collections.abc import Sequence
from ipaddress import ip_network

import pytest

from api_keys import issued
from genops_extauth.bearer import Bearer
from genops_extauth.gate import Clocks, Gate, Generation
from genops_extauth.key_guesses import Guesses
from genops_extauth.key_lookup import ApiKeys
from genops_extauth.key_places import Places
from genops_extauth.limit_compiler import compile_tree
from genops_extauth.limit_rules import Settings
from genops_extauth.model import Allowed, Denied, Identity, KeysUnavailable, Peer, Request, StoreUnavailable
from genops_extauth.peer_certificates import Hops, PeerCertificates, Rule
from genops_extauth.policy import Policy
from genops_extauth.reasons import Reason
from genops_extauth.routes import Credential, Route
from genops_extauth.spiffe import pattern
from genops_extauth.tokens import Verifier
from minting import NOW, claims, ed_pair, token, trusted
from test_gate import Memory, Seen

DIGEST_KEY = os.urandom(32)
KEY = issued(DIGEST_KEY, {"team": "keys", "customer_id": "c-7", "customer_tier": "free"})
TOKEN = token(ed_pair(), claims())
NOBODY = Peer()
MESH = Peer("10.0.0.9", "spiffe://mesh/ns/ml/sa/batch")

CREDENTIALS = {
    "jwt": {"authorization": b"Bearer " + TOKEN},
    "api_key": {"x-api-key": KEY.key},
    "bearer key": {"authorization": b"Bearer " + KEY.key},
}
TEAMS = {"jwt": "search", "api_key": "keys", "bearer key": "keys"}


class Revoked:
    """A list of one subject."""

    def __init__(self, subject: str) -> None:
        self._subject = subject

    def includes(self, identity: Identity) -> bool:
        return identity.subject == self._subject


def gate_of(accepts: Sequence[Credential], **parts: object) -> Gate:
    keys = ApiKeys(Places(), DIGEST_KEY, tiers=frozenset({"free"}), guesses=Guesses(lambda: 0.0), held=[KEY.record])
    certificates = PeerCertificates(
        [Rule(pattern("spiffe://mesh/ns/{team}/sa/*"))], Hops((ip_network("10.9.0.0/16"),), frozenset())
    )
    authenticators = {"jwt": Bearer(Verifier([trusted()]), {}), "api_key": keys, "certificate": certificates}
    policy = Policy((Route(accepts=tuple(accepts)),), api_key_header="x-api-key")
    generation = {"authenticators": authenticators, "policy": policy, "tree": compile_tree((), Settings()), **parts}
    clocks = Clocks(lambda: NOW, lambda: 0.0)
    return Gate(Generation(**generation), Memory(), clocks, Seen(), new_id=lambda: "0123456789")  # type: ignore[arg-type]  # of the test's choosing


async def verdict(
    accepts: Sequence[Credential], headers: dict[str, bytes], peer: Peer = NOBODY, **parts: object
) -> Allowed | Denied:
    request = Request("GET", "/v1/chat", "api.test", headers, peer=peer)
    return (await gate_of(accepts, **parts).check(request, lambda: None)).verdict


def team(found: Allowed | Denied) -> str | None:
    assert isinstance(found, Allowed)
    return None if found.grant.identity is None else found.grant.identity.attributes["team"]


@pytest.mark.parametrize("order", [("jwt", "api_key", "certificate"), ("certificate", "api_key", "jwt")])
@pytest.mark.parametrize("kind", CREDENTIALS)
async def test_each_credential_is_found_in_any_order(kind: str, order: Sequence[Credential]) -> None:
    """What is not of a kind is left to the next: each credential passes as itself, wherever it stands in the chain."""
    assert team(await verdict(order, CREDENTIALS[kind])) == TEAMS[kind]


async def test_the_order_decides_between_a_certificate_and_another() -> None:
    """Of a certificate and a token the one that the route names first is who asks; nothing of the other is mixed in."""
    asked = CREDENTIALS["jwt"]
    first = await verdict(("certificate", "jwt"), asked, MESH)
    second = await verdict(("jwt", "certificate"), asked, MESH)

    assert (team(first), team(second)) == ("ml", "search")
    assert isinstance(first, Allowed)
    assert "x-genops-customer-id" not in dict(first.grant.headers)


@pytest.mark.parametrize("accepts", [("jwt", "api_key"), ("api_key", "jwt"), ("api_key",), ("jwt", "anonymous")])
async def test_two_credentials_are_refused(accepts: Sequence[Credential]) -> None:
    """A token and an API key in one request are refused, good as both may be, and whichever the route takes."""
    for authorization in (b"Bearer " + TOKEN, b"Basic dXNlcjpwYXNz,Bearer " + TOKEN):
        found = await verdict(accepts, {"authorization": authorization} | CREDENTIALS["api_key"])

        assert isinstance(found, Denied)
        assert found.reason is Reason.CREDENTIALS_AMBIGUOUS


@pytest.mark.parametrize(
    "bad",
    [
        {"authorization": b"Bearer " + TOKEN[:-4] + b"AAAA"},
        {"authorization": b"Bearer gxk_0000000000000000_" + b"0" * 49},
        {"x-api-key": KEY.key[:-1] + b"!"},
        {"x-api-key": b""},
        {"authorization": b"Basic dXNlcjpwYXNz,Bearer " + TOKEN},
        {"authorization": b",bearer " + TOKEN},
        {"authorization": b"Bearer\t" + TOKEN},
        {"authorization": b" Bearer " + TOKEN},
        {"authorization": b"Bearer\xa0" + TOKEN},
    ],
)
async def test_a_bad_credential_ends_the_chain(bad: dict[str, bytes]) -> None:
    """A credential that is there and bad is refused: neither a certificate after it counts, nor being anonymous.

    So is one that only the upstream would find.
    """
    found = await verdict(("jwt", "api_key", "certificate", "anonymous"), bad, MESH)

    assert isinstance(found, Denied)
    assert found.reason.startswith(("token_", "api_key_"))


@pytest.mark.parametrize("kind", CREDENTIALS)
async def test_a_route_takes_only_what_it_names(kind: str) -> None:
    """A credential of a kind that the route does not name is none, however good."""
    found = await verdict(("certificate",), CREDENTIALS[kind])

    assert isinstance(found, Denied)
    assert found.reason in (Reason.CREDENTIALS_MISSING, Reason.CREDENTIALS_UNSUPPORTED)


async def test_anonymous_only_where_a_route_says_so() -> None:
    """Without a credential a request passes as nobody where the route names anonymous, and nowhere else."""
    assert team(await verdict(("jwt", "anonymous"), {})) is None
    assert await verdict(("jwt", "api_key", "certificate"), {}) == Denied(Reason.CREDENTIALS_MISSING)


async def test_who_is_revoked_is_refused() -> None:
    """A credential that is good in itself is refused while it is on the list of what is revoked."""
    for kind, subject in (("jwt", "user-1"), ("api_key", KEY.record.id)):
        found = await verdict(("jwt", "api_key"), CREDENTIALS[kind], revoked=Revoked(subject))
        assert found == Denied(Reason.CREDENTIAL_REVOKED)
        assert isinstance(await verdict(("jwt", "api_key"), CREDENTIALS[kind], revoked=Revoked("other")), Allowed)


class Away:
    """A kind of credential that nobody can look up now."""

    def __init__(self, outage: Exception) -> None:
        self._outage = outage

    def presented(self, request: Request) -> bool:
        return bool(request.headers)

    async def authenticate(self, *_: object) -> Identity | Denied | None:
        raise self._outage


@pytest.mark.parametrize(
    ("outage", "reason"),
    [
        (KeysUnavailable("of nobody"), Reason.KEYS_UNAVAILABLE),
        (StoreUnavailable("timeout"), Reason.STORE_UNAVAILABLE),
    ],
)
async def test_an_outage_is_no_pass(outage: Exception, reason: Reason) -> None:
    """A credential that cannot be looked up now is refused, also where the route would take nobody too."""
    found = await verdict(("jwt", "anonymous"), {}, authenticators={"jwt": Away(outage)})

    assert isinstance(found, Denied)
    assert found.reason is reason

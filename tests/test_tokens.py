"""`tokens`, with `claims` below it."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from genops_extauth.keyset import KeySet, parse_jwks
from genops_extauth.model import Denied, Identity, KeysUnavailable
from genops_extauth.publickey import Key
from genops_extauth.reasons import Reason
from genops_extauth.tokens import UnknownKey, Verifier
from minting import (
    ALGORITHMS,
    AUDIENCE,
    ISSUER,
    NOW,
    KeyPair,
    base64url,
    claims,
    ec_pair,
    ed_pair,
    jwks,
    rsa_pair,
    token,
    trusted,
)

ED = ed_pair()  # signs in microseconds, where the kind of key does not matter


class Keys:
    """A key source whose keys a test changes."""

    def __init__(self, *pairs: KeyPair) -> None:
        self.publish(*pairs)

    def publish(self, *pairs: KeyPair) -> None:
        self.set: KeySet | None = parse_jwks(jwks(*pairs), ALGORITHMS)[0]

    def current(self) -> KeySet | None:
        return self.set


def attributes(found: object) -> Mapping[str, str]:
    assert isinstance(found, Identity), found
    return found.attributes


def reason(found: object) -> Reason:
    assert isinstance(found, Denied), found
    return found.reason


def signed(**changes: object) -> bytes:
    return token(ED, claims(**changes))  # type: ignore[arg-type]  # `now` is a claim here like any other


def signed_with(member: bytes) -> bytes:
    """Sign good claims with one more member, as it stands."""
    return token(ED, json.dumps(claims()).encode()[:-1] + b"," + member + b"}")


REFUSALS: list[tuple[str, bytes, Reason]] = [
    ("oversized", b"a" * 16_385, Reason.TOKEN_TOO_LARGE),
    ("empty", b"", Reason.TOKEN_MALFORMED),
    ("two segments", b"e30.e30", Reason.TOKEN_MALFORMED),
    ("four segments", signed() + b".e30", Reason.TOKEN_MALFORMED),
    ("padding", signed() + b"==", Reason.TOKEN_MALFORMED),
    ("stray bits", signed()[:-1] + b"B", Reason.TOKEN_MALFORMED),
    ("a line break", signed() + b"\n", Reason.TOKEN_MALFORMED),
    ("an impossible length", b"eyJ9A.e30.AAAA", Reason.TOKEN_MALFORMED),
    ("header twice alg", base64url(b'{"alg":"none","alg":"EdDSA"}') + b".e30.AAAA", Reason.TOKEN_MALFORMED),
    ("no alg", base64url(b"{}") + b".e30.AAAA", Reason.TOKEN_HEADER_REFUSED),
    ("long kid", token(ED, claims(), {"kid": "k" * 129}), Reason.TOKEN_HEADER_REFUSED),
    ("typ null", token(ED, claims(), {"typ": None}), Reason.TOKEN_HEADER_REFUSED),
    ("dpop", token(ED, claims(), {"typ": "dpop+jwt"}), Reason.TOKEN_HEADER_REFUSED),
    ("crit", token(ED, claims(), {"crit": ["b64"], "b64": False}), Reason.TOKEN_HEADER_REFUSED),
    ("b64", token(ED, claims(), {"b64": True}), Reason.TOKEN_HEADER_REFUSED),
    ("zip", token(ED, claims(), {"zip": "DEF"}), Reason.TOKEN_HEADER_REFUSED),
    ("nested", token(ED, claims(), {"cty": "JWT"}), Reason.TOKEN_HEADER_REFUSED),
    ("other algorithm", token(ED, claims(), {"alg": "PS256"}), Reason.TOKEN_ALGORITHM_REFUSED),
    ("key of another kind", token(ED, claims(), {"alg": "RS256"}), Reason.TOKEN_ALGORITHM_REFUSED),
    ("claims a list", token(ED, b"[]"), Reason.TOKEN_CLAIMS_MALFORMED),
    ("claims with BOM", token(ED, b"\xef\xbb\xbf" + json.dumps(claims()).encode()), Reason.TOKEN_CLAIMS_MALFORMED),
    ("claims not UTF-8", signed_with(b'"a":"\xff"'), Reason.TOKEN_CLAIMS_MALFORMED),
    ("a claim twice", signed_with(b'"sub":"root"'), Reason.TOKEN_CLAIMS_MALFORMED),
    ("a nested claim twice", signed_with(b'"a":{"b":1,"b":2}'), Reason.TOKEN_CLAIMS_MALFORMED),
    ("not a number", signed_with(b'"a":NaN'), Reason.TOKEN_CLAIMS_MALFORMED),
    ("lone surrogate", signed_with(b'"a":"\\ud800"'), Reason.TOKEN_CLAIMS_MALFORMED),
    ("lone surrogate in a name", signed_with(b'"\\uDFFF":1'), Reason.TOKEN_CLAIMS_MALFORMED),
    ("deep", signed_with(b'"a":' + b"[" * 5_000 + b"]" * 5_000), Reason.TOKEN_CLAIMS_MALFORMED),
    ("no iss", signed(iss=None), Reason.TOKEN_CLAIMS_MALFORMED),
    ("iss a list", signed(iss=[ISSUER]), Reason.TOKEN_CLAIMS_MALFORMED),
    ("other iss", signed(iss="https://idp.test"), Reason.TOKEN_ISSUER_UNKNOWN),
    ("no sub", signed(sub=None), Reason.TOKEN_CLAIMS_MALFORMED),
    ("sub empty", signed(sub=""), Reason.TOKEN_CLAIMS_MALFORMED),
    ("jti a number", signed(jti=7), Reason.TOKEN_CLAIMS_MALFORMED),
    ("jti null", signed_with(b'"jti":null'), Reason.TOKEN_CLAIMS_MALFORMED),
    ("jti empty", signed(jti=""), Reason.TOKEN_CLAIMS_MALFORMED),
    ("jti too long", signed(jti="j" * 257), Reason.TOKEN_CLAIMS_MALFORMED),
    ("scope a number", signed(scope=1), Reason.TOKEN_CLAIMS_MALFORMED),
    ("scope partly a number", signed(scope=["a", 1]), Reason.TOKEN_CLAIMS_MALFORMED),
    ("roles an object", signed(roles={"admin": True}), Reason.TOKEN_CLAIMS_MALFORMED),
    ("roles true", signed(roles=True), Reason.TOKEN_CLAIMS_MALFORMED),
    ("no aud", signed(aud=None), Reason.TOKEN_CLAIMS_MALFORMED),
    ("aud an object", signed(aud={AUDIENCE: 1}), Reason.TOKEN_CLAIMS_MALFORMED),
    ("aud partly a number", signed(aud=[AUDIENCE, 1]), Reason.TOKEN_CLAIMS_MALFORMED),
    ("aud nobody", signed(aud=[]), Reason.TOKEN_AUDIENCE_WRONG),
    ("aud a part", signed(aud=AUDIENCE[:-1]), Reason.TOKEN_AUDIENCE_WRONG),
    ("no exp", signed(exp=None), Reason.TOKEN_CLAIMS_MALFORMED),
    ("exp false", signed(exp=False), Reason.TOKEN_CLAIMS_MALFORMED),
    ("exp in milliseconds", signed(exp=int(NOW) * 1000), Reason.TOKEN_CLAIMS_MALFORMED),
    ("nbf null", token(ED, claims() | {"nbf": None}), Reason.TOKEN_CLAIMS_MALFORMED),
    ("iat a string", signed(iat="1"), Reason.TOKEN_CLAIMS_MALFORMED),
    ("expired", signed(exp=int(NOW) - 30), Reason.TOKEN_EXPIRED),
    ("long expired", signed(exp=-1), Reason.TOKEN_EXPIRED),
    ("too early", signed(nbf=int(NOW) + 31), Reason.TOKEN_NOT_YET_VALID),
    ("from the future", signed(iat=int(NOW) + 31), Reason.TOKEN_NOT_YET_VALID),
    ("forged", token(replace(ed_pair("thief"), kid="ed1"), claims()), Reason.TOKEN_SIGNATURE_WRONG),
    ("short signature", signed().rsplit(b".", 1)[0] + b".AAAA", Reason.TOKEN_SIGNATURE_WRONG),
    ("team with a comma", signed(team="a,b"), Reason.ATTRIBUTE_UNUSABLE),
    ("team with a line break", signed(team="a\r\nx-genops-tier: b"), Reason.ATTRIBUTE_UNUSABLE),
    ("team with an outer space", signed(team=" a"), Reason.ATTRIBUTE_UNUSABLE),
    ("team true", signed(team=True), Reason.ATTRIBUTE_UNUSABLE),
    ("team of 257 bytes", signed(team="a" * 257), Reason.ATTRIBUTE_UNUSABLE),
    ("tier", signed(customer_tier="platinum"), Reason.TIER_NOT_GRANTED),
]


@pytest.mark.parametrize(("hostile", "expected"), [row[1:] for row in REFUSALS], ids=[row[0] for row in REFUSALS])
def test_each_refusal_has_its_reason(hostile: bytes, expected: Reason) -> None:
    """A token is refused for the first thing that is wrong with it, and the detail holds nothing of it."""
    verifier = Verifier([trusted(tiers=frozenset({"gold"}))])
    found = verifier.verify(hostile, NOW)
    assert reason(found) is expected
    assert verifier.verify(hostile, NOW) == found
    assert isinstance(found, Denied)
    assert re.fullmatch(r"[a-zA-Z0-9_ ()-]*", found.detail)
    assert len(found.detail) < 50


@pytest.mark.parametrize(
    "header",
    [{"typ": "at+jwt"}, {"typ": "application/AT+JWT"}, {"typ": "jwt"}, {"cty": "json"}, {"jku": "https://evil.test/"}],
)
def test_harmless_headers_pass(header: dict[str, object]) -> None:
    """The type of an access token is recognised in every spelling; an offered key is neither used nor an error."""
    assert isinstance(Verifier([trusted()]).verify(token(ED, claims(), header), NOW), Identity)


@pytest.mark.parametrize(
    "maker", [rsa_pair(), ec_pair(), ED, ed_pair("ed448", large=True)], ids=["RS256", "ES256", "Ed25519", "Ed448"]
)
def test_every_kind_of_key_verifies(maker: KeyPair) -> None:
    """A token of each kind of key says who is asking, and until when."""
    found = Verifier([trusted(maker)]).verify(token(maker, claims()), NOW)
    assert attributes(found) == {"team": "search", "project": "p1", "customer_id": "c-42", "customer_tier": "gold"}
    assert isinstance(found, Identity)
    assert (found.issuer, found.subject, found.expires_at) == (ISSUER, "user-1", NOW + 300)


def test_an_issuer_names_its_own_algorithms() -> None:
    """What one issuer may sign with, another may not."""
    keys = Keys(ED, rsa_pair())
    verifier = Verifier(
        [trusted(keys, algorithms=frozenset({"RS256"})), trusted(keys, issuer="https://idp-b.test/")],
    )
    assert reason(verifier.verify(signed(), NOW)) is Reason.TOKEN_ALGORITHM_REFUSED
    assert isinstance(verifier.verify(signed(iss="https://idp-b.test/"), NOW), Identity)


def test_claims_are_found_by_path() -> None:
    """A governance attribute comes from the claim that the issuer's entry names; null and nothing are absent."""
    paths = {"team": ("https://x.test/org", "team"), "project": ("team", "deep"), "customer_id": ("sub",)}
    verifier = Verifier([trusted(claims=paths, customer_prefix="acme:")])
    said = claims() | {"https://x.test/org": {"team": "core platform"}, "sub": "s-1"}
    assert attributes(verifier.verify(token(ED, said), NOW)) == {"team": "core platform", "customer_id": "acme:s-1"}
    assert "team" not in attributes(verifier.verify(token(ED, said | {"https://x.test/org": {"team": None}}), NOW))


def test_a_prefix_counts_towards_the_length() -> None:
    """A customer is not cut short to fit: one that is too long with its prefix is refused."""
    verifier = Verifier([trusted(customer_prefix="acme:")])
    assert len(attributes(verifier.verify(signed(customer_id="c" * 251), NOW))["customer_id"]) == 256
    assert reason(verifier.verify(signed(customer_id="c" * 252), NOW)) is Reason.ATTRIBUTE_UNUSABLE


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"audiences": frozenset()}, "audiences must name this gateway"),
        ({"algorithms": frozenset()}, "algorithms must be some of"),
        ({"algorithms": frozenset({"RS256", "HS256"})}, "or else some of HS256, HS384, HS512"),
        ({"algorithms": frozenset({"none"})}, "algorithms must be some of"),
    ],
)
def test_a_dangerous_issuer_cannot_be_built(changes: dict[str, Any], message: str) -> None:
    """Without an audience, or with a secret beside public keys, there is no issuer to trust."""
    with pytest.raises(ValueError, match=message):
        trusted(**changes)


def test_an_issuer_stands_once() -> None:
    """Two entries for one issuer are an error: which of them holds would be a matter of luck."""
    with pytest.raises(ValueError, match="stands twice"):
        Verifier([trusted(), trusted()])


def test_a_known_token_is_the_same_identity() -> None:
    """The second time a token costs a look-up, and gives the very same object."""
    verifier = Verifier([trusted()])
    first = verifier.verify(signed(), NOW)
    assert verifier.verify(signed(), NOW + 1) is first
    assert verifier.statistics().verified.hits == 1


@pytest.mark.parametrize(
    ("now", "expected"),
    [(NOW + 329, None), (NOW + 330, Reason.TOKEN_EXPIRED), (NOW - 31, Reason.TOKEN_NOT_YET_VALID)],
)
def test_a_known_token_dies_with_its_time(now: float, expected: Reason | None) -> None:
    """An identity is good from nbf and iat to exp, with the leeway and not a second more, also from the cache."""
    verifier = Verifier([trusted()])
    assert isinstance(verifier.verify(signed(), NOW), Identity)
    found = verifier.verify(signed(), now)
    assert (found.reason if isinstance(found, Denied) else None) is expected


@pytest.mark.parametrize("now", [NOW + 400, NOW - 400])
def test_a_refusal_for_its_time_ends_with_it(now: float) -> None:
    """A token refused while the clock was wrong passes when the clock is right."""
    verifier = Verifier([trusted()])
    assert isinstance(verifier.verify(signed(), now), Denied)
    assert isinstance(verifier.verify(signed(), NOW), Identity)


def test_a_known_token_dies_with_its_key() -> None:
    """When an issuer withdraws a key, its tokens fail at once, known ones too."""
    keys = Keys(ED, ec_pair())
    verifier = Verifier([trusted(keys)])
    assert isinstance(verifier.verify(signed(), NOW), Identity)
    keys.publish(ec_pair())
    assert isinstance(verifier.verify(signed(), NOW), UnknownKey)


def test_without_keys_nobody_is_known() -> None:
    """Without keys a known token is an outage, and a token that its claims refuse is still refused."""
    keys = Keys(ED)
    verifier = Verifier([trusted(keys)])
    assert isinstance(verifier.verify(signed(), NOW), Identity)
    keys.set = None
    with pytest.raises(KeysUnavailable, match="no keys of issuer"):
        verifier.verify(signed(), NOW)
    assert reason(verifier.verify(signed(exp=1), NOW)) is Reason.TOKEN_EXPIRED


def test_a_wrong_signature_is_wrong_for_these_keys() -> None:
    """A token refused for its signature is checked anew when the keys change."""
    successor = replace(ed_pair("next"), kid="ed1")
    keys = Keys(ED)
    verifier = Verifier([trusted(keys)])
    early = token(successor, claims())
    assert reason(verifier.verify(early, NOW)) is Reason.TOKEN_SIGNATURE_WRONG
    keys.publish(successor)
    assert isinstance(verifier.verify(early, NOW), Identity)


def test_an_unknown_key_is_not_remembered() -> None:
    """A token of a key that is not published yet passes as soon as it is."""
    keys = Keys(ED)
    verifier = Verifier([trusted(keys)])
    early = token(ed_pair("next"), claims())
    found = verifier.verify(early, NOW)
    assert isinstance(found, UnknownKey)
    assert found.issuer.issuer == ISSUER
    keys.publish(ED, ed_pair("next"))
    assert isinstance(verifier.verify(early, NOW), Identity)


def test_a_signature_is_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signatures are checked once for each token, and never for one that its plain claims refuse."""
    checks, real = [], Key.signed

    def counted(key: Key, *given: Any) -> bool:
        checks.append(given)
        return real(key, *given)

    monkeypatch.setattr(Key, "signed", counted)
    verifier = Verifier([trusted()])
    forged = token(replace(ed_pair("thief"), kid="ed1"), claims())
    for _ in range(3):
        assert reason(verifier.verify(forged, NOW)) is Reason.TOKEN_SIGNATURE_WRONG
        assert isinstance(verifier.verify(signed(), NOW), Identity)
        for plain in ({"exp": 1}, {"aud": "other"}, {"iss": "other"}, {"jti": 1}):
            assert isinstance(verifier.verify(signed(**plain), NOW), Denied)
    assert len(checks) == 2

"""Whatever the bytes are: `tokens.Verifier.verify` answers, and knows only what an issuer signed."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from genops_extauth.claim_rules import one_of
from genops_extauth.keyset import StaticKeys, parse_jwks
from genops_extauth.model import Denied, Identity
from genops_extauth.tokens import UnknownKey, Verifier
from minting import ALGORITHMS, NOW, Shared, base64url, claims, ec_pair, ed_pair, jwks, rsa_pair, token, trusted

ED = ed_pair()
GOOD = {name: token(maker, claims()) for name, maker in {"Ed": ED, "EC": ec_pair(), "RSA": rsa_pair()}.items()}
ALL_KEYS = StaticKeys(parse_jwks(jwks(ED, ec_pair(), rsa_pair()), ALGORITHMS)[0])
SEGMENT = st.binary(max_size=60).map(base64url) | st.text("AQgwZ_-=+/. \n", max_size=6).map(str.encode)
ODD: list[object] = [None, True, 0, -1, 1e300, 10**400, "", "x", "\ud800", "a\x00b", [], {}, ["x"], [[{}]], {"a": 1}]
MEMBERS = st.sampled_from(
    "alg kid typ cty iss aud exp nbf iat sub jti client_id scope roles team customer_id".split(),  # noqa: SIM905
)


@given(st.one_of(st.binary(max_size=200), st.lists(SEGMENT, min_size=2, max_size=4).map(b".".join)))
def test_no_bytes_raise_or_pass(noise: bytes) -> None:
    """Bytes that no issuer signed are refused, whatever they are."""
    assert isinstance(Verifier([trusted(ALL_KEYS)]).verify(noise, NOW), Denied)


@given(st.dictionaries(MEMBERS, st.sampled_from(ODD)), st.dictionaries(MEMBERS, st.sampled_from(ODD)))
def test_no_members_raise_or_pass_unsigned(header: dict[str, object], said: dict[str, object]) -> None:
    """Members of any type are refused or, where they are signed and sound, an identity; never an error."""
    verifier = Verifier([trusted(ALL_KEYS)])
    state = {"alg": "EdDSA", "kid": "ed1"} | header
    assert isinstance(verifier.verify(token(ED, claims() | said, state), NOW), Identity | Denied | UnknownKey)
    thief = replace(ed_pair("thief"), kid="ed1")
    assert not isinstance(verifier.verify(token(thief, claims() | said, state), NOW), Identity)


@given(st.dictionaries(MEMBERS, st.sampled_from(ODD)), st.dictionaries(MEMBERS, st.sampled_from(ODD)))
def test_no_members_raise_or_pass_without_the_secret(header: dict[str, object], said: dict[str, object]) -> None:
    """The same holds where a secret signs, and where all that an entry can demand is demanded."""
    shared, rule = Shared(), one_of(("team",), ["search"])
    verifier = Verifier([trusted(shared, profile="access_token", max_lifetime=3_600.0, rules=(rule,))])
    state = {"alg": "HS256", "typ": "at+jwt"} | header
    good = claims(jti="1", client_id="c") | said
    found = verifier.verify(token(shared, good, state), NOW)
    assert isinstance(found, Identity | Denied)
    assert isinstance(found, Denied) or {"jti", "client_id", "iat"} <= good.keys()
    assert isinstance(verifier.verify(token(Shared(b"another" * 8), good, state), NOW), Denied)


@given(st.sampled_from(sorted(GOOD)), st.data())
def test_no_mutation_of_a_token_is_another_token(name: str, data: st.DataObject) -> None:
    """A good token with any byte changed, dropped or added is no longer anybody's."""
    good = GOOD[name]
    at = data.draw(st.integers(0, len(good) - 1))
    put = data.draw(st.binary(max_size=2))
    mutant = good[:at] + put + good[at + 1 :]
    found = Verifier([trusted(ALL_KEYS)]).verify(mutant, NOW)
    assert isinstance(found, Denied | UnknownKey) or mutant == good

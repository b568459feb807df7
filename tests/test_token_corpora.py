"""`tokens` against two corpora: the adversarial cases of vectors/authz.yaml, and Google's Wycheproof."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from genops_extauth import jose
from genops_extauth.keyset import KeySet, StaticKeys, from_secret, parse_jwks
from genops_extauth.model import Denied, Identity
from genops_extauth.publickey import ALGORITHMS as ALL_ALGORITHMS
from genops_extauth.shared_secrets import from_bytes
from genops_extauth.tokens import UnknownKey, Verifier
from minting import ALGORITHMS, NOW, base64url, jwks, trusted
from token_recipes import AUTHZ, mint, pair, published

ELSEWHERE = {
    "C48": "scopes are the policy's",
    "C50": "scopes are the policy's",
    "C51": "a deny-list of jti is not configured anywhere yet",
    "C61": "required attributes are the policy's",
}
CASES = [
    case
    for case in AUTHZ["cases"]
    if case["group"][0] in "ABC"
    and ("token" in case or "authorization" in case.get("request", {}))
    and "world" not in case
    and case["id"] not in ELSEWHERE
]


def case_verifier(profile: str) -> Verifier:
    algorithms = frozenset({"RS256", "RS384", "RS512"}) if profile == "rs_all" else ALGORITHMS
    keys, _ = parse_jwks(json.dumps({"keys": published()}).encode(), algorithms)
    tiers = frozenset({"bronze", "silver", "gold"}) if profile == "tier_enum" else None
    first = trusted(StaticKeys(keys), algorithms=algorithms, tiers=tiers)
    if profile != "two_issuers":
        return Verifier([first])
    other = parse_jwks(jwks(pair("other_issuer_rsa").jwk(kid="rsa1")), algorithms)[0]
    return Verifier([first, trusted(StaticKeys(other), issuer="https://idp-b.test/")])


def case_token(case: Mapping[str, Any]) -> bytes:
    bearer = case.get("request", {}).get("authorization", "Bearer {token}").split(" ", 1)[1]
    if bearer == "{token}":
        return mint(case["token"], int(NOW))
    bomb = b".".join([base64url(b'{"alg":"dir","enc":"A256GCM","zip":"DEF"}'), b"", b"aaaa", b"A" * 4000, b"cccc"])
    literals = {"@jwe_zip_bomb": bomb, "@repeat:A:1048576": b"A" * 1_048_576}
    return literals.get(bearer) or str(bearer).encode()


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['id']}-{case['name']}")
def test_every_adversarial_token_meets_its_fate(case: Mapping[str, Any]) -> None:
    """A token gets the verdict that its case demands, and a second time, from the cache, the same."""
    verifier, hostile = case_verifier(case.get("profile", "default")), case_token(case)
    for _ in "once", "again":
        found = verifier.verify(hostile, NOW)
        match case["expect"]["verdict"]:
            case "allow":
                assert isinstance(found, Identity), case["why"]
                assert found.attributes.get("team", "") == case["token"].get("claims", {}).get("team", "search")
            case "deny":
                assert isinstance(found, Denied | UnknownKey), case["why"]
            case "deny_or_sanitised":
                assert isinstance(found, Denied), case["why"]
            case unknown:
                pytest.fail(f"no such verdict: {unknown}")


def test_the_cases_are_there() -> None:
    """The corpus is not empty, and what is left out of it is named."""
    assert len(CASES) >= 75
    assert {case["id"] for case in AUTHZ["cases"]} >= ELSEWHERE.keys()


CORPUS = Path(__file__).parents[2] / "shared" / "cases" / "wycheproof"
_EMPTY = "an empty payload: claims are at least {}"
_OTHER_ALGORITHM = "its key says PS256, and the token PS384"
_NO_SUCH_ALGORITHM = "its key is for ES521, which does not exist (RFC 7518 section 3.4: ES512)"
_STRAY = (
    "a stray character before the dot, over which the MAC was made: a second spelling of the same header or payload"
)
_LOST = "the padding that it is about was lost: the token is, byte by byte, that of 357, which is valid"
DISSENT: Mapping[str, Mapping[int, str]] = {
    "json_web_signature_test.json": {
        **dict.fromkeys((259, 264, 268, 272, 320, 325), _EMPTY),
        **dict.fromkeys((346, 350), _OTHER_ALGORITHM),
        **dict.fromkeys((347, 351), _NO_SUCH_ALGORITHM),
        **dict.fromkeys((367, 370), _LOST),
        **dict.fromkeys((372, 373), _STRAY),
    },
    "json_web_key_test.json": {
        2: "two secrets in a set: a set has public keys, and an issuer one secret",
        7: "a modulus by a bad generator (ROCA): nothing about its form is wrong",
    },
}
"""The vectors, by number, of which we think otherwise, and why."""


@pytest.mark.parametrize("corpus", DISSENT)
def test_wycheproof_is_judged_right(corpus: str) -> None:
    """Of Google's Wycheproof vectors each is judged as it says, save those that are listed with the reason."""
    if not CORPUS.is_dir():
        pytest.skip("the Wycheproof vectors are not in shared/cases/ beside the repository")
    vectors = [
        (test, _holds(group.get("public", group.get("private")), test["jws"].encode()))
        for group in json.loads((CORPUS / corpus).read_text())["testGroups"]
        for test in group["tests"]
    ]
    assert len(vectors) > 20
    misjudged = {test["tcId"] for test, held in vectors if held != (test["result"] == "valid")}
    assert misjudged == DISSENT[corpus].keys()


def _holds(jwk: Mapping[str, Any], jws: bytes) -> bool:
    """Check a JWS, whose payload may be no claims, with the pieces that `Verifier` uses."""
    try:
        keys = _keys(jwk)
        signing_input, _, signature = jws.rpartition(b".")
        header, payload = signing_input.split(b".")
        stated = jose._header(header)
        jose.decode_base64url(payload)
        if isinstance(stated, Denied):
            return False
        algorithm, kid, _ = stated
        decoded = jose.decode_base64url(signature)
        return any(key.signed(algorithm, signing_input, decoded) for key in keys.select(kid, algorithm))
    except ValueError:
        return False


def _keys(jwk: Mapping[str, Any]) -> KeySet:
    """What the vectors publish: public keys, or a secret, which an entry of `identity.hmac` would have in a file."""
    published_keys = jwk.get("keys", [jwk])
    if [key["kty"] for key in published_keys] == ["oct"]:
        (secret,) = published_keys
        return from_secret(from_bytes(jose.decode_base64url(secret["k"].encode()), {secret["alg"]}))
    return parse_jwks(json.dumps({"keys": published_keys}).encode(), ALL_ALGORITHMS)[0]

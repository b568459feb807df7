"""`tokens` against two corpora: the adversarial cases of vectors/authz.yaml, and Google's Wycheproof."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from genops_extauth import jose, tokens
from genops_extauth.keyset import StaticKeys, parse_jwks
from genops_extauth.model import Denied, Identity
from genops_extauth.publickey import ALGORITHMS as ALL_ALGORITHMS
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
DISSENT = {
    # Valid there, and refused here: no claims at all (the payload is empty); a key for PS256 under a token of PS384; a
    # key for ES521, which does not exist (RFC 7518 section 3.4: ES512).
    "emptyPayload",
    "Figure20",
    "Figure27",
    # Invalid there: a modulus made by a bad generator (ROCA). Nothing about its form is wrong.
    "rejectsKeyWithRocaVulnerability",
}


@pytest.mark.parametrize("corpus", ["json_web_signature_test.json", "json_web_key_test.json"])
def test_wycheproof_is_judged_right(corpus: str) -> None:
    """No invalid signature of Google's Wycheproof vectors holds, and every valid asymmetric one does."""
    if not CORPUS.is_dir():
        pytest.skip("the Wycheproof vectors are not in shared/cases/ beside the repository")
    asymmetric = 0
    for group in json.loads((CORPUS / corpus).read_text())["testGroups"]:
        published_keys = group.get("public", group.get("private"))
        document = published_keys if "keys" in published_keys else {"keys": [published_keys]}
        symmetric = all(key["kty"] == "oct" for key in document["keys"])
        for test in group["tests"]:
            if test["comment"] not in DISSENT:
                asymmetric += not symmetric
                assert _holds(document, test["jws"]) == (test["result"] == "valid" and not symmetric), test
    assert asymmetric > 10


def _holds(document: object, jws: str) -> bool:
    """Check a JWS whose payload is no claims, with the pieces that `Verifier` uses."""
    try:
        keys, _ = parse_jwks(json.dumps(document).encode(), ALL_ALGORITHMS)
        header, payload, signature = map(jose.decode_base64url, jws.encode().split(b"."))
        stated = jose.parse_object(header)
    except ValueError:
        return False
    if jose._header_refusal(stated) is not None:
        return False
    algorithm, kid = stated["alg"], stated.get("kid")
    assert isinstance(algorithm, str)
    assert kid is None or isinstance(kid, str)
    piece = jose.Signed(algorithm, kid, {"payload": payload}, jws.rpartition(".")[0].encode(), signature)
    return any(tokens._signature_holds(piece, key) for key in keys.select(kid, algorithm))

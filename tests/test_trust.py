"""`trust`, through `tokens.Verifier`: what an issuer's entry demands of a token, and takes from it."""

import json
from typing import Any

import pytest

from genops_extauth.claim_rules import contains, matches, one_of
from genops_extauth.keyset import StaticKeys, parse_jwks
from genops_extauth.model import Denied, Identity
from genops_extauth.publickey import ALGORITHMS
from genops_extauth.reasons import Reason
from genops_extauth.tokens import Verifier
from minting import ISSUER, NOW, KeyPair, Shared, base64url, claims, ed_pair, jwks, token, trusted
from token_recipes import PUBLIC_FORMS, pair

ED = ed_pair()
AT = {"typ": "at+jwt"}


def asked(said: dict[str, object], header: dict[str, object] | None = None, **changes: Any) -> Identity | Denied:
    found = Verifier([trusted(**changes)]).verify(token(ED, said, header), NOW)
    assert isinstance(found, Identity | Denied)
    return found


def identity(said: dict[str, object], **changes: Any) -> Identity:
    found = asked(said, **changes)
    assert isinstance(found, Identity), found
    return found


# What a token may do


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ("llm.invoke", {"llm.invoke"}),
        ("read llm.invoke", {"read", "llm.invoke"}),
        ("xllm.invoke llm.invoke:none", {"xllm.invoke", "llm.invoke:none"}),
        ("read  write ", {"read", "write"}),
        ("read\twrite\u00a0x", {"read\twrite\u00a0x"}),
        (["read", "write", "read"], {"read", "write"}),
        (["read write"], {"read write"}),
        ("", set()),
        ([], set()),
        (None, set()),
    ],
)
def test_scopes(scope: object, expected: set[str]) -> None:
    """Scopes are words with single spaces between, or the items of a list, each whole."""
    assert identity(claims() | {"scope": scope}).scopes == expected


@pytest.mark.parametrize(
    ("roles", "expected"),
    [(["admin", "ops"], {"admin", "ops"}), ("power user", {"power user"}), ("", set()), (None, set())],
)
def test_roles(roles: object, expected: set[str]) -> None:
    """Roles are the items of a list, or one name, spaces and all."""
    assert identity(claims() | {"roles": roles}).roles == expected


def test_scopes_and_roles_by_path() -> None:
    """Scopes and roles come from the claims that the entry names (Keycloak's are nested), or from none."""
    said = claims() | {"scp": ["a"], "realm_access": {"roles": ["r"]}, "scope": "b", "roles": {"not": "read"}}

    found = identity(said, scopes=("scp",), roles=("realm_access", "roles"))
    assert found.scopes == {"a"}
    assert found.roles == {"r"}
    found = identity(said, scopes=None, roles=None)
    assert not found.scopes | found.roles


def test_tokens_of_one_application_share_their_scopes() -> None:
    """Equal sets of scopes and roles of different tokens are one object."""
    verifier = Verifier([trusted()])
    both = [verifier.verify(token(ED, claims(sub=sub, scope="b a", roles=["a", "b"])), NOW) for sub in ("x", "y")]
    first, second = (each for each in both if isinstance(each, Identity))

    assert first is not second
    assert first.scopes is second.scopes is first.roles


def test_a_token_is_known_by_its_id() -> None:
    """The credential's id is the token's jti, byte by byte, or nothing; and its kind is told."""
    assert identity(claims(jti="T-1 é")).credential_id == "T-1 é"
    assert identity(claims()).credential_id == ""
    assert identity(claims()).method == "jwt"


# What an entry demands


@pytest.mark.parametrize(
    ("header", "changes", "expected"),
    [
        (AT, {}, None),
        ({"typ": "application/at+jwt"}, {}, None),
        ({"typ": "Application/AT+JWT"}, {}, None),
        ({"typ": "JWT"}, {}, Denied(Reason.TOKEN_HEADER_REFUSED, "typ is not at+jwt")),
        ({"typ": "at+jwt+x"}, {}, Denied(Reason.TOKEN_HEADER_REFUSED, "typ")),
        (AT, {"client_id": None}, Denied(Reason.TOKEN_CLAIMS_MALFORMED, "client_id")),
        (AT, {"client_id": ""}, Denied(Reason.TOKEN_CLAIMS_MALFORMED, "client_id")),
        (AT, {"client_id": ["web"]}, Denied(Reason.TOKEN_CLAIMS_MALFORMED, "client_id")),
        (AT, {"jti": None}, Denied(Reason.TOKEN_CLAIMS_MALFORMED, "jti")),
        (AT, {"iat": None}, Denied(Reason.TOKEN_CLAIMS_MALFORMED, "iat")),
        (AT, {"iat": "1"}, Denied(Reason.TOKEN_CLAIMS_MALFORMED, "iat")),
    ],
)
def test_access_tokens(header: dict[str, object], changes: dict[str, object], expected: Denied | None) -> None:
    """With the profile of access tokens their type and claims are required (RFC 9068, 2.1, 2.2)."""
    said = claims(**{"jti": "1", "client_id": "web"} | changes)  # type: ignore[arg-type]  # no `now` among them
    found = asked(said, header, profile="access_token")

    assert (None if isinstance(found, Identity) else found) == expected


def test_a_token_without_a_type_is_no_access_token() -> None:
    """Where access tokens are wanted an untyped token is refused, and elsewhere it passes."""
    said = base64url(json.dumps(claims(jti="1", client_id="web")).encode())
    signing_input = base64url(b'{"alg":"EdDSA","kid":"ed1"}') + b"." + said
    untyped = signing_input + b"." + base64url(ED.sign(signing_input))

    wanting = Verifier([trusted(profile="access_token")])
    assert wanting.verify(untyped, NOW) == Denied(Reason.TOKEN_HEADER_REFUSED, "typ is not at+jwt")
    assert isinstance(Verifier([trusted()]).verify(untyped, NOW), Identity)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"iat": NOW - 3_000, "exp": NOW + 600}, None),
        ({"iat": NOW - 3_000, "exp": NOW + 601}, Denied(Reason.TOKEN_LIFETIME_TOO_LONG)),
        ({"iat": NOW, "exp": 253_402_300_799}, Denied(Reason.TOKEN_LIFETIME_TOO_LONG)),
        ({"iat": -253_402_300_799}, Denied(Reason.TOKEN_LIFETIME_TOO_LONG)),
        ({"iat": None}, Denied(Reason.TOKEN_CLAIMS_MALFORMED, "iat")),
        ({"iat": None, "nbf": NOW}, Denied(Reason.TOKEN_CLAIMS_MALFORMED, "iat")),
    ],
)
def test_no_token_lasts_longer_than_it_may(changes: dict[str, object], expected: Denied | None) -> None:
    """A token that was issued for longer than the entry says, or does not say when, is refused."""
    said = claims(**changes)  # type: ignore[arg-type]  # no `now` among them
    found = asked(said, max_lifetime=3_600.0)

    assert (None if isinstance(found, Identity) else found) == expected
    assert isinstance(asked(said), Identity)


RULES = (one_of(("azp",), ["web"]), contains(("groups",), "ml"), matches(("email",), r"[^@]+@example\.com"))


@pytest.mark.parametrize(
    ("changes", "unmet"),
    [({}, None), ({"azp": "Web"}, 0), ({"groups": "ml"}, 1), ({"email": "a@b@example.com"}, 2), ({"email": None}, 2)],
)
def test_all_rules_must_hold(changes: dict[str, object], unmet: int | None) -> None:
    """A token that leaves one rule unmet is refused, and the log hears which."""
    said = claims() | {"azp": "web", "groups": ["ml"], "email": "a@example.com"} | changes
    found = asked(said, rules=RULES)

    assert (None if isinstance(found, Identity) else found) == (
        None if unmet is None else Denied(Reason.TOKEN_RULE_UNMET, f"rules[{unmet}]")
    )


def test_rules_are_not_told_to_forgers() -> None:
    """Whether a token would meet the rules is looked at once its signature held, not before."""
    forged = token(KeyPair("ed1", "EdDSA", ed_pair("thief").private), claims())

    assert Verifier([trusted(rules=RULES)]).verify(forged, NOW) == Denied(Reason.TOKEN_SIGNATURE_WRONG)


def test_a_token_that_broke_a_rule_is_known() -> None:
    """It is refused again from memory."""
    verifier, made = Verifier([trusted(rules=RULES)]), token(ED, claims())

    assert verifier.verify(made, NOW) is verifier.verify(made, NOW)
    assert verifier.statistics().refused.entries == 1


# Shared secrets


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_an_issuer_with_a_secret(algorithm: str) -> None:
    """A token that was signed with the secret, by the entry's algorithm, is its issuer's; its kid does not count."""
    shared = Shared(algorithm=algorithm)
    verifier = Verifier([trusted(shared)])

    assert isinstance(verifier.verify(token(shared, claims()), NOW), Identity)
    assert isinstance(verifier.verify(token(shared, claims(), {"kid": "../../etc/passwd"}), NOW), Identity)
    other = Shared(shared.secret, "HS384" if algorithm == "HS256" else "HS256")
    assert verifier.verify(token(other, claims()), NOW) == Denied(Reason.TOKEN_ALGORITHM_REFUSED)
    wrong = Shared(b"x" + shared.secret[1:], algorithm)
    assert verifier.verify(token(wrong, claims()), NOW) == Denied(Reason.TOKEN_SIGNATURE_WRONG)


def test_a_secret_is_its_issuers_alone() -> None:
    """Neither a secret nor a public key makes tokens of the issuer beside, which has the other."""
    shared, rsa = Shared(), pair("rsa1")
    keys = StaticKeys(parse_jwks(jwks(rsa), ALGORITHMS)[0])
    other = "https://idp-b.test/"
    verifier = Verifier([trusted(shared), trusted(keys, issuer=other, algorithms=frozenset({"RS256"}))])

    assert isinstance(verifier.verify(token(rsa, claims(iss=other)), NOW), Identity)
    assert verifier.verify(token(shared, claims(iss=other)), NOW) == Denied(Reason.TOKEN_ALGORITHM_REFUSED)
    assert verifier.verify(token(rsa, claims()), NOW) == Denied(Reason.TOKEN_ALGORITHM_REFUSED)
    for form in ("pem_spki_nonl", "der_spki", "jwk_json"):
        confused = Shared(PUBLIC_FORMS[form]("rsa1"))
        for issuer in (ISSUER, other):
            assert isinstance(verifier.verify(token(confused, claims(iss=issuer)), NOW), Denied)


def test_public_keys_verify_no_hmac() -> None:
    """Even an entry that lists HMAC in front of public keys believes nothing signed with them."""
    keys = StaticKeys(parse_jwks(jwks(ED), ALGORITHMS)[0])
    entry = trusted(keys, algorithms=frozenset({"HS256"}))
    confused = Shared(ED.public_pem(), kid="ed1")

    assert Verifier([entry]).verify(token(confused, claims()), NOW) == Denied(
        Reason.TOKEN_ALGORITHM_REFUSED, "its key is for another algorithm"
    )

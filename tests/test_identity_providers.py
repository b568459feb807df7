"""The tokens of common providers, as docs/identity-providers.md shows them, with the configurations that it gives."""

import json
from pathlib import Path
from typing import Any

import pytest

import minting
from generated import REPOSITORY
from genops_extauth import config, issuers
from genops_extauth.keyset import StaticKeys, parse_jwks
from genops_extauth.model import Denied, Identity
from genops_extauth.tokens import Issuer, Verifier
from pages import blocks

PAGE = REPOSITORY / "docs" / "identity-providers.md"
BLOCKS = blocks(PAGE)
SHOWN = [tuple(block.text for block in BLOCKS[place : place + 3]) for place in range(0, len(BLOCKS), 3)]
KEY = minting.rsa_pair()


def believed(entry: issuers.Issuer) -> Verifier:
    """A verifier with the entry, and the test's key in place of what would be fetched."""
    algorithms = frozenset(entry.algorithms)
    trusted = Issuer(
        issuer=entry.issuer,
        audiences=frozenset(entry.audiences),
        algorithms=algorithms,
        keys=StaticKeys(parse_jwks(minting.jwks(KEY), algorithms)[0]),
        claims=entry.claims.paths,
        scopes=entry.claims.scopes,
        roles=entry.claims.roles,
        rules=tuple(rule.rule for rule in entry.rules),
        profile=entry.profile,
        max_lifetime=entry.max_lifetime,
        leeway=entry.leeway,
    )
    return Verifier([trusted])


def entry_of(configured: str, folder: Path) -> issuers.Issuer:
    (folder / "genops.yaml").write_text(configured)
    (entry,) = config.load(folder / "genops.yaml", {}).identity.jwt
    return entry


def verified(entry: issuers.Issuer, said: dict[str, Any], at: float) -> Identity | Denied:
    answer = believed(entry).verify(minting.token(KEY, said), at)
    assert isinstance(answer, Identity | Denied)
    return answer


@pytest.mark.parametrize(("configured", "claims", "known"), SHOWN)
def test_a_token_of_the_provider_passes(configured: str, claims: str, known: str, tmp_path: Path) -> None:
    """The token that is shown passes with the configuration before it, and what is shown is known of its bearer."""
    said = json.loads(claims)
    found = verified(entry_of(configured, tmp_path), said, said["iat"])
    assert isinstance(found, Identity), found
    assert json.loads(known) == {
        "attributes": dict(found.attributes),
        "scopes": sorted(found.scopes),
        "roles": sorted(found.roles),
    }


@pytest.mark.parametrize(("configured", "claims", "known"), SHOWN)
def test_a_token_for_another_service_does_not(configured: str, claims: str, known: str, tmp_path: Path) -> None:
    """The same token for another of the provider's audiences is refused, and so is one that misses a rule."""
    entry, said = entry_of(configured, tmp_path), json.loads(claims)
    assert isinstance(verified(entry, said | {"aud": ["somebody-else"]}, said["iat"]), Denied), known
    for rule in entry.rules:
        lacking = {name: value for name, value in said.items() if name != rule.claim[0]}
        assert isinstance(verified(entry, lacking, said["iat"]), Denied), rule

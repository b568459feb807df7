"""The section identity.revocation."""

from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # no stubs are installed
from pydantic import ValidationError

from genops_extauth.revocation_section import Revocation
from genops_extauth.revocations import FOREVER, Entry, handle

ISSUER = "https://auth.example.com"
SECTION: dict[str, Any] = {
    "token_ids": ["t-1", {"issuer": ISSUER, "value": "t-2"}],
    "subjects": [{"value": "alice"}],
    "api_keys": ["k-1"],
}


def test_what_is_listed_has_no_end() -> None:
    """Each entry is refused for as long as it is written; without an issuer, of whichever."""
    assert list(Revocation.model_validate(SECTION).entries()) == [
        Entry(handle("token_id", "t-1"), FOREVER),
        Entry(handle("token_id", "t-2", ISSUER), FOREVER),
        Entry(handle("subject", "alice"), FOREVER),
        Entry(handle("api_key", "k-1"), FOREVER),
    ]


def test_by_default_the_store_counts() -> None:
    """Nothing is listed, the store's list counts, and is waited for for ten seconds."""
    section = Revocation()
    assert (section.store, section.max_wait, list(section.entries())) == (True, 10.0, [])


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"token_ids": [""]}, "printable characters"),
        ({"token_ids": ["a\x1bb"]}, "printable characters"),
        ({"token_ids": ["a", {"value": "a"}]}, "twice"),
        ({"token_ids": [{"issuer": ISSUER}]}, "Field required"),
        ({"api_keys": ["k", "k"]}, "twice"),
        ({"api_keys": ["gxk_0123456789abcdef_secret"]}, "this is an API key, not its id"),
        ({"token_ids": [{"issuer": ISSUER, "value": "eyJhbGciOiJub25lIn0.e30.c2ln"}]}, "this is a token, not its id"),
        ({"max_wait": "25h"}, "from 0s to 24h"),
    ],
)
def test_what_is_wrong_is_said(section: dict[str, Any], message: str) -> None:
    """Each mistake is met with what to write instead."""
    with pytest.raises(ValidationError, match=message):
        Revocation.model_validate(section)


def test_editors_know_both_spellings() -> None:
    """Its JSON Schema takes a value alone, and one with its issuer."""
    schema = Draft202012Validator(Revocation.model_json_schema())
    assert schema.is_valid(SECTION)
    assert not schema.is_valid({"token_ids": [{"issuer": ISSUER}]})

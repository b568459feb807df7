"""The headers that only we may set, under all their names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genops_extauth import reserved_headers
from genops_extauth.reserved_headers import RESERVED, look, nominates


@pytest.mark.parametrize(
    "name",
    [
        "x_genops_team",
        "x.genops.team",
        "x-genops_team",
        "x-genops-anything",
        "x_customer_id",
        "x.user.id",
        "x-tenant_id",
        "x!genops~team",
        "x_api_key",
        "x.api-key",
    ],
)
def test_every_spelling_is_an_alias(name: str) -> None:
    """A name that folds into a reserved one, or into that of the API key, is one to be removed."""
    assert look(f"accept\n{name}\nhost", "x-api-key").aliases == (name,)


@pytest.mark.parametrize(
    "name", [*RESERVED, "x-api-key", "x-forwarded-for", "x-customer", "xgenops-team", "accept", ""]
)
def test_other_names_are_none(name: str) -> None:
    """The exact names are removed unseen, and no other name is touched."""
    assert look(name, "x-api-key").aliases == ()


def test_without_api_keys_their_header_is_like_any_other() -> None:
    """Where no API keys are configured nobody's header is taken for one."""
    assert look("x_api_key").aliases == ()


def test_a_reserved_name_with_forbidden_bytes_is_an_error() -> None:
    """A name that HTTP forbids would go back to the gateway as it is: it is an error."""
    with pytest.raises(ValueError, match="the name of a reserved header"):
        look("x-genops-a\rb")


def test_names_that_a_client_invents_are_not_remembered() -> None:
    """Long lists of names leave nothing behind, so a client cannot fill the memory with new ones."""
    before = reserved_headers._known.cache_info().currsize
    for number in range(50):
        names = "\n".join(f"x_genops_{number}_{i:040d}" for i in range(90))
        assert len(look(names).aliases) == 90

    assert reserved_headers._known.cache_info().currsize == before


@given(st.lists(st.text(alphabet="xgenops-_.tm!~c", min_size=1, max_size=20), max_size=6))
def test_looking_twice_sees_the_same(names: list[str]) -> None:
    """What is remembered is what is seen anew."""
    assert look("\n".join(names)) == reserved_headers._look("\n".join(names), None)


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        (b"x-genops-team", True),
        (b"close, X-GenOps-Team", True),
        (b"keep-alive,\tx_customer_id", True),
        (b"x-request-id", True),
        (b"keep-alive, Upgrade, HTTP2-Settings", False),
        (b"close", False),
        (b"x-custom, te", False),
        (b"", False),
        (b"\xff\xfe, x-genops-", True),
    ],
)
def test_connection_must_not_name_ours(field: bytes, expected: bool) -> None:  # noqa: FBT001
    """A Connection field that names a header of ours would have the next hop drop it."""
    assert nominates(field) is expected
    assert look("accept\nconnection").connection
    assert not look("accept\nx-connection").connection

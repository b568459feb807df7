from hypothesis import given
from hypothesis import strategies as st

from genops_extauth import jose
from genops_extauth.model import Denied
from genops_extauth.reasons import Reason
from genops_extauth.strict_json import MalformedError
from minting import base64url


def test_a_header_is_short() -> None:
    """A header over 2 KiB is refused unread: it is the part that every new token makes us parse."""
    header = base64url(b'{"alg":"EdDSA","x":"' + b"a" * 2000 + b'"}')
    assert jose.parse(header + b".e30.AAAA") == Denied(Reason.TOKEN_MALFORMED, "the header is too long")


def test_objects_are_few() -> None:
    """Thousands of objects in a payload are refused before they are parsed, for each costs a call of ours."""
    header, payload = base64url(b'{"alg":"EdDSA"}'), base64url(b'{"a":[' + b"{}," * 3000 + b"{}]}")
    assert jose.parse(header + b"." + payload + b".AAAA") == Denied(
        Reason.TOKEN_CLAIMS_MALFORMED, "too many objects and values"
    )


@given(st.binary(max_size=12) | st.text("AQgwBZ09_-", max_size=9).map(str.encode))
def test_base64url_has_one_spelling(text: bytes) -> None:
    """What decodes is exactly what its bytes encode to."""
    try:
        decoded = jose.decode_base64url(text)
    except MalformedError:
        return
    assert base64url(decoded) == text


@given(st.binary(min_size=1, max_size=100))
def test_all_base64url_decodes(data: bytes) -> None:
    """Every canonical text is read."""
    assert jose.decode_base64url(base64url(data)) == data

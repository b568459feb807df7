from hypothesis import given
from hypothesis import strategies as st

from genops_extauth import jose
from minting import base64url


@given(st.binary(max_size=12) | st.text("AQgwBZ09_-", max_size=9).map(str.encode))
def test_base64url_has_one_spelling(text: bytes) -> None:
    """What decodes is exactly what its bytes encode to."""
    try:
        decoded = jose.decode_base64url(text)
    except jose.MalformedError:
        return
    assert base64url(decoded) == text


@given(st.binary(min_size=1, max_size=100))
def test_all_base64url_decodes(data: bytes) -> None:
    """Every canonical text is read."""
    assert jose.decode_base64url(base64url(data)) == data

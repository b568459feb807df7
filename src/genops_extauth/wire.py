"""Protobuf's encoding, as far as answers are put together by hand (protobuf.dev, "Encoding")."""

_CONTINUED = 1 << 7
_SMALL = [bytes((value,)) for value in range(_CONTINUED)]


def field(tag: int, payload: bytes) -> bytes:
    """Write one length-delimited field; `tag` is its number, below 16."""
    return bytes((tag << 3 | 2,)) + varint(len(payload)) + payload


def number(tag: int, value: int) -> bytes:
    """Write one varint field, also where it is 0; `tag` is its number, below 16."""
    return bytes((tag << 3,)) + varint(value)


def varint(value: int) -> bytes:
    """Write a number of 0 or more, seven bits a byte."""
    if value < _CONTINUED:
        return _SMALL[value]
    written = bytearray()
    while value >= _CONTINUED:
        written.append(value & 0x7F | _CONTINUED)
        value >>= 7
    written.append(value)
    return bytes(written)

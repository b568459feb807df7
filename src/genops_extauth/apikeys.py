"""API keys: ``gxk_<id>_<secret>``, what is kept of one, and whether one is the one that is known.

The id (16 of ``0-9a-z``) names the key for as long as it lives, whatever its secret is just now. The secret is 256 bits
(43 of base62) followed by a checksum over all before it (CRC-32, 6 of base62, as GitHub's tokens have): what was
mistyped or made up is told from a key without a lookup. The prefix lets scanners of repositories find leaked ones.

Of a key only a keyed digest is kept: HMAC-SHA256 over all of it. Who reads the records can neither show a digest in the
place of a key nor try out keys, as the digest key is kept elsewhere. One pass is enough: slow hashes are for passwords,
which people choose; nobody finds 256 random bits by trying.

Keys that were made elsewhere and imported have no such form. Their id is a keyed digest too, another one.
"""

import hmac
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

PREFIX = "gxk_"

MAX_SECRETS = 3
"""Secrets of one key at once: that which is being replaced, its successor, and one whose answer was lost on the way."""

DIGEST_BYTES = 32

MIN_DIGEST_KEY_BYTES = 32
"""As long as what HMAC-SHA256 puts out: a shorter key would weaken it (RFC 2104, 3)."""

_ID, _SECRET, _CHECKSUM = 16, 43, 6
_BASE36 = "0123456789abcdefghijklmnopqrstuvwxyz"
_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_BASE62_PAIRS = tuple((high + low).encode() for high in _BASE62 for low in _BASE62)
_SECRET_BYTES = 32

_KEY = re.compile(rb"gxk_([0-9a-z]{16})_[0-9A-Za-z]{49}")
_KEY_ID = re.compile(r"[0-9a-z]{16}")
# What people use for keys elsewhere, UUIDs to JSON Web Tokens of some length; it must fit into a header.
_FOREIGN = re.compile(rb"[!-~]{16,512}")

# HMAC is used for three things, and each begins with its own word: no output of one is ever one of another.
_DIGEST_OF_KEY = b"genops api key\0"
_ID_OF_FOREIGN_KEY = b"genops api key id\0"
_NOBODYS = bytes(DIGEST_BYTES)


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made. `text` is all of it, to be delivered once and kept nowhere."""

    id: str
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Presented:
    """A key as it came: which it says it is, and the digest that the key of this id must have."""

    id: str
    digest: bytes = field(repr=False)


def minted(randomness: Callable[[int], bytes], key_id: str | None = None) -> NewKey:
    """Make a key; with a `key_id`, another secret for that one. `randomness` gives as many bytes as it is asked for."""
    key_id = key_id or _written(randomness(_ID), _BASE36, _ID)
    body = f"{PREFIX}{key_id}_{_written(randomness(_SECRET_BYTES), _BASE62, _SECRET)}"
    return NewKey(key_id, body + _checksum(body.encode()).decode())


def presented(text: bytes, digest_key: bytes) -> Presented | None:
    """Read a key as a client sent it; None where it is none, whatever is known of keys.

    There is one spelling of each: what differs in case, in padding or by a space is another text.
    """
    if match := _KEY.fullmatch(text):
        sound = hmac.compare_digest(_checksum(text[:-_CHECKSUM]), text[-_CHECKSUM:])
        return Presented(match[1].decode(), digest_of(text, digest_key)) if sound else None
    if text[: len(PREFIX)].lower() == PREFIX.encode() or not _FOREIGN.fullmatch(text):
        return None
    return Presented(foreign_id(text, digest_key), digest_of(text, digest_key))


def digest_of(text: bytes, digest_key: bytes) -> bytes:
    """What is kept of a key: 32 bytes."""
    # `hmac.digest` lets go of the GIL for 2 us of work, and with a transport's thread about gets it back 15 us later.
    mac = _keyed(digest_key).copy()
    mac.update(text)
    return mac.digest()


@lru_cache(maxsize=4)
def _keyed(digest_key: bytes) -> hmac.HMAC:
    return hmac.new(digest_key, _DIGEST_OF_KEY, "sha256")


def foreign_id(text: bytes, digest_key: bytes) -> str:
    """The id of a key that was made elsewhere."""
    return _written(hmac.digest(digest_key, _ID_OF_FOREIGN_KEY + text, "sha256"), _BASE36, _ID)


def matches(digests: Sequence[bytes], digest: bytes) -> int | None:
    """The place among `digests`, `MAX_SECRETS` at most, of the one that is `digest`.

    As many comparisons are made, each in the same time, where no such key is known (`digests` is empty), where it has
    one secret, and where the first fits: how long it takes tells nothing of what is known (CWE-208).
    """
    found = None
    for place in range(MAX_SECRETS):
        known = digests[place] if place < len(digests) else _NOBODYS
        if hmac.compare_digest(known, digest) and place < len(digests):
            found = place
    return found


def is_id(text: str) -> bool:
    """Whether this can be the id of a key."""
    return _KEY_ID.fullmatch(text) is not None


def _written(data: bytes, digits: str, length: int) -> str:
    """The last `length` digits of a number."""
    number = int.from_bytes(data, "big")
    text = ""
    for _ in range(length):
        number, digit = divmod(number, len(digits))
        text = digits[digit] + text
    return text


def _checksum(text: bytes) -> bytes:
    high, low = divmod(zlib.crc32(text), 62**2)
    top, middle = divmod(high, 62**2)
    return _BASE62_PAIRS[top] + _BASE62_PAIRS[middle] + _BASE62_PAIRS[low]

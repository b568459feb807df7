"""How the key of a bucket is spelt, so that no two different paths are spelt alike.

A key reads ``prefix:{domain|customer_tier=free|customer_id=c1}:tb3600``. The braces are Redis Cluster's hash tag; where
one entry is to choose the slot, so that all buckets of a customer are in one, it stands in them alone:
``prefix:{c1}domain|customer_tier=free|customer_id=c1:tb3600``. The end names the algorithm (token bucket) and its
period. The limit itself is not in the key, so that raising it keeps what was spent.

What entries hold is escaped: ``|``, ``=``, ``~``, braces and all that is not plain are no part of it. A value that a
shared pattern stands in for (share_threshold) reads ``~pattern`` in the place of ``=value``.
"""

import re
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import NamedTuple

_PLAIN = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz._@:/+-"
_UNSAFE = re.compile(rb"[^0-9A-Za-z._@:/+-]")
_UNSAFE_PATTERN = re.compile(rb"[^0-9A-Za-z._@:/+*-]")
_LONGEST = 64  # bytes of a key or value written out; beyond it memory and privacy weigh more than readability


def written(text: bytes) -> bytes:
    """Spell an entry's key or value in a bucket's key, so that no two, and none and a separator, can be confused."""
    if len(text) > _LONGEST:
        return _digest(text)
    # Nothing is left of what is plain once that is deleted; in a quarter of the time that an expression takes.
    return _escaped(_UNSAFE, text) if text.translate(None, _PLAIN) else text


def written_pattern(pattern: bytes) -> bytes:
    """Spell a shared pattern. Its stars stay, for no value is spelt where it stands."""
    return _digest(pattern) if len(pattern) > _LONGEST else _escaped(_UNSAFE_PATTERN, pattern)


def _digest(text: bytes) -> bytes:
    # Collision-resistant on purpose: who finds two customers of one digest makes one of them pay for the other.
    return b"~" + blake2b(text, digest_size=16).hexdigest().encode()


def _escaped(unsafe: re.Pattern[bytes], text: bytes) -> bytes:
    return unsafe.sub(lambda match: b"%%%02X" % match.group()[0], text)


class Hole(NamedTuple):
    """What is known only of a request: the key (`part` 0) or the value (`part` 1) of its entry number `entry`."""

    entry: int
    part: int


Piece = bytes | Hole


class Form(NamedTuple):
    """A key but for its end: filled in by ``template % values``, one written value for each of the `holes`."""

    template: bytes
    holes: tuple[Hole, ...]

    def ended(self, suffix: bytes) -> bytes:
        """The template of the keys that end with `suffix`."""
        return self.template + b":" + suffix.replace(b"%", b"%%")


def form(prefix: str, path: tuple[Piece, ...], tag: Piece | None) -> Form:
    """Join the pieces of a key. Without a `tag` the whole path is the hash tag."""
    start = f"{prefix}:".encode() if prefix else b""
    pieces = (start, b"{", *path, b"}") if tag is None else (start, b"{", tag, b"}", *path)
    template = b"".join(b"%b" if isinstance(piece, Hole) else piece.replace(b"%", b"%%") for piece in pieces)
    return Form(template, tuple(piece for piece in pieces if isinstance(piece, Hole)))


def steps(entries: Iterable[tuple[bytes, bytes]]) -> Iterator[bytes]:
    """Spell entries as they are: the path of a descriptor that no shared pattern matched."""
    for key, value in entries:
        yield b"|%b=%b" % (written(key), written(value))

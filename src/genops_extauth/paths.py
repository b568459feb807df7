"""Paths that every component reads alike, and the patterns that they are compared with.

A gateway, we, and the service behind each read a path by themselves: decode it once, twice or never, merge slashes,
resolve dot segments before or after, cut off parameters. Wherever two readings differ, the rule that was applied and
the resource that is served can be different ones (CVE-2021-29492, CVE-2026-33494, GHSA-r9fw-vxmp-hwf2). So nothing is
mended here: a path with two readings is told apart, and whoever asks for it is refused.
"""

import re
from typing import NamedTuple
from unicodedata import normalize
from urllib.parse import unquote

_LONGEST = 8192
"""Characters: RFC 9110, 4.1 asks servers for 8000 at least, and many take no more. Matching takes time for each."""

# RFC 3986, 3.3, without ";": servlets cut path parameters off, others do not (CVE-2026-73553). What a URI should have
# encoded and Envoy passes on all the same ("<>[]^`{|}) has one reading too.
_CHARACTER = r"[A-Za-z0-9._~!$&'()*+,=:@\"<>\[\]^`{|}-]"
_PLAIN = re.compile(rf"(?=/)(?:/(?!\.\.?(?:/|\Z)){_CHARACTER}++)*+/?+")

# An encoded unreserved character is a second spelling (RFC 3986, 2.3). Encoded \ ; ? # and controls are delimiters to
# whoever decodes first, and so is an encoded % before two digits to whoever decodes twice.
_ESCAPE = "%(?:2[0-246-9A-CFa-cf]|25(?![0-9A-Fa-f]{2})|3[ACDEacde]|40|5[BDEbde]|60|7[B-Db-d]|[89A-Fa-f][0-9A-Fa-f])"
_ESCAPED = re.compile(rf"(?=/)(?:/|{_CHARACTER}|{_ESCAPE})++")
_UNRESOLVED = re.compile(r"//|/\.\.?(?:/|\Z)")

_LITERAL = re.compile(r"[A-Za-z0-9._~!$&'()+,=:@-]+")
_VARIABLE = re.compile(r"\{([a-z][a-z0-9_]*)(=\*\*)?\}")


def is_plain(path: str) -> bool:
    """Whether a path, without its query, has one reading, and that is how it stands there."""
    return len(path) <= _LONGEST and _PLAIN.fullmatch(path) is not None


def decoded(path: str) -> str | None:
    """Tell how whoever decodes an escaped path reads it: None where readers could see different paths.

    It may have more slashes than `path`, if that has encoded ones: then it has two readings, and they are these two.
    """
    if len(path) > _LONGEST or not _ESCAPED.fullmatch(path):
        return None
    try:
        text = unquote(path, errors="strict")
    except UnicodeDecodeError:  # also of overlong forms, with which / and . have been hidden (RFC 3629, 10)
        return None
    return text if not _UNRESOLVED.search(path) and not _UNRESOLVED.search(text) and not _disguised(text) else None


def _disguised(text: str) -> bool:
    """Whether a character becomes one of ASCII's where text is normalised: U+2025 is two dots, U+FF0F a slash."""
    foreign = "".join(character for character in text if not character.isascii())
    return any(character.isascii() for character in normalize("NFKC", foreign))


class Pattern(NamedTuple):
    """What a path is compared with: its segments, None for any one that is not empty, then any `rest` or the end.

    The rest is what follows the slash after them, nothing included. ``/v1/files/{id}`` is ``("v1", "files", None)``;
    ``/v1/{rest=**}`` is ``("v1",)`` and a rest, which takes ``/v1/`` and ``/v1/a/b``, but not ``/v1``.
    """

    segments: tuple[str | None, ...]
    rest: bool = False

    @property
    def exact(self) -> bool:
        """Whether there is just one path that it takes."""
        return not self.rest and None not in self.segments

    def covers(self, other: "Pattern") -> bool:
        """Whether it takes every path that the `other` takes."""
        own, more = len(self.segments), len(other.segments) + other.rest - len(self.segments)
        enough = more > 0 if self.rest else more == 0 and not other.rest
        pairs = zip(self.segments, other.segments[:own], strict=False)
        return enough and all(mine == its or (mine is None and its != "") for mine, its in pairs)


ANY = Pattern((), rest=True)
"""Takes every path."""


def pattern(text: str) -> Pattern:
    """Read ``/v1/models``, ``/v1/files/{id}`` or ``/v1/{rest=**}``.

    Raises ValueError, whose message says what to write instead, for a path that no request could have: literal parts
    are compared byte by byte, and must have one spelling.
    """
    if not text.startswith("/"):
        raise ValueError("must start with /")
    if "?" in text or "#" in text:
        raise ValueError("write the path without query and fragment; they are ignored when requests are compared")
    *segments, last = text[1:].split("/")
    read = [_segment(segment) for segment in segments]
    rest = (found := _VARIABLE.fullmatch(last)) is not None and found[2] is not None
    if not rest:
        read.append(None if found else _literal(last) if last else "")
    names = [name for name, _ in _VARIABLE.findall(text)]
    if len(set(names)) < len(names):
        raise ValueError("names two of its variables alike")
    return Pattern(tuple(read), rest)


def _segment(text: str) -> str | None:
    """Read a segment that is not the last."""
    found = _VARIABLE.fullmatch(text)
    if found is None:
        return _literal(text)
    if found[2] is not None:
        raise ValueError("what takes the rest, {rest=**}, stands at the end")
    return None


def _literal(text: str) -> str:
    if text in ("", ".", ".."):
        raise ValueError("is not canonical: write it without //, . and ..")
    if "{" in text or "}" in text or "*" in text:
        raise ValueError("is no template: {id} takes one whole segment, {rest=**} the rest of the path")
    if not _LITERAL.fullmatch(text):
        raise ValueError("has a character with more than one reading (% ; \\ a space, or not ASCII): no route has one")
    return text

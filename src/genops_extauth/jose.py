"""The strict form of a signed token: compact serialisation, base64url, JSON, header.

A token has one spelling only. What another library would forgive (padding, stray bits, a member twice, UTF-16, NaN)
is a second spelling: it slips past deny lists and caches that go by digest, and lets two readers of one token see
different claims.
"""

import binascii
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from genops_extauth.model import Denied
from genops_extauth.reasons import Reason
from genops_extauth.strict_json import MalformedError, parse_object

MAX_KID_LENGTH = 128
"""Characters. The longest in use are hex or base64 digests of a key: SHA-512 in hex is 128."""

_TO_STANDARD = bytes.maketrans(b"-_+/=", b"+/---")
"""base64url to base64, which `binascii` reads. What is not base64url becomes ``-``, which is not base64 either."""

_LAST = {0: None, 2: frozenset(b"AQgw"), 3: frozenset(b"AEIMQUYcgkosw048")}
"""By length modulo 4: the final characters whose unused bits are zero (RFC 4648 section 3.5); None: all are used."""

_TYPES = frozenset({"jwt", "at+jwt"})
"""RFC 7519 section 5.1, RFC 9068 section 2.1. Others (``logout+jwt``, ``dpop+jwt``) are signed by the same keys and are
no access tokens."""

_FORBIDDEN = ("crit", "b64", "zip")
"""Extensions change what a signature means; we understand none, and RFC 7515 section 4.1.11 then demands a refusal."""


_LONGEST_HEADER = 2048
"""Bytes of a header's segment. One with a certificate's digest has 300."""

_MOST_ITEMS = 2048
"""Items in a segment, as `strict_json` counts them: 256 objects, or a list of 2,000 groups. 4,000 objects in 16 KiB,
unchecked, took a millisecond."""


class Signed(NamedTuple):
    """A compact JWS taken apart, its signature not checked. `algorithm`, `kid` and `type` are the header's, typed.

    `type` is ``jwt`` or ``at+jwt``, however it was written; None where the header has none.
    """

    algorithm: str
    kid: str | None
    type: str | None
    claims: Mapping[str, object]
    signing_input: bytes
    signature: bytes


def parse(token: bytes) -> Signed | Denied:
    """Take a compact JWS apart (RFC 7515 section 7.1). Nothing of it is to be believed yet."""
    segments = token.split(b".", 3)  # five would be a JWE: refused here, before any thought of decrypting or inflating
    if len(segments) != 3:  # noqa: PLR2004 - header, payload, signature
        return Denied(Reason.TOKEN_MALFORMED, "not three segments")
    try:
        header = _header(segments[0])
        payload, signature = decode_base64url(segments[1]), decode_base64url(segments[2])
    except MalformedError as error:
        return Denied(Reason.TOKEN_MALFORMED, str(error))
    if isinstance(header, Denied):
        return header
    try:
        claims = parse_object(payload, _MOST_ITEMS)
    except MalformedError as error:
        return Denied(Reason.TOKEN_CLAIMS_MALFORMED, str(error))
    return Signed(*header, claims, token[: token.rindex(b".")], signature)


# All tokens of a key have one header, and reading it was a quarter of what an expired token costs. A hostile client
# can fill this with headers of its own, of 2 KiB each at most: then it saves nothing, and holds half a MiB.
@lru_cache(maxsize=256)
def _header(segment: bytes) -> tuple[str, str | None, str | None] | Denied:
    """Read a header: its alg, kid and typ. Raises `MalformedError`."""
    if len(segment) > _LONGEST_HEADER:
        raise MalformedError("the header is too long")
    header = parse_object(decode_base64url(segment), _MOST_ITEMS)
    refusal = _header_refusal(header)
    if refusal is not None:
        return refusal
    kid = header.get("kid")
    assert kid is None or isinstance(kid, str)  # noqa: S101 - for mypy: _header_refusal saw to it
    return str(header["alg"]), kid, _media_type(header.get("typ"))


def decode_base64url(text: bytes) -> bytes:
    """Decode base64url without padding (RFC 7515 section 2), canonical and not empty. Raises `MalformedError`."""
    length = len(text) % 4
    if not text or length == 1:
        raise MalformedError("a segment is empty or has an impossible length")
    last = _LAST[length]
    if last is not None and text[-1] not in last:
        raise MalformedError("a segment has stray bits at its end")
    try:
        return binascii.a2b_base64(text.translate(_TO_STANDARD) + b"=" * (-length % 4), strict_mode=True)
    except binascii.Error:
        raise MalformedError("a segment is not base64url") from None


def _header_refusal(header: Mapping[str, object]) -> Denied | None:
    """Check all that a header may say. Members that offer a key (``jwk``, ``jku``, ``x5u``, ``x5c``) are never read."""
    if not isinstance(header.get("alg"), str):
        return Denied(Reason.TOKEN_HEADER_REFUSED, "alg")
    if "kid" in header:
        kid = header["kid"]
        if not isinstance(kid, str) or len(kid) > MAX_KID_LENGTH:
            return Denied(Reason.TOKEN_HEADER_REFUSED, "kid")
    if "typ" in header and _media_type(header["typ"]) not in _TYPES:
        return Denied(Reason.TOKEN_HEADER_REFUSED, "typ")
    if "cty" in header and _media_type(header["cty"]) in ("jwt", None):  # a token in a token (RFC 7519 section 5.2)
        return Denied(Reason.TOKEN_HEADER_REFUSED, "cty")
    for name in _FORBIDDEN:
        if name in header:
            return Denied(Reason.TOKEN_HEADER_REFUSED, name)
    return None


def _media_type(value: object) -> str | None:
    """Fold case and drop the optional ``application/`` (RFC 7515 section 4.1.9)."""
    return value.lower().removeprefix("application/") if isinstance(value, str) else None

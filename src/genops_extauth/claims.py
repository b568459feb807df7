"""What a token's claims say, strictly typed: whom it is for, when it holds, and the governance attributes."""

import re
from collections.abc import Mapping
from typing import NamedTuple

from genops_extauth.model import Denied, Reason

_LAST_SECOND = 253_402_300_799
"""9999-12-31T23:59:59Z, the last that RFC 3339 can write. Infinity and endless numbers are beyond it, and so are
milliseconds, which some issuers write by mistake: their tokens would never expire."""

_MAX_ATTRIBUTE_LENGTH = 256
"""Bytes. An upstream's limit for all its headers is 8 KiB in many servers (NGINX: large_client_header_buffers)."""

_ATTRIBUTE = re.compile(r"[!-+\--~]+(?: [!-+\--~]+)*")
"""Visible ASCII with single spaces inside (RFC 9110 section 5.5), safe as a header and in a log. No comma: a proxy that
joins or splits lists would read two values."""


class Period(NamedTuple):
    """When a token holds: from `since` until just before `until`, with the leeway in them; `expires_at` is without."""

    since: float
    until: float
    expires_at: float


def audience_refusal(claims: Mapping[str, object], audiences: frozenset[str]) -> Denied | None:
    """Check ``aud`` (RFC 7519 section 4.1.3): a string or strings, one of which is ours, exactly."""
    audience = claims.get("aud")
    named = audience if isinstance(audience, list) else [audience]
    if not all(isinstance(name, str) for name in named):
        return Denied(Reason.TOKEN_CLAIMS_MALFORMED, "aud")
    if audiences.isdisjoint(named):
        return Denied(Reason.TOKEN_AUDIENCE_WRONG)
    return None


def period(claims: Mapping[str, object], leeway: float) -> Period | Denied:
    """Read ``exp``, which must be there, ``nbf`` and ``iat`` (RFC 7519 sections 4.1.4 to 4.1.6), in seconds.

    A token from the future (``iat``) is refused like one whose time has not come: a clock is wrong, here or there.
    """
    expires_at = _date(claims.get("exp"))
    if expires_at is None:
        return Denied(Reason.TOKEN_CLAIMS_MALFORMED, "exp")
    since = float("-inf")
    for name in ("nbf", "iat"):
        if name in claims:
            date = _date(claims[name])
            if date is None:
                return Denied(Reason.TOKEN_CLAIMS_MALFORMED, name)
            since = max(since, date - leeway)
    return Period(since, expires_at + leeway, expires_at)


def _date(value: object) -> float | None:
    # True is an int to Python; a string of digits is no NumericDate (RFC 7519 section 2).
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) <= _LAST_SECOND else None


def attributes(
    claims: Mapping[str, object], paths: Mapping[str, tuple[str, ...]], prefixes: Mapping[str, str]
) -> dict[str, str] | Denied:
    """Read each attribute from the claim at its path and put its prefix before it.

    A claim that is missing, null or empty is an attribute that is missing: `policy` knows whether it must be there.
    One that cannot be a header value is refused and never mended: a mended one would be somebody else's.
    """
    found: dict[str, str] = {}
    for name, path in paths.items():
        value = _at(claims, path)
        if value is None or value == "":
            continue
        if not isinstance(value, str):
            return Denied(Reason.ATTRIBUTE_UNUSABLE, name)
        text = prefixes.get(name, "") + value
        if len(text) > _MAX_ATTRIBUTE_LENGTH or not _ATTRIBUTE.fullmatch(text):
            return Denied(Reason.ATTRIBUTE_UNUSABLE, name)
        found[name] = text
    return found


def _at(claims: Mapping[str, object], path: tuple[str, ...]) -> object:
    value: object = claims
    for step in path:
        if not isinstance(value, dict):
            return None
        value = value.get(step)
    return value

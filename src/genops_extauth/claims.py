"""What a token's claims say, strictly typed: whom it is for, when it holds, what it may do, the governance attributes.

A claim that is not of its type is refused, never mended or passed over: two readers of one token must not see two.
"""

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from genops_extauth.model import Denied
from genops_extauth.reasons import Reason

_LAST_SECOND = 253_402_300_799
"""9999-12-31T23:59:59Z, the last that RFC 3339 can write. Infinity and endless numbers are beyond it, and so are
milliseconds, which some issuers write by mistake: their tokens would never expire."""

_MAX_ATTRIBUTE_LENGTH = 256
"""Bytes. An upstream's limit for all its headers is 8 KiB in many servers (NGINX: large_client_header_buffers)."""

_ATTRIBUTE = re.compile(r"[!-+\--~]+(?: [!-+\--~]+)*")
"""Visible ASCII with single spaces inside (RFC 9110 section 5.5), safe as a header and in a log. No comma: a proxy that
joins or splits lists would read two values."""

_NO_WORDS: frozenset[str] = frozenset()

_MAX_ID_LENGTH = 256
"""Characters of ``jti``. A UUID has 36, a hash in hex 128; deny lists hold it."""


class Period(NamedTuple):
    """When a token holds: from `since` until just before `until`, with the leeway in them; the others are without."""

    since: float
    until: float
    expires_at: float
    issued_at: float | None


def subject_refusal(claims: Mapping[str, object]) -> Denied | None:
    """Check ``sub`` (RFC 7519 section 4.1.2), without which nobody is meant."""
    subject = claims.get("sub")
    return None if isinstance(subject, str) and subject else Denied(Reason.TOKEN_CLAIMS_MALFORMED, "sub")


def id_refusal(claims: Mapping[str, object]) -> Denied | None:
    """Check ``jti`` (RFC 7519 section 4.1.7), which may be missing: one that no deny list could name is refused."""
    if "jti" not in claims:
        return None
    name = claims["jti"]
    sound = isinstance(name, str) and 0 < len(name) <= _MAX_ID_LENGTH
    return None if sound else Denied(Reason.TOKEN_CLAIMS_MALFORMED, "jti")


def access_token_refusal(claims: Mapping[str, object]) -> Denied | None:
    """Check that what an access token must say besides is there (RFC 9068 section 2.2); ``iat`` is typed elsewhere."""
    client = claims.get("client_id")
    if not isinstance(client, str) or not client:
        return Denied(Reason.TOKEN_CLAIMS_MALFORMED, "client_id")
    absent = next((name for name in ("jti", "iat") if name not in claims), None)
    return None if absent is None else Denied(Reason.TOKEN_CLAIMS_MALFORMED, absent)


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
    begins: dict[str, float] = {}
    for name in ("nbf", "iat"):
        if name in claims:
            date = _date(claims[name])
            if date is None:
                return Denied(Reason.TOKEN_CLAIMS_MALFORMED, name)
            begins[name] = date
    since = max(begins.values(), default=-math.inf) - leeway
    return Period(since, expires_at + leeway, expires_at, begins.get("iat"))


def lifetime_refusal(period: Period, longest: float) -> Denied | None:
    """Check that a token was not issued for more than `longest` seconds, which only ``iat`` can show."""
    if period.issued_at is None:
        return Denied(Reason.TOKEN_CLAIMS_MALFORMED, "iat")
    return None if period.expires_at - period.issued_at <= longest else Denied(Reason.TOKEN_LIFETIME_TOO_LONG)


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
        value = claim_at(claims, path)
        if value is None or value == "":
            continue
        if not isinstance(value, str):
            return Denied(Reason.ATTRIBUTE_UNUSABLE, name)
        text = prefixes.get(name, "") + value
        if len(text) > _MAX_ATTRIBUTE_LENGTH or not _ATTRIBUTE.fullmatch(text):
            return Denied(Reason.ATTRIBUTE_UNUSABLE, name)
        found[name] = text
    return found


def scopes(claims: Mapping[str, object], path: tuple[str, ...]) -> frozenset[str] | Denied:
    """Read what a token was granted, each a whole word.

    They stand in one text with spaces between (RFC 8693 section 4.2, RFC 9068 section 2.2.3), or, as ``scp`` and
    ``permissions`` of some issuers, in a list.
    """
    found = claim_at(claims, path)
    return _words(found.split(" ") if isinstance(found, str) else found, "scopes")


def roles(claims: Mapping[str, object], path: tuple[str, ...]) -> frozenset[str] | Denied:
    """Read the roles of a token's subject: a list of names, or one name, spaces and all.

    RFC 9068 section 2.2.3.1 names the claim and leaves its form open.
    """
    found = claim_at(claims, path)
    return _words([found] if isinstance(found, str) else found, "roles")


def _words(found: object, what: str) -> frozenset[str] | Denied:
    if found is None:
        return _NO_WORDS
    if not isinstance(found, list) or not all(isinstance(word, str) for word in found):
        return Denied(Reason.TOKEN_CLAIMS_MALFORMED, what)
    return frozenset(filter(None, found))


def claim_at(claims: Mapping[str, object], path: tuple[str, ...]) -> object:
    """Find the claim at the end of the steps; None where it is missing, or null."""
    value: object = claims
    for step in path:
        if not isinstance(value, dict):
            return None
        value = value.get(step)
    return value

"""Bearer tokens (RFC 6750) as a way to say who one is; and newer keys, where a token's is not known yet."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping

from genops_extauth.model import Denied, Identity, KeysUnavailable, Request
from genops_extauth.reasons import Reason
from genops_extauth.tokens import UnknownKey, Verifier

# Envoy's clients hang up at their deadline; the answer must be on the wire before it.
_ANSWER_MARGIN = 0.02  # seconds
# Envoy's default ext_authz timeout is 200 ms; a caller without a deadline is treated as one with it.
_PATIENCE = 0.2  # seconds

API_KEY = b"gxk_"
"""How our API keys begin, which clients may send as bearer tokens too. No JSON Web Token begins so."""

# Fields that Envoy joined, or a tab where a space belongs: none of another scheme has the word by itself.
_DISGUISED = re.compile(rb"(?i)(?:\A|[^!-~]|,)bearer(?:[^!-~]|,|\Z)")

Refresh = Callable[[], Awaitable[bool]]
"""Asks for newer keys of an issuer; True when they changed. Raises `KeysUnavailable`."""


class Bearer:
    """A `gate.Authenticator` of JSON Web Tokens. `refresh` is by the issuer's name, of those whose keys can change."""

    def __init__(self, verifier: Verifier, refresh: Mapping[str, Refresh]) -> None:
        self._verifier = verifier
        self._refresh = refresh

    def presented(self, request: Request) -> bool:
        """Whether the request holds a bearer token that is no API key, were it in disguise."""
        token = bearer_token(request)
        return _disguised(request) is not None if token is None else not token.startswith(API_KEY)

    async def authenticate(
        self, request: Request, wall: Callable[[], float], remaining: Callable[[], float | None]
    ) -> Identity | Denied | None:
        """Tell whose token the request holds; None where it holds none. Raises `KeysUnavailable`."""
        if "authorization" in request.repeated:  # whatever their schemes: the upstream could read the other one
            return Denied(Reason.CREDENTIALS_AMBIGUOUS)
        token = bearer_token(request)
        if token is None:
            return _disguised(request)
        if token.startswith(API_KEY):
            return None
        found = self._verifier.verify(token, wall())
        if isinstance(found, UnknownKey) and await self._fresher_keys(found, remaining):
            found = self._verifier.verify(token, wall())
        return Denied(Reason.TOKEN_KEY_UNKNOWN) if isinstance(found, UnknownKey) else found

    async def _fresher_keys(self, unknown: UnknownKey, remaining: Callable[[], float | None]) -> bool:
        """Wait for the issuer's newer keys, as long as the caller's deadline allows: a rotation refuses no good token.

        Only the token with the unknown key waits, never one whose key is known.
        """
        refresh = self._refresh.get(unknown.issuer.issuer)
        if refresh is None:
            return False
        left = remaining()
        patience = min(_PATIENCE if left is None else left, _PATIENCE) - _ANSWER_MARGIN
        try:
            async with asyncio.timeout(patience):
                return await refresh()
        except TimeoutError:
            raise KeysUnavailable(f"{unknown.issuer.issuer}: newer keys did not come in time") from None


def _disguised(request: Request) -> Denied | None:
    """Refuse what is no bearer token to us, and could be one to the upstream: it would have been verified by nobody."""
    field_value = request.headers.get("authorization")
    if field_value is None or not _DISGUISED.search(field_value):
        return None
    return Denied(Reason.TOKEN_MALFORMED, "Bearer where it does not belong")


def bearer_token(request: Request) -> bytes | None:
    """Find the bearer token of a request (RFC 6750, 2.1); None where its Authorization, if any, is of another scheme.

    Where there are two fields this is what they look like joined, and must be refused, never "first wins": what we
    would verify and what the upstream would read could differ (CVE-2020-25017, CVE-2021-32777).
    """
    field_value = request.headers.get("authorization")
    if field_value is None:
        return None
    scheme, _, token = field_value.partition(b" ")
    return token.strip(b" ") if scheme.lower() == b"bearer" else None

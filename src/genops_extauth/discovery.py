"""Where an issuer's keys are, as the issuer itself says: OpenID Connect Discovery 1.0.

The document tells us one thing, and we take no more from it. What a token may be signed with, and for whom, is for
our configuration to say: were the document to say it, whoever can change one file at the issuer's could weaken both.

* It is fetched as keys are, and must be strict JSON: no member twice, for we would believe one and others the other.
* Its issuer is the configured one, byte by byte (section 4.3): one that speaks for another is not believed.
* Its `jwks_uri` is as safe as a configured one, and leads no further inside than the issuer is (SSRF).
* It is read again when it is an hour old, or when the keys were not where it said: a changed `jwks_uri` is taken over.
* While it cannot be read, keys come from where it last said, for a day: an outage of it alone costs no token anything.

RFC 8414's path is not asked: every provider of docs/identity-providers.md answers at OpenID's.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import aiohttp

from genops_extauth.key_fetch import FetchError, FetchFailed, Found, KeysAt, Step, fetch
from genops_extauth.publickey import ALGORITHMS
from genops_extauth.secure_uri import discovery_uri, require_no_deeper
from genops_extauth.strict_json import MalformedError, parse_object

_READ_AGAIN: Final = 3600.0
"""Seconds. Issuers move their keys once in years; asking at each refresh would double what they bear."""
_BELIEVED: Final = 86_400.0
"""Seconds. As `max_stale` of keys: whoever keeps the document from us must not keep us at a place long given up."""
_MAX_BYTES: Final = 64 * 1024
"""Bytes. Keycloak's, the longest that we know, has 7 KiB."""
_MAX_ITEMS: Final = 4096
"""As `strict_json` counts. Keycloak's has 250."""
_UNREAD: Final = "the discovery document could not be read ({}); the keys came from where it last said"


@dataclass(frozen=True, slots=True)
class Document:
    """What is taken from a discovery document. `offered` are the algorithms that it names; None where it names none."""

    jwks_uri: str
    offered: frozenset[object] | None


def read_document(text: bytes, issuer: str) -> Document:
    """Read the metadata of `issuer` (section 3). Raises `FetchFailed`; nothing in it is the document's."""
    try:
        said = parse_object(text, _MAX_ITEMS)
    except MalformedError as error:
        raise _refused(FetchError.NOT_A_DISCOVERY_DOCUMENT, str(error)) from None
    if "issuer" not in said or not isinstance(said.get("jwks_uri"), str):
        raise _refused(FetchError.NOT_A_DISCOVERY_DOCUMENT, "no issuer or no jwks_uri: is this an OpenID provider?")
    if said["issuer"] != issuer:
        raise _refused(FetchError.ISSUER_MISMATCH, "another issuer's: configure the issuer as its document writes it")
    uri = str(said["jwks_uri"])
    try:
        require_no_deeper(uri, issuer)
    except ValueError as error:
        raise _refused(FetchError.JWKS_URI_REFUSED, f"jwks_uri: {error}") from None
    offered = said.get("id_token_signing_alg_values_supported")
    return Document(uri, frozenset(map(str, offered)) if isinstance(offered, list) else None)


class Discovered:
    """The keys of an issuer that says itself where they are; a `jwks.Place`.

    Raises `ValueError` for an issuer that cannot be asked. `clock` is monotonic, in seconds.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        issuer: str,
        algorithms: frozenset[str],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._uri = discovery_uri(issuer)
        self._session = session
        self._issuer = issuer
        self._algorithms = algorithms
        self._clock = clock
        self._keys: KeysAt | None = None
        self._read_at = -math.inf
        self._doubted = False

    async def fetch(self, *, seconds: float, max_bytes: int) -> Found:
        """Fetch the keys, and before them the document where it is due, in at most `seconds`. Raises `FetchFailed`."""
        ends = self._clock() + seconds
        keys, remarks = await self._place(seconds)
        try:
            found = await keys.fetch(seconds=ends - self._clock(), max_bytes=max_bytes)
        except FetchFailed:
            self._doubted = True
            raise
        return replace(found, remarks=remarks)

    async def _place(self, seconds: float) -> tuple[KeysAt, tuple[str, ...]]:
        """Say where the keys are, with what is to be told of it."""
        age = self._clock() - self._read_at
        known = self._keys if age <= _BELIEVED else None
        if known is not None and age < _READ_AGAIN and not self._doubted:
            return known, ()
        try:
            # Half of the time is the keys' where they can do without the document.
            document = await self._read(seconds if known is None else seconds / 2)
        except FetchFailed as failure:
            if known is None:
                raise
            return known, (_UNREAD.format(failure.code),)
        return self._take_over(document), _remarks(document, self._algorithms)

    async def _read(self, seconds: float) -> Document:
        read = partial(read_document, issuer=self._issuer)
        try:
            return await fetch(self._session, self._uri, read, seconds=seconds, max_bytes=_MAX_BYTES)
        except FetchFailed as failure:
            raise FetchFailed(failure.code, failure.detail, Step.DISCOVERY) from failure

    def _take_over(self, document: Document) -> KeysAt:
        self._keys = KeysAt(self._session, document.jwks_uri, self._algorithms)
        self._read_at = self._clock()
        self._doubted = False
        return self._keys


def _remarks(document: Document, algorithms: frozenset[str]) -> tuple[str, ...]:
    if document.offered is None or document.offered & algorithms:
        return ()
    usable = ", ".join(sorted(ALGORITHMS & document.offered)) or "none that can be configured"  # never its own words
    return (f"the issuer says that it signs with {usable}: none of its configured algorithms is among them",)


def _refused(code: FetchError, detail: str) -> FetchFailed:
    return FetchFailed(code, detail, Step.DISCOVERY)

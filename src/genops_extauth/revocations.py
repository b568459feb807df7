"""What is refused before its time: the list of it, and what of an identity is looked up there.

Rules
-----
- An entry names a token (the ``jti`` of an issuer), a subject (all its credentials of an issuer, whenever issued), or
  an API key by its id. Without an issuer it is about whoever issued it.
- An entry holds until its time is over. Losing sight of it is no reason to let its credential pass again.
- Of a long value a digest is kept: who reads the list learns no more than needed, and it stays small.
"""

import hashlib
import math
from collections.abc import Iterable
from heapq import heappop, heappush
from typing import Literal, NamedTuple, get_args

from genops_extauth.model import Identity

Kind = Literal["token_id", "subject", "api_key"]
KINDS: tuple[Kind, ...] = get_args(Kind)

FOREVER = math.inf
"""The end of what has none."""

LONGEST = 64
"""Characters of a value that is kept as it is: a UUID has 36, a hexadecimal SHA-256 64. As in keys of buckets."""


class Handle(NamedTuple):
    """What is revoked: by `kind`, of an `issuer` or of any (empty), a `value` as `kept`."""

    kind: Kind
    issuer: str
    value: str


class Entry(NamedTuple):
    """A handle, and the second since the epoch at which it is forgotten."""

    handle: Handle
    until: float


def handle(kind: Kind, value: str, issuer: str = "") -> Handle:
    """The handle of a token's ``jti``, a subject, or an API key's id, which has no issuer."""
    return Handle(kind, "" if kind == "api_key" else issuer, kept(value))


def mistaken(value: str) -> str:
    """What is wrong with a value that is the credential itself, which has no such id; empty where it is none."""
    if value.startswith("eyJ") and value.count(".") > 1:
        return "this is a token, not its id"
    if value.startswith("gxk_") and value.count("_") > 1:
        return "this is an API key, not its id: write what stands between the first two underscores"
    return ""


def kept(value: str) -> str:
    """A value, or what stands for it. The two never meet: a digest is longer than any value that is kept."""
    if len(value) <= LONGEST:
        return value
    return "sha256:" + hashlib.sha256(value.encode(errors="surrogatepass")).hexdigest()


class Denylist:
    """Entries by handle. Not for threads."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._ends: dict[tuple[Kind, str, str], float] = {}
        self._next: list[tuple[float, Handle]] = []
        for entry in entries:
            self.add(entry)

    def __len__(self) -> int:
        return len(self._ends)

    def add(self, entry: Entry) -> None:
        """Refuse what an entry is about until its time is over, whatever was said of it before."""
        self._ends[entry.handle] = entry.until
        if entry.until != FOREVER:
            heappush(self._next, (entry.until, entry.handle))

    def remove(self, handle: Handle) -> None:
        """Refuse it no longer."""
        self._ends.pop(handle, None)

    def expire(self, now: float) -> None:
        """Drop what is over at `now`. Costs nothing where nothing is."""
        while self._next and self._next[0][0] <= now:
            _, over = heappop(self._next)
            if self._ends.get(over, FOREVER) <= now:  # it may have been given another time since
                del self._ends[over]

    def includes(self, identity: Identity) -> bool:
        """Whether an entry is about this identity or its credential."""
        ends = self._ends
        if not ends:
            return False
        # Plain tuples: a named one is equal, and takes five times as long to make.
        issuer, subject, credential = identity.issuer, identity.subject, identity.credential_id
        if len(subject) > LONGEST:
            subject = kept(subject)
        if ("subject", issuer, subject) in ends or ("subject", "", subject) in ends:
            return True
        if len(credential) > LONGEST:
            credential = kept(credential)
        if identity.method == "api_key":
            return ("api_key", "", credential) in ends
        return ("token_id", issuer, credential) in ends or ("token_id", "", credential) in ends


class Revoked:
    """What a generation refuses: what its configuration names, and what the store does, whose list all share."""

    __slots__ = ("_fixed", "_known")

    def __init__(self, fixed: Denylist, known: Denylist) -> None:
        self._fixed, self._known = fixed, known

    def includes(self, identity: Identity) -> bool:
        """Whether the identity, or the credential it came with, is revoked."""
        return self._fixed.includes(identity) or self._known.includes(identity)

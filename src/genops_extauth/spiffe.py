"""SPIFFE ids, the names of workloads, and patterns of them (SPIFFE-ID, 2; https://spiffe.io/docs/latest/spiffe-specs).

An id has one spelling: no escapes, no port, no query, no dot segments. So that it is compared byte by byte, and each
segment of a path is its own word, whatever it says.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

_LONGEST = 2048  # bytes (SPIFFE-ID, 2.3)
_TRUST_DOMAIN = r"[a-z0-9._-]{1,255}"  # SPIFFE-ID, 2.1
_SEGMENT = r"(?!\.{1,2}(?:/|$))[A-Za-z0-9._-]+"  # SPIFFE-ID, 2.2
_ID = re.compile(rf"spiffe://({_TRUST_DOMAIN})((?:/{_SEGMENT})+)")
_PATTERN = re.compile(rf"spiffe://({_TRUST_DOMAIN})((?:/(?:{_SEGMENT}|\*|\{{[a-z_]+\}}))+)")

ANY = "*"


class SpiffeId(NamedTuple):
    """A workload's id: `path` are its segments, one at least."""

    trust_domain: str
    path: tuple[str, ...]

    def __str__(self) -> str:
        return f"spiffe://{self.trust_domain}/{'/'.join(self.path)}"


class Pattern(NamedTuple):
    """Ids of one trust domain, segment by segment: a word, ``*`` for any word, ``{name}`` for any word with a name."""

    trust_domain: str
    path: tuple[str, ...]

    def __str__(self) -> str:
        return f"spiffe://{self.trust_domain}/{'/'.join(self.path)}"

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its segments, in order."""
        return tuple(segment[1:-1] for segment in self.path if segment.startswith("{"))

    def match(self, name: SpiffeId) -> Mapping[str, str] | None:
        """The words that the named segments stand for; None where the id is not of this pattern."""
        if name.trust_domain != self.trust_domain or len(name.path) != len(self.path):
            return None
        found: dict[str, str] = {}
        for expected, word in zip(self.path, name.path, strict=True):
            if expected.startswith("{"):
                found[expected[1:-1]] = word
            elif expected not in (ANY, word):
                return None
        return found


def is_spiffe(uri: str) -> bool:
    """Whether a URI is one of SPIFFE's, right or wrong. Schemes have no case (RFC 3986, 3.1)."""
    return uri[:7].lower() == "spiffe:"


def spiffe_id(text: str) -> SpiffeId:
    """Read a workload's id. Raises ValueError; the message does not repeat it."""
    found = _ID.fullmatch(text) if len(text) <= _LONGEST else None
    if found is None:
        raise ValueError("is no SPIFFE id of a workload: write for example spiffe://prod.example/ns/ml/sa/trainer")
    return SpiffeId(found[1], tuple(found[2][1:].split("/")))


def pattern(text: str) -> Pattern:
    """Read a pattern. Raises ValueError, with what to write instead."""
    found = _PATTERN.fullmatch(text) if len(text) <= _LONGEST else None
    if found is None:
        raise ValueError(
            "write a SPIFFE id, in whose path * or {attribute} may stand for one whole segment each, for example "
            "spiffe://prod.example/ns/{team}/sa/*; a trust domain is in lower case"
        )
    made = Pattern(found[1], tuple(found[2][1:].split("/")))
    if len(set(made.names)) < len(made.names):
        raise ValueError("names one attribute twice; write * for the segment that it is not in")
    return made

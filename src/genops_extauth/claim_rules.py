"""What an issuer's tokens must say besides: rules over single claims, strictly typed.

A rule is met by a whole value of the right type. Nothing is found inside a text: ``evil-example.com@attacker.test``
holds ``example.com`` too (CVE-2024-53861, CVE-2026-40574). Patterns are RE2's, which takes a time linear in the text:
whoever may choose a claim, its own name for instance, could make a backtracking engine run for ever.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import re2

from genops_extauth.claims import claim_at

MAX_PATTERN_LENGTH = 512
"""Characters. An address pattern has 40; a list of values is better written with ``in``."""

_MAX_TEXT_LENGTH = 1024
"""Characters of a claim that a pattern is held against. The longest in use, distinguished names, have some 200; within
it the slowest pattern took 13 ms for its first text, and 0.4 ms after."""

_PATTERN_BYTES = 2**20
"""Of a compiled pattern with its states; RE2 takes 8 MiB by default, and says itself what does not fit."""

Literal = str | bool
"""What a claim is compared with. Numbers are not: of 2, 2.0 and "2" nobody can say which the issuer means tomorrow."""


class PatternError(ValueError):
    """Raised for a pattern that cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What the claim at a path must be. One that is missing meets no rule."""

    claim: tuple[str, ...]
    met_by: Callable[[object], bool]

    def holds(self, claims: Mapping[str, object]) -> bool:
        """Whether the claims meet it."""
        return self.met_by(claim_at(claims, self.claim))


def one_of(claim: tuple[str, ...], values: Iterable[Literal]) -> Rule:
    """The claim is one of the values, of the same type: ``true`` is neither 1 nor "true"."""
    wanted = frozenset((type(value), value) for value in values)
    return Rule(claim, lambda found: isinstance(found, str | bool) and (type(found), found) in wanted)


def contains(claim: tuple[str, ...], value: Literal) -> Rule:
    """The claim is a list, and the value is one of it."""
    return Rule(claim, lambda found: isinstance(found, list) and any(_same(item, value) for item in found))


def matches(claim: tuple[str, ...], pattern: str) -> Rule:
    """The claim is a text, all of which the pattern matches (RE2's syntax). Raises `PatternError`."""
    if len(pattern) > MAX_PATTERN_LENGTH:
        raise PatternError(f"a pattern has at most {MAX_PATTERN_LENGTH} characters; for many values write `in`")
    options = re2.Options()
    options.max_mem = _PATTERN_BYTES
    options.never_capture = True
    options.log_errors = False  # it would write them to stderr itself
    try:
        compiled = re2.compile(pattern, options)
    except re2.error as error:
        raise PatternError(f"not a pattern of RE2: {_said(error)}") from None
    return Rule(
        claim,
        lambda found: (
            isinstance(found, str) and len(found) <= _MAX_TEXT_LENGTH and compiled.fullmatch(found) is not None
        ),
    )


def _same(found: object, value: Literal) -> bool:
    return type(found) is type(value) and found == value


def _said(error: Exception) -> str:
    """RE2's own words, which come as bytes."""
    said = error.args[0] if error.args else ""
    return said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)

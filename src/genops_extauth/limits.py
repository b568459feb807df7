"""The tree of limits: which of them a descriptor meets, and the buckets it hits.

A descriptor is a path through the tree, one entry a step (envoyproxy/ratelimit, src/config/config_impl.go, GetLimit).
At each step the exact (key, value) wins, then the first wildcard in the order of declaration, then the key alone.
Limits count only where the last entry lands on them. What was passed by is not tried again, unless the domain asks for
it (`Domain.backtracking`, ours): then the next best way is, until one leads to a limit.

What a place in the tree says of its keys and series is worked out when the tree is built: to match, a request walks to
its place and fills the holes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from genops_extauth.calendars import Calendar
from genops_extauth.hits import STRICT, Meter, Terms
from genops_extauth.limit_keys import Form, Hole, Piece, form, steps, written
from genops_extauth.model import CurrentLimit, Descriptor, Json, Override
from genops_extauth.wildcards import Wildcards

Entry = tuple[bytes, bytes]
Entries = tuple[Entry, ...]
Phase = Literal["request", "charge"]

CHARGE: Entry = (b"genops_phase", b"charge")
"""An entry of this kind, anywhere, is no part of the path: the descriptor reports what was used (stream-done)."""

_made = tuple.__new__  # A named tuple's class calls a function written in Python, here for every descriptor.


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """One limit: what clients are told of it, how it counts, and how it refuses.

    `meter` is None where the window is a `calendar`'s; `suffix` names either at the end of keys. What is `unlimited`
    has a meter that nobody asks. A `shadow` rule refuses nothing; of `quota` rules all must be exhausted. `charged`:
    costs come after the response. The limits named in `replaces` are not met where this one is. Once more than `near`
    tokens are used, it is near its limit.
    """

    limit: CurrentLimit
    meter: Meter | None
    suffix: bytes
    calendar: Calendar | None = None
    unlimited: bool = False
    shadow: bool = False
    quota: bool = False
    charged: bool = False
    refundable: bool = False
    replaces: frozenset[str] = frozenset()
    body: bytes | None = None
    terms: Terms = STRICT
    near: int = 0

    def meter_at(self, now: int) -> Meter:
        """What counts at `now` (microseconds of the wall clock)."""
        if self.meter is not None:
            return self.meter
        if self.calendar is None:
            raise TypeError("a rule without a meter needs a calendar")
        return self.calendar.window(now, self.limit.requests_per_unit)


class Met(NamedTuple):
    """One limit that a descriptor met, and the key of its bucket."""

    rule: Rule
    key: bytes


class Match(NamedTuple):
    """What a descriptor met, at least one limit.

    `series` names it in metrics, part by part, the domain first. `defaulted`: an unknown or missing tier counts as the
    default one. In the `phase` "charge" the descriptor reports a cost.
    """

    met: tuple[Met, ...]
    series: tuple[str, ...]
    metadata: Mapping[str, Json] | None = None
    defaulted: bool = False
    phase: Phase = "request"


@dataclass(frozen=True, slots=True, eq=False)
class Leaf:
    """The limits of one place in the tree: a template of keys for each of the `rules`, all with the same `holes`.

    `name` is the place's, with dots. `series` are texts, or the numbers of the entries whose key and value are told.
    """

    rules: tuple[Rule, ...]
    templates: tuple[bytes, ...]
    holes: tuple[Hole, ...]
    series: tuple[str | int, ...]
    plain: tuple[str, ...] | None
    """`series` where it is the same for all requests."""
    metadata: Mapping[str, Json] | None = None
    defaulted: bool = False
    name: str = ""

    def met_by(self, entries: Entries, phase: Phase) -> Match:
        """Fill in what `entries` hold."""
        holes = self.holes
        if len(holes) == 1:
            entry, part = holes[0]
            values: bytes | tuple[bytes, ...] = written(entries[entry][part])
        else:
            values = tuple([written(entries[entry][part]) for entry, part in holes])
        if len(self.rules) == 1:
            met: tuple[Met, ...] = (_made(Met, (self.rules[0], self.templates[0] % values)),)
        else:
            met = tuple([Met(*each) for each in zip(self.rules, [one % values for one in self.templates], strict=True)])
        return _made(Match, (met, self.plain or self._told(entries), self.metadata, self.defaulted, phase))

    def _told(self, entries: Entries) -> tuple[str, ...]:
        return tuple(part if isinstance(part, str) else label(entries[part]) for part in self.series)


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One place in the tree. No two of the ways on, exact, by wildcard and by the bare key, lead to the same place.

    `leaf` is None where there is no limit; such a place `passes` where it leads no further either: it was declared to
    let one value pass.
    """

    exact: "Mapping[Entry, Node]"
    wildcards: "Wildcards[Node] | None"
    bare: "Mapping[bytes, Node]"
    leaf: Leaf | None = None
    passes: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Root:
    """A domain: its name in metrics and in keys, where its paths begin, and whether it is walked back."""

    name: str
    path: bytes
    node: Node
    backtracking: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Tree:
    """All limits, by domain. `prefix` and `tag` (an entry's key) shape the keys of limits that descriptors bring."""

    domains: Mapping[bytes, Root]
    overriding: Callable[[Override], Rule]
    prefix: str = ""
    tag: bytes | None = None
    leaves: Sequence[Leaf] = ()
    dump: Sequence[str] = ()

    def match(self, domain: bytes, descriptor: Descriptor) -> Match | None:
        """Find the limits that a descriptor meets. None: there are none."""
        root = self.domains.get(domain)
        if root is None:
            return None
        entries = descriptor.entries
        phase: Phase = "request"
        if CHARGE in entries:
            entries, phase = tuple([entry for entry in entries if entry != CHARGE]), "charge"
        if descriptor.override is not None:
            return self._overridden(root, entries, descriptor.override, phase)
        node = _searched(root.node, entries, 0) if root.backtracking else _walked(root.node, entries)
        return None if node is None or node.leaf is None else node.leaf.met_by(entries, phase)

    def knows(self, domain: bytes) -> bool:
        """Whether anything was declared of `domain`."""
        return domain in self.domains

    def series(self) -> Iterator[tuple[tuple[str, ...], Sequence[Rule]]]:
        """Yield each series that is the same for all requests, with the limits it stands for."""
        return ((leaf.plain, leaf.rules) for leaf in self.leaves if leaf.plain is not None)

    def lines(self) -> Iterator[str]:
        """Yield a line for each limit, as envoyproxy/ratelimit's /rlconfig shows them."""
        return iter(self.dump)

    def _overridden(self, root: Root, entries: Entries, override: Override, phase: Phase) -> Match:
        rule = self.overriding(override)
        tag: Piece | None = next((written(value) for key, value in entries if key == self.tag), None)
        spelt: Form = form(self.prefix, (root.path, *steps(entries)), tag)
        key = spelt.ended(rule.suffix) % ()
        return Match((Met(rule, key),), (root.name, *map(label, entries)), phase=phase)


def label(entry: Entry) -> str:
    """Name an entry in metrics, as envoyproxy/ratelimit joins them; bytes that are no UTF-8 are escaped."""
    key, value = entry
    return (b"%b_%b" % entry if value else key).decode("utf-8", "backslashreplace")


def _walked(node: Node, entries: Entries) -> Node | None:
    for entry in entries:
        found = node.exact.get(entry)
        if found is None and node.wildcards is not None:
            found = next(node.wildcards.each(*entry), None)
        if found is None:
            found = node.bare.get(entry[0])
            if found is None:
                return None
        node = found
    return node


def _searched(node: Node, entries: Entries, depth: int) -> Node | None:
    """The first place that `entries` lead to, of all their ways from `node` on, which limits or passes them.

    Each place is reached in one way only, so that none is tried twice, whatever a client sends.
    """
    if depth == len(entries):
        return node if node.leaf is not None or node.passes else None
    entry = entries[depth]
    for way in _ways(node, entry):
        found = _searched(way, entries, depth + 1)
        if found is not None:
            return found
    return None


def _ways(node: Node, entry: Entry) -> Iterator[Node]:
    exact, bare = node.exact.get(entry), node.bare.get(entry[0])
    if exact is not None:
        yield exact
    if node.wildcards is not None:
        yield from node.wildcards.each(*entry)
    if bare is not None:
        yield bare

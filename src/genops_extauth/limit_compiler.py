"""From declared limits to the tree: everything that a place says of its keys and series is worked out here, once."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import NamedTuple

from genops_extauth.declared import Descriptor, Domain
from genops_extauth.limit_keys import Hole, Piece, form, written, written_pattern
from genops_extauth.limit_rules import Rules, Settings, described
from genops_extauth.limits import Leaf, Node, Root, Rule, Tree
from genops_extauth.model import Override
from genops_extauth.tiers import CUSTOMER_KEY, TIER_KEY, Tiers
from genops_extauth.wildcards import STAR, Wildcards

_OVERRIDES = 1024
"""Rules kept of limits that descriptors bring along: more than a gateway's configuration has, and bounded."""


class LimitsError(ValueError):
    """Raised when no tree can be made of what is declared; the message says where it stands, and what to write."""


def compile_tree(domains: Iterable[Domain], settings: Settings, tiers: Tiers | None = None) -> Tree:
    """Build the tree of `domains`; those of one name become one. Raises `LimitsError`."""
    declared: dict[str, list[Domain]] = {}
    if tiers is not None:
        declared[tiers.domain] = [Domain(tiers.domain, tiers.descriptors())]
    for domain in domains:
        if tiers is not None and tiers.domain == domain.name:
            conflict = tiers.conflict(domain.descriptors)
            if conflict is not None:
                raise _refusal(domain.source, conflict)
        declared.setdefault(domain.name, []).append(domain)
    compiler = _Compiler(settings, Rules(settings))
    roots = {
        name.encode(): compiler.root(name, parts, tiers if tiers and tiers.domain == name else None)
        for name, parts in declared.items()
    }
    overriding: Callable[[Override], Rule] = lru_cache(_OVERRIDES)(compiler.rules.overriding)
    tag = None if settings.tag is None else settings.tag.encode()
    return Tree(roots, overriding, settings.prefix, tag, tuple(compiler.leaves), tuple(compiler.dump))


class _Name(NamedTuple):
    """How one step of a path is named in metrics: `text`, or the entry's key and value.

    The latter where it `varies` and either the step is `valued` (value_to_metric) or the last one is detailed.
    """

    text: str
    entry: int
    varies: bool
    valued: bool


@dataclass(frozen=True, slots=True)
class _Path:
    """The way to one place: the pieces of its keys, the one that is the hash tag, and its names in metrics."""

    pieces: tuple[Piece, ...]
    names: tuple[_Name, ...] = ()
    tag: Piece | None = None
    depth: int = 0
    defaulted: bool = False

    def then(self, descriptor: Descriptor, tag: str | None) -> "_Path":
        """Go one step further."""
        key, value = descriptor.key.encode(), descriptor.value.encode()
        loose, fixed = STAR in key, bool(value) and STAR not in value + key
        first: Piece = Hole(self.depth, 0) if loose else written(key)
        if descriptor.share_threshold:
            last: tuple[Piece, ...] = (b"~" + (written_pattern(key) + b"=" if loose else b"") + written_pattern(value),)
        else:
            last = (b"=", written(value) if fixed else Hole(self.depth, 1))
        text = f"{descriptor.key}_{descriptor.value}" if descriptor.value else descriptor.key
        varies = not fixed and not descriptor.share_threshold
        return replace(
            self,
            pieces=(*self.pieces, b"|", first, *last),
            names=(*self.names, _Name(text, self.depth, varies, descriptor.value_to_metric)),
            tag=last[-1] if self.tag is None and descriptor.key == tag else self.tag,
            depth=self.depth + 1,
        )

    def series(self, *, detailed: bool) -> tuple[str | int, ...]:
        """Name the place in metrics; a number is that of the entry whose key and value are told."""
        return tuple(name.entry if name.varies and (name.valued or detailed) else name.text for name in self.names)


@dataclass(frozen=True, slots=True)
class _Compiler:
    settings: Settings
    rules: Rules
    leaves: list[Leaf] = field(default_factory=list)
    dump: list[str] = field(default_factory=list)

    def root(self, name: str, parts: Sequence[Domain], tiers: Tiers | None) -> Root:
        path = _Path((written(name.encode()),), (_Name(name, 0, varies=False, valued=False),))
        declared = [(each, part.source) for part in parts for each in part.descriptors]
        node = self._node(declared, path)
        if tiers is not None:
            node = replace(node, bare={**node.bare, **self._defaulted(tiers, path)})
        return Root(name, written(name.encode()), node, any(part.backtracking for part in parts))

    def _defaulted(self, tiers: Tiers, path: _Path) -> Mapping[bytes, Node]:
        """What an unknown tier leads to, and a customer without one: the keys are the default tier's."""
        default = tiers.tier(tiers.default)
        known = replace(path.then(default, self.settings.tag), defaulted=True)
        ways = [(each, "") for each in default.descriptors]
        missing = self._node(ways, replace(known, depth=0))
        return {TIER_KEY: self._node(ways, known), CUSTOMER_KEY: missing.bare[CUSTOMER_KEY]}

    def _node(self, declared: Sequence[tuple[Descriptor, str]], path: _Path, leaf: Leaf | None = None) -> Node:
        exact: dict[tuple[bytes, bytes], Node] = {}
        bare: dict[bytes, Node] = {}
        patterns: list[tuple[bytes, bytes, Node]] = []
        seen = set()
        for descriptor, source in declared:
            key, value = descriptor.key.encode(), descriptor.value.encode()
            way = path.then(descriptor, self.settings.tag)
            if (key, value) in seen:
                raise _refusal(source, f"duplicate descriptor composite key '{_dotted(way)}'")
            seen.add((key, value))
            node = self._place(descriptor, way, source)
            if STAR in key or STAR in value:
                patterns.append((key, value, node))
            elif value:
                exact[key, value] = node
            else:
                bare[key] = node
        wildcards = Wildcards(patterns) if patterns else None
        return Node(exact, wildcards, bare, leaf)

    def _place(self, descriptor: Descriptor, path: _Path, source: str) -> Node:
        leaf = self._leaf(descriptor, path, source) if descriptor.limits else None
        node = self._node([(each, source) for each in descriptor.descriptors], path, leaf)
        return replace(node, passes=not descriptor.limits and not descriptor.descriptors)

    def _leaf(self, descriptor: Descriptor, path: _Path, source: str) -> Leaf:
        rules: dict[bytes, Rule] = {}
        for limit in descriptor.limits:
            try:
                rule = self.rules.of(limit, descriptor)
            except ValueError as error:
                raise _refusal(source, f"'{_dotted(path)}': {error}") from error
            if rule.suffix in rules:
                same = f"'{_dotted(path)}': two limits would count in one bucket: write a different unit"
                raise _refusal(source, same)
            rules[rule.suffix] = rule
        spelt = form(self.settings.prefix, path.pieces, path.tag)
        series = path.series(detailed=descriptor.detailed_metric)
        texts = tuple(part for part in series if isinstance(part, str))
        leaf = Leaf(
            tuple(rules.values()),
            tuple(spelt.ended(suffix) for suffix in rules),
            spelt.holes,
            series,
            texts if len(texts) == len(series) else None,
            descriptor.metadata,
            path.defaulted,
            _dotted(path),
        )
        if not path.defaulted:  # Those are the default tier's, which is told of already.
            self.leaves.append(leaf)
            self.dump.extend(f"{_dotted(path)}: {described(limit, descriptor)}" for limit in descriptor.limits)
        return leaf


def _dotted(path: _Path) -> str:
    return ".".join(name.text for name in path.names)


def _refusal(source: str, problem: str) -> LimitsError:
    return LimitsError(f"{source}: {problem}" if source else problem)

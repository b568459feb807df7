"""YAML text -> plain data that keeps the source text of every scalar, and knows where it stands.

YAML 1.1 guesses: ``on`` is true, ``0123`` is 83, ``12:30`` is 750, ``1e3`` is text and ``2026-01-01`` a date. Nothing
is guessed here. A scalar is the text that was written (None where nothing, ``~`` or ``null`` was), and whoever knows
what the field means converts it.

The parser's events are read, not its nodes, so that every cap holds *before* memory or stack is spent: nesting stops
while it is read, and the size that aliases would unfold to is added up without unfolding them (the "billion laughs"
attack). What is left out on purpose: tags that build objects, several documents, merge keys (``<<``), and keys that
are not text.

Files that were written for go-yaml may hold more of it; they are read in the dialect `GO_YAML`.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

import yaml

from genops_extauth.yaml_events import UnreadableError, decode, events, line_of

MAX_BYTES = 1024 * 1024
"""Kubernetes refuses a ConfigMap over 1 MiB; SnakeYAML stops at 3 MiB."""

MAX_DEPTH = 50
"""SnakeYAML's nestingDepthLimit; ours nests 7 deep."""

MAX_ALIASES = 50
"""SnakeYAML's maxAliasesForCollections."""

MAX_NODES = 100_000
"""Values once aliases are written out. A file of `MAX_BYTES` in the usual style (20 bytes a value) holds half of it."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """How much is read, and how.

    Where it is `forgiving`, YAML is read as gopkg.in/yaml.v2 does: what follows the first document is not looked at, of
    what is written twice the last counts, and ``<<`` merges. The document `remarks` on each, save plain merging.
    """

    max_bytes: int = MAX_BYTES
    max_depth: int = MAX_DEPTH
    max_aliases: int = MAX_ALIASES
    max_nodes: int = MAX_NODES
    forgiving: bool = False


STRICT = Dialect()
GO_YAML = Dialect(
    max_bytes=4 * 1024 * 1024,  # What gRPC receives in one message by default, so what xDS could carry in YAML's place.
    max_depth=128,  # Reading takes three frames a level, of the 1,000 that Python has.
    max_aliases=400_000,  # Their size is what counts.
    max_nodes=400_000,  # go-yaml v2 grows suspicious of aliases beyond as many (decode.go, alias_ratio_range_low).
    forgiving=True,
)

_NULLS = frozenset({"", "~", "null", "Null", "NULL"})  # YAML 1.2 core schema, 10.3.2
_TAGS = {
    kind: frozenset(f"tag:yaml.org,2002:{name}" for name in names)
    for kind, names in {"scalar": ("str", "int", "float", "bool"), "sequence": ("seq",), "mapping": ("map",)}.items()
}
_GUESSED = _TAGS["scalar"] - {"tag:yaml.org,2002:str"}

Step = str | int
Plain = str | None | list["Plain"] | dict[str, "Plain"]


@dataclass(frozen=True, slots=True)
class Node:
    """One value. `line`, from 1, is where it stands, or its key; `size` counts the values in it, itself included.

    `height` is how deep it nests. A text is `bare` where it stands without quotes, so that others might guess at it.
    """

    line: int
    value: "str | tuple[Node, ...] | Mapping[str, Node] | None"
    size: int = 1
    height: int = 0
    bare: bool = False

    def plain(self) -> Plain:
        """The value as str, None, lists and dicts."""
        if isinstance(self.value, Mapping):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, tuple):
            return [node.plain() for node in self.value]
        return self.value

    def trail(self, path: tuple[Step, ...]) -> list["Node"]:
        """The nodes from this one to the one at `path`, or as far towards it as the document goes."""
        nodes = [self]
        for step in path:
            value = nodes[-1].value
            if isinstance(value, Mapping) and step in value:
                nodes.append(value[str(step)])
            elif isinstance(value, tuple) and isinstance(step, int) and step < len(value):
                nodes.append(value[step])
            else:
                break
        return nodes


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with the text, or may surprise, on which line (from 1), at which path where that is known."""

    line: int
    message: str
    path: tuple[Step, ...] = ()


@dataclass(frozen=True, slots=True)
class Document:
    """A document read as far as it could be: `root` is None where a fault ended the reading."""

    root: Node | None
    faults: tuple[Fault, ...]
    remarks: tuple[Fault, ...] = ()


def parse(data: bytes, dialect: Dialect = STRICT) -> Document:
    """Read one YAML document. It raises nothing: what is wrong is in the document's `faults`."""
    composer = None
    try:
        text = decode(data, dialect.max_bytes)
        composer = _Composer(events(text), dialect)
        return Document(composer.document(), tuple(composer.faults), tuple(composer.remarks))
    except UnreadableError as error:
        found = tuple(composer.faults) if composer else ()
        return Document(None, (*found, Fault(error.line, error.message, error.path)))


@dataclass(slots=True)
class _Composer:
    """Builds nodes from events; holds what must be counted or looked up over the whole document."""

    events: Iterator[yaml.Event]
    dialect: Dialect
    faults: list[Fault] = field(default_factory=list)
    remarks: list[Fault] = field(default_factory=list)
    anchors: dict[str, Node] = field(default_factory=dict)
    aliases: int = 0
    nodes: int = 0

    def document(self) -> Node:
        next(self.events)  # StreamStart
        if isinstance(next(self.events), yaml.StreamEndEvent):
            return Node(1, None)
        root = self._node(next(self.events), ())
        next(self.events)  # DocumentEnd
        line = self._following()
        if line is not None:
            if not self.dialect.forgiving:
                raise UnreadableError(line, "a second document starts here (---); one file holds one document")
            self.remarks.append(Fault(line, "what follows the first document (---) is not read: give it another file"))
        return root

    def _following(self) -> int | None:
        """The line of what stands behind the document, be it YAML or not."""
        try:
            event = next(self.events)
        except UnreadableError as error:
            if not self.dialect.forgiving:
                raise
            return error.line
        return None if isinstance(event, yaml.StreamEndEvent) else line_of(event)

    def _node(self, event: yaml.Event, path: tuple[Step, ...]) -> Node:
        self._deepen(event, len(path))
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, path)
        self._count(line_of(event), 1, path)
        node = self._built(event, path)
        if isinstance(event, yaml.NodeEvent) and event.anchor:
            self.anchors[event.anchor] = node
        return node

    def _built(self, event: yaml.Event, path: tuple[Step, ...]) -> Node:
        match event:
            case yaml.ScalarEvent():
                return _scalar(event, path)
            case yaml.SequenceStartEvent():
                return self._sequence(event, path)
            case yaml.MappingStartEvent():
                return self._mapping(event, path)
        raise AssertionError(f"the parser sent {event!r} where a value must be")

    def _alias(self, event: yaml.AliasEvent, path: tuple[Step, ...]) -> Node:
        self.aliases += 1
        if self.aliases > self.dialect.max_aliases:
            most = self.dialect.max_aliases
            raise UnreadableError(line_of(event), f"more than {most} aliases; write the values out", path)
        # An anchor counts once its value is complete, so that nothing can hold itself.
        node = self.anchors.get(str(event.anchor))
        if node is None:
            # The name is not told: it may be a password that starts with *.
            message = "an alias without a complete anchor before it; quote text like *this"
            raise UnreadableError(line_of(event), message, path)
        self._deepen(event, len(path) + node.height)
        self._count(line_of(event), node.size, path)
        return node

    def _deepen(self, event: yaml.Event, depth: int) -> None:
        if depth > self.dialect.max_depth:
            raise UnreadableError(line_of(event), f"nested deeper than {self.dialect.max_depth} levels")

    def _count(self, line: int, size: int, path: tuple[Step, ...]) -> None:
        self.nodes += size
        if self.nodes > self.dialect.max_nodes:
            raise UnreadableError(line, f"more than {self.dialect.max_nodes} values once aliases are written out", path)

    def _sequence(self, start: yaml.SequenceStartEvent, path: tuple[Step, ...]) -> Node:
        _refuse_tag(start, "sequence", path)
        items: list[Node] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            items.append(self._node(event, (*path, len(items))))
        return _collection(line_of(start), tuple(items), items)

    def _mapping(self, start: yaml.MappingStartEvent, path: tuple[Step, ...]) -> Node:
        _refuse_tag(start, "mapping", path)
        made = _Entries()
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            if self.dialect.forgiving and _merges(event):
                self._merge(made, self._node(next(self.events), (*path, "<<")), path)
            else:
                key, line = _key(event, path), line_of(event)
                node = self._node(next(self.events), (*path, key))
                self._put(made, key, replace(node, line=line), path)
        return _collection(line_of(start), made.nodes, made.nodes.values())

    def _put(self, made: "_Entries", key: str, node: Node, path: tuple[Step, ...], *, merged: bool = False) -> None:
        first = made.lines.get(key)
        if first is not None and not self.dialect.forgiving:
            self.faults.append(Fault(node.line, f"written twice, first on line {first}; keep one", (*path, key)))
            return
        if first is not None:
            hint = "the merge (<<) below it overrides it; write << first" if merged else "the last one counts; keep one"
            self.remarks.append(Fault(node.line, f"written on line {first} too, and {hint}", (*path, key)))
        made.nodes[key] = self._laid(made.nodes.get(key), node, path)
        if not merged:
            made.lines[key] = node.line

    def _merge(self, made: "_Entries", node: Node, path: tuple[Step, ...]) -> None:
        for source in reversed(node.value) if isinstance(node.value, tuple) else (node,):  # The first has precedence.
            if not isinstance(source.value, Mapping):
                message = "map merge requires map or sequence of maps as the value; write for example <<: *name"
                raise UnreadableError(source.line, message, path)
            for key, each in source.value.items():
                self._put(made, key, each, path, merged=True)

    def _laid(self, below: Node | None, node: Node, path: tuple[Step, ...]) -> Node:
        """What go-yaml makes of a key that comes again: of two mappings, one that has the keys of both."""
        if below is None or not (isinstance(below.value, Mapping) and isinstance(node.value, Mapping)):
            return node
        self._count(node.line, len(below.value), path)  # Each key is copied: many layers could take time without end.
        both = {**below.value, **node.value}
        return _collection(node.line, both, both.values())


@dataclass(slots=True)
class _Entries:
    """A mapping in the making: its values, and the lines of those keys that were not merged into it."""

    nodes: dict[str, Node] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)


def _collection(line: int, value: tuple[Node, ...] | Mapping[str, Node], nodes: Collection[Node]) -> Node:
    size = 1 + sum(node.size for node in nodes)
    return Node(line, value, size, 1 + max((node.height for node in nodes), default=0))


def _scalar(event: yaml.ScalarEvent, path: tuple[Step, ...]) -> Node:
    _refuse_tag(event, "scalar", path)
    plain = event.tag is None and event.implicit[0]
    if plain and event.value in _NULLS:
        return Node(line_of(event), None)
    return Node(line_of(event), event.value, bare=plain or event.tag in _GUESSED)


def _merges(event: yaml.Event) -> bool:
    return isinstance(event, yaml.ScalarEvent) and event.value == "<<" and bool(event.implicit[0])


def _key(event: yaml.Event, path: tuple[Step, ...]) -> str:
    if not isinstance(event, yaml.ScalarEvent):
        raise UnreadableError(line_of(event), "a key must be text, not a list, a mapping or an alias", path)
    _refuse_tag(event, "scalar", path)
    if _merges(event):
        raise UnreadableError(line_of(event), "merge keys (<<) are not supported; write the keys out", path)
    return str(event.value)


def _refuse_tag(event: yaml.ScalarEvent | yaml.CollectionStartEvent, kind: str, path: tuple[Step, ...]) -> None:
    """``!!python/object`` and its like are how YAML runs code; no tag says anything that the field does not."""
    if event.tag is not None and event.tag != "!" and event.tag not in _TAGS[kind]:
        message = "tags are not supported here; leave it out, or quote text like !this"
        raise UnreadableError(line_of(event), message, path)

"""YAML text -> plain data that keeps the source text of every scalar, and knows where it stands.

YAML 1.1 guesses: ``on`` is true, ``0123`` is 83, ``12:30`` is 750, ``1e3`` is text and ``2026-01-01`` a date. Nothing
is guessed here. A scalar is the text that was written (None where nothing, ``~`` or ``null`` was), and whoever knows
what the field means converts it.

The parser's events are read, not its nodes, so that every cap holds *before* memory or stack is spent: nesting stops
at `MAX_DEPTH` while it is read, and the size that aliases would unfold to is added up without unfolding them (the
"billion laughs" attack). What is left out on purpose: tags that build objects, several documents, merge keys
(``<<``), and keys that are not text.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import yaml

MAX_BYTES = 1024 * 1024
"""Kubernetes refuses a ConfigMap over 1 MiB; SnakeYAML stops at 3 MiB."""

MAX_DEPTH = 50
"""SnakeYAML's nestingDepthLimit; ours nests 7 deep."""

MAX_ALIASES = 50
"""SnakeYAML's maxAliasesForCollections."""

MAX_NODES = 100_000
"""Values once aliases are written out. A file of `MAX_BYTES` in the usual style (20 bytes a value) holds half of it."""

_NULLS = frozenset({"", "~", "null", "Null", "NULL"})  # YAML 1.2 core schema, 10.3.2
_TAGS = {
    kind: frozenset(f"tag:yaml.org,2002:{name}" for name in names)
    for kind, names in {"scalar": ("str", "int", "float", "bool"), "sequence": ("seq",), "mapping": ("map",)}.items()
}
# libyaml where PyYAML was built with it (every wheel is): 1 MiB takes it a tenth of a second, Python ten.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Step = str | int
Plain = str | None | list["Plain"] | dict[str, "Plain"]


@dataclass(frozen=True, slots=True)
class Node:
    """One value. `line`, from 1, is where it stands, or its key; `size` counts the values in it, itself included."""

    line: int
    value: "str | tuple[Node, ...] | Mapping[str, Node] | None"
    size: int = 1

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
    """What is wrong with the text, on which line (from 1), at which path where that is known."""

    line: int
    message: str
    path: tuple[Step, ...] = ()


@dataclass(frozen=True, slots=True)
class Document:
    """A document read as far as it could be: `root` is None where a fault ended the reading."""

    root: Node | None
    faults: tuple[Fault, ...]


class _UnreadableError(Exception):
    """Raised, and caught in this module, when reading cannot go on."""

    def __init__(self, line: int, message: str, path: tuple[Step, ...] = ()) -> None:
        super().__init__(message)
        self.fault = Fault(line, message, path)


def parse(data: bytes) -> Document:
    """Read one YAML document. It raises nothing: what is wrong is in the document's `faults`."""
    composer = None
    try:
        text = _decode(data)
        composer = _Composer(_events(text))
        return Document(composer.document(), tuple(composer.faults))
    except _UnreadableError as error:
        found = tuple(composer.faults) if composer else ()
        return Document(None, (*found, error.fault))


def _decode(data: bytes) -> str:
    if len(data) > MAX_BYTES:
        raise _UnreadableError(
            1, f"the file is larger than {MAX_BYTES} bytes; a Kubernetes ConfigMap could not hold it"
        )
    try:
        return data.decode("utf-8-sig")  # Windows editors write a byte order mark.
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _UnreadableError(line, f"byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8") from None


def _events(text: str) -> Iterator[yaml.Event]:
    """The parser's events, its errors translated. They are made as they are asked for."""
    try:
        yield from yaml.parse(text, Loader=_Loader)
    except yaml.reader.ReaderError as error:
        line = text.encode().count(b"\n", 0, error.position) + 1
        raise _UnreadableError(line, f"character U+{int(error.character):04X}: {error.reason}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        reason = ", ".join(filter(None, (error.context, error.problem)))
        raise _UnreadableError(line, f"not YAML: {reason}{_tab_hint(text, line)}") from None


def _tab_hint(text: str, line: int) -> str:
    lines = text.split("\n")
    indented = line <= len(lines) and lines[line - 1].lstrip(" ").startswith("\t")
    return "; indent with spaces, not tabs" if indented else ""


@dataclass(slots=True)
class _Composer:
    """Builds nodes from events; holds what must be counted or looked up over the whole document."""

    events: Iterator[yaml.Event]
    faults: list[Fault] = field(default_factory=list)
    anchors: dict[str, Node] = field(default_factory=dict)
    aliases: int = 0
    nodes: int = 0

    def document(self) -> Node:
        next(self.events)  # StreamStart
        if isinstance(next(self.events), yaml.StreamEndEvent):
            return Node(1, None)
        root = self._node(next(self.events), ())
        next(self.events)  # DocumentEnd
        event = next(self.events)
        if not isinstance(event, yaml.StreamEndEvent):
            raise _UnreadableError(_line(event), "a second document starts here (---); one file holds one document")
        return root

    def _node(self, event: yaml.Event, path: tuple[Step, ...]) -> Node:
        if len(path) > MAX_DEPTH:
            raise _UnreadableError(_line(event), f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, path)
        self._count(_line(event), 1, path)
        node = self._built(event, path)
        if isinstance(event, yaml.NodeEvent) and event.anchor:
            self.anchors[event.anchor] = node
        return node

    def _built(self, event: yaml.Event, path: tuple[Step, ...]) -> Node:
        match event:
            case yaml.ScalarEvent():
                _refuse_tag(event, "scalar", path)
                return _scalar(event)
            case yaml.SequenceStartEvent():
                _refuse_tag(event, "sequence", path)
                return self._sequence(event, path)
            case yaml.MappingStartEvent():
                _refuse_tag(event, "mapping", path)
                return self._mapping(event, path)
        raise AssertionError(f"the parser sent {event!r} where a value must be")

    def _alias(self, event: yaml.AliasEvent, path: tuple[Step, ...]) -> Node:
        self.aliases += 1
        if self.aliases > MAX_ALIASES:
            raise _UnreadableError(_line(event), f"more than {MAX_ALIASES} aliases; write the values out", path)
        # An anchor counts once its value is complete, so that nothing can hold itself.
        node = self.anchors.get(str(event.anchor))
        if node is None:
            # The name is not told: it may be a password that starts with *.
            raise _UnreadableError(
                _line(event), "an alias without a complete anchor before it; quote text like *this", path
            )
        self._count(_line(event), node.size, path)
        return node

    def _count(self, line: int, size: int, path: tuple[Step, ...]) -> None:
        self.nodes += size
        if self.nodes > MAX_NODES:
            raise _UnreadableError(line, f"more than {MAX_NODES} values once aliases are written out", path)

    def _sequence(self, start: yaml.Event, path: tuple[Step, ...]) -> Node:
        items: list[Node] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            items.append(self._node(event, (*path, len(items))))
        return Node(_line(start), tuple(items), 1 + sum(item.size for item in items))

    def _mapping(self, start: yaml.Event, path: tuple[Step, ...]) -> Node:
        entries: dict[str, Node] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key, line = _key(event, path), _line(event)
            node = self._node(next(self.events), (*path, key))
            if key in entries:
                first = entries[key].line
                self.faults.append(Fault(line, f"written twice, first on line {first}; keep one", (*path, key)))
            else:
                entries[key] = replace(node, line=line)
        return Node(_line(start), entries, 1 + sum(node.size for node in entries.values()))


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1


def _scalar(event: yaml.ScalarEvent) -> Node:
    plain = event.tag is None and event.implicit[0]
    return Node(_line(event), None if plain and event.value in _NULLS else event.value)


def _key(event: yaml.Event, path: tuple[Step, ...]) -> str:
    if not isinstance(event, yaml.ScalarEvent):
        raise _UnreadableError(_line(event), "a key must be text, not a list, a mapping or an alias", path)
    _refuse_tag(event, "scalar", path)
    if event.value == "<<" and event.implicit[0]:
        raise _UnreadableError(_line(event), "merge keys (<<) are not supported; write the keys out", path)
    return str(event.value)


def _refuse_tag(event: yaml.ScalarEvent | yaml.CollectionStartEvent, kind: str, path: tuple[Step, ...]) -> None:
    """``!!python/object`` and its like are how YAML runs code; no tag says anything that the field does not."""
    if event.tag is not None and event.tag != "!" and event.tag not in _TAGS[kind]:
        raise _UnreadableError(
            _line(event), "tags are not supported here; leave it out, or quote text like !this", path
        )

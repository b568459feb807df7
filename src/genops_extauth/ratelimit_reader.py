"""The nodes of a rate limit file, read as envoyproxy/ratelimit reads them: its types, its errors, and what to do.

It reads a file twice (src/config/config_impl.go): once for its keys and kinds of values, anywhere, and once for what
they mean where it looks for them. Both are here, and each problem is told once. Where a place is meaningless to it,
any of its keys is accepted there; that is a warning.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from genops_extauth.go_yaml import INTS, Scalar, as_go, cut, meant, printed, resolved, tagged
from genops_extauth.notation import MAX_REQUESTS
from genops_extauth.problems import MAX_PROBLEMS, Finding
from genops_extauth.ratelimit_keys import KEYS, THEIRS, Place, hint, where
from genops_extauth.strict_yaml import Node, Step

T = TypeVar("T")
Path = tuple[Step, ...]

_ABSENT = Node(1, None)


@dataclass(slots=True)
class Reading:
    """What was found in the file `name`: what is wrong, as many as are told at once, and what may surprise."""

    name: str
    problems: list[Finding] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)

    @property
    def full(self) -> bool:
        """Whether no more problems are told."""
        return len(self.problems) >= MAX_PROBLEMS

    def wrong(self, path: Path, text: str, fix: str = "") -> None:
        """Tell a problem: `text` as envoyproxy/ratelimit says it, where it does, and what to write instead."""
        if not self.full:
            self.problems.append(Finding(path, f"{self.name}: {text}{fix and '; '}{fix}"))

    def warn(self, path: Path, text: str) -> None:
        """Tell of what loads, but may not mean what it says."""
        if len(self.warnings) < MAX_PROBLEMS:
            self.warnings.append(Finding(path, text))

    def told(self, path: Path) -> bool:
        """Whether a problem stands at `path` or below."""
        return any(each.path[: len(path)] == path for each in self.problems)

    def fields(self, node: Node, path: Path, place: Place) -> "Fields":
        """Take the keys of a mapping that mean something at `place`, and tell of the others."""
        nodes = {}
        for key, value in node.value.items() if isinstance(node.value, Mapping) else ():
            if place in KEYS.get(key, ()):
                nodes[key] = value
            elif key in THEIRS:
                self.warn((*path, key), f"does nothing here: write it {where(key)}")
                self._check_value(key, value, (*path, key))
            else:
                self._unknown(key, (*path, key), place)
        return Fields(self, node, path, nodes)

    def _unknown(self, key: str, path: Path, place: Place | None) -> None:
        if self.full:  # Looking for likenesses takes time.
            return
        taken = resolved(key)
        if isinstance(taken, str):
            self.wrong(path, f"config error, unknown key '{cut(key)}'", hint(key, place))
        else:
            self.wrong(path, f"config error, key is not of type string: {as_go(taken)}", "write a key in words")

    def check(self, node: Node, path: Path) -> None:
        """Check keys and kinds of values where nobody looks for a meaning; `path` is that of `node`."""
        if isinstance(node.value, Mapping):
            for key, value in node.value.items():
                if key in THEIRS:
                    self._check_value(key, value, (*path, key))
                else:
                    self._unknown(key, (*path, key), None)
        elif isinstance(node.value, tuple):
            for index, item in enumerate(node.value):
                if isinstance(item.value, Mapping):
                    self.check(item, (*path, index))
                else:
                    self._not_a_mapping(item, (*path, index))
        else:
            self.scalar(node, path)

    def _check_value(self, key: str, node: Node, path: Path) -> None:
        if key != "metadata":  # which may hold anything
            self.check(node, path)

    def _not_a_mapping(self, node: Node, path: Path) -> None:
        text = "config error, yaml file contains list of type other than map"
        self.wrong(path, f"{text}: {printed(node)}", "write each item as a mapping, for example - key: NAME")

    def scalar(self, node: Node, path: Path, fix: str = "put the number in quotes") -> Scalar | None:
        """What a scalar means: None where nothing is written, or what envoyproxy/ratelimit refuses anywhere."""
        taken = meant(node)
        if isinstance(taken, float) or (isinstance(taken, int) and taken not in INTS):
            self.wrong(path, "error checking config", fix)
            return None
        return taken

    def unfit(self, node: Node, path: Path, kind: str, fix: str) -> None:
        """Tell that `node` is not of the Go type `kind`, unless it is wrong in any place."""
        self.check(node, path)
        if not self.told(path):
            text = f"error loading config file: yaml: unmarshal errors: line {node.line}"
            self.wrong(path, f"{text}: cannot unmarshal {tagged(node)} into {kind}", fix)

    def mappings(self, node: Node, path: Path, kind: str) -> Iterator[tuple[Node, Path]]:
        """The items of a list of mappings."""
        if isinstance(node.value, tuple):
            for index, item in enumerate(node.value):
                if isinstance(item.value, Mapping):
                    yield item, (*path, index)
                else:
                    self._not_a_mapping(item, (*path, index))
        elif node.value is not None:
            self.unfit(node, path, kind, "write a list here, each item beginning with -")


@dataclass(frozen=True, slots=True)
class Fields:
    """The known keys of one mapping, `node`, which stands at `path`; what is not written has the value of its type."""

    reading: Reading
    node: Node
    path: Path
    nodes: Mapping[str, Node]

    def __contains__(self, name: str) -> bool:
        return name in self.nodes

    def wrong(self, name: str, text: str, fix: str = "") -> None:
        """Tell a problem with the key `name`, or with its absence."""
        self.reading.wrong((*self.path, name), text, fix)

    def warn(self, name: str, text: str) -> None:
        """Tell of what loads, but may not mean what it says."""
        self.reading.warn((*self.path, name), text)

    def sound(self, *names: str) -> bool:
        """Whether no problem was told of this key; without one, of the whole mapping."""
        return not self.reading.told((*self.path, *names))

    def text(self, name: str) -> str:
        """Read a text; numbers and booleans are what was written. Without a value it is empty."""
        node, taken = self._scalar(name, "string", "write one value here, a number with a point in quotes")
        return "" if taken is None else str(node.value)

    def flag(self, name: str) -> bool:
        """Read a boolean of YAML 1.1."""
        fix = "write true or false, without quotes"
        node, taken = self._scalar(name, "bool", fix)
        if taken is not None and not isinstance(taken, bool):
            self.reading.unfit(node, (*self.path, name), "bool", fix)
        return taken is True

    def uint32(self, name: str) -> int:
        """Read a whole number, in any of go-yaml's notations."""
        fix = f"write a whole number from 0 to {MAX_REQUESTS}, without quotes"
        node, taken = self._scalar(name, "uint32", fix)
        if taken is None:
            return 0
        if isinstance(taken, bool) or not isinstance(taken, int) or not 0 <= taken <= MAX_REQUESTS:
            self.reading.unfit(node, (*self.path, name), "uint32", fix)
            return 0
        decimal = str(node.value).replace("_", "").lstrip("+")
        if decimal.isdigit() and int(decimal) != taken:
            self.warn(name, f"begins with 0 and is read as octal: {taken}; leave the 0 out")
        return taken

    def ours(self, name: str, parse: Callable[[str], T], default: T) -> T:
        """Read a key that envoyproxy/ratelimit lacks by its notation, `parse`."""
        node = self.nodes.get(name, _ABSENT)
        if node.value is None:
            return default
        try:
            if not isinstance(node.value, str):
                raise ValueError("write one value here, not a list or a mapping")  # noqa: TRY301, TRY004 - told below
            return parse(node.value)
        except ValueError as error:
            self.wrong(name, str(error))
            return default

    def mappings(self, name: str, kind: str) -> Iterator[tuple[Node, Path]]:
        """The items of a list of mappings, each with its path."""
        return self.reading.mappings(self.nodes.get(name, _ABSENT), (*self.path, name), kind)

    def mapping(self, name: str, kind: str) -> Node | None:
        """Read a mapping. None: there is none."""
        node = self.nodes.get(name, _ABSENT)
        if isinstance(node.value, Mapping):
            return node
        if node.value is not None:
            self.reading.unfit(node, (*self.path, name), kind, "write a mapping here (name: value)")
        return None

    def _scalar(self, name: str, kind: str, fix: str) -> tuple[Node, Scalar | None]:
        node = self.nodes.get(name, _ABSENT)
        if isinstance(node.value, (tuple, Mapping)):
            self.reading.unfit(node, (*self.path, name), kind, fix)
            return node, None
        return node, self.reading.scalar(node, (*self.path, name), fix)

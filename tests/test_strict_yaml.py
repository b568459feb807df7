"""YAML as `strict_yaml` reads it."""

import time

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from genops_extauth.strict_yaml import (
    GO_YAML,
    MAX_ALIASES,
    MAX_BYTES,
    MAX_DEPTH,
    MAX_NODES,
    Dialect,
    Document,
    Fault,
    Plain,
    parse,
)


def plain(text: str) -> object:
    document = parse(text.encode())
    assert document.faults == ()
    assert document.root is not None
    return document.root.plain()


def fault(data: str | bytes) -> Fault:
    document = parse(data.encode() if isinstance(data, str) else data)
    assert len(document.faults) == 1
    return document.faults[0]


@pytest.mark.parametrize(
    "text",
    ["on", "no", "y", "0123", "0o17", "12:30", "1e3", "1_000", "2026-01-01", "+1", ".5", ".inf", "True", "-", "0x1F"],
)
def test_a_scalar_is_the_text_that_was_written(text: str) -> None:
    """A scalar that YAML 1.1 takes for something else keeps its source text, as a value and as a key."""
    quoted = f"'{text}'" if text == "-" else text

    assert plain(f"{quoted}: {quoted}\n") == {text: text}


@pytest.mark.parametrize("text", ["", "~", "null", "Null", "NULL"])
def test_null_is_none(text: str) -> None:
    """Nothing, `~` and `null` are None; quoted they are text."""
    assert plain(f"a: {text}\n") == {"a": None}
    assert plain(f"a: '{text}'\n") == {"a": text}
    assert plain(f"a: !!str {text}\n") == {"a": text}


# PyYAML's emitter writes a key that is a line separator in a way that its own loader does not read back.
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]))


@given(st.recursive(st.none() | TEXT, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=20))
def test_what_is_written_is_read(value: object) -> None:
    """Whatever PyYAML writes of text, lists and mappings is read back as it was."""
    assert plain(yaml.safe_dump(value, allow_unicode=True)) == value


@given(st.binary() | st.text(alphabet="ab:-[]{},&*!|>'\"#%@ \t\n").map(str.encode))
def test_any_bytes_are_read_or_faulty(data: bytes) -> None:
    """Any bytes give a root or a fault whose line is in the file; nothing is raised."""
    document = parse(data)

    assert document.root is not None or document.faults
    assert all(1 <= each.line <= len(data) + 1 for each in document.faults)


def test_an_empty_document_is_none() -> None:
    """A file of nothing but comments holds None."""
    assert plain("# nothing\n\n") is None


def test_a_byte_order_mark_is_no_content() -> None:
    """A UTF-8 byte order mark at the start is passed over."""
    assert plain("\ufeffa: 1") == {"a": "1"}


def test_every_value_knows_its_line() -> None:
    """A value of a mapping stands where its key does, an item where it begins."""
    root = parse(b"a:\n  b: 1\nc:\n  - x\n  -\n    d: 2\n").root
    assert root is not None
    lines = [root.trail(path)[-1].line for path in [("a",), ("a", "b"), ("c", 0), ("c", 1), ("c", 1, "d")]]

    assert lines == [1, 2, 4, 6, 6]


def test_a_trail_ends_where_the_document_does() -> None:
    """A path that the document lacks is followed as far as it goes."""
    root = parse(b"\na: {b: [x]}\n").root
    assert root is not None

    assert [node.line for node in root.trail(("a", "b", 7, "c"))] == [2, 2, 2]


def test_a_key_written_twice_is_a_fault_and_the_first_counts() -> None:
    """Two keys of one name are a fault that names both lines and the path; the rest is read all the same."""
    document = parse(b"tiers:\n  free: 1\n  paid: {x: 1, x: 2}\n  free: 3\nend: 4\n")
    assert document.root is not None

    assert document.root.plain() == {"tiers": {"free": "1", "paid": {"x": "1"}}, "end": "4"}
    assert [(each.line, each.path) for each in document.faults] == [(3, ("tiers", "paid", "x")), (4, ("tiers", "free"))]
    assert "first on line 2" in document.faults[1].message


def test_quoting_makes_no_other_key() -> None:
    """A quoted key and a plain one of the same text are one key."""
    assert fault("1: a\n'1': b\n").line == 2


def test_an_alias_is_the_value_of_its_anchor() -> None:
    """An alias stands for a copy of what its anchor holds, on the alias' own line."""
    root = parse(b"a: &x [1, 2]\nb: *x\n").root
    assert root is not None

    assert root.plain() == {"a": ["1", "2"], "b": ["1", "2"]}
    assert root.trail(("b",))[-1].line == 2


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a: 1\n\tb: 2\n", 2, "spaces, not tabs"),
        ("a: [1\nb: 2", 2, "not YAML"),
        ("a: 'x\n", 2, "end of stream"),
        ("a: b: c", 1, "mapping values are not allowed"),
        ("a: 1\nb: \x01\n", 2, "U+0001"),
        ('a: "\\ud800"', 1, "escape"),
        ("a: 1\n---\nb: 2\n", 2, "one file holds one document"),
        ("a: *x\n", 1, "alias without a complete anchor"),
        ("a: &a [*a]\n", 1, "alias without a complete anchor"),
        ("? [a]\n: b", 1, "a key must be text"),
        ("a: &x b\n*x : c", 2, "a key must be text"),
        ("a: &x {b: c}\nd:\n  <<: *x\n", 3, "merge keys"),
        ("a: 1\nb: !!python/object/apply:os.system [ls]\n", 2, "tags are not supported"),
        ("a: !env X", 1, "quote text like !this"),
        ("a: !!binary aGk=", 1, "not supported"),
        ("!!set {a}", 1, "not supported"),
    ],
)
def test_what_is_not_read(text: str, line: int, message: str) -> None:
    """Text that is not YAML, or YAML that means more than plain data, is a fault on its line."""
    found = fault(text)

    assert found.line == line
    assert message in found.message


def test_what_is_not_utf_8_names_the_byte() -> None:
    """Bytes that are not UTF-8 are a fault on their line."""
    found = fault(b"a: 1\nb: caf\xe9\n")

    assert (found.line, "0xe9 is not UTF-8" in found.message) == (2, True)
    assert "0xff is not UTF-8" in fault("a: 1".encode("utf-16")).message


def test_depth_is_capped() -> None:
    """Nesting beyond the cap is a fault, in flow and in block style."""
    flow, block = f"{'[' * MAX_DEPTH}x{']' * MAX_DEPTH}", "- " * MAX_DEPTH + "x"

    assert parse(flow.encode()).faults == parse(block.encode()).faults == ()
    assert "nested deeper" in fault(f"[{flow}]").message
    assert "nested deeper" in fault(f"- {block}").message


def test_size_is_capped() -> None:
    """A file over the cap is a fault."""
    assert parse(b"#" * MAX_BYTES).faults == ()
    assert "larger than" in fault(b"#" * (MAX_BYTES + 1)).message


def test_aliases_are_capped() -> None:
    """As many aliases as the cap are read, one more is a fault."""
    items = ["&x y"] + ["*x"] * MAX_ALIASES

    assert len(plain(f"[{', '.join(items)}]")) == MAX_ALIASES + 1  # type: ignore[arg-type]  # a list, if it is right
    assert "aliases" in fault(f"[{', '.join(items)}, *x]").message


def test_values_are_capped() -> None:
    """More values than the cap are a fault even without aliases."""
    assert "values once aliases" in fault("[" + ",".join("x" * (MAX_NODES + 1)) + "]").message


def test_a_yaml_bomb_ends_at_once() -> None:
    """Nine levels of nine aliases, which would unfold to 9^9 values, are a fault after milliseconds of work."""
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    started = time.process_time()
    found = fault("\n".join(levels))

    assert "written out" in found.message or "write the values out" in found.message
    assert time.process_time() - started < 0.5


def test_a_yaml_bomb_of_few_aliases_ends_too() -> None:
    """Doubling 24 times stays under the cap of aliases, and meets that of values."""
    levels = ["a0: &a0 [x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 25))]

    assert f"more than {MAX_NODES} values" in fault("\n".join(levels)).message


def test_aliases_do_not_nest_deeper_than_text_may() -> None:
    """What an alias stands for counts towards the depth, so that who walks the document meets the cap too."""
    inner = f"a: &a {'[' * 30}x{']' * 30}"

    assert "nested deeper" in fault(f"{inner}\nb: {'[' * 30}*a{']' * 30}").message
    assert parse(f"{inner}\nb: {'[' * 10}*a{']' * 10}".encode()).faults == ()


def test_quotes_are_remembered() -> None:
    """A scalar knows whether it stands bare; a tag says as much as quotes do, or as little."""
    root = parse(b"[1.5, '1.5', !!str 1.5, !!float 1.5, ! 1.5, ~]").root
    assert root is not None
    assert isinstance(root.value, tuple)

    assert [each.bare for each in root.value] == [True, False, False, True, False, False]


def as_go_does(text: str, dialect: Dialect = GO_YAML) -> Document:
    document = parse(text.encode(), dialect)
    assert document.faults == ()
    return document


def meaning(text: str) -> Plain:
    root = as_go_does(text).root
    assert root is not None
    return root.plain()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}", {"x": "1", "y": "3"}),
        ("a: &a {x: 1, y: 2}\nb: {y: 3, <<: *a}", {"y": "2", "x": "1"}),
        ("a: &a {x: 1}\nc: &c {x: 2, y: 3}\nb: {<<: [*a, *c]}", {"x": "1", "y": "3"}),
        ("b: {<<: {x: 1}}", {"x": "1"}),
        ("a: &a {x: {p: 1, q: 2}}\nb: {<<: *a, x: {q: 3}}", {"x": {"p": "1", "q": "3"}}),
        ("a: &a {x: [1, 2]}\nb: {<<: *a, x: [3]}", {"x": ["3"]}),
        ("b: {'<<': 1}", {"<<": "1"}),
    ],
)
def test_merge_keys_are_those_of_go_yaml(text: str, value: object) -> None:
    """In its dialect `<<` merges as go-yaml does: in order, the last counts, a mapping is laid over a mapping."""
    found = meaning(text)
    assert isinstance(found, dict)

    assert found["b"] == value


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("b:\n  <<: 1\n", 2, "map merge requires map or sequence of maps as the value"),
        ("b:\n  <<: [{a: 1}, 2]\n", 2, "map merge requires"),
        ("b:\n  <<:\n", 2, "map merge requires"),
        ("b: {<<: *x}", 1, "alias without a complete anchor"),
    ],
)
def test_what_cannot_be_merged(text: str, line: int, message: str) -> None:
    """What is no mapping cannot be merged."""
    faults = parse(text.encode(), GO_YAML).faults

    assert [each.line for each in faults] == [line]
    assert message in faults[0].message


def test_in_the_dialect_of_go_yaml_the_last_of_two_keys_counts() -> None:
    """What is written twice is remarked on where go-yaml says nothing; what overrides a merged key is not."""
    document = as_go_does("a: 1\nb: &b {x: 1, y: 2}\na: 3\nc: {<<: *b, x: 2}\nd:\n  y: 1\n  <<: *b\n")
    assert document.root is not None

    assert document.root.trail(("a",))[-1].value == "3"
    assert [(each.line, each.path) for each in document.remarks] == [(3, ("a",)), (2, ("d", "y"))]
    assert "line 1 too, and the last one counts" in document.remarks[0].message
    assert "write << first" in document.remarks[1].message


@pytest.mark.parametrize("rest", ["b: 2", "- ]", "*x"])
def test_in_the_dialect_of_go_yaml_the_first_document_is_the_only_one(rest: str) -> None:
    """What follows the first document may be anything; that it is not read is remarked on."""
    document = as_go_does(f"---\na: 1\n---\n{rest}\n")
    assert document.root is not None

    assert document.root.plain() == {"a": "1"}
    assert [each.line in (3, 4) for each in document.remarks] == [True]
    assert as_go_does("---\na: 1\n...\n").remarks == ()


def test_the_dialect_of_go_yaml_has_its_own_caps() -> None:
    """More aliases than ours are read; what they and merging amount to is capped."""
    items = ["&x y"] + ["*x"] * (MAX_ALIASES + 1)
    many = f"a: [{', '.join(items)}]"
    small = Dialect(max_nodes=1000, forgiving=True)
    copied = "\n".join(["a: {" + ", ".join(f"k{n}: 1" for n in range(100)) + "}", *["a: {x: 1}"] * 20])

    assert as_go_does(many).remarks == ()
    assert "values once aliases" in parse(copied.encode(), small).faults[0].message


@given(st.binary() | st.text(alphabet="ab:-[]{},&*!|>'<~#.%@ \t\n").map(str.encode))
def test_any_bytes_are_read_or_faulty_as_go_yaml(data: bytes) -> None:
    """Any bytes give a root or a fault in the dialect of go-yaml too; nothing is raised."""
    document = parse(data, GO_YAML)

    assert document.root is not None or document.faults

"""What go-yaml takes scalars for. The expectations are what gopkg.in/yaml.v2 2.4.0 answered when it was asked."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genops_extauth.go_yaml import Scalar, printed, resolved, tagged
from genops_extauth.strict_yaml import Node, parse


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on", True),
        ("Yes", True),
        ("y", True),
        ("TRUE", True),
        ("Off", False),
        ("N", False),
        ("yEs", "yEs"),
        ("010", 8),
        ("0o17", 15),
        ("0_7", 7),
        ("08", 8.0),
        ("0x1F", 31),
        ("-0b11", -3),
        ("0b12", "0b12"),
        ("1_000", 1000),
        ("_1", "_1"),
        ("+1", 1),
        ("9223372036854775808", 2**63),
        ("18446744073709551615", 2**64 - 1),
        ("18446744073709551616", 2.0**64),
        ("1.", 1.0),
        (".5_0", 0.5),
        ("1e3", 1000.0),
        ("-.5", -0.5),
        ("+.Inf", math.inf),
        ("1e999", "1e999"),
        ("2026-01-01", "2026-01-01"),
        ("12:30", "12:30"),
        ("1.2.3", "1.2.3"),
        ("-", "-"),
        ("1" * 5000, "1" * 5000),
        ("\u0661", "\u0661"),
    ],
)
def test_a_bare_scalar_is_what_go_yaml_takes_it_for(text: str, value: Scalar) -> None:
    """A bare scalar is a boolean, a whole number of up to 64 bits, a finite number, or else text."""
    assert (resolved(text), type(resolved(text))) == (value, type(value))


def test_not_a_number_is_a_number() -> None:
    """`.nan` is the float of that name."""
    assert math.isnan(float(resolved(".NaN")))


@given(st.text())
def test_any_text_is_taken_for_something(text: str) -> None:
    """Whatever text is taken for, it is never an error."""
    assert isinstance(resolved(text), bool | int | float | str)


def node(text: str) -> Node:
    root = parse(text.encode()).root
    assert root is not None
    return root


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("[a, [1.5, ~], {b: yes}]", "[a [1.5 <nil>] map[b:true]]"),
        ("'010'", "010"),
        ("010", "8"),
        ("x" * 100, "x" * 64 + "..."),
        (f"[{'1,' * 99}]", "[1 1 1 1 1 1 1 1]"),
    ],
)
def test_a_value_is_printed_as_go_does(text: str, shown: str) -> None:
    """A value in an error is spelt as Go's %v spells it, and cut where it is long."""
    assert printed(node(text)) == shown


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("many", "!!str `many`"),
        ("'5'", "!!str `5`"),
        ("0x10", "!!int `0x10`"),
        ("on", "!!bool `on`"),
        ("1.5", "!!float `1.5`"),
        ("elevenchars", "!!str `elevenc...`"),
        ("[a]", "!!seq"),
        ("{a: b}", "!!map"),
    ],
)
def test_a_value_is_named_as_go_yaml_does(text: str, name: str) -> None:
    """A value that does not fit is named by its tag and its first characters."""
    assert tagged(node(text)) == name

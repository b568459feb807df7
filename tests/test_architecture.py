"""The architecture is what its page says, and what it says is drawn from the code."""

import ast
import re
from graphlib import TopologicalSorter

import pytest

import generated


@pytest.mark.parametrize("page", generated.PARTS)
def test_generated_parts_are_the_codes(page: str) -> None:
    """What a page says to be generated is what the code generates now."""
    text = (generated.REPOSITORY / page).read_text()
    assert generated.filled(page, text) == text, "run python tests/generated.py"


def test_every_module_has_its_box_and_its_layer() -> None:
    """Each module is in exactly one box of the diagram and in exactly one layer."""
    modules = sorted(generated.modules())
    assert sorted(name for _, inside in generated.GROUPS.values() for name in inside.split()) == modules
    assert sorted(name for layer in generated.layers() for name in layer) == modules


def test_boxes_stand_in_no_circle() -> None:
    """The arrows between the boxes of the diagram lead round in no circle."""
    below: dict[str, set[str]] = {}
    for start, end in re.findall(r"^    (\w+) --> (\w+)$", generated.diagram(), re.MULTILINE):
        below.setdefault(start, set()).add(end)
    assert tuple(TopologicalSorter(below).static_order())[-1] == "commands"


def test_arrows_point_down() -> None:
    """No module imports one of its own layer or of one above: the layers are those of the code's imports."""
    depth = {name: number for number, layer in enumerate(generated.layers()) for name in layer}
    for name, tree in generated.modules().items():
        for other in generated.imports(tree):
            assert depth[other] > depth[name], f"{name} imports {other}"


def test_modules_and_functions_are_short() -> None:
    """No module has more than 300 lines, and no function more than 40."""
    for name, tree in generated.modules().items():
        lines = len((generated.PACKAGE / f"{name}.py").read_text().splitlines())
        assert lines <= 300, f"{name} has {lines} lines"
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                assert length <= 40, f"{name}.{node.name} has {length} lines"

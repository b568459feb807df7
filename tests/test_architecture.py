"""The architecture is what its page says, and what it says is drawn from the code."""

from itertools import pairwise

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


def test_arrows_point_down() -> None:
    """No module imports one of its own layer or of one above: the layers are those of the code's imports."""
    depth = {name: number for number, layer in enumerate(generated.layers()) for name in layer}
    for name, tree in generated.modules().items():
        for other in generated.imports(tree):
            assert depth[other] > depth[name], f"{name} imports {other}"


def test_no_two_layers_could_be_one() -> None:
    """Each layer is there for a reason: some module in it is imported by the layer above, or the two say the same."""
    known = generated.modules()
    for upper, lower in pairwise(generated.layers()):
        assert any(generated.imports(known[name]) & set(lower) for name in upper), f"{upper} needs none of {lower}"


def test_modules_are_short() -> None:
    """No module has more than 300 lines."""
    for path in generated.PACKAGE.glob("*.py"):
        assert len(path.read_text().splitlines()) <= 300, path.name

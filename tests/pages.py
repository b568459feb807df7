"""The product's pages, taken apart: blocks of code, tables, links."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from generated import REPOSITORY

OURS = (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md")))
"""The pages whose blocks are checked here; those of docs/gateways and deploy have tests of their own."""

ALL = (*OURS, REPOSITORY / "CHANGELOG.md", *sorted((REPOSITORY / "docs").glob("*/*.md")))

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A block of code: the language that it says to be in, and its text."""

    language: str
    text: str


def blocks(page: Path, *languages: str) -> list[Block]:
    """The blocks of a page in order, of some languages or of all."""
    found = [Block(*match) for match in _BLOCK.findall(page.read_text())]
    return [block for block in found if not languages or block.language in languages]


def prose(page: Path) -> str:
    """A page without its blocks."""
    return _BLOCK.sub("", page.read_text())


def table(page: Path, heading: str) -> list[list[str]]:
    """The rows of the first table below a heading, without the backticks of its cells."""
    section = prose(page).partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.split("\n") if line.startswith("|")][2:]
    assert lines, f"{page.name} has no table below {heading}"
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def names(cell: str) -> list[str]:
    """What stands in backticks in a cell."""
    return re.findall(r"`([^`]+)`", cell)


def links(page: Path) -> Iterator[str]:
    """The links of a page that lead into the repository."""
    text = prose(page)
    for target in [*re.findall(r"\]\(([^)\s]+)\)", text), *re.findall(r"^\[[^\]]+\]: (\S+)$", text, re.MULTILINE)]:
        if not target.startswith(("https://", "mailto:")):
            yield target


def transcript(block: Block) -> Iterator[tuple[str, str]]:
    """Each command of a console block, with what it is shown to print."""
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        yield command, shown


def anchor(title: str) -> str:
    """The anchor that a heading gets."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")

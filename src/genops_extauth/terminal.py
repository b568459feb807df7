"""Text for terminals: shown as it is, and never obeyed (CWE-150)."""

from rich.console import Console


def console(*, stderr: bool = False) -> Console:
    """A console that prints text as it is: nothing in it is markup, and no line is broken, so that it can be pasted."""
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False, soft_wrap=True)


def printable(text: str, encoding: str = "utf-8") -> str:
    """`text` with all that does not print, or not in `encoding`, spelled out; what our log escaped stays as it is."""
    spelled = "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text)
    return spelled.encode(encoding, "backslashreplace").decode(encoding)

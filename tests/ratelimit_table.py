"""The table of docs/ratelimit-environment.md, made from that of the code."""

from genops_extauth.ratelimit_variables import GROUPS
from genops_extauth.variables import Variable, Verdict


def variables_table() -> str:
    """List every variable of envoyproxy/ratelimit with what becomes of it, by groups."""
    return "\n\n".join(
        "\n".join([f"## {title}", "", "| variable | its default | here | setting | |", "|---|---|---|---|---|", *rows])
        for title, group in GROUPS.items()
        for rows in [[_row(variable) for variable in group]]
    )


def _row(variable: Variable) -> str:
    cells = [f"`{variable.name}`", _code(variable.default), str(variable.verdict), _code(variable.setting)]
    return f"| {' | '.join([*cells, _remarks(variable)])} |"


def _code(text: str) -> str:
    return f"`{text}`" if text else "-"


def _remarks(variable: Variable) -> str:
    note = f"An error: {variable.note}." if variable.verdict is Verdict.REFUSED else variable.note
    return " ".join(filter(None, [note, variable.warning and f"Warns: {variable.warning}."]))

"""What the demo shows: the stops of the tour, and then one line per decision.

Coloured on a terminal, plain text elsewhere. Whatever came over a socket or a pipe passes `printable` first: a path or
a log line may carry an escape sequence for the terminal of whoever watches (CWE-150).
"""

import json
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType

from rich.console import Console
from rich.text import Text

from genops_extauth.demo_tour import STOPS, Answer, Stop
from genops_extauth.terminal import printable

_SHOWN_HEADERS = (
    "www-authenticate",
    "retry-after",
    "x-ratelimit-limit",
    "x-ratelimit-remaining",
    "x-ratelimit-reset",
)
_WIDTH = 100  # columns
_INDENT = " " * 5
_STYLES = MappingProxyType(
    {"allowed": "green", "ok": "green", "denied": "red", "over_limit": "yellow", "warning": "yellow", "error": "red"}
)
_TROUBLE = ("warning", "error", "critical")


class Screen:
    """Writes to `out`. `folder` holds the tokens that its curl lines name, `origin` is where Envoy listens."""

    def __init__(self, out: Console, folder: str, origin: str) -> None:
        self._out = out
        self._folder = folder
        self._origin = origin
        self._since: datetime | None = None
        self._right, self._wrong = ("✔", "✘") if out.encoding.startswith("utf") else ("ok", "WRONG")

    def _safe(self, text: str) -> str:
        return printable(text, self._out.encoding)

    def started(self) -> None:
        """Say what runs, and where."""
        self._out.print(
            f"A real Envoy listens on {self._origin}; it asks genops-extauth, which counts in a Valkey of its own.\n"
            f"Their configuration and the tokens are in {self._folder} until the demo ends.\n"
        )

    def stop(self, number: int, stop: Stop, answers: Sequence[Answer]) -> None:
        """Show one stop: what is shown, the curl line, the real answers, and whether they are right."""
        fault = stop.fault(answers)
        mark = Text(self._wrong, "bold red") if fault else Text(self._right, "bold green")
        self._out.print(Text.assemble(f"{number:>2} ", mark, " ", (stop.says, "bold")))
        self._out.print(Text(_INDENT + stop.curl(self._folder, self._origin), "cyan"))
        for line in _answered(answers):
            self._out.print(_INDENT + self._safe(line))
        if fault:
            self._out.print(Text(_INDENT + self._safe(fault), "red"))
        self._out.print()

    def summary(self, wrong: Sequence[int]) -> None:
        """Say how the tour went; `wrong` are the numbers of the stops whose answers were not the right ones."""
        if not wrong:
            self._out.print(Text(f"All {len(STOPS)} stops were answered right.", "bold green"))
            return
        numbers = ", ".join(map(str, wrong))
        self._out.print(Text(f"{len(wrong)} of {len(STOPS)} stops were answered wrong: {numbers}.", "bold red"))

    def live(self) -> None:
        """Announce the lines that `logged` writes of decisions from now on."""
        self._since = datetime.now(UTC)
        self._out.print("\nNow live, one line per decision: paste a curl line elsewhere. Ctrl-C ends the demo.")

    def logged(self, line: str) -> None:
        """Show what a line of the sidecar's log tells: of trouble always, of a decision once `live`."""
        try:
            told = json.loads(line)
            at = datetime.fromisoformat(told["time"])
            decided = told["event"] in _TELLERS and self._since is not None and at >= self._since
            if not decided and told["level"] not in _TROUBLE:
                return
            word, rest = _TELLERS.get(told["event"], _trouble)(told)
        except (ValueError, KeyError, TypeError):
            # Not a line of the log: the interpreter's, or a library's.
            self._out.print(self._safe(line))
            return
        told_at, what = f"{at.astimezone():%H:%M:%S} ", f"{self._safe(word):<11}"
        self._out.print(Text.assemble((told_at, "dim"), (what, _STYLES.get(word, "")), self._safe(rest)))


def _answered(answers: Sequence[Answer]) -> Iterable[str]:
    """Describe real answers in lines of at most `_WIDTH` columns: several by their statuses, the last one in full."""
    *before, last = answers
    if before:
        yield "answers: " + " ".join(str(answer.status) for answer in answers) + "; the last one:"
    yield from _columns(str(last), [f"{name}: {last.headers[name]}" for name in _SHOWN_HEADERS if name in last.headers])
    if last.seen is not None:
        yield from _columns("the service saw", [f"{name}: {value}" for name, value in last.seen] or ["nothing of ours"])
    elif last.status and last.body:
        yield from _columns("body", [last.body])


def _columns(title: str, facts: Sequence[str]) -> list[str]:
    # No-break spaces keep a fact on one line; they print as spaces do.
    text = "  ".join([title, *(fact.replace(" ", "\N{NO-BREAK SPACE}") for fact in facts)])
    lines = textwrap.wrap(
        text, _WIDTH - len(_INDENT), subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines]


_Told = Mapping[str, object]


def _check(told: _Told) -> tuple[str, str]:
    request = f"{told['method']} {told['path']}" if "method" in told else "not an HTTP request"
    if told["verdict"] == "denied":
        return "denied", f"{request}  {told['reason']}"
    who = f"{told['customer_id']} of team {told['team']}" if "customer_id" in told else "nobody, on an open route"
    return "allowed", f"{request}  {who}"


def _rate_limit(told: _Told) -> tuple[str, str]:
    limit = f"{told['tier']}, {told['limit']}" if told["tier"] else str(told["limit"])
    if told["code"] == "over_limit":
        return "over_limit", f"{limit}: nothing left, the next one passes in {told['reset']} s  {told['bucket']}"
    return "ok", f"{limit}: {told['remaining']} left  {told['bucket']}"


def _trouble(told: _Told) -> tuple[str, str]:
    return str(told["level"]), f"{told['event']}  {told.get('detail', '')}"


_TELLERS: Mapping[str, Callable[[_Told], tuple[str, str]]] = MappingProxyType(
    {"check": _check, "rate_limit": _rate_limit}
)
"""How each kind of decision is put into words, by the log's event."""

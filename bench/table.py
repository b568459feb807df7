"""The table, in Markdown that reads well on a terminal too."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from bench.cases import MOST_P99, Case
from bench.measure import Row

HEAD = (
    "case", "transport", "requests/s", "server us", "store us", "Envoy us", "ratio", "target", "best peer", "p50 ms",
    "p99 ms", "MiB", "verdict",
)  # fmt: skip
MOST_DRIFT = 0.1  # of the unit within a run; targets are met or missed by about as much
NOISE = """
The unit moved by {drift:.0%} within this run: something else uses this machine, and ratios are no better than that.
Run it again."""
KNOWN = "{0.case}, {0.transport}: the cache of verified tokens held {0.known:,} of them."
TEXT_COLUMNS = {"case", "transport", "verdict"}

NOTES = """\
us: CPU (user + system) per request, at full speed. ratio: the server's, in units of {unit:.0f} us, the empty grpc.aio
call of this run ({first:.0f} us before all rows, {last:.0f} us after). p50, p99: at 1,000 requests/s, from when a
request was due. MiB: resident memory. target: for the native transport; p99 under 3 ms besides. best peer: in the same
unit, measured elsewhere, not by this run. ShouldRateLimit: envoyproxy/ratelimit 0.31, Limitador 0.31. Check: Authorino
1.61, OPA-Envoy 1.68; with an expired token 0.26 and 1.36."""


@dataclass(frozen=True, slots=True)
class Unit:
    """The baseline's server CPU in seconds per request, at the start and at the end of the run."""

    first: float
    last: float

    @property
    def mean(self) -> float:
        """What ratios are taken to."""
        return (self.first + self.last) / 2

    @property
    def drift(self) -> float:
        """How far the two are apart, as a part of their mean."""
        return abs(self.first - self.last) / self.mean


@dataclass(frozen=True, slots=True)
class Failure:
    """A row without figures."""

    case: str
    transport: str
    problem: str


def verdict(case: Case, row: Row, unit: Unit) -> str:
    """Whether the issue's figures are met, or by how much they are missed; empty where there are none."""
    if case.target is None or row.transport != "native":
        return ""
    excess = {"ratio": row.cpu["server"] / unit.mean - case.target, "p99": (row.p99 - MOST_P99) * 1000}
    missed = [f"{name} +{by:.2f}" for name, by in excess.items() if by > 0]
    return "missed: " + ", ".join(missed) if missed else "met"


def table(cases: Sequence[Case], results: Iterable[Row | Failure], unit: Unit) -> str:
    """All rows, what the columns mean, and why a row has no figures."""
    results = list(results)
    by_name = {case.name: case for case in cases}
    lines = [HEAD, *(_cells(by_name[result.case], result, unit) for result in results)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    text = [_line(line, widths) for line in lines]
    rule = [
        ("-" * width if name in TEXT_COLUMNS else "-" * (width - 1) + ":")
        for name, width in zip(HEAD, widths, strict=True)
    ]
    notes = NOTES.format(unit=unit.mean * 1e6, first=unit.first * 1e6, last=unit.last * 1e6)
    known = [KNOWN.format(each) for each in results if isinstance(each, Row) and each.known is not None]
    noise = [NOISE.format(drift=unit.drift)] if unit.drift > MOST_DRIFT else []
    return "\n".join([text[0], _line(rule, widths), *text[1:], "", notes, *known, *noise, *_problems(results)])


def record(results: Iterable[Row | Failure], unit: Unit) -> dict[str, object]:
    """The same for machines; times in seconds."""
    return {"unit": dataclasses.asdict(unit), "rows": [dataclasses.asdict(result) for result in results]}


def _cells(case: Case, result: Row | Failure, unit: Unit) -> Sequence[str]:
    if isinstance(result, Failure):
        return [result.case, result.transport, *[""] * (len(HEAD) - 3), "no figures, see below"]
    return [
        result.case,
        result.transport,
        f"{result.rate:,.0f}",
        *(_number(result.cpu.get(name), 1e6, 0) for name in ("server", "store", "envoy")),
        f"{result.cpu['server'] / unit.mean:.2f}",
        _number(case.target, 1, 2),
        _number(case.peer, 1, 2),
        f"{result.p50 * 1000:.2f}",
        f"{result.p99 * 1000:.2f}",
        f"{result.resident:.0f}",
        verdict(case, result, unit),
    ]


def _problems(results: Iterable[Row | Failure]) -> Iterator[str]:
    """Each problem once, after the rows that met it."""
    failures = [result for result in results if isinstance(result, Failure)]
    for problem in dict.fromkeys(failure.problem for failure in failures):
        met = (f"{failure.case}, {failure.transport}" for failure in failures if failure.problem == problem)
        yield f"\n{'; '.join(met)}:\n{problem}"


def _number(value: float | None, scale: float, digits: int) -> str:
    return "" if value is None else f"{value * scale:.{digits}f}"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (
        cell.ljust(width) if name in TEXT_COLUMNS else cell.rjust(width)
        for name, cell, width in zip(HEAD, cells, widths, strict=True)
    )
    return f"| {' | '.join(padded)} |"

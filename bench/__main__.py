"""`python -m bench`: measures every row and prints the table; progress goes to standard error."""

import itertools
import json
import os
import re
import signal
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import click
import grpc

from bench.answers import WrongAnswerError
from bench.cases import Case, baseline, cases
from bench.credentials import Material
from bench.measure import Row, baseline_stage, distinct, measure, stage
from bench.processes import cores
from bench.table import Failure, Unit, record, table

TRANSPORTS = ("grpcio", "native")


@click.command()
@click.option("--seconds", default=5.0, show_default=True, help="Length of each of a row's two runs.")
@click.option("--only", default="", metavar="PATTERN", help="A regular expression for rows, by 'case transport'.")
@click.option("--json", "into", type=click.Path(path_type=Path), help="Write the figures to this file too.")
def main(seconds: float, only: str, into: Path | None) -> None:
    """Measure what an answer costs, next to an empty grpc.aio call."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as Ctrl-C: everything started is ended
    asked = Material(distinct(seconds))
    rows = cases(asked)
    wanted = [row for row in itertools.product(rows, TRANSPORTS) if _is_wanted(row, only)]
    if not wanted:
        raise click.UsageError(f"--only finds none of: {'; '.join(row.name for row in rows)}")
    _say("signing tokens")
    for case, _ in wanted:
        next(iter(case.bodies()))  # now, while every core is ours, and not within a row
    with tempfile.TemporaryDirectory(prefix="genops-bench-") as name:
        bench = Bench(asked, Path(name), seconds)
        first = bench.unit()
        results = list(bench.results(wanted))
        unit = Unit(first, bench.unit())
    print(table(rows, results, unit))
    if into is not None:
        into.write_text(json.dumps(record(results, unit), indent=2) + "\n")
    if any(isinstance(result, Failure) for result in results):
        sys.exit(1)


class Bench:
    """One run: the servers on the first core, this process and everything else on the last."""

    def __init__(self, asked: Material, folder: Path, seconds: float) -> None:
        self._material, self._folder, self._seconds = asked, folder, seconds
        self._cores = cores()
        if len(set(self._cores)) == 1:
            _say("one core only: requests/s and latencies show the load generator too")
        os.sched_setaffinity(0, {self._cores[1]})

    def unit(self) -> float:
        """Server CPU in seconds of an empty call, now."""
        case = baseline(self._material)
        _say(case.name)
        with baseline_stage(self._folder, self._cores) as on:
            return measure(case, "grpcio", on, self._seconds).cpu["server"]

    def results(self, rows: Iterable[tuple[Case, str]]) -> Iterator[Row | Failure]:
        """The case and transport of every row, each on servers of its own."""
        for case, transport in rows:
            _say(f"{case.name} {transport}")
            yield self._result(case, transport)

    def _result(self, case: Case, transport: str) -> Row | Failure:
        try:
            with stage(case, transport, self._material, self._folder, self._cores) as on:
                return measure(case, transport, on, self._seconds)
        except (WrongAnswerError, OSError, grpc.RpcError) as error:
            return Failure(case.name, transport, str(error).strip())


def _is_wanted(row: tuple[Case, str], pattern: str) -> bool:
    case, transport = row
    return re.search(pattern, f"{case.name} {transport}", re.IGNORECASE) is not None


def _say(text: str) -> None:
    print(text, file=sys.stderr)


if __name__ == "__main__":
    main()

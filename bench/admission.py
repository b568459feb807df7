"""`python -m bench.admission`: several processes, one bucket, millions of hits: never more than burst + rate x time."""

import concurrent.futures
import contextlib
import itertools
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

import click

from bench import servers
from bench.bodies import limits
from bench.cases import limit_question
from bench.credentials import Material
from bench.load import Address, saturate
from bench.processes import cores
from bench.settings import ADMITTED

PROCESSES = 3


@click.command()
@click.option("--seconds", default=60.0, show_default=True, help="Length of each of the two runs.")
def main(seconds: float) -> None:
    """Ask as fast as possible, and count what was granted."""
    key = Material(1).public_key
    wrong = [not admitted(variant, seconds, key) for variant in ("admission", "admission, leased")]
    sys.exit(any(wrong))


def admitted(variant: str, seconds: float, public_key: bytes) -> bool:
    """Run one variant, print what it granted, and say whether that was allowed."""
    with tempfile.TemporaryDirectory(prefix="genops-bench-") as name, contextlib.ExitStack() as stack:
        _, url = stack.enter_context(servers.store("valkey", Path(name), cores()[1]))
        addresses = []
        for number in range(PROCESSES):
            folder = Path(name) / str(number)
            folder.mkdir()
            sidecar = servers.sidecar("native", url, public_key, folder, cores()[number % 2], variant=variant)
            addresses.append(stack.enter_context(sidecar).address)
        spawn = multiprocessing.get_context("spawn")
        started = time.monotonic()
        with concurrent.futures.ProcessPoolExecutor(PROCESSES, mp_context=spawn) as pool:
            counts = list(pool.map(asked, addresses, itertools.repeat(seconds)))
        elapsed = time.monotonic() - started
    hits, granted = (sum(count[place] for count in counts) for place in (0, 1))
    most = ADMITTED * (1 + elapsed)
    print(f"{variant}: {hits:,} hits, {granted:,} granted, at most {most:,.0f} in {elapsed:.1f} s", flush=True)
    return granted <= most


def asked(address: Address, seconds: float) -> tuple[int, int]:
    """Ask one process for one bucket; how many were answered, and granted."""
    body = next(limits("premium", iter(["customer-one"])))
    result = saturate(address, limit_question(), itertools.repeat(body), seconds)
    return result.answered, result.answered - result.errors


if __name__ == "__main__":
    main()

"""`python -m bench.flood`: how long good tokens take while somebody else sends bad ones as fast as they are refused."""

import contextlib
import itertools
import math
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import click

from bench import api_keys, servers
from bench.answers import WrongAnswerError
from bench.bodies import checks, key_checks
from bench.cases import GRANTED, GUESSED, REFUSED
from bench.credentials import Material, forged, overdue
from bench.http2 import Question
from bench.load import Address, Result, saturate, steady
from bench.measure import RATE, WARM_UP, WARM_UP_TIME, right
from bench.processes import cores

STREAMS = 4  # on each of four connections: 16 bad requests in flight
MOST_P99 = 0.010  # seconds
HEAD = "| flood | transport | bad/s | p50 ms | p99 ms | longest ms |\n|---|---|---:|---:|---:|---:|"
NONE = "none"


class Flood(NamedTuple):
    """What is sent without end, made from a good token; and how a refusal of it is known."""

    bodies: Callable[[str], Iterator[bytes]]
    question: Question = REFUSED


FLOODS: Mapping[str, Flood] = {
    "forged tokens": Flood(lambda token: checks(forged(token))),
    "expired tokens": Flood(lambda token: checks(overdue(token))),
    "unknown API keys": Flood(lambda _: key_checks(api_keys.unknown()), GUESSED),
}


@click.command()
@click.option("--seconds", default=10.0, show_default=True, help="Length of each run.")
def main(seconds: float) -> None:
    """Measure good tokens at 1,000 requests a second, alone and beside floods; exit with 1 if native's p99 is late."""
    material = Material(1)
    os.sched_setaffinity(0, {cores()[1]})
    print(HEAD)
    slow = False
    for transport, flood in itertools.product(("native", "grpcio"), (NONE, *FLOODS)):
        try:
            good, bad = flooded(transport, flood, material, seconds)
        except WrongAnswerError as error:
            print(f"| {flood} | {transport} | | | | | {error}", flush=True)
            slow |= transport == "native"
            continue
        rate = "" if bad is None else f"{bad.answered / bad.seconds:,.0f}"
        times = " | ".join(f"{good.percentile(percent) * 1000:.2f}" for percent in (50, 99, 100))
        print(f"| {flood} | {transport} | {rate} | {times} |", flush=True)
        slow |= transport == "native" and good.percentile(99) > MOST_P99
    sys.exit(slow)


def flooded(transport: str, flood: str, material: Material, seconds: float) -> tuple[Result, Result | None]:
    """The answers to good tokens, and to the flood that goes on meanwhile, if there is one; all of them are right."""
    good = list(checks(material.hot))
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="genops-bench-")))
        _, url = stack.enter_context(servers.store("valkey", folder, cores()[1]))
        key, core = material.public_key, cores()[0]
        running = servers.sidecar(transport, url, key, folder, core, variant="credentials")
        address = stack.enter_context(running).address
        right(saturate(address, GRANTED, itertools.islice(itertools.cycle(good), WARM_UP), WARM_UP_TIME))
        stop = stack.enter_context(_sending(address, flood, material.hot[0])) if flood != NONE else None
        answers = right(steady(address, GRANTED, itertools.cycle(good), seconds, RATE))
        return answers, None if stop is None else right(stop())


@contextlib.contextmanager
def _sending(address: Address, flood: str, token: str) -> Iterator[Callable[[], Result]]:
    """A process that sends from now on until it is stopped, which says how it went."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=send, args=(theirs, address, flood, token), daemon=True)
    process.start()
    theirs.close()  # so that its end is seen

    def stop() -> Result:
        ours.send(None)
        result = ours.recv()
        if not isinstance(result, Result):
            raise TypeError("the flood tells how it went, and nothing else")
        return result

    try:
        ours.recv()
        yield stop
    finally:
        process.kill()
        process.join()


def send(way: "Connection[object, object]", address: Address, flood: str, token: str) -> None:
    """Say that it begins, send until something comes that way, and say how it went."""
    bodies, question = FLOODS[flood]

    def sent() -> Iterator[bytes]:
        way.send(None)
        yield from itertools.takewhile(lambda _: not way.poll(), bodies(token))

    way.send(saturate(address, question, sent(), math.inf, streams=STREAMS))


if __name__ == "__main__":
    main()

"""One row: check an answer, warm up, take all the server gives, then a modest fixed rate."""

import contextlib
import http.client
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench import servers
from bench.answers import WrongAnswerError
from bench.cases import DISTINCT, Case
from bench.credentials import Material
from bench.envoy_proxy import envoy
from bench.load import Address, Result, saturate, steady
from bench.processes import Process

RATE = 1000.0  # requests a second: modest for every server here
WARM_UP = 500  # requests: every hot token is known, the interpreter has specialised the path
WARM_UP_TIME = 120.0  # seconds at most, for a hundred thousand signatures on the slower transport


@dataclass(frozen=True, slots=True)
class Stage:
    """What a row needs running: where to ask, and whose CPU to count."""

    address: Address
    processes: Mapping[str, Process]  # by "server", "store" (or "store 1" and so on), "envoy"
    pages: Address | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """The figures of a case on a transport. CPU is in seconds per request, by process; `resident` in MiB.

    `known` counts the tokens that the sidecar remembers at the end, where the case is about that.
    """

    case: str
    transport: str
    requests: int
    rate: float
    cpu: Mapping[str, float]
    p50: float
    p99: float
    resident: float
    known: int | None = None


def distinct(seconds: float) -> int:
    """How many distinct tokens a row may use up, with the one that is kept for the check."""
    return WARM_UP + DISTINCT + int(RATE * seconds) + 2


@contextlib.contextmanager
def baseline_stage(folder: Path, cores: tuple[int, int]) -> Iterator[Stage]:
    """The unit's server alone."""
    with servers.baseline(folder, cores[0]) as (server, address):
        yield Stage(address, {"server": server})


@contextlib.contextmanager
def stage(case: Case, transport: str, material: Material, folder: Path, cores: tuple[int, int]) -> Iterator[Stage]:
    """The sidecar on the first core; the store, Envoy where the case has one, and the load on the second."""
    with contextlib.ExitStack() as stack:
        stores, url = stack.enter_context(servers.store(case.store, folder, cores[1]))
        sidecar = servers.sidecar(transport, url, material.public_key, folder, cores[0], variant=case.variant)
        server, address, pages = stack.enter_context(sidecar)
        case.lay(url)
        processes = {"server": server, **stores}
        if case.envoy:
            processes["envoy"], address = stack.enter_context(envoy(case.envoy, address, folder, cores[1]))
        yield Stage(address, processes, pages)


def measure(case: Case, transport: str, on: Stage, seconds: float) -> Row:
    """The row; raises WrongAnswerError when the one answer looked at, or any of the load, is not right."""
    case.check(on.address)
    bodies = iter(case.bodies())
    first = itertools.islice(bodies, WARM_UP) if case.first is None else case.first()
    right(saturate(on.address, case.question, first, WARM_UP_TIME))
    before = _cpu(on)
    full = right(saturate(on.address, case.question, itertools.islice(bodies, case.most), seconds))
    after = _cpu(on)
    calm = right(steady(on.address, case.question, bodies, seconds, RATE))
    return Row(
        case=case.name,
        transport=transport,
        requests=full.answered,
        rate=full.answered / full.seconds,
        cpu={name: (after[name] - before[name]) / full.answered for name in after},
        p50=calm.percentile(50),
        p99=calm.percentile(99),
        resident=on.processes["server"].resident(),
        known=known_tokens(on.pages) if case.first is not None and on.pages is not None else None,
    )


def known_tokens(pages: Address) -> int:
    """How many good tokens the sidecar remembers."""
    with contextlib.closing(http.client.HTTPConnection(*pages, timeout=WARM_UP_TIME)) as client:
        client.request("GET", "/metrics")
        text = client.getresponse().read().decode()
    return int(float(text.partition('\ngenops_token_cache_entries{cache="verified"} ')[2].split()[0]))


def right(result: Result) -> Result:
    """The result itself; raises WrongAnswerError where any answer was not right."""
    if result.errors or not result.answered:
        raise WrongAnswerError(
            f"{result.errors} of {result.answered} answers were wrong: {result.first_error or 'none came'}"
        )
    return result


def _cpu(on: Stage) -> dict[str, float]:
    """By role: the servers of a cluster are one store."""
    spent: dict[str, float] = {}
    for name, process in on.processes.items():
        role = name.partition(" ")[0]
        spent[role] = spent.get(role, 0.0) + process.cpu()
    return spent

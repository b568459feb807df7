"""What holds for every test: blocking the event loop fails it, and Hypothesis measures no time."""

import os
from collections.abc import Iterator

import pytest
from blockbuster import blockbuster_ctx
from hypothesis import settings

from memory_store import Clock, MemoryStore
from stores import SERVERS, VALKEY, Server, running

# The machine may be slow, so no deadline; CI tries the same examples every time: only a change can turn it red.
settings.register_profile("genops", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("genops")

_MAY_BLOCK = (
    # A scrape reads /proc, which is memory: it never waits for a disk.
    (("io.BufferedReader.read", "os.listdir"), "prometheus_client/process_collector.py", ("_boot_time", "collect")),
)
"""Exemptions, each with its reason: the blocking calls, and the file and functions that may make them."""


@pytest.fixture(autouse=True, scope="session")
def _the_loop_never_blocks() -> Iterator[None]:
    """A call of our package that would block the running event loop raises `blockbuster.BlockingError`.

    Calls of the tests themselves may block: only stacks with a frame of our package are looked at.
    """
    with blockbuster_ctx("genops_extauth") as guard:
        for calls, file, functions in _MAY_BLOCK:
            for call in calls:
                guard.functions[call].can_block_in(file, functions)
        yield


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> MemoryStore:
    """A store in memory, on the `clock`."""
    return MemoryStore(clock)


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of each kind, to be broken."""
    with running(request.param) as server:
        yield server


@pytest.fixture
def valkey() -> Iterator[Server]:
    """A server to be broken, where one kind will do."""
    with running(VALKEY) as server:
        yield server

"""What the nodes of a store have in common: how they ask, where they stand in a Cluster, and what they count."""

import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from genops_extauth.journal import Owed
from genops_extauth.redis_batch import Batch


@dataclass(slots=True)
class Counts:
    """What was done so far, by all nodes of a store. `failures` counts requests by kind; `dropped`: owed, and lost."""

    scripts: int = 0
    requests: int = 0
    hits: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    dropped: Owed = field(default_factory=Owed)


@dataclass(frozen=True, slots=True)
class Habits:
    """What all nodes of a store share: times in seconds, the `names` of marks, each used once, and the `counts`.

    `tell` hears what operators should know.
    """

    timeout: float
    in_flight: int
    names: Iterator[bytes]
    tell: Callable[[str], None]
    counts: Counts = field(default_factory=Counts)


def habits(
    *,
    timeout: float = 0.1,
    in_flight: int = 4,
    prefix: str = "genops",
    tell: Callable[[str], None] = lambda _: None,
) -> Habits:
    """The habits of a store whose operations take `timeout` seconds at most; its own keys begin with `prefix`."""
    return Habits(timeout, in_flight, _mark_names(prefix), tell)


def _mark_names(prefix: str) -> Iterator[bytes]:
    """Keys for marks that no other process and no other connection has."""
    process = os.urandom(8).hex()
    return (f"{prefix}:mark:{process}:{number}".encode() for number in itertools.count())


@dataclass(frozen=True, slots=True)
class Layout:
    """What a node knows of the Cluster that it is part of; by default there is none.

    `slot` finds a key's slot, `place` ends a mark's key so that it lies in a slot, `own` is a slot of this node.
    `reroute` may take over a batch that failed, where its keys are elsewhere now: then it answers True.
    """

    slot: Callable[[bytes], int] = lambda _: 0
    place: Callable[[int], bytes] = lambda _: b""
    own: Callable[[], int] = lambda: 0
    reroute: Callable[[Batch, Exception], bool] = lambda _batch, _error: False


ALONE = Layout()

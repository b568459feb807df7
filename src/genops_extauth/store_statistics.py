"""What a store did so far, and how it stands: for metrics."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from genops_extauth.journal import Owed
from genops_extauth.redis_habits import Habits
from genops_extauth.redis_node import Node


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a store did so far, and how it stands.

    `failures` counts requests by kind: those of `redis_faults.FAULTS`, open, overloaded, closed, defect. `opened`
    counts how often a circuit opened. `owed` could not be charged yet, `dropped` never will be.
    """

    scripts: int
    requests: int
    hits: int
    waiting: int
    failures: Mapping[str, int]
    usable: bool
    opened: int
    owed: Owed
    dropped: Owed


def statistics(nodes: Sequence[Node], habits: Habits) -> Statistics:
    """The sum over all nodes of a store."""
    counts, owed = habits.counts, Owed()
    for node in nodes:
        owed = owed.plus(node.owed())
    return Statistics(
        counts.scripts,
        counts.requests,
        counts.hits,
        sum(node.waiting for node in nodes),
        dict(counts.failures),
        all(node.usable for node in nodes),
        sum(node.opened for node in nodes),
        owed,
        counts.dropped.plus(Owed()),
    )


def added(several: Sequence[Statistics]) -> Statistics:
    """The sum over several stores."""
    owed, dropped, failures = Owed(), Owed(), Counter[str]()
    for each in several:
        owed, dropped = owed.plus(each.owed), dropped.plus(each.dropped)
        failures.update(each.failures)
    return Statistics(
        sum(each.scripts for each in several),
        sum(each.requests for each in several),
        sum(each.hits for each in several),
        sum(each.waiting for each in several),
        dict(failures),
        all(each.usable for each in several),
        sum(each.opened for each in several),
        owed,
        dropped,
    )

"""What a configuration means, in words, for whoever has just written it."""

import math
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import islice
from types import MappingProxyType

from genops_extauth.identity_summary import believed
from genops_extauth.limit_sections import Limit
from genops_extauth.limits import Rule, Tree
from genops_extauth.settings import Config

_SHOWN = 50
"""Lines of a kind about limits of files: more than a screen says less than the files themselves."""

_POLICY = {"open": "lets everything pass", "closed": "refuses"}


def summary(config: Config) -> tuple[str, ...]:
    """Return a line for each thing that a configuration says."""
    tree = config.tree()
    return (
        _places(config),
        *(believed(config) if "identity" in config.server.services else ()),
        *(_limits(config, tree) if "rate_limits" in config.server.services else ()),
    )


@lru_cache(maxsize=1)  # Prometheus asks every few seconds, of limits that change every few days.
def exposure(tree: Tree, processes: int) -> Mapping[str, float]:
    """Return what all processes together may grant of one bucket in one outage of the store, in tokens, by limit.

    A descriptor with several limits grants what each of them does. Those in shadow mode refuse nothing at any time.
    """
    worst: dict[str, float] = {}
    for leaf in tree.leaves:
        granted = [_granted(rule) * processes for rule in leaf.rules if not (rule.unlimited or rule.shadow)]
        if granted:
            worst[leaf.name] = max(min(granted), worst.get(leaf.name, 0.0))
    return MappingProxyType(worst)


def _granted(rule: Rule) -> float:
    size = rule.limit.requests_per_unit if rule.meter is None else rule.meter.capacity // rule.meter.part
    if rule.terms.open_after and size:  # A limit of 0 refuses all, open or not.
        return math.inf
    return float(min(rule.terms.allowance, size))


def _places(config: Config) -> str:
    server, store = config.server, config.store
    debug = "" if server.debug is None else f", {server.debug} (debug pages)"
    second = "" if store.per_second is None else f", for limits per second {store.per_second.url}"
    return f"listens on {server.grpc} (gRPC), {server.http} (HTTP){debug}; store {store.url}{second}"


def _limits(config: Config, tree: Tree) -> Iterator[str]:
    limits, outage = config.rate_limits, config.store.outage
    if config.tiers_rule:
        yield from (f"tier {name}: {_limited(limit)}" for name, limit in config.tiers.items())
        yield f"unknown tier: as {config.default_tier}; no identity: {_limited(limits.anonymous)} by address"
    if limits.directory is not None:
        yield f"all limits, those of {limits.directory} included:"
        yield from _shown(tree.lines())
    if limits.xds is not None:
        yield f"limits given by {limits.xds.server}, to the node {limits.xds.node_id}"
    if limits.shadow_mode:
        yield "shadow mode: nobody is refused"
    if limits.quota_mode:
        yield "quota mode: a request is refused only where all its limits are exhausted"
    yield from (f"note: {remark}" for remark in limits.remarks)
    processes = "1 process" if outage.processes == 1 else f"{outage.processes} processes"
    yield (
        f"store away: a process grants {100 * outage.allowance:g}% of each bucket by itself, then "
        f"{_POLICY[outage.then]}, unless the limit says otherwise; at worst, with {processes}:"
    )
    yield from _shown(f"{name}: {_tokens(tokens)}" for name, tokens in exposure(tree, outage.processes).items())


def _shown(lines: Iterable[str]) -> Iterator[str]:
    left = iter(lines)
    yield from (f"  {line}" for line in islice(left, _SHOWN))
    more = sum(1 for _ in left)
    if more:
        yield f"  ... and {more} more"


def _tokens(tokens: float) -> str:
    return "everything passes" if tokens == math.inf else f"{tokens:.0f} of one bucket"


def _limited(limit: Limit) -> str:
    return f"{limit.limit}, {limit.limit.requests if limit.burst is None else limit.burst} at once"

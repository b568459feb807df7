"""The descriptor tree: which bucket a descriptor hits, and the unambiguous key of that bucket.

A descriptor is a path through the tree, one entry a step: an exact (key, value) wins over the key alone. A rule
counts only where the last entry lands on it (envoyproxy/ratelimit's semantics). The configuration's ``tiers`` compile
to nodes of the same tree:

    customer_tier=free     -> customer_id=*   the free rule, one bucket a customer
    customer_tier=<other>  -> customer_id=*   the default tier's rule, and its bucket
    customer_id=*                             the same
    remote_address=*                          the anonymous rule, one bucket an address
    masked_remote_address=*                   the same, one bucket a network

An unknown or missing tier meets the bucket of the default tier: a client that could choose its spelling would
otherwise choose a fresh bucket with it.

A key reads ``prefix:{domain|customer_tier=free|customer_id=c1}:tb3600``: the braces are Redis Cluster's hash tag, the
end names the algorithm (token bucket) and its period. The limit itself is not in the key, so that raising it keeps
what was spent.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b

from genops_extauth.bucket import Shape
from genops_extauth.model import CurrentLimit

TIER_KEY = b"customer_tier"
CUSTOMER_KEY = b"customer_id"
ADDRESS_KEYS = (b"remote_address", b"masked_remote_address")
"""Envoy's two actions. Who has an IPv6 network has 2^64 addresses: only the masked one limits him."""

_PLAIN = re.compile(rb"[0-9A-Za-z._@:/+-]{1,64}")
_UNSAFE = re.compile(rb"[^0-9A-Za-z._@:/+-]")
_LONGEST_VALUE = 64  # bytes of a value written out in a key; beyond it memory and privacy weigh more than readability


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """One limit: what clients are told of it, the shape of its buckets, and its period in seconds."""

    limit: CurrentLimit
    shape: Shape
    period: int


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One step of the tree.

    `path` is what this step adds to the key; where `takes_value` the entry's own value follows. `defaulted` marks the
    steps that stand in for an unknown or missing tier.
    """

    path: bytes
    takes_value: bool
    rule: Rule | None = None
    children: "Mapping[tuple[bytes, bytes | None], Node]" = field(default_factory=dict)
    defaulted: bool = False


@dataclass(frozen=True, slots=True)
class Match:
    """A descriptor met `rule`; its bucket is `key`."""

    rule: Rule
    key: bytes
    defaulted: bool


@dataclass(frozen=True, slots=True, eq=False)
class Tree:
    """All rules, by domain. `prefix` starts every key."""

    domains: Mapping[bytes, Node]
    prefix: bytes

    def match(self, domain: bytes, entries: Iterable[tuple[bytes, bytes]]) -> Match | None:
        """Walk a descriptor's entries. None: it meets no rule, and is not limited."""
        node = self.domains.get(domain)
        if node is None:
            return None
        path = [self.prefix, b":{", node.path]
        defaulted = False
        for key, value in entries:
            node = node.children.get((key, value)) or node.children.get((key, None))
            if node is None:
                return None
            path.append(node.path)
            if node.takes_value:
                path.append(_written(value))
            defaulted = defaulted or node.defaulted
        if node.rule is None:
            return None
        path.append(b"}:tb%d" % node.rule.period)
        return Match(node.rule, b"".join(path), defaulted)


def _written(value: bytes) -> bytes:
    """Spell an entry's value in a key so that no two values, and no value and a separator, can be confused."""
    if _PLAIN.fullmatch(value):
        return value
    if len(value) > _LONGEST_VALUE:
        # Collision-resistant on purpose: who finds two customers of one digest makes one of them pay for the other.
        return b"~" + blake2b(value, digest_size=16).hexdigest().encode()
    return _UNSAFE.sub(lambda match: b"%%%02X" % match.group()[0], value)


def tier_tree(domain: str, tiers: Mapping[str, Rule], default_tier: str, anonymous: Rule | None, prefix: str) -> Tree:
    """Compile tiers to the tree of their domain. Raises KeyError where `default_tier` is not one of `tiers`."""
    per_tier: dict[tuple[bytes, bytes | None], Node] = {
        (TIER_KEY, name.encode()): _tier(name, rule) for name, rule in tiers.items()
    }
    fallback = per_tier[TIER_KEY, default_tier.encode()]
    customer = fallback.children[CUSTOMER_KEY, None]
    children = {
        **per_tier,
        (TIER_KEY, None): replace(fallback, defaulted=True),
        (CUSTOMER_KEY, None): replace(customer, path=fallback.path + customer.path, defaulted=True),
    }
    if anonymous is not None:
        children |= {(key, None): Node(b"|%s=" % key, takes_value=True, rule=anonymous) for key in ADDRESS_KEYS}
    root = Node(_written(domain.encode()), takes_value=False, children=children)
    return Tree({domain.encode(): root}, prefix.encode())


def _tier(name: str, rule: Rule) -> Node:
    customer = Node(b"|%s=" % CUSTOMER_KEY, takes_value=True, rule=rule)
    return Node(
        b"|%s=%s" % (TIER_KEY, _written(name.encode())), takes_value=False, children={(CUSTOMER_KEY, None): customer}
    )

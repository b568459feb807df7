"""The configuration's ``tiers``, as descriptors of the tree.

    customer_tier=free     -> customer_id=*   the free limit, one bucket a customer
    customer_tier=<other>  -> customer_id=*   the default tier's limit, and its bucket
    customer_id=*                             the same
    remote_address=*                          the anonymous limit, one bucket an address
    masked_remote_address=*                   the same, one bucket a network

An unknown or missing tier meets the bucket of the default tier: a client that could choose its spelling would
otherwise choose a fresh bucket with it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from genops_extauth.declared import Descriptor, Limit

TIER_KEY = b"customer_tier"
CUSTOMER_KEY = b"customer_id"
ADDRESS_KEYS = (b"remote_address", b"masked_remote_address")
"""Envoy's two actions. Who has an IPv6 network has 2^64 addresses: only the masked one limits him."""


@dataclass(frozen=True, slots=True)
class Tiers:
    """The limit of each tier in `domain`, by name; `default` is one of them. `anonymous` limits addresses."""

    domain: str
    limits: Mapping[str, Limit]
    default: str
    anonymous: Limit | None = None

    def descriptors(self) -> tuple[Descriptor, ...]:
        """What they declare, but for unknown and missing tiers."""
        tiers = [self.tier(name) for name in self.limits]
        addresses = [Descriptor(key.decode(), limits=(self.anonymous,)) for key in ADDRESS_KEYS if self.anonymous]
        return (*tiers, *addresses)

    def tier(self, name: str) -> Descriptor:
        """Declare one tier. Raises KeyError where there is none of that name."""
        customer = Descriptor(CUSTOMER_KEY.decode(), limits=(self.limits[name],))
        return Descriptor(TIER_KEY.decode(), name, descriptors=(customer,))

    def conflict(self, others: Iterable[Descriptor]) -> str | None:
        """Say which of the descriptors that files declare beside them speaks of the same entries."""
        ours = [key.decode() for key in (TIER_KEY, CUSTOMER_KEY, *(ADDRESS_KEYS if self.anonymous else ()))]
        for other in others:
            met = next((key for key in ours if _may_match(other.key, key)), None)
            if met is not None:
                return (
                    f"the descriptor '{other.key}' speaks of {met}, which `tiers` limits in domain '{self.domain}':"
                    " write it in another domain, or leave it to `tiers`"
                )
        return None


def _may_match(declared: str, key: str) -> bool:
    """Whether a descriptor of the key `declared` could be met in the place of one of ours."""
    start, star, _ = declared.partition("*")
    entry = f"{key}_"
    return entry.startswith(start) or start.startswith(entry) if star else declared == key

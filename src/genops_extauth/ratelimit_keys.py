"""The keys of rate limit files, and where each of them means something.

The first are envoyproxy/ratelimit's (src/config/config_impl.go, validKeys), which takes any of them anywhere. The
others are ours: a file without them is a file of theirs.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from types import MappingProxyType
from typing import Literal

Place = Literal["file", "descriptor", "rate_limit", "replaces"]

THEIRS: Mapping[str, tuple[Place, ...]] = {
    "domain": ("file",),
    "descriptors": ("file", "descriptor"),
    "key": ("descriptor",),
    "value": ("descriptor",),
    "rate_limit": ("descriptor",),
    "shadow_mode": ("descriptor",),
    "quota_mode": ("descriptor",),
    "detailed_metric": ("descriptor",),
    "value_to_metric": ("descriptor",),
    "share_threshold": ("descriptor",),
    "metadata": ("descriptor",),
    "unit": ("rate_limit",),
    "requests_per_unit": ("rate_limit",),
    "unlimited": ("rate_limit",),
    "name": ("rate_limit", "replaces"),
    "replaces": ("rate_limit",),
}
OURS: Mapping[str, tuple[Place, ...]] = {
    "backtracking": ("file",),
    "charge": ("file", "rate_limit"),
    "rate_limits": ("descriptor",),
    "burst": ("rate_limit",),
    "unit_multiplier": ("rate_limit",),
    "per": ("rate_limit",),
    "algorithm": ("rate_limit",),
    "calendar": ("rate_limit",),
    "allow_refund": ("rate_limit",),
    "body": ("rate_limit",),
    "lease": ("rate_limit",),
    "outage": ("rate_limit",),
    "outage_allowance": ("rate_limit",),
}
KEYS: Mapping[str, tuple[Place, ...]] = MappingProxyType({**THEIRS, **OURS})
"""Every key, and where it means something."""

_WHERE: Mapping[Place, str] = {
    "file": "at the top of the file",
    "descriptor": "in a descriptor, beside its key",
    "rate_limit": "in rate_limit",
    "replaces": "in an item of replaces",
}

_LONGEST_LIKENED = 64  # characters; no key is half as long


def where(key: str) -> str:
    """Say where `key` belongs."""
    return _WHERE[KEYS[key][0]]


def hint(key: str, place: Place | None) -> str:
    """What to do with a `key` that cannot stand at `place`; None is where nothing means anything."""
    if key in OURS:
        return f"write it {where(key)}"
    allowed = [each for each, places in KEYS.items() if place is None or place in places]
    close = get_close_matches(key, allowed, n=1) if len(key) <= _LONGEST_LIKENED else []
    return f"did you mean {close[0]}?" if close else f"allowed here: {', '.join(allowed)}"

"""What declared limits mean where that is easily overlooked, in sentences, for whoever wrote or inherits them."""

from collections.abc import Iterator, Sequence
from itertools import islice

from genops_extauth.declared import Descriptor, Domain, Limit
from genops_extauth.ratelimit_domain import composite
from genops_extauth.wildcards import glob

_MOST = 100
"""Sentences: more than a screen of them are read by nobody."""

_COMPARED = 200
"""Siblings that are compared, each with those before it."""

Trail = tuple[Descriptor, ...]


def meanings(domains: Sequence[Domain]) -> tuple[str, ...]:
    """A sentence for each thing worth knowing, in the order of the descriptors."""
    return tuple(islice((line for domain in domains for line in _domain(domain)), _MOST))


def _domain(domain: Domain) -> Iterator[str]:
    if not domain.backtracking:
        yield from _shadowed(domain.name, domain.descriptors)
    for trail in _trails((), domain.descriptors):
        last = trail[-1]
        name = ".".join((domain.name, *map(composite, trail)))
        yield from (f"{name}: {sentence}" for sentence in _said(trail))
        if not domain.backtracking:
            yield from _shadowed(name, last.descriptors)


def _trails(above: Trail, descriptors: Sequence[Descriptor]) -> Iterator[Trail]:
    for descriptor in descriptors:
        trail = (*above, descriptor)
        yield trail
        yield from _trails(trail, descriptor.descriptors)


def _said(trail: Trail) -> Iterator[str]:
    last = trail[-1]
    if last.limits and all("tier" in step.key for step in trail):
        bucket = "one bucket" if all(map(_is_fixed, trail)) else "one bucket a tier"
        yield f"is {bucket}, for all customers together; for one each, write the key customer_id below it"
    if last.limits and last.shadow_mode:
        yield "is in shadow mode: it counts, and refuses nothing"
    for limit in last.limits:
        yield from _meant(limit)


def _meant(limit: Limit) -> Iterator[str]:
    if limit.charge == "response":
        yield "counts what responses cost: a request needs 1 left, and its cost may take the bucket into debt"
    if not limit.requests and not limit.unlimited:
        yield "is a limit of 0: it refuses every request"


def _is_fixed(descriptor: Descriptor) -> bool:
    return descriptor.share_threshold or (bool(descriptor.value) and not _is_wildcard(descriptor))


def _shadowed(above: str, siblings: Sequence[Descriptor]) -> Iterator[str]:
    """The first wildcard that matches has the request: none is left to what it covers, behind it or by the bare key."""
    loose = islice((each for each in siblings if not each.value or _is_wildcard(each)), _COMPARED)
    before: list[Descriptor] = []
    for each in sorted(loose, key=lambda one: not _is_wildcard(one)):
        found = next((other for other in before if _covers(other, each)), None)
        if found is not None:
            yield f"{above}.{composite(each)}: is never met, for {composite(found)} matches all that it does, first"
        if _is_wildcard(each):
            before.append(each)


def _is_wildcard(descriptor: Descriptor) -> bool:
    return "*" in composite(descriptor)


def _covers(first: Descriptor, other: Descriptor) -> bool:
    """Whether a wildcard matches all that `other` does. What `other` has a star for is covered by a star alone."""
    if "*" in first.key:
        text = other.key if "*" in other.key and not other.value else f"{other.key}_{other.value or '*'}"
        return glob(composite(first).encode()).matches(text.encode())
    return first.key == other.key and glob(first.value.encode()).matches((other.value or "*").encode())

"""Hits on buckets of plenty, and what was spent of them, by the store's own count."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from genops_extauth.bucket import bucket
from genops_extauth.hits import Answer, Hit, Role

TOKENS = 10**6

PLENTY = bucket(TOKENS, 10**9)
"""A million tokens that do not come back within a test."""


class Asked(Protocol):
    """What has the buckets."""

    @property
    def transact(self) -> Callable[[Sequence[Hit]], Awaitable[Answer]]: ...


def take(tag: str, cost: int = 1) -> Hit:
    return Hit(f"genops:{{{tag}}}:tb".encode(), PLENTY, cost)


def charge(tag: str, cost: int = 1) -> Hit:
    return take(tag, cost)._replace(role=Role.CHARGE)


def refund(tag: str, cost: int = 1) -> Hit:
    return take(tag, cost)._replace(role=Role.REFUND)


async def spent(store: Asked, tag: str) -> int:
    """The tokens that were taken or charged, and not given back."""
    look = take(tag, 0)._replace(look=True)
    return TOKENS - (await store.transact([look])).levels[0].remaining

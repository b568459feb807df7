"""Token bucket arithmetic (contract; the body is being written)."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Shape:
    """A bucket in whole numbers. One token is `part` parts; `refill` parts come back per tick of `tick` microseconds."""

    capacity: int  # parts
    part: int  # parts per token
    refill: int  # parts per tick
    tick: int  # microseconds


def shape(limit: int, period: int, burst: int | None = None) -> Shape:
    """`limit` tokens per `period` seconds, at most `burst` at once (by default `limit`)."""
    raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Hit:
    """`cost` tokens asked of the bucket `key`; 0 looks only."""

    key: bytes
    shape: Shape
    cost: int


@dataclass(frozen=True, slots=True)
class Level:
    """A bucket after an operation. `fits`: this hit alone would pass. `remaining` tokens, whole; `reset` seconds, whole."""

    fits: bool
    remaining: int
    reset: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a group of hits: `granted` all or none; `levels` stand one to one with the hits."""

    granted: bool
    levels: tuple[Level, ...]

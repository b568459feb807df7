"""A rate limit service in memory, for what counts its decisions."""

from dataclasses import dataclass, field

from genops_extauth.bucket import SECOND
from genops_extauth.gate import Decided
from genops_extauth.hits import NOTHING_ASKED, Answer, Book, Hit, Origin, Role
from genops_extauth.limit_counters import LimitCounters
from genops_extauth.limits import Match, Met, Rule
from genops_extauth.model import CurrentLimit, Limited
from genops_extauth.quota import Counted
from genops_extauth.window import FixedWindow

HOUR = 3600 * SECOND


def limit(requests: int, *, near: int | None = None, shadow: bool = False, suffix: bytes = b"fw3600") -> Rule:
    """A limit per hour, with the near-limit ratio's default, 0.8."""
    met = CurrentLimit(requests, "hour")
    close = requests * 8 // 10 if near is None else near
    return Rule(met, FixedWindow(requests, HOUR), suffix, near=close, shadow=shadow)


def unlimited() -> Rule:
    return Rule(CurrentLimit(0, "hour"), FixedWindow(0, HOUR), b"", unlimited=True)


@dataclass
class Service:
    """Asks a book, and has the decisions counted. Each series has a bucket of its own."""

    counters: LimitCounters = field(default_factory=LimitCounters)
    book: Book = field(default_factory=Book)
    seconds: int = 1000

    def ask(
        self,
        *asked: tuple[tuple[str, ...], Rule, int],
        role: Role = Role.MUST,
        look: bool = False,
        origin: Origin = Origin.STORE,
    ) -> Answer:
        """Ask for the hits on each rule, under the name of its series, in one request."""
        hits = [
            Hit(repr(series).encode(), rule.meter_at(0), cost, Role.MAY if rule.shadow else role, look)
            for series, rule, cost in asked
        ]
        answer = self.book.transact(hits, self.seconds * SECOND)
        matches = [Match((Met(rule, hit.key),), series) for (series, rule, _), hit in zip(asked, hits, strict=True)]
        counted = [
            Counted(place, match, match.met[0], hit, level)
            for place, (match, hit, level) in enumerate(zip(matches, hits, answer.levels, strict=True))
        ]
        told = Limited(not answer.granted, ())
        self.counters.decided(Decided(b"d", matches, told, counted, origin, 0.001))
        return answer

    def strange(self, domain: bytes, descriptors: int = 1) -> None:
        """Ask for what meets no limit."""
        told = Limited(over=False, statuses=())
        self.counters.decided(Decided(domain, [None] * descriptors, told, (), NOTHING_ASKED.origin, 0.001))

    def counts(self, *series: str) -> dict[str, int]:
        """What was counted of a series, without what is 0."""
        counts = dict(self.counters.series())[series]
        return {name: value for name in counts.__slots__ if name != "limit" and (value := getattr(counts, name))}

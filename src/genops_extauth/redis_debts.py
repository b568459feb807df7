"""What a store still has to be charged: batches that it may have made already, and what it was never sent.

A batch that failed may have been made all the same. It is sent again as it was, under its old mark, with which the
script makes it once at most, and its hits cannot be added up with others'. All else goes into the journal, by key.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from genops_extauth.breaker import pause
from genops_extauth.hits import Hit
from genops_extauth.journal import Journal, Owed
from genops_extauth.redis_batch import Batch


@dataclass(slots=True)
class Debts:
    """All that is owed to one node. Times are the event loop's, in seconds."""

    journal: Journal = field(default_factory=Journal)
    _resting: dict[Batch, float] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self._resting) or len(self.journal) > 0

    def write(self, hits: Iterable[Hit]) -> list[Hit]:
        """Take over charges and refunds that were never sent. Returns those for which there is no room."""
        return self.journal.add(hits)

    def keep(self, batch: Batch, now: float) -> tuple[float, list[Hit]]:
        """Take over a batch that failed. Returns how long it rests now, and the hits for which there is no room."""
        owing = batch.owing()
        if owing is None:
            return 0.0, []
        if len(self.journal) + self._kept() + owing.hits > self.journal.largest:
            return 0.0, list(owing.all())
        rest = pause(owing.sent)
        self._resting[owing] = now + rest
        return rest, []

    def again(self, now: float) -> Batch | None:
        """A batch that has rested, to be sent again."""
        rested = next((batch for batch, until in self._resting.items() if until <= now), None)
        if rested is not None:
            del self._resting[rested]
        return rested

    def hurry(self) -> None:
        """Let none rest any longer."""
        self._resting = dict.fromkeys(self._resting, 0.0)

    def owed(self) -> Owed:
        """What is owed, but for what is on its way."""
        owed = self.journal.owed()
        for batch in self._resting:
            owed.add(batch.all())
        return owed

    def hand_over(self) -> tuple[list[Batch], list[Hit]]:
        """Give away what is not on its way."""
        batches, self._resting = list(self._resting), {}
        return batches, self.journal.take(2 * self.journal.largest)

    def _kept(self) -> int:
        return sum(batch.hits for batch in self._resting)

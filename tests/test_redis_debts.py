"""What is owed to one node: what rests, what is written down, and how much of both."""

import asyncio
import math

from genops_extauth.hits import Hit
from genops_extauth.journal import Journal, Owed
from genops_extauth.redis_batch import Asked, Batch
from genops_extauth.redis_debts import Debts
from spending import charge, take


async def failed(*hits: Hit, sent: int = 1) -> Batch:
    """A batch that was sent so many times."""
    batch = Batch(sent=sent)
    batch.add(Asked(hits, math.inf, asyncio.get_running_loop().create_future(), charging=True))
    return batch


async def test_a_batch_rests_longer_each_time() -> None:
    """A batch that failed is had again once it has rested, once, and rests longer the more often it failed."""
    debts = Debts()
    for sent, rest in ((1, 0.1), (2, 0.2), (9, 1.0)):
        assert debts.keep(await failed(charge("a"), sent=sent), 50.0) == (rest, [])
        assert debts.again(50.0 + rest - 0.001) is None
        again = debts.again(50.0 + rest)
        assert again is not None
        assert (again.sent, list(again.all())) == (sent, [charge("a")])
        assert debts.again(99.0) is None


async def test_what_only_takes_is_not_owed() -> None:
    """Of a batch that failed only the charges are kept; where there are none, nothing is."""
    debts = Debts()
    assert debts.keep(await failed(take("a")), 0.0) == (0.0, [])
    assert not debts
    debts.keep(await failed(take("a"), charge("b", 3)), 0.0)
    assert debts
    assert debts.owed() == Owed(keys=1, charges=3)


async def test_what_rests_and_what_is_written_down_share_the_room() -> None:
    """A batch for which there is no room beside the journal, and what rests, is lost, and its charges are told."""
    debts = Debts(Journal(largest=4))
    assert not debts
    assert debts.write([charge("a")]) == []
    assert debts
    assert debts.keep(await failed(charge("b"), charge("c")), 0.0)[1] == []
    assert debts.keep(await failed(charge("d"), charge("e")), 0.0) == (0.0, [charge("d"), charge("e")])
    assert debts.keep(await failed(charge("f")), 0.0)[1] == []
    assert debts.owed() == Owed(keys=4, charges=4)


async def test_in_a_hurry_nothing_rests() -> None:
    """At the end what rests is had at once."""
    debts = Debts()
    debts.keep(await failed(charge("a")), 1e6)
    assert debts.again(1e6) is None
    debts.hurry()
    assert debts.again(0.0) is not None


async def test_all_is_handed_over() -> None:
    """What rests and what is written down is given away, all of it, once."""
    debts = Debts(Journal(largest=2))
    debts.keep(await failed(charge("a")), 0.0)
    debts.write([charge("b")])
    batches, hits = debts.hand_over()
    assert ([list(batch.all()) for batch in batches], [hit.key for hit in hits]) == ([[charge("a")]], [charge("b").key])
    assert not debts
    assert debts.hand_over() == ([], [])

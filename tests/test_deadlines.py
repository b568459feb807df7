import asyncio

from genops_extauth.deadlines import Deadlines
from stores import until


async def test_each_deadline_is_looked_at_in_time() -> None:
    """Whoever waits is seen to once his deadline is over, and not before, in any order of asking."""
    loop = asyncio.get_running_loop()
    waiting: list[float] = []
    seen: list[tuple[float, float]] = []

    def look(now: float) -> float:
        over = [each for each in waiting if each <= now]
        seen.extend((each, now) for each in over)
        waiting[:] = [each for each in waiting if each > now]
        return min(waiting, default=float("inf"))

    deadlines = Deadlines(look)
    start = loop.time()
    due = [start + pause for pause in (0.05, 0.01, 0.03, 0.02, 0.0)]
    for each in due:
        waiting.append(each)
        deadlines.watch(each)
    await until(lambda: not waiting)
    assert [each for each, _ in seen] == sorted(due)
    assert all(now >= each for each, now in seen)


async def test_later_deadlines_set_no_timer() -> None:
    """A deadline after the earliest costs no timer, and where none is left there is none."""
    deadlines = Deadlines(lambda _: float("inf"))
    now = asyncio.get_running_loop().time()
    deadlines.watch(now + 0.01)
    timer = deadlines._timer
    for number in range(100):
        deadlines.watch(now + 1 + number)
    assert deadlines._timer is timer
    await until(lambda: deadlines._timer is None)


async def test_crowd_is_looked_at_in_ticks() -> None:
    """Many deadlines close together are looked at together: a look goes through all who wait."""
    loop = asyncio.get_running_loop()
    looks, end = [0], loop.time() + 0.05

    def look(now: float) -> float:
        looks[0] += 1
        return now + 1e-6 if now < end else float("inf")

    deadlines = Deadlines(look)
    deadlines.watch(loop.time())
    await until(lambda: deadlines._timer is None)
    assert 1 < looks[0] <= 52


async def test_stopped_it_looks_no_more() -> None:
    """Stopped, it calls nobody."""
    looks: list[float] = []

    def look(now: float) -> float:
        looks.append(now)
        return float("inf")

    deadlines = Deadlines(look)
    deadlines.watch(asyncio.get_running_loop().time() + 0.01)
    deadlines.stop()
    await asyncio.sleep(0.02)
    assert looks == []

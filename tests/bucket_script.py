"""The script in a real server, at times that the test chooses."""

import asyncio
import struct
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import redis

from genops_extauth.bucket import Bucket, State
from genops_extauth.hits import Answer, Hit, Meter
from genops_extauth.redis_batch import Asked, Batch
from genops_extauth.window import Used

SCRIPT = (files("genops_extauth") / "bucket.lua").read_text()
CLOCK = "local clock = redis.call('TIME')"
MARKED = "if ARGV[2] then"
MARK = b"mark"


class Script:
    """The script in a real server, with its one line that reads the clock replaced by two arguments at the end."""

    def __init__(self, client: redis.Redis) -> None:
        assert SCRIPT.count(CLOCK) == SCRIPT.count("TIME") == SCRIPT.count(MARKED) == 1
        self.client = client
        timed = SCRIPT.replace(CLOCK, "local clock = {ARGV[#ARGV - 1], ARGV[#ARGV]}")
        self._run = client.register_script(timed.replace(MARKED, "if ARGV[4] then"))

    def batch(self, groups: Sequence[Sequence[Hit]], now: int, number: int | None = None) -> list[Answer]:
        """What a batch is answered; `number` is that of its charges."""
        loop = asyncio.new_event_loop()
        try:
            asked = [Asked(list(group), 0.0, loop.create_future()) for group in groups]
            batch = Batch()
            for each in asked:
                batch.add(each)
            mark = ([], []) if number is None else ([MARK], [number])
            reply = self._run([*batch.keys(), *mark[0]], [batch.numbers(), *mark[1], *divmod(now, 1_000_000)])
            batch.resolve(reply)
            return [each.answer.result() for each in asked]
        finally:
            loop.close()

    def state(self, key: bytes, meter: Meter) -> Any:
        value = self.client.get(key)
        if not isinstance(value, bytes):
            return None
        numbers = map(int, struct.unpack(f">{len(value) // 8}d", value))
        return State(*numbers) if isinstance(meter, Bucket) else Used(*numbers)

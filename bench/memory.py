"""`python -m bench.memory`: what a bucket takes in the store, and that a million idle ones take nothing in the end."""

import asyncio
import shutil
import sys
import tempfile
import time
from importlib.resources import files
from pathlib import Path

import redis

from bench.servers import store
from genops_extauth.bucket import bucket
from genops_extauth.hits import Hit
from genops_extauth.redis_batch import Asked, Batch

BUCKETS = 1_000_000
AT_ONCE = 500
PATIENCE = 120.0  # seconds for the store to forget
KEY = "genops:{{genops|customer_tier=free|customer_id={:06d}}}:tb60"
"""A bucket of two short entries, as `limits` spells it."""


def main() -> None:
    """Fill a store with buckets that a minute fills again, look at its memory, and wait until it is as before."""
    for kind in ("valkey", *(["redis"] if shutil.which("redis-server") else [])):
        with tempfile.TemporaryDirectory(prefix="genops-bench-") as name, store(kind, Path(name), 0) as (_, url):
            client = redis.Redis(unix_socket_path=url.removeprefix("unix://"))
            empty = used(client)
            fill(client)
            full = used(client)
            print(f"{kind}: {client.dbsize():,} buckets, {(full - empty) / client.dbsize():.0f} bytes each", flush=True)
            deadline = time.monotonic() + PATIENCE
            while client.dbsize():
                if time.monotonic() > deadline:
                    sys.exit(f"{kind}: {client.dbsize():,} buckets are still there")
                time.sleep(0.5)
            print(f"{kind}: {client.dbsize()} buckets, {(used(client) - empty) / 2**20:.1f} MiB more than at first")
            client.close()


def used(client: redis.Redis) -> int:
    """Bytes that the store has allocated."""
    return int(client.info("memory")["used_memory"])


def fill(client: redis.Redis) -> None:
    """Take a token of each bucket."""
    run = client.register_script((files("genops_extauth") / "bucket.lua").read_text())
    meter = bucket(20, 20)
    loop = asyncio.new_event_loop()
    for start in range(0, BUCKETS, AT_ONCE):
        batch = Batch()
        for number in range(start, start + AT_ONCE):
            batch.add(Asked([Hit(KEY.format(number).encode(), meter, 20)], 0.0, loop.create_future()))
        run(batch.keys(), [batch.numbers()])
    loop.close()


if __name__ == "__main__":
    main()

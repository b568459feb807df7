"""API keys: known ones with the records that the store keeps of them, and those that somebody makes up."""

import asyncio
import os
import random
import string
import time
import zlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from genops_extauth import apikeys
from genops_extauth.key_lifecycle import Record, Secret
from genops_extauth.key_store import KeyStore
from genops_extauth.store_address import target
from genops_extauth.store_client import open_client

DIGEST_KEY = "digest key of the benchmarks, kept by nobody"
PREFIX = "genops"
"""Of the store's keys; the default of the configuration."""

SECRET = 43  # characters, before a checksum of 6
_CHECKSUM = 6
DIGITS = string.digits + string.ascii_uppercase + string.ascii_lowercase
_ID_DIGITS = string.digits + string.ascii_lowercase
_PATIENCE = 10.0  # seconds


class ApiKey(NamedTuple):
    """A key, and its record."""

    text: str
    record: Record


def issued(customer: str) -> ApiKey:
    """As ``genops-extauth keys issue`` makes it."""
    made, now = apikeys.minted(os.urandom), int(time.time())
    attributes = {"team": "search-relevance", "project": "assistant", "customer_id": customer}
    attributes |= {"customer_tier": "premium", "cost_center": "cc-4711"}
    secret = Secret(apikeys.digest_of(made.text.encode(), DIGEST_KEY.encode()), now)
    return ApiKey(made.text, Record(made.id, customer, (secret,), now, attributes=attributes))


def stored(records: Iterable[Record], url: str) -> None:
    """Put records into a store."""

    async def put() -> None:
        client = open_client(target(url), _PATIENCE)
        try:
            for record in records:
                await KeyStore(client, PREFIX).put(record)
        finally:
            await client.aclose()

    asyncio.run(put())


def unknown() -> Iterator[str]:
    """Without end: keys that are right in their form and their checksum, and nobody's; the same in every run."""
    dice = random.Random(3)
    while True:
        yield written(random_id(dice), random_secret(dice))


def malformed() -> Iterator[str]:
    """Without end: keys with a mistake in the last character."""
    for key in unknown():
        yield key[:-1] + ("1" if key[-1] == "0" else "0")


def random_id(dice: random.Random) -> str:
    """An id that is nobody's."""
    return "".join(dice.choices(_ID_DIGITS, k=16))


def random_secret(dice: random.Random) -> str:
    """A secret without its checksum."""
    return "".join(dice.choices(DIGITS, k=SECRET))


def written(key_id: str, secret: str) -> str:
    """A key with its checksum: CRC-32 of all before it, in base62."""
    body = f"gxk_{key_id}_{secret}"
    number, checksum = zlib.crc32(body.encode()), ""
    for _ in range(_CHECKSUM):
        number, digit = divmod(number, len(DIGITS))
        checksum = DIGITS[digit] + checksum
    return body + checksum

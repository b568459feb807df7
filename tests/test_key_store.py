import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest

from genops_extauth.key_lifecycle import Record, Secret
from genops_extauth.key_operations import ConflictError
from genops_extauth.key_records import RecordError
from genops_extauth.key_store import KeyStore
from genops_extauth.store_address import target
from genops_extauth.store_client import open_client
from proxy import before
from stores import SERVERS, Server, running, until

PATIENT = 30.0
RECORDS, USED = "genops:{api_keys}:records", "genops:{api_keys}:used"
RECORD = Record("0123456789abcdef", "a key", (Secret(b"d" * 32, 1),), 1)


@pytest.fixture(params=SERVERS, scope="module")
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with running(request.param) as found:
        yield found


@pytest.fixture
async def keys(server: Server) -> AsyncIterator[KeyStore]:
    with server.client() as client:
        client.flushall()
    client_ = open_client(target(server.url), PATIENT)
    yield KeyStore(client_, "genops")
    await client_.aclose()


async def test_a_record_is_kept_as_it_is(keys: KeyStore) -> None:
    """A record that was put is the one that is got; of an unknown id there is none."""
    await keys.put(RECORD)
    assert await keys.get(RECORD.id) == RECORD
    assert await keys.get("f" * 16) is None


async def test_a_record_goes_over_the_version_before_it_alone(keys: KeyStore) -> None:
    """Of two who write the next version of one record, the second is told, and changes nothing."""
    await keys.put(RECORD)
    mine, theirs = (replace(RECORD, version=2, name=name) for name in ("mine", "theirs"))
    await keys.put(mine)
    for record in (theirs, replace(RECORD, version=4), replace(RECORD, name="another")):
        with pytest.raises(ConflictError, match="look at it, and try again"):
            await keys.put(record)
    with pytest.raises(ConflictError):
        await keys.put(replace(RECORD, id="f" * 16, version=2))
    assert await keys.get(RECORD.id) == mine


async def test_of_many_who_write_at_once_one_does(keys: KeyStore) -> None:
    """However many write the next version at the same moment, exactly one of them has written it."""
    await keys.put(RECORD)
    mine = [replace(RECORD, version=2, name=f"writer {number}") for number in range(20)]
    done = await asyncio.gather(*map(keys.put, mine), return_exceptions=True)
    (writer,) = [record for record, outcome in zip(mine, done, strict=True) if outcome is None]
    assert await keys.get(RECORD.id) == writer


async def test_a_write_whose_answer_was_lost_is_no_conflict(server: Server, keys: KeyStore) -> None:
    """A record that was written, and whose answer was lost with the connection, is written once and told as done."""
    async with before(server.path) as proxy:
        client = open_client(target(proxy.url), PATIENT)
        await KeyStore(client, "genops").get(RECORD.id)
        proxy.answering.clear()
        putting = asyncio.ensure_future(KeyStore(client, "genops").put(RECORD))
        with server.client() as other:
            await until(lambda: bool(other.hexists(RECORDS, RECORD.id)))
        await proxy.cut()
        proxy.answering.set()
        await putting
        await client.aclose()
    assert await keys.get(RECORD.id) == RECORD


async def test_all_records_are_listed_in_order(keys: KeyStore) -> None:
    """All records are listed, by id, however many there are; one that cannot be read is named beside them."""
    records = [replace(RECORD, id=f"{number:016}") for number in range(600)]
    await asyncio.gather(*map(keys.put, records))
    assert await keys.all() == (records, [])


async def test_a_record_that_cannot_be_read_is_told(server: Server, keys: KeyStore) -> None:
    """What is no record is told by its id, and keeps no other from being listed."""
    await keys.put(RECORD)
    with server.client() as client:
        client.hset(RECORDS, "f" * 16, "{}")
    with pytest.raises(RecordError):
        await keys.get("f" * 16)
    assert await keys.all() == ([RECORD], [f"{'f' * 16}: id: 16 digits and lower-case letters"])


async def test_uses_are_kept_by_the_latest(keys: KeyStore) -> None:
    """When a key was used last is kept, whichever process tells it first."""
    await keys.note({"a": 10, "b": 20})
    await keys.note({"a": 15, "b": 5})
    assert await keys.used(["a", "b", "c"]) == {"a": 15, "b": 20}


async def test_many_uses_are_told_in_parts(keys: KeyStore) -> None:
    """More uses than a script takes at once are kept all the same."""
    uses = {f"{number:016}": number + 1 for number in range(1300)}
    await keys.note(uses)
    assert await keys.used(list(uses)) == uses
    assert await keys.used([]) == {}


async def test_it_needs_few_rights(server: Server, keys: KeyStore) -> None:
    """All of it needs is EVAL, EVALSHA, HGET, HSET, HMGET and HSCAN on keys of its prefix."""
    rights = ("on", ">password", "resetkeys", "~genops:*", "-@all")
    commands = ("+eval", "+evalsha", "+hget", "+hset", "+hmget", "+hscan", "+select")
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "keys", *rights, *commands)  # type: ignore[no-untyped-call] # bare
    client_ = open_client(target(f"unix://keys@{server.path}", password="password"), PATIENT)
    limited = KeyStore(client_, "genops")
    await limited.put(RECORD)
    await limited.note({RECORD.id: 7})
    assert await limited.all() == ([RECORD], [])
    assert await limited.used([RECORD.id]) == {RECORD.id: 7}
    assert await keys.get(RECORD.id) == RECORD
    await client_.aclose()

"""What the store keeps of credentials, kept up with in the background."""

import asyncio

import pytest

from genops_extauth import credential_store
from genops_extauth.credential_store import CredentialStore
from genops_extauth.gate import Clocks
from genops_extauth.store_address import target
from genops_extauth.store_client import Client, Reply


class Broken(Client):
    """A client with a defect."""

    async def script(self, *_: object) -> Reply:
        raise ZeroDivisionError


async def test_a_defect_ends_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """A defect in asking what is revoked is told each time, and the next question is asked all the same."""
    monkeypatch.setattr(credential_store, "PERIOD", 0)
    told: list[Exception] = []
    again = asyncio.Event()

    def failed(error: Exception) -> None:
        told.append(error)
        if len(told) > 1:
            again.set()

    client = Broken(target("redis://127.0.0.1:1"), 1.0)
    store = CredentialStore(client, "genops", Clocks(lambda: 0.0, lambda: 0.0), max_wait=0.0, tell=lambda _: None)
    assert store.statistics() is None
    store.listens = True
    running = asyncio.create_task(store.run(failed))
    await again.wait()
    assert not running.done()
    running.cancel()
    assert {type(error) for error in told} == {ZeroDivisionError}
    assert store.statistics() is not None

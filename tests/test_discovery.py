"""Where an issuer's keys are, as the issuer says, and what it cannot make us do."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from faulty_issuer import (
    Fault,
    FaultyIssuer,
    answers,
    bomb,
    drips,
    faulty_issuer,
    html,
    key_set,
    public_jwk,
    redirects,
    says,
    streams,
)
from genops_extauth.discovery import Discovered, read_document
from genops_extauth.jwks import Fetched, RemoteKeys, Settings
from genops_extauth.key_fetch import FetchError, FetchFailed, Step, open_session
from genops_extauth.model import KeysUnavailable

_ALGORITHMS = frozenset({"ES256"})
_OLD = public_jwk(ec.generate_private_key(ec.SECP256R1()), "old")
_NEW = public_jwk(ec.generate_private_key(ec.SECP256R1()), "new")
_ISSUER = "https://auth.example.com"
_URI = "https://auth.example.com/keys"
_MIB = 1024 * 1024
_HOUR = 3600.0


class World:
    """An issuer that is discovered, a clock that stands still unless moved, and what was told of the fetches."""

    def __init__(self, issuer: FaultyIssuer, session: aiohttp.ClientSession) -> None:
        self.issuer = issuer
        self.now = 1000.0
        self.told: asyncio.Queue[Fetched] = asyncio.Queue()
        self._session = session
        self._made: list[RemoteKeys] = []

    def keys(self, algorithms: frozenset[str] = _ALGORITHMS, **settings: Any) -> RemoteKeys:
        place = Discovered(self._session, self.issuer.name, algorithms, clock=lambda: self.now)
        keys = RemoteKeys(place, Settings(**settings), observe=self.told.put_nowait, clock=lambda: self.now)
        self._made.append(keys)
        return keys

    async def loaded(self, **settings: Any) -> RemoteKeys:
        keys = self.keys(**settings)
        assert (await self.scheduled(keys)).changed
        return keys

    async def scheduled(self, keys: RemoteKeys) -> Fetched:
        """Do what the background task does when its time has come."""
        await keys._take_off()
        return self.told.get_nowait()

    @property
    def asked(self) -> tuple[int, int]:
        """How often for the document, and for the keys."""
        return len(self.issuer.document_requests), len(self.issuer.requests)

    async def close(self) -> None:
        self.issuer.gate.set()
        self.issuer.document_gate.set()
        for keys in self._made:
            await keys.close()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with faulty_issuer([_OLD]) as issuer, open_session() as session:
        world = World(issuer, session)
        yield world
        await world.close()


def kids(keys: RemoteKeys) -> set[str]:
    current = keys.current()
    return set() if current is None else set(current.by_kid)


def said(**members: object) -> bytes:
    return json.dumps({"issuer": _ISSUER, "jwks_uri": _URI} | members).encode()


def refusal(text: bytes, issuer: str = _ISSUER) -> FetchFailed:
    with pytest.raises(FetchFailed) as failed:
        read_document(text, issuer)
    assert failed.value.step is Step.DISCOVERY
    return failed.value


# The document


def test_reads_a_document() -> None:
    """Of all that a document says, where the keys are is taken, and what they sign with."""
    document = read_document(said(id_token_signing_alg_values_supported=["RS256"], userinfo_endpoint="x"), _ISSUER)
    assert (document.jwks_uri, document.offered) == (_URI, frozenset({"RS256"}))


@pytest.mark.parametrize(
    "issuer",
    [
        "https://auth.example.com/",
        "https://AUTH.example.com",
        "https://auth.example.com:443",
        "https://auth.example.co",
        "https://auth.example.com.evil.example",
        "https://evil.example",
        "",
        None,
        1,
        [_ISSUER],
        {_ISSUER: _ISSUER},
    ],
)
def test_the_issuer_is_the_configured_one(issuer: object) -> None:
    """A document of another issuer is refused, however alike the two are: they are compared byte by byte."""
    assert refusal(said(issuer=issuer)).code is FetchError.ISSUER_MISMATCH


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"[]",
        b"<!doctype html>",
        b"\xef\xbb\xbf" + said(),
        said().decode().encode("utf-16"),
        b'{"issuer": "https://evil.example", ' + said()[1:],
        b'{"jwks_uri": "https://evil.example", ' + said()[1:],
        said(a=float("nan")),
        b'{"a": ' + b"[" * 20_000 + b"]" * 20_000 + b"}",
        said(jwks_uri=None),
        said(jwks_uri=[_URI]),
        b'{"issuer": "https://auth.example.com"}',
        b'{"jwks_uri": "https://auth.example.com/keys"}',
        key_set([_OLD]),
    ],
)
def test_documents_are_strict(text: bytes) -> None:
    """What two readers could read differently, or is no provider's metadata, is refused."""
    assert refusal(text).code is FetchError.NOT_A_DISCOVERY_DOCUMENT


@pytest.mark.parametrize(
    "uri",
    [
        "http://auth.example.com/keys",
        "http://127.0.0.1/keys",
        "https://127.0.0.1/keys",
        "https://169.254.169.254/latest/meta-data",
        "https://10.0.0.1/keys",
        "https://[::1]/keys",
        "https://user:pa55word@auth.example.com/keys",
        "file:///etc/passwd",
        "/keys",
        "",
    ],
)
def test_unsafe_places(uri: str) -> None:
    """A document cannot send us where a configuration could not, nor further inside than its issuer is."""
    failed = refusal(said(jwks_uri=uri))
    assert failed.code is FetchError.JWKS_URI_REFUSED
    assert "pa55word" not in str(failed)


def test_the_document_does_not_reach_the_logs() -> None:
    """What is told of a bad document are our words: its own would end in the logs."""
    for text in (said(issuer="evil"), said(jwks_uri="http://evil/"), b"evil", b'{"evil": "evil", "evil": 1}'):
        assert "evil" not in str(refusal(text))


_ANYTHING = st.recursive(st.none() | st.text() | st.integers() | st.just(_URI), st.lists, max_leaves=5)


@given(st.binary() | st.builds(said, jwks_uri=_ANYTHING, id_token_signing_alg_values_supported=_ANYTHING))
def test_any_bytes_are_read_or_refused(text: bytes) -> None:
    """Whatever comes, it names a place that is safe, or is refused with one of the known codes."""
    with contextlib.suppress(FetchFailed):
        assert read_document(text, _ISSUER).jwks_uri.lower().startswith("https://")


async def test_an_issuer_that_is_no_url() -> None:
    """Nothing is made for an issuer that cannot be asked."""
    async with open_session() as session:
        with pytest.raises(ValueError, match="not https"):
            Discovered(session, "http://auth.example.com", _ALGORITHMS)


# The way to the keys


async def test_discovers(world: World) -> None:
    """The first fetch asks for the document, and then for the keys where it says."""
    keys = world.keys()

    assert await keys.refreshed()
    assert kids(keys) == {"old"}
    assert world.told.get_nowait() == Fetched(0.0, keys=1, changed=True)
    assert world.asked == (1, 1)


async def test_reads_the_document_once_an_hour(world: World) -> None:
    """The document is asked for again when it is an hour old, and not before."""
    keys = await world.loaded()
    world.now += _HOUR - 0.1
    await world.scheduled(keys)
    assert world.asked == (1, 2)

    world.now += 0.1
    await world.scheduled(keys)
    assert world.asked == (2, 3)


async def test_a_moved_key_set_is_taken_over(world: World) -> None:
    """Keys that are where the document says an hour later are found there, and those of the old place are gone."""
    async with faulty_issuer([_NEW]) as elsewhere:
        keys = await world.loaded()
        world.issuer.said["jwks_uri"] = elsewhere.url
        world.now += _HOUR

        assert (await world.scheduled(keys)).changed
        assert kids(keys) == {"new"}
        assert len(elsewhere.requests) == 1


async def test_a_key_set_that_is_gone_is_looked_for(world: World) -> None:
    """When the keys are not where they were, the next fetch asks for the document, whatever its age."""
    async with faulty_issuer([_NEW]) as elsewhere:
        keys = await world.loaded()
        world.issuer.said["jwks_uri"] = elsewhere.url
        world.issuer.fault = answers(status=404)

        gone, found = await world.scheduled(keys), await world.scheduled(keys)

        assert (gone.step, gone.error) == (Step.KEYS, FetchError.STATUS)
        assert found.changed
        assert kids(keys) == {"new"}


async def test_one_bad_key_among_good(world: World) -> None:
    """One bad key costs none of the others, and is told."""
    world.issuer.jwks = [{"kty": "oct", "k": "c2VjcmV0"}, _OLD]
    keys = await world.loaded()

    assert kids(keys) == {"old"}


async def test_rotation_and_withdrawal(world: World) -> None:
    """A key that is used when it is published is found at once, at the price of one fetch; a withdrawn one is gone."""
    keys = await world.loaded()
    world.issuer.jwks = [_OLD, _NEW]
    assert await keys.refreshed()
    assert kids(keys) == {"old", "new"}
    world.issuer.jwks = [_NEW]
    await world.scheduled(keys)

    assert kids(keys) == {"new"}
    assert world.asked == (1, 3)


async def test_other_algorithms_are_warned_of(world: World) -> None:
    """An issuer that offers none of the configured algorithms is believed all the same, with a warning."""
    world.issuer.said["id_token_signing_alg_values_supported"] = ["RS256", "evil"]
    keys = world.keys()

    told = await world.scheduled(keys)

    assert kids(keys) == {"old"}
    assert len(told.remarks) == 1
    assert "RS256" in told.remarks[0]
    assert "evil" not in told.remarks[0]


@pytest.mark.parametrize("offered", [["ES256", "RS256"], None, "ES256", [["ES256"]]])
async def test_algorithms_are_not_taken_over(world: World, offered: object) -> None:
    """What a document offers changes nothing that is configured, and malformed offers cost no key."""
    world.issuer.said["id_token_signing_alg_values_supported"] = offered
    keys = await world.loaded()
    current = keys.current()

    assert current is not None
    assert [key.algorithms for key in current.keys] == [_ALGORITHMS]


# Faults

_FAULTS: list[tuple[Fault, FetchError]] = [
    (html(), FetchError.NOT_A_DISCOVERY_DOCUMENT),
    (answers(key_set([_OLD])), FetchError.NOT_A_DISCOVERY_DOCUMENT),
    (answers(said()), FetchError.ISSUER_MISMATCH),
    (answers(status=404), FetchError.STATUS),
    (answers(status=503), FetchError.STATUS),
    (redirects("https://evil.example/"), FetchError.REDIRECT),
    (streams(50 * _MIB), FetchError.TOO_LARGE),
    (bomb(50 * _MIB), FetchError.TOO_LARGE),
    (says(b"SSH-2.0-OpenSSH_9.2\r\n"), FetchError.PROTOCOL),
    (drips(), FetchError.TIMEOUT),
]


def patience(code: FetchError) -> float:
    return 0.4 if code is FetchError.TIMEOUT else 5.0


@pytest.mark.parametrize(("fault", "code"), _FAULTS)
async def test_a_faulty_document_at_the_start(world: World, fault: Fault, code: FetchError) -> None:
    """Without a document there are no keys; the failure and its step are told, and nothing else is asked."""
    world.issuer.document_fault = fault
    keys = world.keys(timeout=patience(code))

    told = await world.scheduled(keys)

    assert (told.step, told.error) == (Step.DISCOVERY, code)
    assert (keys.status().failed_step, keys.status().last_error) == (Step.DISCOVERY, code)
    assert keys.current() is None
    with pytest.raises(KeysUnavailable, match=f"discovery: {code}"):
        await keys.refreshed()
    assert world.asked == (1, 0)


@pytest.mark.parametrize(("fault", "code"), _FAULTS)
async def test_a_faulty_document_later(world: World, fault: Fault, code: FetchError) -> None:
    """Once the place is known, a faulty document costs nothing: new keys are found, withdrawn ones go, it is told."""
    keys = await world.loaded(timeout=patience(code))
    world.issuer.document_fault = fault
    world.issuer.jwks = [_NEW]
    world.now += _HOUR

    told = await world.scheduled(keys)

    assert told.error is None
    assert str(code) in told.remarks[0]
    assert kids(keys) == {"new"}


async def test_a_place_is_not_believed_for_ever(world: World) -> None:
    """A day after the document was last read its place is given up: it may be anybody's by then."""
    keys = await world.loaded(max_stale=10 * 86_400.0)
    world.issuer.document_fault = answers(status=503)
    world.now += 86_400.0
    assert (await world.scheduled(keys)).error is None

    world.now += 0.1
    told = await world.scheduled(keys)

    assert (told.step, told.error) == (Step.DISCOVERY, FetchError.STATUS)
    assert kids(keys) == {"old"}
    assert world.asked == (3, 2)


async def test_down_and_back(world: World) -> None:
    """While the issuer is down its keys stay; when it is back, what it has changed meanwhile is found."""
    keys = await world.loaded()
    await world.issuer.down()
    assert (await world.scheduled(keys)).error is FetchError.CONNECT
    assert (await world.scheduled(keys)).error is FetchError.CONNECT
    assert kids(keys) == {"old"}
    world.issuer.jwks = [_NEW]
    await world.issuer.up()

    assert (await world.scheduled(keys)).changed
    assert kids(keys) == {"new"}


async def test_redirected_keys(world: World) -> None:
    """A redirect is not followed in the second step either, not even to good keys."""
    async with faulty_issuer([_NEW]) as elsewhere:
        keys = await world.loaded()
        world.issuer.fault = redirects(elsewhere.url)

        told = await world.scheduled(keys)

        assert (told.step, told.error) == (Step.KEYS, FetchError.REDIRECT)
        assert elsewhere.requests == []


async def test_a_slow_document_leaves_time_for_the_keys(world: World) -> None:
    """A document that never comes takes half of the time that a fetch has: the keys come in the other half."""
    keys = await world.loaded(timeout=0.4)
    world.issuer.document_gate.clear()
    world.issuer.jwks = [_NEW]
    world.now += _HOUR

    assert (await world.scheduled(keys)).changed


@pytest.mark.parametrize("step", list(Step))
async def test_thundering_unknown_kids(world: World, step: Step) -> None:
    """A thousand unknown kids cause one fetch of each document, in whichever step it hangs, and known keys are read."""
    keys = await world.loaded()
    world.issuer.jwks.append(_NEW)
    world.now += _HOUR
    gate = world.issuer.document_gate if step is Step.DISCOVERY else world.issuer.gate
    gate.clear()
    waiters = [asyncio.create_task(keys.refreshed()) for _ in range(1000)]
    await world.issuer.asked(1 if step is Step.DISCOVERY else 2, documents=2)

    assert kids(keys) == {"old"}
    assert not any(waiter.done() for waiter in waiters)
    gate.set()

    assert all(await asyncio.gather(*waiters))
    assert world.asked == (2, 2)


async def test_close_ends_either_step(world: World) -> None:
    """Closing while the document is asked for releases who waits, and the keys stay readable."""
    keys = await world.loaded()
    world.now += _HOUR
    world.issuer.document_gate.clear()
    waiter = asyncio.create_task(keys.refreshed())
    await world.issuer.asked(1, documents=2)

    await keys.close()

    with pytest.raises(KeysUnavailable, match="replaced"):
        await waiter
    assert kids(keys) == {"old"}

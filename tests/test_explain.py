"""`explain` names the check that a request fails, and shows what it would meet without taking any of it."""

import asyncio
import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import minting
from genops_extauth import config
from genops_extauth.body_rules import BodyRules
from genops_extauth.check_messages import request_of
from genops_extauth.decision_checks import checks
from genops_extauth.explain import explain
from genops_extauth.hits import Hit
from genops_extauth.model import Method, Request
from genops_extauth.reasons import Reason
from genops_extauth.redis_habits import habits
from genops_extauth.redis_store import RedisStore
from genops_extauth.routes import Route
from genops_extauth.store_address import target
from minting import ISSUER
from sidecar import KEY, settings, token
from stores import VALKEY, Server, free_port, running

CHECKS = checks(Route(), "jwt", unasked=False)
"""Of a token, on a route that demands nothing more."""

BUCKET = b"genops:{genops|customer_tier=free|customer_id=acme}:tb86400"


def configured(folder: Path, **sections: Any) -> config.Config:
    (folder / "key.pem").write_bytes(KEY.public_pem())
    (folder / "genops.yaml").write_text(yaml.safe_dump(settings(**sections)))
    return config.load(folder / "genops.yaml", {})


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> config.Config:
    """The configuration of these tests: one issuer that may grant `free`."""
    entry = settings()["identity"]["jwt"][0] | {"tiers": ["free"]}
    return configured(tmp_path_factory.mktemp("usual"), identity={"jwt": [entry]})


def asking(bearer: str | bytes | None, *fields: tuple[bytes, bytes], path: str = "/v1/chat") -> Request:
    credential = bearer.encode() if isinstance(bearer, str) else bearer
    sent = [] if credential is None else [(b"authorization", b"Bearer " + credential)]
    return request_of("GET", path, "", [*sent, *fields])


GOOD = {"customer_id": "acme", "customer_tier": "free"}


def good(**changes: Any) -> str:
    return token(**{**GOOD, **changes})


def signed_by_another() -> str:
    return token(minting.ed_pair("another"), **GOOD)


FAILING: Mapping[str, Callable[[], Request]] = {
    "credential: one, of a kind that the route takes": lambda: asking(None),
    "token: size and compact form": lambda: asking(b"a" * 2**20),
    "token: header": lambda: asking(minting.token(KEY, minting.claims(), {"typ": "logout+jwt"})),
    "token: claims can be read": lambda: asking(minting.token(KEY, b"not JSON")),
    "token: issuer is configured": lambda: asking(good(iss="https://another.test/")),
    "token: algorithm is the issuer's": lambda: asking(token(minting.rsa_pair(), **GOOD)),
    "token: names a subject": lambda: asking(good(sub="")),
    "token: audience is ours": lambda: asking(good(aud="another")),
    "token: valid now": lambda: asking(good(exp=1)),
    "token: signature": lambda: asking(signed_by_another()),
    "identity: attributes are usable": lambda: asking(good(team="a\nb")),
    "identity: tier may be granted": lambda: asking(good(customer_tier="premium")),
    "request: well formed": lambda: asking(good(), path="no-slash"),
    "identity: required attributes": lambda: asking(good(team=None)),
    "request: names of reserved headers": lambda: asking(good(), (b"x-genops-te am", b"forged")),
}
"""A request for each check that fails there, and nowhere before. The key's check has a test of its own."""


def test_every_check_is_tried() -> None:
    """Each check of a token has its request here, but for those that the configuration of these tests cannot fail."""
    elsewhere = {"token: key is known", "token: the issuer's rules", "token: of the issuer's profile"}
    elsewhere |= {check for check in CHECKS if check.startswith("route: ")} | {"identity: not revoked"}
    assert FAILING.keys() | elsewhere == CHECKS.keys()


def test_every_reason_has_its_check() -> None:
    """A refusal for any reason that a request can give is found at a check."""
    every = [checks(Route(body=BodyRules({}, {}, ())), method, unasked=False) for method in get_args(Method)]
    places = [place for each in every for refusals in each.values() for place in refusals]
    placed = {place if isinstance(place, Reason) else place[0] for place in places}
    assert set(Reason) - placed == {Reason.INTERNAL}


@pytest.mark.parametrize("check", FAILING)
async def test_the_failing_check_is_named(usual: config.Config, check: str) -> None:
    """Those before it have passed, it is the one that refused, and nothing is granted."""
    told = await explain(usual, FAILING[check]())
    assert (told.check, told.allowed, told.buckets) == (check, None, ())
    assert told.checks == tuple(CHECKS)[: tuple(CHECKS).index(check)]
    assert told.refused is not None
    assert any(line.startswith(f"refused  {check}: {told.refused.reason}") for line in told.lines())
    assert told.document()["refused"] == {
        "check": check,
        "reason": told.refused.reason.value,
        "detail": told.refused.detail,
    }


async def test_keys_that_cannot_be_had_are_named(tmp_path: Path) -> None:
    """Where no key of the issuer can be fetched, the check of the key refused, and says so."""
    entry = settings()["identity"]["jwt"][0] | {"keys": {"jwks_uri": f"http://127.0.0.1:{free_port()}/"}}
    settled = await asyncio.to_thread(configured, tmp_path, identity={"jwt": [entry]})
    told = await explain(settled, asking(good()))
    assert told.check == "token: key is known"
    assert told.refused is not None
    assert told.refused.reason is Reason.KEYS_UNAVAILABLE


WRONG: Mapping[str, Mapping[str, Any]] = {
    "token: issuer is configured": {"iss": "https://another.test/"},
    "token: names a subject": {"sub": 7},
    "token: audience is ours": {"aud": 7},
    "token: valid now": {"exp": "tomorrow"},
    "identity: attributes are usable": {"team": 7},
    "identity: tier may be granted": {"customer_tier": "premium"},
}


@pytest.mark.parametrize(("first", "second"), [*itertools.combinations(WRONG, 2)])
async def test_checks_stand_in_the_order_of_the_code(usual: config.Config, first: str, second: str) -> None:
    """Of two things that are wrong, the one whose check stands first is what the code refuses for."""
    assert (await explain(usual, asking(good(**WRONG[first], **WRONG[second])))).check == first


async def test_an_identity_is_told(usual: config.Config) -> None:
    """Who passes is told with its headers, what is removed, and its bucket."""
    told = await explain(usual, asking(good(), (b"x_genops_team", b"forged")))
    assert told.checks == tuple(CHECKS)
    document = told.document()
    assert document["identity"] == {"method": "jwt", "issuer": ISSUER, "subject": "user-1"}
    assert document["headers"] == {
        "x-genops-team": "search",
        "x-genops-project": "p1",
        "x-genops-customer-id": "acme",
        "x-genops-customer-tier": "free",
    }
    lines = list(told.lines())
    assert f"identity user-1 of {ISSUER}" in lines
    assert "remove   x_genops_team (sent by the client)" in lines
    assert lines[-1].startswith(f"bucket   {BUCKET.decode()} (tier free): ")


async def test_an_open_route_is_told(usual: config.Config) -> None:
    """On an open route no check of a credential is made, and none is said to have passed; nobody is known."""
    told = await explain(usual, asking("not a token", path="/open"))
    assert told.checks[0] == "route: open to everybody"
    assert not any(check.startswith(("token", "credential", "identity")) for check in told.checks)
    assert "identity none is asked for" in told.lines()
    refused = await explain(usual, asking(None, (b"x-genops-te am", b"forged"), path="/open"))
    assert refused.checks == ("route: open to everybody", "request: well formed")
    assert refused.check == "request: names of reserved headers"


@pytest.fixture
def server() -> Iterator[Server]:
    with running(VALKEY) as store:
        yield store


async def test_a_peek_takes_nothing(tmp_path: Path, server: Server) -> None:
    """Looking at a bucket of a real Valkey shows its level, stores nothing, and takes nothing, however often."""
    settled = await asyncio.to_thread(configured, tmp_path, store={"url": server.url})
    for _ in range(3):
        (bucket,) = (await explain(settled, asking(good()))).buckets
        assert bucket.level is not None
        assert (bucket.key, bucket.level.remaining) == (BUCKET.decode(), 5)
    with server.client() as client:
        assert client.dbsize() == 0
    store = RedisStore(target(server.url), habits(timeout=5))
    await store.transact([Hit(BUCKET, settled.tiers["free"].meter, 5)])
    await store.close()
    with server.client() as client:
        before = client.get(BUCKET)
        told = await explain(settled, asking(good()))
        assert client.get(BUCKET) == before
    assert told.refused is None
    assert any("over the limit, passes in " in line for line in told.lines())


async def test_a_store_can_be_named(usual: config.Config, server: Server) -> None:
    """Without the URL of a sidecar's embedded store its level is not known, and the note says how to name it."""
    (unknown,) = (await explain(usual, asking(good()))).buckets
    assert unknown.level is None
    assert "--store" in unknown.note
    (known,) = (await explain(usual, asking(good()), store=server.url)).buckets
    assert known.level is not None
    assert known.level.remaining == 5


async def test_a_limit_per_second_is_looked_at_in_its_store(tmp_path: Path, server: Server) -> None:
    """Where limits per second have a store of their own, their buckets are looked at there."""
    store = {"url": f"redis://127.0.0.1:{free_port()}", "per_second": {"url": server.url}}
    tiers = {"free": {"limit": "7/second"}}
    settled = await asyncio.to_thread(configured, tmp_path, store=store, tiers=tiers)
    (bucket,) = (await explain(settled, asking(good()))).buckets
    assert bucket.level is not None
    assert (bucket.key.rpartition(":")[2], bucket.level.remaining) == ("tb1", 7)


async def test_limits_of_files_are_looked_at(tmp_path: Path, server: Server) -> None:
    """Where files limit customers in place of `tiers`, their limits are shown; what has no limit has no bucket."""
    (tmp_path / "limits").mkdir()
    limits: dict[str, Any] = {
        "domain": "genops",
        "descriptors": [
            {
                "key": "customer_tier",
                "value": "free",
                "descriptors": [
                    {
                        "key": "customer_id",
                        "rate_limits": [
                            {"unit": "minute", "requests_per_unit": 3},
                            {"unit": "month", "requests_per_unit": 9, "calendar": "UTC"},
                        ],
                    },
                    {"key": "customer_id", "value": "staff", "rate_limit": {"unlimited": True}},
                ],
            }
        ],
    }
    (tmp_path / "limits" / "genops.yaml").write_text(yaml.safe_dump(limits))
    sections = settings(store={"url": server.url}, rate_limits={"directory": "limits"})
    del sections["tiers"]
    (tmp_path / "key.pem").write_bytes(KEY.public_pem())
    (tmp_path / "genops.yaml").write_text(yaml.safe_dump(sections))
    settled = await asyncio.to_thread(config.load, tmp_path / "genops.yaml", {})
    found = (await explain(settled, asking(good()), folder=tmp_path)).buckets
    assert [each.level and each.level.remaining for each in found] == [3, 9]
    assert (await explain(settled, asking(good(customer_id="staff")), folder=tmp_path)).buckets == ()


async def test_a_store_that_is_down_is_told(tmp_path: Path) -> None:
    """A store that cannot be reached costs the level of the bucket only, and the note says why."""
    settled = await asyncio.to_thread(configured, tmp_path, store={"url": f"redis://127.0.0.1:{free_port()}"})
    told = await explain(settled, asking(good()))
    assert told.allowed is not None
    assert told.buckets[0].note.startswith("unreachable: ")


@given(said=st.text(min_size=1))
async def test_what_a_token_says_is_escaped(usual: config.Config, said: str) -> None:
    """Whatever text a token has as its subject, no line holds what a terminal would obey."""
    told = await explain(usual, asking(good(sub=said)))
    assert all(line.isprintable() for line in told.lines())

"""A credential that is revoked by command is refused by every sidecar of the store."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from genops_extauth._pb import ext_authz_pb2 as authz
from sidecar import CHECK, Sidecar, serving, settings, token
from stores import VALKEY, Server, eventually, running


@pytest.fixture
def store() -> Iterator[Server]:
    with running(VALKEY) as server:
        yield server


@contextlib.contextmanager
def following(store: Server, revocation: Mapping[str, object] | None = None) -> Iterator[Sidecar]:
    """A sidecar at this store."""
    with serving(at(store, revocation)) as sidecar:
        yield sidecar


def at(store: Server, revocation: Mapping[str, object] | None = None) -> dict[str, Any]:
    return settings(identity={"revocation": revocation or {}}, store={"url": store.url})


def code(sidecar: Sidecar, bearer: str) -> int:
    """What a Check with this token answers: 0, or google.rpc.Code's UNAUTHENTICATED, 16."""
    http = authz.AttributeContext.HttpRequest(
        method=b"POST", path=b"/v1/chat", host=b"ai.example.com", headers={"authorization": f"Bearer {bearer}".encode()}
    )
    request = authz.AttributeContext.Request(http=http)
    asked = authz.CheckRequest(attributes=authz.AttributeContext(request=request))
    with sidecar.calls(CHECK) as check:
        answer = authz.CheckResponse.FromString(check(asked.SerializeToString()))
    return int(answer.status.code)


def command(sidecar: Sidecar, *words: str, stdin: str = "") -> str:
    """What `genops-extauth revocations` prints, with this sidecar's configuration."""
    full = (sys.executable, "-m", "genops_extauth", "revocations", *words, "-c", str(sidecar.config))
    done = subprocess.run(full, input=stdin, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_revoked_token_is_refused_everywhere(store: Server) -> None:
    """Two sidecars refuse a token within a second of its revocation, and no other; restored, it passes again."""
    mine, other = token(jti="t-1"), token(jti="t-2")
    with following(store) as first, following(store) as second:
        assert [code(each, mine) for each in (first, second)] == [0, 0]
        command(first, "add", "token_id", "--token", stdin=mine)
        revoked_at = time.monotonic()
        eventually(lambda: [code(each, mine) for each in (first, second)] == [16, 16])
        assert time.monotonic() - revoked_at < 1.0 + 2.0  # the second, and two more for a busy machine
        assert [code(each, other) for each in (first, second)] == [0, 0]
        assert first.said("check")[-1]["verdict"] == "allowed"
        assert first.metric("genops_revocations") == 1
        command(second, "remove", "token_id", "t-1", "--issuer", "https://idp.test/")
        eventually(lambda: [code(each, mine) for each in (first, second)] == [0, 0])


def test_an_outage_opens_no_door(store: Server) -> None:
    """While the store is away, and after it lost its data, a revoked subject stays refused, and others pass."""
    with following(store) as sidecar:
        command(sidecar, "add", "subject", "mallory", "--for", "1h")
        eventually(lambda: code(sidecar, token(sub="mallory")) == 16)
        store.stop()
        eventually(lambda: bool(sidecar.said("revocations_not_heard")))
        assert (code(sidecar, token(sub="mallory")), code(sidecar, token(sub="alice"))) == (16, 0)
        store.start()
        eventually(lambda: bool(sidecar.said("revocations_heard")))
        assert (code(sidecar, token(sub="mallory")), code(sidecar, token(sub="alice"))) == (16, 0)


def test_the_configurations_list_needs_no_store(store: Server) -> None:
    """What the configuration refuses is refused from the start, without the store's list too; a reload takes it out."""
    with following(store, {"store": False, "token_ids": ["t-1"]}) as sidecar:
        assert (code(sidecar, token(jti="t-1")), code(sidecar, token(jti="t-2"))) == (16, 0)
        sidecar.configure(at(store, {"store": False}))
        eventually(lambda: code(sidecar, token(jti="t-1")) == 0)


def test_a_start_without_the_store_is_waited_for(store: Server) -> None:
    """Without the list it is not ready until max_wait is over; then it serves, and the figures say that it is blind."""
    store.stop()
    with following(store, {"max_wait": "1s"}) as sidecar:
        eventually(lambda: sidecar.health("envoy.service.auth.v3.Authorization") == "SERVING")
        assert sidecar.said("revocations_not_heard")
        assert sidecar.metric("genops_revocations_age_seconds") >= 1.0
        assert code(sidecar, token()) == 0

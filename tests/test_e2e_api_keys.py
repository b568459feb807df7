"""API keys as their operators and callers have them: commands, and sidecars that share a store or a folder."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from genops_extauth._pb import ext_authz_pb2 as authz
from sidecar import CHECK, TRANSPORTS, Sidecar, folder, serving, settings, token
from stores import VALKEY, Server, eventually, running

WHO = ("--name", "a", "--team", "ml", "--project", "p", "--customer-id", "acme", "--customer-tier", "premium")
DIGEST_KEY = {"GENOPS_DIGEST_KEY": "d" * 44}


@pytest.fixture
def store() -> Iterator[Server]:
    with running(VALKEY) as server:
        yield server


def at(server: Server, transport: str = "auto", /, **section: Any) -> dict[str, Any]:
    keys = {"digest_key_env": "GENOPS_DIGEST_KEY"} | section
    return settings(server={"transport": transport}, identity={"api_keys": keys}, store={"url": server.url})


def asked(sidecar: Sidecar, path: bytes = b"/v1/chat", **headers: str) -> authz.CheckResponse:
    """What a Check answers; ``_`` in names stands for ``-``."""
    named = {name.replace("_", "-"): value.encode() for name, value in headers.items()}
    http = authz.AttributeContext.HttpRequest(method=b"POST", path=path, host=b"ai.example.com", headers=named)
    request = authz.AttributeContext.Request(http=http)
    context = authz.AttributeContext(request=request)
    with sidecar.calls(CHECK) as check:
        return authz.CheckResponse.FromString(check(authz.CheckRequest(attributes=context).SerializeToString()))


def code(sidecar: Sidecar, key: str) -> int:
    """Whether a key passes: 0, or google.rpc.Code."""
    return int(asked(sidecar, x_api_key=key).status.code)


def command(sidecar: Sidecar, *words: str) -> str:
    """Run `genops-extauth keys` beside a sidecar; what it says."""
    full = (sys.executable, "-m", "genops_extauth", "keys", *words, "-c", str(sidecar.config))
    environ = {**os.environ, **DIGEST_KEY}
    done = subprocess.run(full, capture_output=True, text=True, check=False, env=environ, cwd=sidecar.config.parent)
    assert done.returncode == 0, done.stderr
    return done.stdout


def issued(sidecar: Sidecar, *options: str) -> tuple[str, str]:
    """Issue a key: its id, and the key."""
    found = json.loads(command(sidecar, "issue", *WHO, "--reveal", "--format", "json", *options))
    return found["id"], found["key"]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_key_lives_from_its_issue_to_its_revocation(store: Server, transport: str) -> None:
    """Issued, a key passes everywhere at once; so do both secrets of a rotation; revoked, it is refused in a second."""
    with serving(at(store, transport), **DIGEST_KEY) as first, serving(at(store), **DIGEST_KEY) as second:
        both = (first, second)
        key_id, key = issued(first)
        assert [code(each, key) for each in both] == [0, 0]
        rotated = command(second, "rotate", key_id, "--reveal", "--format", "json")
        new = json.loads(rotated)["key"]
        time_of_rotation = time.monotonic()
        eventually(lambda: [code(each, new) for each in both] == [0, 0])
        assert (
            time.monotonic() - time_of_rotation < 3.0
        )  # the second that a record is not asked for again, and a margin
        assert [code(each, key) for each in both] == [0, 0]
        command(first, "revoke", key_id)
        revoked_at = time.monotonic()
        eventually(lambda: [code(each, each_key) for each in both for each_key in (key, new)] == [16] * 4)
        assert time.monotonic() - revoked_at < 1.0 + 2.0  # the second, and two more for a busy machine
        assert key[21:] not in first.log + second.log
        assert new[21:] not in first.log + second.log


def test_the_upstream_gets_the_owner_and_not_the_key(store: Server) -> None:
    """A key arrives as its owner's headers; the key itself is removed, wherever it was; two credentials are refused."""
    with serving(at(store, query="api_key"), **DIGEST_KEY) as sidecar:
        _, key = issued(sidecar)
        for answer in (asked(sidecar, x_api_key=key), asked(sidecar, authorization=f"Bearer {key}")):
            headers = {each.header.key: each.header.value for each in answer.ok_response.headers}
            assert headers[b"x-genops-customer-id"] == b"acme"
            assert headers[b"x-genops-customer-tier"] == b"premium"
            assert "x-api-key" in answer.ok_response.headers_to_remove
        assert "authorization" in answer.ok_response.headers_to_remove
        by_query = asked(sidecar, b"/v1/chat?a=1&api_key=" + key.encode())
        assert list(by_query.ok_response.query_parameters_to_remove) == ["api_key"]
        twice = asked(sidecar, x_api_key=key, authorization=f"Bearer {token()}")
        assert twice.status.code == 16
        eventually(lambda: sidecar.said("check")[-1].get("reason") == "credentials_ambiguous")


def test_guesses_are_answered_with_429(store: Server) -> None:
    """Who tries key after key is told to stop, while a key that is known passes from the same place."""
    with serving(at(store), **DIGEST_KEY) as sidecar:
        _, key = issued(sidecar)
        assert code(sidecar, key) == 0
        answers = [asked(sidecar, x_api_key=f"sk-live-{number:020}") for number in range(15)]
        assert [answer.denied_response.status.code for answer in answers[:10]] == [401] * 10
        assert answers[-1].denied_response.status.code == 429
        assert code(sidecar, key) == 0


def test_a_folder_is_followed(store: Server) -> None:
    """Records in a folder count as soon as they change there."""
    with folder() as place:
        (place / "records").mkdir()
        sidecar = Sidecar(place, at(store, store=False, directory="records"), **DIGEST_KEY)
        try:
            sidecar.start()
            key_id, key = issued(sidecar, "--directory", "records")
            eventually(lambda: code(sidecar, key) == 0)
            command(sidecar, "revoke", key_id, "--directory", "records")
            eventually(lambda: code(sidecar, key) == 16)
            assert sidecar.said("check")[-1]["reason"] == "api_key_revoked"
        finally:
            sidecar.stop()

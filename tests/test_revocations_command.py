"""`revocations add | list | remove`, against a real store."""

import json
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

import minting
from genops_extauth.revocations_command import revocations_command
from stores import VALKEY, Server, running

KEY = minting.ed_pair()
TOKEN = minting.token(KEY, minting.claims(time.time(), jti="t-1", sub="alice"))


@pytest.fixture(scope="module")
def shared() -> Iterator[Server]:
    with running(VALKEY) as server:
        yield server


@pytest.fixture
def store(shared: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """An empty store, named by the configuration in the present folder."""
    with shared.client() as client:
        client.flushall()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GENOPS_CONFIG", "genops.yaml")
    (tmp_path / "key.pem").write_bytes(KEY.public_pem())
    configure(shared)
    return shared


def configure(store: Server, *, issuer: dict[str, Any] | None = None, revocation: dict[str, Any] | None = None) -> None:
    believed: dict[str, Any] = {"issuer": minting.ISSUER, "audiences": ["a"], "algorithms": [KEY.algorithm]}
    believed |= {"keys": {"public_key_file": "key.pem"}, **(issuer or {})}
    identity = {"jwt": [believed], "revocation": revocation or {}}
    Path("genops.yaml").write_text(yaml.safe_dump({"store": {"url": store.url}, "identity": identity}))


def run(*words: str, stdin: bytes = b"", code: int = 0) -> Result:
    result = CliRunner().invoke(revocations_command, words, input=stdin)
    assert result.exit_code == code, result.output
    return result


def listed() -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(run("list", "--json").stdout)
    return found


def seconds_left(row: dict[str, str]) -> float:
    return datetime.fromisoformat(row["until"]).timestamp() - time.time()


@pytest.mark.usefixtures("store")
def test_what_is_added_is_listed_until_it_is_removed() -> None:
    """Add, list and remove are about the same entry; removing it again is right, and what never was is not found."""
    run("add", "subject", "alice", "--issuer", minting.ISSUER, "--until", "2100-01-31T12:00:00+01:00")
    row = {"kind": "subject", "issuer": minting.ISSUER, "value": "alice", "until": "2100-01-31T11:00:00Z"}
    assert listed() == [row | {"where": "store"}]
    assert minting.ISSUER in run("list").stdout
    run("remove", "subject", "alice", code=1)
    run("remove", "subject", "alice", "--issuer", minting.ISSUER)
    run("remove", "subject", "alice", "--issuer", minting.ISSUER)
    assert listed() == []


@pytest.mark.usefixtures("store")
def test_a_token_on_standard_input_says_it_all() -> None:
    """Its id, its issuer, and its end, which the entry outlasts by the clocks' differences."""
    token = minting.token(KEY, minting.claims(time.time(), jti="t-1", sub="alice"))
    run("add", "token_id", "--token", stdin=token + b"\n")
    (row,) = listed()
    assert (row["issuer"], row["value"]) == (minting.ISSUER, "t-1")
    lives = minting.claims(time.time())["exp"]
    assert isinstance(lives, int | float)
    assert seconds_left(row) == pytest.approx(lives - time.time() + 600, abs=30)
    run("add", "subject", "--token", "--for", "1h", stdin=token)
    assert listed()[1]["value"] == "alice"


def test_an_end_is_never_guessed(store: Server) -> None:
    """Where nothing says how long a token lives its entry needs an end: a guess would let it pass again."""
    assert "--for or --until" in run("add", "token_id", "t-1", code=2).stderr
    assert "--for or --until" in run("add", "subject", "alice", "--issuer", "https://other.example.com", code=2).stderr
    configure(store, issuer={"max_lifetime": "8h"})
    run("add", "token_id", "t-1")
    assert seconds_left(listed()[0]) == pytest.approx(8 * 3600 + 600, abs=30)
    run("add", "api_key", "k-1")
    assert listed()[1]["until"] == "never"


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["token_id", "--for", "1h"], "one of the two"),
        (["token_id", "t-1", "--token"], "one of the two"),
        (["token_id", "t-1", "--for", "1"], "a number needs its unit"),
        (["token_id", "t-1", "--until", "2030-01-31"], "write a time with its zone"),
        (["token_id", "t-1", "--until", "tomorrow"], "write a time with its zone"),
        (["token_id", "t-1", "--until", "2020-01-31T00:00:00Z"], "in the past"),
        (["token_id", "t-1", "--for", "1h", "--until", "never"], "keep one"),
        (["token_id", "a\x1bb", "--for", "1h"], "printable"),
        (["token_id", "--token"], "no token"),
        (["api_key", "gxk_0123456789_secretsecret"], "not its id"),
        (["token_id", TOKEN.decode()], "not its id"),
    ],
)
def test_what_cannot_be_meant_is_refused(words: list[str], message: str) -> None:
    """Each mistake is met with what to write; a secret that was pasted is not repeated."""
    said = run("add", *words, code=2).output
    assert message in said
    assert "secretsecret" not in said
    assert TOKEN.decode() not in said
    assert listed() == []


@pytest.mark.usefixtures("store")
def test_a_token_without_an_id_is_told() -> None:
    """A token that has no jti can only fall by its subject."""
    token = minting.token(KEY, minting.claims(time.time()))
    assert "revoke its subject" in run("add", "token_id", "--token", stdin=token, code=2).stderr


@pytest.mark.usefixtures("store")
def test_a_digest_is_shown_and_removed() -> None:
    """Of a long value its digest is shown, and either takes the entry back."""
    for shown in (False, True):
        run("add", "token_id", "j" * 65, "--for", "1h")
        (row,) = listed()
        assert "jjj" not in row["value"]
        run("remove", "token_id", row["value"] if shown else "j" * 65)
        assert listed() == []


def test_the_configurations_list_is_shown_too(store: Server) -> None:
    """What the configuration refuses stands in the list, and where it is from."""
    configure(store, revocation={"api_keys": ["k-9"]})
    row = {"kind": "api_key", "issuer": "*", "value": "k-9", "until": "never", "where": "configuration"}
    assert listed() == [row]


@pytest.mark.usefixtures("store")
def test_a_store_that_is_away_is_told() -> None:
    """Without its store a command does nothing, and says what to look at."""
    url = "unix:///nowhere/valkey.sock"
    assert "the store unix:///nowhere" in run("list", "--store", url, code=2).stderr
    assert "leave the password out" in run("list", "--store", "redis://:hunter2@127.0.0.1:1", code=2).stderr


@pytest.mark.usefixtures("store")
def test_an_embedded_store_is_asked_for() -> None:
    """Where the store is inside a sidecar its address is on the command line."""
    text = Path("genops.yaml").read_text()
    Path("genops.yaml").write_text(text.replace("store:", "log:").replace("url:", "level: info #"))
    assert "add --store with the URL" in run("list", code=2).stderr

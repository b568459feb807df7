import asyncio
import json
import os
import pty
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from generated import PACKAGE
from genops_extauth import apikeys, key_files, key_records
from genops_extauth.key_lifecycle import Record, Secret, refusal
from genops_extauth.keys_command import keys_command
from genops_extauth.revocation_store import RevocationStore
from genops_extauth.revocations import Entry, handle
from genops_extauth.store_address import target
from genops_extauth.store_client import open_client
from stores import VALKEY, Server, running

DIGEST_KEY = b"d" * 44
RECORDS = "genops:{api_keys}:records"
WHO = ("--team", "ml", "--project", "batch", "--customer-id", "acme", "--customer-tier", "free")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running(VALKEY) as found:
        yield found


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server) -> Path:
    """A folder with a configuration and a digest key, and an empty store."""
    with server.client() as client:
        client.flushall()
    (tmp_path / "digest.key").write_bytes(DIGEST_KEY + b"\n")
    (tmp_path / "records").mkdir()
    configure(tmp_path, server)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GENOPS_CONFIG", "genops.yaml")
    return tmp_path


def configure(folder: Path, server: Server, **section: Any) -> None:
    keys = {"digest_key_file": "digest.key"} | section
    configured = {"store": {"url": server.url, "timeout": "5s"}, "identity": {"api_keys": keys}}
    (folder / "genops.yaml").write_text(yaml.safe_dump(configured))


def run(*arguments: str, stdin: str | bytes = "", code: int = 0) -> Result:
    result = CliRunner().invoke(keys_command, arguments, input=stdin)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


def printed(*arguments: str, stdin: str | bytes = "") -> Any:
    """What a command prints as JSON."""
    return json.loads(run(*arguments, "--format", "json", stdin=stdin).stdout)


def issued(*options: str, file: str = "key", folder: tuple[str, ...] = ()) -> tuple[str, str]:
    """Issue a key: its id, and the key."""
    found = printed("issue", "--name", "acme batch", *WHO, "--output", file, *folder, *options)
    return found["id"], Path(file).read_text().strip()


def stored(server: Server, key_id: str) -> Record:
    with server.client() as client:
        data = client.hget(RECORDS, key_id)
    assert isinstance(data, bytes)
    return key_records.read(data)


def works(record: Record, key: str) -> bool:
    """Whether a key is one of a record's, and good now."""
    place = apikeys.matches(tuple(secret.digest for secret in record.secrets), digest(key))
    return place is not None and refusal(record, place, record.created + 60) is None


def digest(key: str) -> bytes:
    return apikeys.digest_of(key.encode(), DIGEST_KEY)


def test_a_key_is_issued_into_a_private_file(place: Path, server: Server) -> None:
    """The key is in a file that only its owner may read, and nowhere else; its record has its digest."""
    run("issue", "--name", "acme batch", *WHO, "--scope", "llm.invoke", "--role", "batch", "-o", "key")
    key = (place / "key").read_text()
    assert stat.S_IMODE((place / "key").stat().st_mode) == 0o600
    found = apikeys.presented(key.rstrip("\n").encode(), DIGEST_KEY)
    assert found is not None
    record = stored(server, found.id)
    assert record == Record(
        found.id,
        "acme batch",
        (Secret(found.digest, record.created),),
        record.created,
        attributes={"team": "ml", "project": "batch", "customer_id": "acme", "customer_tier": "free"},
        scopes=frozenset({"llm.invoke"}),
        roles=frozenset({"batch"}),
    )


@pytest.mark.parametrize("directory", [(), ("--directory", "records")], ids=["store", "directory"])
def test_all_commands_work_on_either(place: Path, directory: tuple[str, ...]) -> None:
    """A key is issued, listed, shown, rotated and revoked in the store as in a folder of files."""
    key_id, _ = issued("--expires", "10d", folder=directory)
    (listed,) = printed("list", *directory)
    assert (listed["id"], listed["state"], listed["last_used"]) == (key_id, "active", None)
    assert printed("show", key_id, *directory) == listed
    run("rotate", key_id, "--rotation-id", "r1", "--expires", "20d", "--output", "new", *directory)
    shown = printed("show", key_id, *directory)
    assert (shown["state"], shown["version"]) == ("rotating", 3)
    assert shown["expires"] > listed["expires"]
    run("revoke", key_id, "--reason", "leaked", *directory)
    shown = printed("show", key_id, *directory)
    assert (shown["state"], shown["reason"]) == ("revoked", "leaked")
    files = list((place / "records").iterdir())
    assert [file.name for file in files] == ([f"{key_id}.json"] if directory else [])
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in files)


def test_a_list_is_for_people_too(place: Path) -> None:  # noqa: ARG001 - it is entered
    """The table has a line for each key; what will expire soon is said beside it, with what to do."""
    first, _ = issued("--expires", "10d")
    issued("--expires", "40d", file="other")
    told = run("list")
    assert told.stdout.split("\n")[0].split() == [
        *("ID", "NAME", "STATE"),
        *("CUSTOMER_ID", "CUSTOMER_TIER", "EXPIRES", "LAST_USED"),
    ]
    assert len(told.stdout.splitlines()) == 3
    assert f"{first} will expire within 30 days" in told.stderr
    assert "keys rotate ID --expires 365d" in told.stderr
    shown = run("show", first).stdout
    assert "last used     never\n" in shown
    assert "customer_id   acme\n" in shown


def test_the_last_use_is_shown(place: Path, server: Server) -> None:  # noqa: ARG001 - it is entered
    """When a key was used last is shown where the store knows it; of files it is not known."""
    key_id, _ = issued()
    with server.client() as client:
        client.hset("genops:{api_keys}:used", key_id, "1767225600")
    assert printed("show", key_id)["last_used"] == "2026-01-01T00:00:00Z"
    filed, _ = issued(file="other", folder=("--directory", "records"))
    assert "last used     not known" in run("show", filed, "--directory", "records").stdout


def test_no_secret_is_shown_again(place: Path, server: Server) -> None:
    """Neither a key nor a digest is in anything but the file that it was asked for into."""
    key_id, key = issued()
    outputs = [
        run("rotate", key_id, "--rotation-id", "r1", "--output", "new"),
        run("rotate", key_id, "--rotation-id", "r1", "--output", "new"),
        *(run(*words) for words in (("list",), ("list", "--format", "json"), ("show", key_id))),
        run("revoke", key_id),
    ]
    new = (place / "new").read_text().strip()
    secrets = [key, new, key[21:], new[21:], digest(key).hex(), digest(new).hex(), DIGEST_KEY.decode()]
    for result in outputs:
        assert not [secret for secret in secrets if secret in result.output]
    with server.client() as client:
        kept = json.dumps([str(client.hgetall(RECORDS))])
    assert not [secret for secret in (key, new, key[21:], new[21:], DIGEST_KEY.decode()) if secret in kept]


def test_a_pipe_gets_no_key_by_accident(place: Path, server: Server) -> None:  # noqa: ARG001 - it is entered
    """Where standard output is no terminal no key is made, unless for a file, or asked for by --reveal."""
    refused = run("issue", "--name", "a", *WHO, code=2)
    assert "add --output FILE" in refused.stderr
    with server.client() as client:
        assert client.hlen(RECORDS) == 0
    key = run("issue", "--name", "a", *WHO, "--reveal").stdout.strip()
    found = printed("issue", "--name", "a", *WHO, "--reveal")
    assert found["key"].startswith(f"gxk_{found['id']}_")
    assert works(stored(server, found["id"]), found["key"])
    assert works(stored(server, key[4:20]), key)


def test_a_terminal_is_shown_the_key(place: Path, server: Server) -> None:
    """On a terminal the key is shown, once."""
    ours, theirs = pty.openpty()
    script = "from genops_extauth.keys_command import keys_command; keys_command()"
    command = (sys.executable, "-c", script, "issue", "--name", "a", *WHO)
    subprocess.run(command, stdout=theirs, cwd=place, env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)}, check=True)
    os.close(theirs)
    shown = os.read(ours, 4096).decode().strip()
    os.close(ours)
    assert works(stored(server, shown[4:20]), shown)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--customer-tier", "fre"), "no tier is named 'fre'; did you mean free?"),
        (("--customer-tier", "x"), "no tier is named 'x'; there are free, standard, premium"),
        (("--team", "a,b"), "attributes.team: 1 to 256"),
        (("--scope", "a b"), "--scope: a list of words"),
        (("--name", "\x1b[2J"), "--name: 1 to 200 characters"),
        (("--expires", "1"), "--expires: write for example 90d"),
        (("--expires", "2026-01-01T00:00"), "--expires: write a time such as"),
        (("--expires", "2026-01-01T00:00:00Z"), "--expires: it would never hold"),
        (("--expires", "1d", "--not-before", "2d"), "--expires: it would never hold"),
    ],
)
def test_what_cannot_be_is_not_issued(place: Path, options: tuple[str, ...], said: str) -> None:
    """A key is not made whose tier there is not, or whose attributes or times cannot be; what to write is said."""
    assert said in run("issue", "--name", "a", *WHO, "-o", "key", *options, code=2).stderr
    assert not (place / "key").exists()


def test_what_is_required_is_asked_for(place: Path) -> None:  # noqa: ARG001 - it is entered
    """A key without an attribute that the configuration requires is not made."""
    assert "project is required" in run("issue", "--name", "a", "--team", "ml", "-o", "key", code=2).stderr


def test_a_file_is_never_overwritten(place: Path) -> None:
    """A file that is there keeps what it holds, and what it is is said."""
    issued()
    held = (place / "key").read_bytes()
    (place / "text").write_text("no key")
    (place / "lost").write_text(apikeys.minted(os.urandom).text)
    for file, said in (("key", "holds the key"), ("text", "holds no key"), ("lost", "does not work: remove it")):
        assert said in run("issue", "--name", "a", *WHO, "-o", file, code=1).stderr
    assert (place / "key").read_bytes() == held
    assert "No such file" in run("issue", "--name", "a", *WHO, "-o", "no/folder", code=1).stderr


def test_a_rotation_is_safe_to_repeat(place: Path, server: Server) -> None:
    """The same rotation with the same file changes nothing the second time, says so, and succeeds."""
    key_id, key = issued()
    rotation = ("rotate", key_id, "--rotation-id", "2026-q1", "--output", "new")
    assert "the new key works now, the old one until " in run(*rotation).stderr
    record, new = stored(server, key_id), (place / "new").read_text().strip()
    assert works(record, key)
    assert works(record, new)
    assert "was complete: nothing was changed" in run(*rotation).stderr
    assert stored(server, key_id) == record
    assert (place / "new").read_text().strip() == new


def test_a_rotation_whose_answer_was_lost_makes_another_secret(place: Path, server: Server) -> None:
    """Without its file a rotation that is repeated makes another secret; those before it go on working."""
    key_id, key = issued()
    run("rotate", key_id, "--rotation-id", "r1", "--output", "new")
    first = (place / "new").read_text().strip()
    (place / "new").unlink()
    run("rotate", key_id, "--rotation-id", "r1", "--output", "new")
    record = stored(server, key_id)
    assert all(works(record, each) for each in (key, first, (place / "new").read_text().strip()))


def test_another_rotation_waits(place: Path, server: Server) -> None:
    """A second rotation while the overlap is open is refused, and makes neither a file nor a change."""
    key_id, _ = issued()
    run("rotate", key_id, "--rotation-id", "r1", "--output", "new")
    record = stored(server, key_id)
    assert "overlap of rotation r1" in run("rotate", key_id, "--output", "newer", code=1).stderr
    assert stored(server, key_id) == record
    assert not (place / "newer").exists()


def test_an_old_key_is_not_brought_back(place: Path, server: Server) -> None:  # noqa: ARG001 - it is entered
    """A file with a key that the rotation did not make is no output of it: neither the current key nor one before."""
    key_id, _ = issued()
    run("rotate", key_id, "--rotation-id", "r1", "--overlap", "0s", "--output", "new")
    record = stored(server, key_id)
    for file in ("key", "new"):
        refused = run("rotate", key_id, "--rotation-id", "r2", "--output", file, code=1)
        assert "holds what this rotation did not make: name a new file" in refused.stderr
    assert "holds what" in run("rotate", key_id, "--output", "new", code=1).stderr
    assert stored(server, key_id) == record


def test_a_revoked_key_is_refused_at_once(place: Path, server: Server) -> None:  # noqa: ARG001 - it is entered
    """A key that is revoked is on the list of what is refused at once, and its record says so for good."""
    key_id, key = issued()
    assert "refused within a second" in run("revoke", key_id).stderr
    record = stored(server, key_id)
    assert not works(record, key)
    run("revoke", key_id, "--reason", "again")
    assert stored(server, key_id) == record
    ((listed, until),) = revocations(server)
    assert listed == handle("api_key", key_id)
    assert record.revoked is not None
    assert 0 <= until - record.revoked.at - 2 * 86_400 < 60


def revocations(server: Server) -> list[Entry]:
    async def read() -> list[Entry]:
        client = open_client(target(server.url), 10.0)
        entries = await RevocationStore(client).entries()
        await client.aclose()
        return entries

    return asyncio.run(read())


@pytest.mark.parametrize("command", ["show", "rotate", "revoke"])
def test_ids_are_ids(place: Path, command: str) -> None:  # noqa: ARG001 - it is entered
    """An unknown id is told; a whole key in its place is not repeated, and is said to be burnt."""
    output = ("-o", "new") if command == "rotate" else ()
    assert "there is no key 0123456789abcdef" in run(command, "0123456789abcdef", *output, code=1).stderr
    key = apikeys.minted(os.urandom).text
    told = run(command, key, *output, code=2)
    assert "revoke it, for every process can read it here" in told.stderr
    assert key not in told.output


def test_what_lacks_is_said(place: Path, server: Server) -> None:
    """Without the section, without a store, or with one that is not there, what to write or do is said."""
    (place / "genops.yaml").write_text(yaml.safe_dump({"store": {"url": server.url}}))
    assert "genops.yaml" in run("list", code=2).stderr
    configure(place, server, store=False, directory="records")
    assert "add --directory" in run("list", code=2).stderr
    configure(place, server)
    text = (place / "genops.yaml").read_text()
    (place / "genops.yaml").write_text(text.replace(server.url, "'embedded:'"))
    assert "add --store" in run("list", code=2).stderr
    assert printed("list", "--store", server.url) == []
    (place / "genops.yaml").write_text(text.replace(server.url, f"unix://{place}/none"))
    assert "unreachable: " in run("issue", "--name", "a", *WHO, "-o", "key", code=1).stderr
    assert (
        "does not work: remove it"
        in run("issue", "--name", "a", *WHO, "-o", "key", "--directory", "records", code=1).stderr
    )


def test_a_broken_record_is_told_beside_the_others(place: Path, server: Server) -> None:  # noqa: ARG001 - it is entered
    """A record that cannot be read keeps no other from being listed, and the exit code is 1."""
    key_id, _ = issued()
    with server.client() as client:
        client.hset(RECORDS, "f" * 16, "{}")
    told = run("list", code=1)
    assert key_id in told.stdout
    assert "f" * 16 + ": id: " in told.stderr


GOOD_KEY = "sk-live-51H8xQe2eZvKYlo2C"


def seed(folder: Path, metadata: dict[str, Any], **keys: str) -> str:
    """A Secret as the GenOps guide has it, mounted."""
    folder.mkdir()
    for name, key in keys.items():
        (folder / name.replace("_", "-")).write_text(key)
    (folder / "key-metadata.json").write_text(json.dumps(metadata))
    return str(folder)


def test_the_guide_s_secret_is_taken_over(place: Path, server: Server) -> None:
    """Keys of a Secret in the guide's form are imported with what is said of them, and are found by what they are."""
    said = {"tier": "premium", "team": "ml-platform", "project": "p", "created": "2024-01-01T00:00:00Z"}
    folder = seed(place / "secret", {"customer-abc-123": said}, customer_abc_123=GOOD_KEY + "\n")
    told = run("import", folder)
    key_id = apikeys.foreign_id(GOOD_KEY.encode(), DIGEST_KEY)
    assert told.stderr == f"genops-extauth: imported {key_id} (customer-abc-123)\n"
    record = stored(server, key_id)
    assert works(record, GOOD_KEY)
    assert record.attributes == {
        "team": "ml-platform",
        "project": "p",
        "customer_id": "customer-abc-123",
        "customer_tier": "premium",
    }
    assert key_records.time_text(record.created) == "2024-01-01T00:00:00Z"
    assert "known already" in run("import", folder).stderr
    assert stored(server, key_id) == record
    run("rotate", key_id, "--output", "new")
    assert works(stored(server, key_id), (place / "new").read_text().strip())


def test_what_could_be_guessed_is_refused(place: Path, server: Server) -> None:
    """Keys that several have, or that could be guessed, are refused with the reason; the others are imported."""
    who = {"tier": "premium", "team": "ml", "project": "p"}
    keys = {
        "a_1": "key:premium-tier",
        "a_2": "key:premium-tier",
        "short": "k3y-of-18-letters!",
        "same": "ab" * 12,
        "named": "xK9-premium-4hZ81-q7rT",
        "good": GOOD_KEY,
        "old": GOOD_KEY[::-1],
        "odd": GOOD_KEY.upper(),
    }
    said = {name.replace("_", "-"): who for name in keys}
    said |= {"old": who | {"expires": "2025-01-01T00:00:00Z"}, "odd": who | {"tier": "x"}}
    folder = seed(place / "secret", said, **keys, extra="x")
    told = run("import", folder, code=1)
    lines = sorted(line.removeprefix("genops-extauth: ") for line in told.stderr.splitlines())
    assert [line[:44] for line in lines] == [
        f"imported {apikeys.foreign_id(GOOD_KEY.encode(), DIGEST_KEY)} (good)",
        *["refused a-1: 2 have the same key: issue each", "refused a-2: 2 have the same key: issue each"],
        "refused extra: key-metadata.json says nothin",
        "refused named: could be guessed: 'premium' i",
        "refused odd: no tier is named 'x'; there are",
        "refused old: has expired: issue another one",
        "refused same: could be guessed: it has 2 dif",
        "refused short: could be guessed: it has 18 c",
    ]
    with server.client() as client:
        assert client.hlen(RECORDS) == 1


def test_lines_are_taken_over(place: Path, server: Server) -> None:  # noqa: ARG001 - it is entered
    """Keys come on standard input too, a JSON object a line, ours as well as others."""
    ours = apikeys.minted(os.urandom).text
    who = {"customer_id": "acme", "team": "ml", "project": "p", "tier": "free"}
    lines = [who | {"key": ours, "name": "one", "scopes": ["llm.invoke"]}, who | {"key": GOOD_KEY}, {"team": "ml"}]
    told = run("import", stdin="\n".join(map(json.dumps, lines)) + "\nnot json\n", code=1)
    assert "refused line 3: has no key" in told.stderr
    assert "refused line 4: not JSON" in told.stderr
    assert works(stored(server, ours[4:20]), ours)
    assert stored(server, ours[4:20]).scopes == {"llm.invoke"}
    assert ours not in told.output
    assert GOOD_KEY not in told.output
    slip = json.dumps(who | {"key": ours[:-1] + "!"})
    assert "line 1: is no key" in run("import", stdin=slip, code=1).stderr
    other = json.dumps(who | {"key": apikeys.minted(os.urandom, ours[4:20]).text})
    assert "there is another key" in run("import", stdin=other).stderr


KILLED = """
import os, signal, sys
from genops_extauth import key_delivery, key_files, key_store
from genops_extauth.keys_command import keys_command

name, number, before = {moment}
kinds = {{"put": (key_store.KeyStore, key_files.FileKeys), "deliver": (key_delivery.FileDelivery,), "fsync": (os,)}}
kind = kinds[name]
count = 0

def reached(now):
    global count
    count += now == True
    if now == before and count == number:
        os.kill(os.getpid(), signal.SIGKILL)

def killing(original):
    def synchronous(*arguments):
        reached(True)
        original(*arguments)
        reached(False)

    async def asynchronous(*arguments):
        reached(True)
        await original(*arguments)
        reached(False)

    return synchronous if kind == (os,) else asynchronous

for each in kind:
    setattr(each, name, killing(getattr(each, name)))
keys_command()
"""

STEPS = [
    (name, number, before) for name, number in (("put", 1), ("deliver", 1), ("put", 2)) for before in (True, False)
]
"""Before and after each step of a rotation: it is begun, the key is delivered, it is completed."""

SYNCS = [("fsync", number, True) for number in range(1, 7)]
"""Before each moment at which a file or its name becomes lasting; there are two a file."""


def killed(place: Path, moment: tuple[str, int, bool], *arguments: str) -> None:
    """Run a command that is killed (kill -9) at a moment."""
    environ = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    command = (sys.executable, "-c", KILLED.format(moment=moment), *arguments)
    assert subprocess.run(command, cwd=place, env=environ, check=False).returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("moment", "directory"),
    [*((moment, ()) for moment in STEPS), *((each, ("--directory", "records")) for each in SYNCS)],
)
def test_a_rotation_survives_kill_9(
    place: Path, server: Server, moment: tuple[str, int, bool], directory: tuple[str, ...]
) -> None:
    """Killed at any moment, a rotation leaves the old key working, and a file whole or not there.

    Repeated it is completed, with the key that is in the file if it is there; and repeated once more changes nothing.
    """
    key_id, key = issued(folder=directory)

    def record() -> Record:
        if not directory:
            return stored(server, key_id)
        found, problems = key_files.records(place / "records")
        assert problems == []
        return found[0]

    rotation = ("rotate", key_id, "--rotation-id", "r1", "--output", "new", *directory)
    killed(place, moment, *rotation)
    assert works(record(), key)
    left = (place / "new").read_text().strip() if (place / "new").exists() else None
    run(*rotation)
    new = (place / "new").read_text().strip()
    assert left in (None, new)
    assert works(record(), key)
    assert works(record(), new)
    after = record()
    assert "nothing was changed" in run(*rotation).stderr
    assert record() == after
    assert {path.name for path in place.iterdir()} == {"digest.key", "genops.yaml", "key", "new", "records"}


@pytest.mark.parametrize("moment", [moment for moment in STEPS if moment[:2] != ("put", 2)])
def test_an_issue_survives_kill_9(place: Path, server: Server, moment: tuple[str, int, bool]) -> None:
    """Killed at any moment, an issue leaves no key that works and nobody has; what a file holds is said."""
    arguments = ("issue", "--name", "a", *WHO, "--output", "key")
    killed(place, moment, *arguments)
    delivered = (place / "key").exists()
    with server.client() as client:
        records = client.hgetall(RECORDS)
    assert delivered or not records
    if delivered:
        said = "holds the key" if records else "does not work: remove it"
        assert said in run(*arguments, code=1).stderr
    else:
        run(*arguments)
        assert works(stored(server, (place / "key").read_text()[4:20]), (place / "key").read_text().strip())


def test_a_rotation_that_was_begun_is_completed_without_its_name(place: Path, server: Server) -> None:
    """A rotation that nobody named is found again by the key in its file, and completed."""
    key_id, _ = issued()
    killed(place, ("deliver", 1, False), "rotate", key_id, "--output", "new")
    assert "was begun and not completed: repeat it" in run("show", key_id).stdout
    run("rotate", key_id, "--output", "new")
    assert works(stored(server, key_id), (place / "new").read_text().strip())
    assert stored(server, key_id).pending is None


def test_of_two_rotations_at_once_one_is_told(place: Path, server: Server) -> None:
    """A rotation that another one overtook is told to look again, and leaves its file with a key that does not work."""
    key_id, key = issued()
    killed(place, ("deliver", 1, False), "rotate", key_id, "--rotation-id", "r1", "--output", "mine")
    run("rotate", key_id, "--rotation-id", "r2", "--output", "theirs")
    refused = run("rotate", key_id, "--rotation-id", "r1", "--output", "mine", code=1)
    assert "holds what this rotation did not make" in refused.stderr
    record = stored(server, key_id)
    mine, theirs = ((place / name).read_text().strip() for name in ("mine", "theirs"))
    assert [works(record, each) for each in (key, theirs, mine)] == [True, True, False]

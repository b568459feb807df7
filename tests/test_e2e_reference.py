"""envoyproxy/ratelimit's shared conformance cases, over gRPC to `genops-extauth ratelimit`: transports x stores."""

import contextlib
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import grpc
import pytest

import reference_cases
from reference_cases import CASES, SKIPPED, Case, differences, files, request, told
from sidecar import LIMIT, TRANSPORTS, folder
from stores import SERVERS, eventually, free_port, running

ENVIRONMENTS = {json.dumps(case.get("env", {}), sort_keys=True) for case in CASES}


def asked(case: Case) -> bool:
    """Whether a case has steps that a server can answer, and only needs a server for them."""
    return bool(case.get("steps")) and case["name"] not in SKIPPED and "reload" not in case["tags"]


class Server:
    """`genops-extauth ratelimit` with the files of some cases."""

    def __init__(self, place: Path, store: str, transport: str, env: Mapping[str, str], cases: list[Case]) -> None:
        self._transport = transport
        config = place / "config"
        config.mkdir()
        for name, text in files(cases):
            (config / name).write_text(text)
        self.grpc, self.http, self.debug = (free_port() for _ in range(3))
        self._environ = {
            **os.environ,
            **dict.fromkeys(("GRPC_HOST", "HOST", "DEBUG_HOST"), "127.0.0.1"),
            "GRPC_PORT": str(self.grpc),
            "PORT": str(self.http),
            "DEBUG_PORT": str(self.debug),
            "RUNTIME_ROOT": str(place),
            "RUNTIME_APPDIRECTORY": "config",
            "LOG_LEVEL": "info",
            "LOG_FORMAT": "json",
            "REDIS_SOCKET_TYPE": "unix",
            "REDIS_URL": store,
            "REDIS_TIMEOUT": "5s",
            **env,
        }
        self._log = place / "log"

    @contextlib.contextmanager
    def serving(self) -> Iterator[grpc.Channel]:
        launch = "from genops_extauth import app, cli; "
        if self._transport == "grpcio":  # there is no variable for it: nobody chooses the slower one
            launch += "app.choose_transport = lambda *_, **__: 'grpcio'; "
        command = [sys.executable, "-c", launch + "cli.main()", "ratelimit"]
        with self._log.open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=self._environ)
        try:
            eventually(lambda: '"listening"' in self._log.read_text() or process.poll() is not None, within=30)
            assert process.poll() is None, self._log.read_text()
            with grpc.insecure_channel(f"127.0.0.1:{self.grpc}") as channel:
                yield channel
        finally:
            process.kill()  # It has nothing to save, and would serve on for a while.
            process.wait(timeout=20)

    def stats(self) -> dict[str, int]:
        """What was counted, under statsd's names."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.debug}/stats") as page:
            lines = page.read().decode().splitlines()
        return {name: int(count) for name, _, count in (line.rpartition(": ") for line in lines)}


def faults(case: Case, call: "grpc.UnaryUnaryMultiCallable[bytes, bytes]", server: Server) -> Iterator[str]:
    """Ask all steps of a case, and say what is not as it should be."""
    for number, step in enumerate(case["steps"]):
        metrics = step["expected"].get("metrics_delta", {})
        before = server.stats() if metrics else {}
        try:
            answers = [told(call(request(case, step["request"]), timeout=10)) for _ in range(step.get("repeat", 1))]
        except grpc.RpcError as error:
            due = step["expected"].get("grpc_error")
            if due is None or due["message"] not in str(error):
                yield f"{case['name']}[{number}]: {error}"
            continue
        for answer in answers:
            yield from (f"{case['name']}[{number}]: {each}" for each in differences(case, number, answer))
        if metrics:
            after = server.stats()
            for name, due in metrics.items():
                mine = renamed(case, name)
                grown = after.get(mine, 0) - before.get(mine, 0)
                if grown != due:
                    yield f"{case['name']}[{number}]: {mine} grew by {grown}, not {due}"


def renamed(case: Case, metric: str) -> str:
    """The name of a metric with the domain that the case has here."""
    start = "ratelimit.service.rate_limit."
    if not metric.startswith(start):
        return metric
    return start + reference_cases.domain(case, metric.removeprefix(start))


@pytest.mark.parametrize("store", SERVERS)
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_every_case_is_answered_as_the_reference_does(store: str, transport: str) -> None:
    """Each case's steps have the reference's statuses, headers and counts; the divergences are ours, and listed."""
    found: list[str] = []
    with running(store) as redis:
        for env in sorted(ENVIRONMENTS):
            cases = [case for case in CASES if asked(case) and case.get("env", {}) == json.loads(env)]
            if not cases:
                continue
            with folder() as place:
                server = Server(place, str(redis.path), transport, json.loads(env), cases)
                with server.serving() as channel:
                    call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(LIMIT)
                    found += [fault for case in cases for fault in faults(case, call, server)]
    assert not found, "\n".join(found)


def test_every_case_is_asked_or_left_out_for_a_reason() -> None:
    """No case is forgotten: it has steps and is asked, or it is about loading, HTTP or reloading, which have tests."""
    elsewhere = {"load_error", "http", "reload", "upstream_crash"}
    for case in CASES:
        left_out = elsewhere.intersection(case["tags"]) or case["name"] in SKIPPED
        assert asked(case) or left_out or "request_only" in case, case["name"]

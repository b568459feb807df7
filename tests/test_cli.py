"""The command line: what it prints, what it asks for, and its exit codes."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import grpc_testing
import jsonschema  # type: ignore[import-untyped]  # no stubs are installed
import pytest
import yaml
from click.testing import CliRunner, Result
from grpc_health.v1 import health_pb2

from certificates import Authority
from genops_extauth import __version__, cli, demo, health_probe
from sidecar import KEY, Sidecar, serving, settings, token
from stores import free_port

COMMANDS = (
    *("serve", "ratelimit", "demo", "check-config", "schema", "explain", "health", "migrate"),
    *("keys", "revocations"),
)
GOOD = {"customer_id": "acme", "customer_tier": "free"}


pytestmark = pytest.mark.usefixtures("place")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a good configuration and none of ours in the environment."""
    for name in ("JWT_PUBLIC_KEY", "ALLOWED_ISSUERS", "ALLOWED_AUDIENCES", "REDIS_URL", "LOG_LEVEL", "GENOPS_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "key.pem").write_bytes(KEY.public_pem())
    (tmp_path / "genops.yaml").write_text(yaml.safe_dump(settings()))
    return tmp_path


def run(*arguments: str, stdin: str | bytes = "") -> Result:
    result = CliRunner().invoke(cli.main, arguments, input=stdin)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def explained(*arguments: str, stdin: str | bytes = "") -> Result:
    return run("explain", "-c", "genops.yaml", *arguments, stdin=stdin)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_what_a_command_does(command: str) -> None:
    """Each command has a help text that describes it and each of its options."""
    result = run(command, "--help")
    assert result.exit_code == 0
    for option in cli.main.commands[command].params:
        assert option.opts[-1] in result.output
        assert getattr(option, "help", "")


def test_help_lists_the_commands() -> None:
    """The help text lists the commands, and --version says which this is."""
    assert all(f"  {command} " in run("--help").output for command in COMMANDS)
    assert cli.main.commands.keys() == set(COMMANDS)
    assert run("--version").output == f"genops-extauth, version {__version__}\n"


def test_a_right_configuration_is_summed_up() -> None:
    """check-config says what a right configuration means, and exits with 0."""
    result = run("check-config", "-c", "genops.yaml")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "tier free: 10/day, 5 at once" in result.stdout
    assert "open to everybody: GET /open" in result.stdout


def test_a_credential_in_a_url_is_not_repeated(place: Path) -> None:
    """check-config shows the address of a key set without its query, which can hold a credential."""
    keys = {"jwks_uri": "https://auth.example.com/keys?apikey=hunter2"}
    entry = settings()["identity"]["jwt"][0] | {"keys": keys}
    (place / "genops.yaml").write_text(yaml.safe_dump(settings(identity={"jwt": [entry]})))
    result = run("check-config", "-c", "genops.yaml")
    assert result.exit_code == 0
    assert "https://auth.example.com/keys" in result.output
    assert "hunter2" not in result.output


def limits(place: Path, **files: str) -> None:
    """Make a configuration that reads these files of limits."""
    (place / "limits").mkdir()
    for name, text in files.items():
        (place / "limits" / f"{name}.yaml").write_text(text)
    (place / "genops.yaml").write_text(yaml.safe_dump(settings(rate_limits={"directory": "limits"}, tiers={})))


def test_what_a_directory_means_is_said(place: Path) -> None:
    """check-config reads the files of limits, and says that a tier alone is one bucket for all of its customers."""
    tier = {"key": "customer_tier", "value": "free", "rate_limit": {"unit": "minute", "requests_per_unit": 10}}
    limits(place, seed=yaml.safe_dump({"domain": "seed", "descriptors": [tier]}))
    (place / "genops.yaml").write_text("server: {services: [rate_limits]}\nrate_limits: {directory: limits}\n")
    result = run("check-config", "-c", "genops.yaml")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "seed.customer_tier_free: unit=MINUTE requests_per_unit=10" in result.stdout
    assert "seed.customer_tier_free: is one bucket, for all customers together; for one each, write" in result.stdout


def test_everything_wrong_with_all_files_is_said(place: Path) -> None:
    """What is wrong with the configuration and with each file of limits is said at once, with exit code 2."""
    limits(place, one="domain: one\nnonsense: 1\n", two="domain: two\ndescriptors: [{value: a}]\n")
    result = run("check-config", "-c", "genops.yaml")
    assert (result.exit_code, result.stdout) == (2, "")
    for said in ("genops.yaml:", "limits/one.yaml:2: nonsense: one.yaml: ", "limits/two.yaml:2: descriptors[0]"):
        assert f"genops-extauth: {said}" in result.stderr
    assert all(line.startswith("genops-extauth: ") for line in result.stderr.splitlines())


IDENTITY = yaml.safe_dump({"identity": settings()["identity"]})
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
BAD: Mapping[str, tuple[str, str]] = {
    "unknown key": (f"{IDENTITY}serverr: {{}}", "did you mean server?"),
    "bad duration": (f"{IDENTITY}server: {{drain_delay: 5}}", "a number needs its unit: write for example 250ms"),
    "unreadable key file": (IDENTITY.replace("key.pem", "missing.pem"), "cannot be read: No such file or directory"),
    "two tiers of one name": (f"{IDENTITY}tiers: {{free: {{limit: 1/hour}}, free: {{limit: 2/hour}}}}", "free"),
    "YAML bomb": (BOMB, "alias"),
    "not a mapping": ("- a\n", "write"),
    "nobody to believe": ("tiers: {free: {limit: 1/hour}}", "there is nobody to believe"),
}


@pytest.mark.parametrize("command", ["check-config", "serve", "explain"])
@pytest.mark.parametrize("kind", BAD)
def test_bad_configurations_are_refused(place: Path, kind: str, command: str) -> None:
    """What is wrong with a configuration is said with what to do, on standard error, with exit code 2."""
    text, said = BAD[kind]
    (place / "genops.yaml").write_text(text)
    result = run(command, "-c", "genops.yaml")
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr
    assert all(line.startswith("genops-extauth: ") for line in result.stderr.splitlines())


def test_a_missing_file_is_refused() -> None:
    """A configuration file that is not there is named."""
    result = run("check-config", "-c", "missing.yaml")
    assert (result.exit_code, "missing.yaml" in result.stderr) == (2, True)


def test_the_environment_names_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """GENOPS_CONFIG stands for -c."""
    monkeypatch.setenv("GENOPS_CONFIG", "genops.yaml")
    assert run("check-config").exit_code == 0


def test_the_schema_is_one() -> None:
    """What schema prints is a JSON Schema, and the configuration of these tests fits it."""
    result = run("schema")
    schema = json.loads(result.output)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(settings(), schema)
    assert result.exit_code == 0


@pytest.mark.parametrize("code", [0, 1, 2])
def test_the_demo_s_exit_code_is_passed_on(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """The demo's outcome is the command's exit code, and --once is handed to it."""
    asked: list[bool] = []

    def told(*, once: bool) -> int:
        asked.append(once)
        return code

    monkeypatch.setattr(demo, "run", told)
    assert [run("demo").exit_code, run("demo", "--once").exit_code] == [code, code]
    assert asked == [False, True]


def test_a_request_that_passes_is_0() -> None:
    """A request is followed with a token from standard input; where it passes, the exit code is 0."""
    result = explained("--path", "/v1/chat?x=1", "--token", stdin=f"{token(**GOOD)}\n")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "set      x-genops-customer-id: acme" in result.stdout


def test_a_request_that_is_refused_is_1() -> None:
    """Where a request would be refused, explain says by which check and with which answer, and exits with 1."""
    result = explained("--token", stdin=token(**GOOD, exp=1))
    assert result.exit_code == 1
    assert result.stdout.endswith(
        "refused  token: valid now: token_expired\nanswer   401 invalid_token: The bearer token is not valid.\n"
    )


def test_json_is_json() -> None:
    """With --json the same is said to a program."""
    told = json.loads(explained("--token", "--json", stdin=token(**GOOD)).stdout)
    assert (told["allowed"], told["headers"]["x-genops-customer-id"]) == (True, "acme")
    refused = json.loads(explained("--json").stdout)
    assert (refused["allowed"], refused["refused"]["reason"]) == (False, "credentials_missing")


def test_headers_come_from_a_file_or_standard_input(place: Path) -> None:
    """Headers are read as lines `Name: value`, in any case, with empty lines between."""
    lines = f"Authorization: Bearer {token(**GOOD)}\r\n\nX_GenOps_Team: forged\n"
    (place / "headers").write_text(lines)
    for source, stdin in (("headers", ""), ("-", lines)):
        result = explained("--headers", source, stdin=stdin)
        assert result.exit_code == 0
        assert "remove   x_genops_team (sent by the client)" in result.stdout


@pytest.mark.parametrize("line", ["no colon", ": no name", ":path: /x"])
def test_what_is_no_header_is_refused(line: str) -> None:
    """A line that is no header is named by its number, and not repeated."""
    result = explained("--headers", "-", stdin=f"accept: */*\n{line}\n")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "genops-extauth: line 2 of the headers is no header; write Name: value\n"


@pytest.mark.parametrize("arguments", [["--token", "SECRET"], ["--token=SECRET"], ["SECRET"]])
def test_a_token_never_comes_from_the_command_line(arguments: list[str]) -> None:
    """A token among the arguments is refused with exit code 2, and is not repeated."""
    result = explained(*arguments, stdin=token(**GOOD))
    assert (result.exit_code, result.stdout) == (2, "")
    assert "SECRET" not in result.stderr


def test_a_missing_token_is_said() -> None:
    """Where --token finds nothing on standard input, for headers took it or it is empty, it says so."""
    for arguments, stdin in ((["--token"], " \n"), (["--token", "--headers", "-"], "accept: */*\n")):
        result = explained(*arguments, stdin=stdin)
        assert (result.exit_code, "no token came on standard input" in result.stderr) == (2, True)


def test_hostile_requests_are_refusals() -> None:
    """A token of 1 MB is refused, and headers that are no text are looked at like all others."""
    result = explained("--token", stdin="a" * 2**20)
    assert (result.exit_code, "token_too_large" in result.stdout) == (1, True)
    hostile = b"x-note: \xff\xfe\nauthorization: Bearer \xff\xfe\n"
    result = explained("--headers", "-", stdin=hostile)
    assert (result.exit_code, "token_malformed" in result.stdout) == (1, True)


@pytest.mark.parametrize("name", [b"x-genops-\x1b[31m", b"x-genops-\xff", b"x_genops_\x07"])
def test_what_a_client_sent_is_not_obeyed(name: bytes) -> None:
    """Nothing that a client sent reaches the terminal as more than text."""
    headers = b"authorization: Bearer " + token(**GOOD, sub="\x07user\x9b2J").encode() + b"\n"
    for stdin in (headers, headers + name + b": forged\n"):
        for form in ([], ["--json"]):
            shown = explained("--headers", "-", *form, stdin=stdin).output
            assert all(character.isprintable() or character == "\n" for character in shown)


def test_a_store_is_named_without_its_password() -> None:
    """--store takes a URL, refuses what is none, and a password, which it does not repeat."""
    for url, said in (("http://x", "not a store: write"), ("redis://:hunter2@127.0.0.1", "leave the password out")):
        result = explained("--store", url)
        assert (result.exit_code, said in result.stderr, "hunter2" in result.output) == (2, True, False)
    result = explained("--token", "--store", f"redis://127.0.0.1:{free_port()}", stdin=token(**GOOD))
    assert (result.exit_code, "unreachable: " in result.stdout) == (0, True)


@pytest.fixture(scope="module")
def sidecar() -> Iterator[Sidecar]:
    with serving() as started:
        yield started


def test_a_running_sidecar_s_buckets_can_be_looked_at(sidecar: Sidecar) -> None:
    """With the URL of its `listening` line, the buckets of a sidecar's embedded store are seen, and left alone."""
    (listening,) = sidecar.said("listening")
    found = re.search(r"unix://[^)\s]+", listening["store"])
    assert found is not None
    arguments = ("explain", "-c", str(sidecar.config), "--token", "--store", found[0])
    for _ in range(2):
        assert "5 left, full in 0 s" in run(*arguments, stdin=token(**GOOD)).stdout


def asked(sidecar: Sidecar, *arguments: str) -> tuple[int, str]:
    result = run("health", "--address", sidecar.grpc, *arguments)
    return result.exit_code, result.output


@pytest.mark.parametrize(
    "service",
    ["", "envoy.service.auth.v3.Authorization", "envoy.service.ratelimit.v3.RateLimitService", "ratelimit"],
)
def test_a_running_sidecar_is_healthy(sidecar: Sidecar, service: str) -> None:
    """SERVING is said of each service of a running sidecar, and exits with 0."""
    assert asked(sidecar, "--service", service) == (0, "SERVING\n")


def test_an_unknown_service_is_said(sidecar: Sidecar) -> None:
    """A service that the sidecar does not have is no healthy one."""
    assert asked(sidecar, "--service", "nobody") == (1, "SERVICE_UNKNOWN\n")


def test_nobody_there_is_said() -> None:
    """Where nobody listens, health says so and exits with 1."""
    result = run("health", "--address", f"127.0.0.1:{free_port()}")
    assert (result.exit_code, result.output) == (1, "UNREACHABLE\n")


def test_readiness_is_asked_at_the_http_port(sidecar: Sidecar) -> None:
    """With --http the HTTP port says whether it is ready, as a probe needs it that TLS keeps out of gRPC."""
    result = run("health", "--http", sidecar.http)
    assert (result.exit_code, result.output) == (0, "SERVING\n")
    for nobody in (f"127.0.0.1:{free_port()}", "127.0.0.1:http"):
        result = run("health", "--http", nobody)
        assert (result.exit_code, result.output) == (1, "UNREACHABLE\n")


def test_health_is_asked_over_tls(sidecar: Sidecar, place: Path) -> None:
    """With --ca-file a server that speaks no TLS is not believed; a certificate without its key is an error."""
    pair, authority = (made := Authority(place)).issue("client"), made.file
    shown = ("--cert-file", str(pair.certificate))
    assert asked(sidecar, "--ca-file", str(authority), *shown, "--key-file", str(pair.key)) == (1, "UNREACHABLE\n")
    result = run("health", *shown)
    assert (result.exit_code, "give --cert-file and --key-file, or neither" in result.stderr) == (2, True)


def test_proxies_are_not_asked(sidecar: Sidecar) -> None:
    """A proxy that the environment names for what is outside is not asked about the sidecar."""
    environ = {**os.environ, "http_proxy": f"http://127.0.0.1:{free_port()}", "no_proxy": ""}
    command = (sys.executable, "-m", "genops_extauth", "health", "--address", sidecar.grpc)
    ran = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, "SERVING\n")


Answer = Callable[[Any], None]


def answered(terminate: Answer) -> str:
    """What `ask_health` makes of an answer, which `terminate` gives to the call that it made."""
    service = health_pb2.DESCRIPTOR.services_by_name["Health"]
    channel = grpc_testing.channel([service], grpc_testing.strict_real_time())
    with ThreadPoolExecutor(1) as pool:
        told = pool.submit(health_probe.ask_health, channel, "a.service", 5.0)
        _, request, call = channel.take_unary_unary(service.methods_by_name["Check"])
        assert request.service == "a.service"
        call.send_initial_metadata(())
        terminate(call)
        return told.result()


@pytest.mark.parametrize("status", ["UNKNOWN", "SERVING", "NOT_SERVING"])
def test_a_status_is_told_by_its_name(status: str) -> None:
    """Whatever status a server answers with is told by its name."""
    answer = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.ServingStatus.Value(status))
    assert answered(lambda call: call.terminate(answer, (), grpc.StatusCode.OK, "")) == status


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
def test_a_failed_call_is_no_health(code: grpc.StatusCode) -> None:
    """A call that fails, in whichever way, is never taken for a healthy server."""
    expected = "SERVICE_UNKNOWN" if code is grpc.StatusCode.NOT_FOUND else "UNREACHABLE"
    assert answered(lambda call: call.terminate(None, (), code, "for the test")) == expected

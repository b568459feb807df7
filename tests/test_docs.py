"""What the pages show is what happens: commands are run, configurations loaded, tables held against the code."""

import ast
import http.client
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import pytest
import structlog
from prometheus_client.parser import text_string_to_metric_families

import minting
from authz_cases import CASES
from generated import PACKAGE, REPOSITORY
from genops_extauth import cli, config, http_face
from genops_extauth.health import Health
from genops_extauth.model import StoreUnavailable
from genops_extauth.ratelimit_files import parse_file
from genops_extauth.reasons import Reason
from pages import ALL, OURS, anchor, blocks, links, names, prose, table, transcript
from sidecar import CHECK, KEY, Sidecar, serving, settings, token
from stores import VALKEY, eventually, running
from test_e2e_authz import HERE

README = REPOSITORY / "README.md"
CONFIGURATION, OPERATIONS, SECURITY = (
    REPOSITORY / "docs" / f"{page}.md" for page in ("configuration", "operations", "security")
)
DECISIONS = REPOSITORY / "docs" / "decisions"
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
BINARIES = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
CUSTOMER = {"sub": "acme", "team": "search", "project": "assistant", "tier": "free"}

each_page = pytest.mark.parametrize("page", OURS, ids=lambda page: page.name)


@each_page
def test_every_block_is_checked(page: Path) -> None:
    """A page holds only blocks in languages that are checked here, and text whose output a test compares."""
    known = {"sh", "console", "yaml", "json", "promql", "mermaid", "text"}
    assert {block.language for block in blocks(page)} <= known
    assert page == README or not blocks(page, "text")


@pytest.mark.parametrize("page", ALL, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_lead_somewhere(page: Path) -> None:
    """Every link into the repository finds its file, and in it its heading."""
    for link in links(page):
        path, _, fragment = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if fragment:
            titles = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
            assert fragment in map(anchor, titles), link


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """The folder of a reader who followed a page: limits, keys of an issuer and of digests, a good and an old token."""
    pair, now = minting.ec_pair(), int(time.time())
    said = {"iss": "https://auth.example.com", "aud": "genops-ai-api", "iat": now, "exp": now + 3600, **CUSTOMER}
    (tmp_path / "ratelimit").mkdir()
    (tmp_path / "ratelimit" / "api.yaml").write_text("domain: api\n")
    (tmp_path / "records").mkdir()
    (tmp_path / "digest.key").write_text("0123456789abcdef" * 4)
    (tmp_path / "issuer.pem").write_bytes(pair.public_pem())
    (tmp_path / "token.jwt").write_bytes(minting.token(pair, said))
    (tmp_path / "expired.jwt").write_bytes(minting.token(pair, said | {"iat": 1, "exp": 2}))
    return tmp_path


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    with running(VALKEY) as server:
        yield server.url


def shell(command: str, folder: Path) -> str:
    """What a command prints in a folder."""
    environ = {"PATH": BINARIES, "PYTHONPATH": str(PACKAGE.parent)}
    ran = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    return ran.stdout.decode()


@each_page
def test_commands_print_what_is_shown(page: Path, workspace: Path, store: str) -> None:
    """Each command of a console block, run with the configuration above it, prints what the page shows."""
    for block in blocks(page, "yaml", "console"):
        if block.language == "yaml":
            (workspace / "genops.yaml").write_text(block.text)
            continue
        for command, shown in transcript(block):
            if not command.startswith("curl "):  # a test of its own asks the demo
                placed = re.sub(r"unix:///tmp/genops-valkey-\w+/valkey\.sock", store, command)
                assert shell(placed, workspace) == shown, command


@each_page
def test_configurations_are_right(page: Path, workspace: Path) -> None:
    """Each configuration of a page loads, unless the next block shows what is wrong with it."""
    found = blocks(page)
    for place, block in enumerate(found):
        if block.language != "yaml":
            continue
        if block.text.startswith("domain:"):
            (parsed,) = [parse_file("limits.yaml", block.text.encode())]
            assert not parsed.problems
            continue
        if block.text.startswith("typed_per_filter_config:"):  # Envoy's: `test_e2e_charges` runs it
            continue
        (workspace / "genops.yaml").write_text(block.text)
        try:
            config.load(workspace / "genops.yaml", {})
        except config.ConfigError as error:
            for problem in error.problems:
                assert problem.message in found[place + 1].text, problem


@each_page
def test_commands_exist(page: Path, workspace: Path) -> None:
    """Each command that is shown without output is one that there is, with those options."""
    for block in blocks(page, "sh"):
        for line in block.text.replace("\\\n", "").splitlines():
            check_command(line, workspace)


def check_command(line: str, folder: Path) -> None:
    words = shlex.split(line)
    match words:
        case ["make", *targets]:
            subprocess.run(["make", "-n", *targets], cwd=REPOSITORY, check=True, capture_output=True)
        case ["pip", "install", what]:
            extras = re.fullmatch(r"\.\[([\w,]+)\]", what)
            assert extras is not None
            assert set(extras[1].split(",")) <= PROJECT["optional-dependencies"].keys()
        case ["genops-extauth", "migrate", product, *options]:
            cli.migrate.commands[product].make_context(product, [str(folder / option) for option in options])
        case ["genops-extauth", command, *options]:
            cli.main.commands[command].make_context(command, options)
        case _ if "=" in words[0]:
            told = shell(line, folder)
            assert "believes https://auth.example.com for genops-ai-api" in told, told
        case _:
            pytest.fail(f"no test for {line}")


class _KeySet(BaseHTTPRequestHandler):
    """Serves the public key of these tests as a JWK Set."""

    def do_GET(self) -> None:
        body = minting.jwks(KEY)
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def sidecar() -> Iterator[Sidecar]:
    """A sidecar that fetches its keys, so that everything it can tell of them is told."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _KeySet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        configured = settings()
        configured["identity"]["jwt"][0]["keys"] = {"jwks_uri": f"http://127.0.0.1:{server.server_port}/"}
        with serving(configured) as running_sidecar:
            yield running_sidecar
        server.shutdown()


def test_metrics_are_those_of_a_scrape(sidecar: Sidecar) -> None:
    """The table of metrics names every metric that a real scrape has, with its type and its labels, and no other."""
    documented = {
        names(name)[0]: (kind, frozenset(names(labels)) - {"key1"})
        for heading in ("Metrics", "Metrics under envoyproxy/ratelimit's names")
        for name, kind, labels, _ in table(OPERATIONS, heading)
    }
    scraped = {}
    for family in text_string_to_metric_families(sidecar.get("/metrics")[1]):
        ours = family.type == "counter" and not family.name.startswith("ratelimit_")
        name = f"{family.name}_total" if ours else family.name
        if not name.startswith("process_"):
            labels = {label for sample in family.samples for label in sample.labels}
            # Of a limit, one for each entry of its descriptor.
            scraped[name] = (family.type, frozenset(label for label in labels if not re.fullmatch(r"key\d+", label)))
    assert documented == scraped


def test_alerts_ask_for_metrics_that_exist() -> None:
    """Every metric in a query of the page is in its table, and every label value is one that there is."""
    documented = {names(row[0])[0] for row in table(OPERATIONS, "Metrics")}
    (queries,) = blocks(OPERATIONS, "promql")
    assert set(re.findall(r"genops_\w+", queries.text)) <= documented
    for reason in re.findall(r'reason="(\w+)"', queries.text):
        assert Reason(reason)


_EVENT_AT = {"_write": 2, "log": 1, "debug": 0, "info": 0, "warning": 0, "error": 0, "write": 0}
"""Where a call that writes a log line has the event's name."""


def called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def events() -> set[str]:
    """Every event that the code logs: the argument after the level of each call that writes a line."""
    found = set()
    for tree in (ast.parse(path.read_text()) for path in PACKAGE.glob("*.py")):
        for node in ast.walk(tree):
            place = _EVENT_AT.get(called(node)) if isinstance(node, ast.Call) else None
            if isinstance(node, ast.Call) and place is not None and place < len(node.args):
                parts = ast.walk(node.args[place])
                found |= {str(part.value) for part in parts if isinstance(part, ast.Constant)}
    return {event for event in found if re.fullmatch(r"[a-z]+(_[a-z]+)*", event)}


def test_log_lines_are_those_of_the_code() -> None:
    """The table of log lines has every event that the code writes, and no other."""
    assert {names(row[0])[0] for row in table(OPERATIONS, "Log lines")} == events()


def test_log_line_has_the_fields_of_a_real_one(sidecar: Sidecar) -> None:
    """The log line that is shown has the fields of a real one, in their order."""
    shown = next(json.loads(block.text) for block in blocks(OPERATIONS, "json") if "event" in block.text)
    with sidecar.channel() as channel:
        ask: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(CHECK)
        ask(check_request(token(exp=1)))
    eventually(lambda: bool(sidecar.said("check")))
    real = sidecar.said("check")[-1]
    assert list(shown) == list(real)
    assert (shown["verdict"], shown["reason"]) == (real["verdict"], real["reason"])


def check_request(bearer: str) -> bytes:
    from genops_extauth._pb import ext_authz_pb2 as authz  # noqa: PLC0415 - this helper's alone

    http = authz.AttributeContext.HttpRequest(
        method=b"POST", path=b"/v1/chat", host=b"ai.example.com", headers={"authorization": f"Bearer {bearer}".encode()}
    )
    request = authz.AttributeContext.Request(http=http)
    return authz.CheckRequest(attributes=authz.AttributeContext(request=request)).SerializeToString()


async def test_readiness_is_the_healths() -> None:
    """What /readyz is shown to say without a store is what it says."""
    shown = next(json.loads(block.text) for block in blocks(OPERATIONS, "json") if "components" in block.text)

    async def ping() -> None:
        raise StoreUnavailable("unreachable: no store in this test")

    async def serve(_identity: bool, _limits: bool) -> None:  # noqa: FBT001 - as Health calls it
        pass

    level = structlog.make_filtering_bound_logger("critical")
    silent = structlog.wrap_logger(structlog.ReturnLogger(), wrapper_class=level)
    health = Health(lambda: True, lambda: True, ping, serve, silent)
    await health.look()
    assert health.readiness() == http_face.Readiness(shown["ready"], shown["components"])


def test_restart_list_is_the_codes() -> None:
    """The page lists exactly the settings that wait for a restart."""
    section = prose(CONFIGURATION).partition("\n## What needs a restart\n")[2]
    assert [name for name in names(section) if "." in name] == [".".join(path) for path in config._RESTART_ONLY]


def test_variables_are_those_that_are_read() -> None:
    """The page lists exactly the environment variables that are read."""
    constants = ast.walk(ast.parse((PACKAGE / "environment.py").read_text()))
    read = {node.value for node in constants if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    read = {name for name in read if re.fullmatch(r"[A-Z]+(_[A-Z]+)+", name)} | {"GENOPS_CONFIG"}
    documented = table(CONFIGURATION, "Environment")
    assert {names(row[0])[0] for row in documented} == read
    keys = {names(row[0])[0] for row in table(CONFIGURATION, "Every key")} | {"-c"}
    assert {names(row[1])[0] for row in documented} <= keys


def test_every_named_test_exists() -> None:
    """Each test that the security page names is there, and each case is run; those of the HTTP interface wait."""
    run, waiting = {case["id"] for case in HERE}, {case["id"] for case in CASES if case["transport"] == "http"}
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", SECURITY.read_text())
    assert len(named) > 20
    for file, function in named:
        text = (REPOSITORY / "tests" / file).read_text()
        assert re.search(rf"^(async )?def {function}\(", text, re.MULTILINE), function
    for row in table(SECURITY, "Advisories"):
        cases = set(re.findall(r"\b[A-F]\d\d\b", row[3]))
        assert cases or "::" in row[3], row[0]
        assert cases <= run, row[0]
        assert set(re.findall(r"\b[A-F]\d\d\b", row[2])) <= waiting, row[0]


def test_decisions_are_listed_and_complete() -> None:
    """Each decision is in the list, and says its context, what was decided and what follows."""
    pages = sorted(DECISIONS.glob("0*.md"))
    assert [page.name for page in pages] == list(links(DECISIONS / "README.md"))
    for page in pages:
        headings = re.findall(r"^## (\w+)$", page.read_text(), re.MULTILINE)
        assert headings == ["Context", "Decision", "Consequence"], page.name


def test_every_package_has_its_job() -> None:
    """Each package that the product was asked for has its job on the page, and stands in pyproject.toml."""
    asked = {"grpcio", "grpcio-tools", "envoy-data-plane", "pyjwt", "cryptography", "redis", "prometheus-client"}
    asked |= {"pytest", "grpcio-testing"}
    jobs = {row[0].lower() for row in table(DECISIONS / "0006-packages.md", "Decision")}
    required = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]
    assert asked <= jobs
    assert jobs <= {re.split(r"[\[<>=!~]", name)[0] for name in required}


@pytest.fixture(scope="module")
def demo() -> Iterator[tuple[str, dict[str, str]]]:
    """A demo that has finished its tour: what it printed, and the variables of the README's commands."""
    with tempfile.TemporaryDirectory(prefix="t-") as folder:
        environ = {**os.environ, "TMPDIR": folder, "PYTHONPATH": str(PACKAGE.parent)}
        command = (sys.executable, "-m", "genops_extauth", "demo")
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ) as process:
            try:
                assert process.stdout is not None
                printed = ""
                for line in process.stdout:
                    printed += line
                    if line.startswith("Now live"):
                        break
                place = re.search(r"@(\S+)/free (http://\S+?)/", printed)
                assert place is not None, printed
                yield printed, {"DEMO": place[1], "ENVOY": place[2]}
            finally:
                process.terminate()
                process.communicate()


def normal(text: str) -> str:
    """A text without what differs from run to run: folders, ports, dates, seconds to wait, and line breaks."""
    text = re.sub(r"/\S*/genops-demo-\w+", "DEMO", text)
    text = re.sub(r"http://127\.0\.0\.1:\d+", "ENVOY", text)
    text = re.sub(r"(?m)^date: .*$", "date: DATE", text)
    text = re.sub(r"((?:reset|retry-after|retry_after\"): ?)\d+", r"\1SECONDS", text)
    return " ".join(text.split())


def test_tour_is_as_shown(demo: tuple[str, dict[str, str]]) -> None:
    """The stop of the tour that the README shows is one that the demo shows, to the letter."""
    (shown,) = blocks(README, "text")
    assert normal(shown.text) in normal(demo[0])


def test_answers_are_as_shown(demo: tuple[str, dict[str, str]]) -> None:
    """Each curl command of the README gets from the demo's Envoy the answer that is shown."""
    commands = [
        (command, shown)
        for block in blocks(README, "console")
        for command, shown in transcript(block)
        if command.startswith("curl ")
    ]
    assert len(commands) == 2
    for command, shown in commands:
        assert normal(answer(command, demo[1])) == normal(shown), command


def answer(command: str, variables: dict[str, str]) -> str:
    """What ``curl -i -H @FILE URL`` prints."""
    for name, value in variables.items():
        command = command.replace(f"${name}", value)
    curl, head, option, file, url = shlex.split(command)
    assert (curl, head, option, file[0]) == ("curl", "-i", "-H", "@")
    name, _, value = Path(file[1:]).read_text().strip().partition(": ")
    address, _, path = url.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(address, timeout=10)
    connection.request("GET", f"/{path}", headers={name: value})
    response = connection.getresponse()
    fields = "\n".join(f"{field.lower()}: {text}" for field, text in response.getheaders())
    body = response.read().decode()
    connection.close()
    return f"HTTP/1.1 {response.status} {response.reason}\n{fields}\n\n{body}"

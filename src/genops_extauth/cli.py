"""The command line: serve, demo, check-config, schema, explain, health.

Exit codes: 0 done; 1 refused, unhealthy, or a wrong answer; 2 the input is bad, and the message says what to write
instead. Errors go to standard error, start with ``genops-extauth:``, and end without a period.
"""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import BinaryIO, NoReturn

import click
import grpc
import uvloop
from grpc_health.v1 import health_pb2, health_pb2_grpc

from genops_extauth import __version__, app, config, demo, explain
from genops_extauth.check_messages import request_of
from genops_extauth.embedded import EmbeddedValkeyError
from genops_extauth.notation import store_url
from genops_extauth.server import ListenError

_CONFIG = click.option(
    "-c",
    "--config",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="GENOPS_CONFIG",
    show_envvar=True,
    help="The configuration file. Without one, JWT_PUBLIC_KEY, ALLOWED_ISSUERS and ALLOWED_AUDIENCES must be set.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="genops-extauth")
def main() -> None:
    """A governance sidecar for AI gateways: Envoy's ext_authz and rate limits, keyed by verified identity."""


@main.command()
@_CONFIG
def serve(path: Path | None) -> None:
    """Answer the gateway until SIGTERM; SIGHUP and a changed file reload the configuration."""
    settings = _load(path)
    try:
        uvloop.run(app.serve(settings, path, os.environ))
    except (ListenError, EmbeddedValkeyError) as error:
        _fail(str(error))


@main.command("demo")
@click.option("--once", is_flag=True, help="End after the tour: 0, or 1 where an answer was not the right one.")
def demo_command(*, once: bool) -> None:
    """Show it all with a real Envoy, a real Valkey and keys made on the spot."""
    sys.exit(demo.run(once=once))


@main.command("check-config")
@_CONFIG
def check_config(path: Path | None) -> None:
    """Validate the configuration and say what it means; every error at once, exit code 2."""
    click.echo("\n".join(config.summary(_load(path))))


@main.command()
def schema() -> None:
    """Print the JSON schema of the configuration file, for editors and CI."""
    click.echo(json.dumps(config.json_schema(), indent=2))


@main.command("explain", context_settings={"allow_extra_args": True})
@click.pass_context
@_CONFIG
@click.option("--method", default="GET", show_default=True, help="The request's method.")
@click.option("--path", "target", default="/", show_default=True, help="The request's path.")
@click.option("--host", default="", help="The request's host.")
@click.option("--headers", type=click.File("rb"), help="A file of lines `Name: value`; - is standard input.")
@click.option("--token", "wants_token", is_flag=True, help="Read a bearer token from standard input.")
@click.option("--store", metavar="URL", help="Look at buckets there: the URL in a running sidecar's `listening` line.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def explain_command(
    context: click.Context,
    path: Path | None,
    *,
    method: str,
    target: str,
    host: str,
    headers: BinaryIO | None,
    store: str | None,
    wants_token: bool,
    as_json: bool,
) -> None:
    """Show the path one request takes: credential, checks, identity, headers, and the buckets it would hit.

    A token comes on standard input or in a file, never on the command line, where every process could read it.
    Nothing is consumed. Exit code 0 where it would pass, 1 where it would be refused.
    """
    if context.args:  # click would repeat it, and it may be a token
        _fail("explain takes no argument: send a token on standard input, every process can read it here")
    fields = _fields(headers.read() if headers else b"")
    if wants_token:
        fields.append((b"authorization", b"Bearer " + _token()))
    request = request_of(method, target, host, fields)
    told = asyncio.run(explain.explain(_load(path), request, store=_store(store)))
    click.echo(json.dumps(told.document(), indent=2) if as_json else "\n".join(told.lines()))
    sys.exit(told.refused is not None)


def _fields(lines: bytes) -> list[tuple[bytes, bytes]]:
    fields = []
    for number, line in enumerate(lines.splitlines(), start=1):
        name, colon, value = line.partition(b":")
        if line.strip() and not (colon and name.strip()):
            _fail(f"line {number} of the headers is no header; write Name: value")
        if colon:
            fields.append((name.strip(), value.strip()))
    return fields


def _token() -> bytes:
    token = sys.stdin.buffer.read().strip()
    if not token:
        _fail("no token came on standard input; send it there, and put headers into a file")
    return token


def _store(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        url = store_url(text)
    except ValueError as error:
        _fail(f"--store: {error}")
    if url.password is not None:
        _fail("--store: leave the password out, every process can read it here; store.password_file is used")
    return url.url


@main.command()
@click.option("--address", default="127.0.0.1:50051", show_default=True, help="The gRPC address to ask.")
@click.option("--service", default="", help="Ask for one service, such as envoy.service.auth.v3.Authorization.")
@click.option("--timeout", default=2.0, show_default=True, help="Seconds to wait.")
def health(address: str, service: str, timeout: float) -> None:
    """Ask a running sidecar for its gRPC health; exit code 0 when SERVING, 1 otherwise."""
    # Not through a proxy that the environment names for what is outside.
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        status = ask_health(channel, service, timeout)
    click.echo(status)
    sys.exit(status != "SERVING")


def ask_health(channel: grpc.Channel, service: str, timeout: float) -> str:
    """Return grpc.health.v1's status of a service by name; an unreachable server is its own status, UNREACHABLE."""
    request = health_pb2.HealthCheckRequest(service=service)
    try:
        answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=timeout)
    except grpc.RpcError as error:
        return "SERVICE_UNKNOWN" if error.code() is grpc.StatusCode.NOT_FOUND else "UNREACHABLE"
    name: str = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    return name


def _load(path: Path | None) -> config.Config:
    try:
        return config.load(path, os.environ)
    except config.ConfigError as error:
        for problem in error.problems:
            click.echo(f"genops-extauth: {problem}", err=True)
        sys.exit(2)


def _fail(message: str) -> NoReturn:
    click.echo(f"genops-extauth: {message}", err=True)
    sys.exit(2)

"""The command line: serve, ratelimit, demo, check-config, schema, explain, health, migrate, keys, revocations.

Exit codes: 0 done; 1 refused, unhealthy, or a wrong answer; 2 the input is bad, and the message says what to write
instead. Errors go to standard error, start with ``genops-extauth:``, and end without a period.
"""

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import click
import uvloop

from genops_extauth import __version__, app, config, demo, explain, health_probe, summary
from genops_extauth.check_messages import request_of
from genops_extauth.command_line import CONFIG, fail, load, store_url
from genops_extauth.embedded import EmbeddedValkeyError
from genops_extauth.environment import Overlay
from genops_extauth.keys_command import keys_command
from genops_extauth.migrate import migrate as migrate_from
from genops_extauth.ratelimit_environment import ratelimit_overlay, ratelimit_warnings
from genops_extauth.revocations_command import revocations_command
from genops_extauth.server import ListenError
from genops_extauth.strict_yaml import Plain


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="genops-extauth")
def main() -> None:
    """A governance sidecar for AI gateways: Envoy's ext_authz and rate limits, keyed by verified identity."""


@main.command()
@CONFIG
def serve(path: Path | None) -> None:
    """Answer the gateway until SIGTERM; SIGHUP and a changed file reload the configuration."""
    settings = load(path)
    try:
        uvloop.run(app.serve(settings, path, os.environ))
    except (ListenError, EmbeddedValkeyError) as error:
        fail(str(error))


@main.command("ratelimit")
def ratelimit_command() -> None:
    """Stand in for envoyproxy/ratelimit: its environment variables, its files, its ports, and no identity."""
    settings = load(None, _reference_environment)
    for warning in ratelimit_warnings(os.environ):
        click.echo(f"genops-extauth: {warning}", err=True)
    try:
        uvloop.run(app.serve(settings, None, os.environ, _reference_environment))
    except (ListenError, EmbeddedValkeyError) as error:
        fail(str(error))


def _reference_environment(_: Mapping[str, Plain], environ: Mapping[str, str]) -> Overlay:
    return ratelimit_overlay(environ)


@main.group()
def migrate() -> None:
    """Come from another product: read what it was configured with, and write our configuration."""


@migrate.command("ratelimit")
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write the file here.")
def migrate_ratelimit(directory: Path, output: Path | None) -> None:
    """Read envoyproxy/ratelimit's files in DIRECTORY and its environment; say what will differ, and write our file."""
    migration = migrate_from(directory, os.environ)
    for problem in migration.problems:
        click.echo(f"genops-extauth: {problem}", err=True)
    if migration.problems:
        sys.exit(2)
    if output is not None:
        try:
            with output.open("x") as file:
                file.write(migration.config_yaml)
        except FileExistsError:
            fail(f"{output} exists; name a new file")
        except OSError as error:
            fail(f"{output} cannot be written: {error.strerror}")
    click.echo("\n".join(migration.lines()))


@main.command("demo")
@click.option("--once", is_flag=True, help="End after the tour: 0, or 1 where an answer was not the right one.")
def demo_command(*, once: bool) -> None:
    """Show it all with a real Envoy, a real Valkey and keys made on the spot."""
    sys.exit(demo.run(once=once))


@main.command("check-config")
@CONFIG
def check_config(path: Path | None) -> None:
    """Validate the configuration and say what it means; every error at once, exit code 2."""
    click.echo("\n".join(summary.summary(load(path))))


@main.command()
def schema() -> None:
    """Print the JSON schema of the configuration file, for editors and CI."""
    click.echo(json.dumps(config.json_schema(), indent=2))


@main.command("explain", context_settings={"allow_extra_args": True})
@click.pass_context
@CONFIG
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
        fail("explain takes no argument: send a token on standard input, every process can read it here")
    fields = _fields(headers.read() if headers else b"")
    if wants_token:
        fields.append((b"authorization", b"Bearer " + _token()))
    request = request_of(method, target, host, fields)
    folder = Path() if path is None else path.parent
    told = asyncio.run(explain.explain(load(path), request, store=store_url(store), folder=folder))
    click.echo(json.dumps(told.document(), indent=2) if as_json else "\n".join(told.lines()))
    sys.exit(told.refused is not None)


def _fields(lines: bytes) -> list[tuple[bytes, bytes]]:
    fields = []
    for number, line in enumerate(lines.splitlines(), start=1):
        name, colon, value = line.partition(b":")
        if line.strip() and not (colon and name.strip()):
            fail(f"line {number} of the headers is no header; write Name: value")
        if colon:
            fields.append((name.strip(), value.strip()))
    return fields


def _token() -> bytes:
    token = sys.stdin.buffer.read().strip()
    if not token:
        fail("no token came on standard input; send it there, and put headers into a file")
    return token


_PEM = click.Path(exists=True, dir_okay=False, path_type=Path)


@main.command()
@click.option("--address", default="127.0.0.1:50051", show_default=True, help="The gRPC address to ask.")
@click.option("--service", default="", help="Ask for one service, such as envoy.service.auth.v3.Authorization.")
@click.option("--ca-file", type=_PEM, help="Ask over TLS: authorities to believe.")
@click.option("--cert-file", type=_PEM, help="Our certificate, where the sidecar wants one (server.tls).")
@click.option("--key-file", type=_PEM, help="The key of our certificate.")
@click.option("--server-name", help="The name in the sidecar's certificate, if not the address's.")
@click.option("--http", metavar="HOST:PORT", help="Ask at the HTTP port instead, for readiness as a whole.")
@click.option("--timeout", default=2.0, show_default=True, help="Seconds to wait.")
def health(
    address: str,
    *,
    service: str,
    ca_file: Path | None,
    cert_file: Path | None,
    key_file: Path | None,
    server_name: str | None,
    http: str | None,
    timeout: float,
) -> None:
    """Ask a running sidecar for its gRPC health; exit code 0 when SERVING, 1 otherwise."""
    if (cert_file is None) != (key_file is None):
        fail("a certificate and its key go together: give --cert-file and --key-file, or neither")
    if http is not None:
        status = health_probe.ask_readiness(http, timeout)
    else:
        with health_probe.open_channel(address, (ca_file, key_file, cert_file), server_name) as channel:
            status = health_probe.ask_health(channel, service, timeout)
    click.echo(status)
    sys.exit(status != health_probe.SERVING)


main.add_command(keys_command)
main.add_command(revocations_command)

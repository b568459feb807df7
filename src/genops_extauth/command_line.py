"""What commands have in common: how they read the configuration, reach the store of a running sidecar, and fail."""

import contextlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NoReturn

import click

from genops_extauth import config
from genops_extauth.environment import overlay
from genops_extauth.store_address import Kind, Target, target
from genops_extauth.store_client import Client, open_client

CONFIG = click.option(
    "-c",
    "--config",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="GENOPS_CONFIG",
    show_envvar=True,
    help="The configuration file. Without one, JWT_PUBLIC_KEY, ALLOWED_ISSUERS and ALLOWED_AUDIENCES must be set.",
)

STORE = click.option(
    "--store",
    "url",
    metavar="URL",
    help="The store, if it is an embedded one: the URL in a running sidecar's `listening` line.",
)

_PATIENCE = 5.0
"""Seconds for an operation: a person waits, and a failover takes some."""


def load(path: Path | None, lay: config.Lay = overlay) -> config.Config:
    """Read the configuration. Where it is wrong, say all that is, and end with 2."""
    try:
        return config.load(path, os.environ, lay)
    except config.ConfigError as error:
        for problem in error.problems:
            click.echo(f"genops-extauth: {problem}", err=True)
        sys.exit(2)


def fail(message: str) -> NoReturn:
    """Say what is wrong with what was asked, and end with 2."""
    click.echo(f"genops-extauth: {message}", err=True)
    sys.exit(2)


def store_url(text: str | None) -> str | None:
    """Check the value of ``--store``."""
    if text is None:
        return None
    try:
        url = target(text)
    except ValueError as error:
        fail(f"--store: {error}")
    if url.password is not None:
        fail("--store: leave the password out, every process can read it here; store.password_file is used")
    return url.url


def place_of(settings: config.Config, path: Path | None, url: str | None) -> Target:
    """Where the store is: as configured in the file at `path`, or at the `url` in its place."""
    place = settings.store.target(Path() if path is None else path.parent, store_url(url))
    if place.kind is Kind.EMBEDDED:
        fail("the store is in a running sidecar: add --store with the URL in its `listening` line")
    return place


@contextlib.asynccontextmanager
async def client_at(place: Target) -> AsyncIterator[Client]:
    """A client of the store, for as long as the context."""
    client = open_client(place, _PATIENCE)
    try:
        yield client
    finally:
        await client.aclose()

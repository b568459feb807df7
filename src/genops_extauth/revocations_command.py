"""The commands ``revocations add | list | remove``: the store's list of what is refused before its time."""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, TypeVar

import click
from rich.table import Table

from genops_extauth import jose
from genops_extauth.command_line import CONFIG, STORE, client_at, fail, load, place_of
from genops_extauth.config import Config
from genops_extauth.model import Denied, StoreUnavailable
from genops_extauth.notation import duration
from genops_extauth.revocation_store import RevocationStore
from genops_extauth.revocations import FOREVER, KINDS, Entry, Handle, Kind, handle, mistaken
from genops_extauth.terminal import console, printable

T = TypeVar("T")

_MARGIN = 600.0
"""Seconds that an entry outlasts its token: the most leeway that an issuer can have, 5 minutes, and as much for clocks
that differ."""

_KIND = click.argument("kind", type=click.Choice(KINDS))
_ISSUER = click.option("--issuer", default="", help="Whose token or subject; by default of whichever issuer.")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


class _Claimed(NamedTuple):
    """What a token says. It is not verified: it is the operator's to revoke, who names what it names."""

    issuer: str
    value: str
    expires: float | None


@click.group("revocations")
def revocations_command() -> None:
    """Refuse tokens, subjects and API keys before their time: everywhere, within a second."""


@revocations_command.command()
@CONFIG
@STORE
@_KIND
@click.argument("value", default="")
@_ISSUER
@click.option("--token", "by_token", is_flag=True, help="Read the token from standard input: it says what to write.")
@click.option("--for", "span", metavar="DURATION", help="For how long, such as 24h.")
@click.option("--until", "end", metavar="TIME", help="Until when, such as 2030-01-31T12:00:00Z, or never.")
def add(
    path: Path | None,
    url: str | None,
    *,
    kind: Kind,
    value: str,
    issuer: str,
    by_token: bool,
    span: str | None,
    end: str | None,
) -> None:
    """Revoke a token by its jti, a subject with all its credentials, or an API key by its id.

    Without --for and --until the entry outlasts its token: by the token's exp, with --token, or by the issuer's
    max_lifetime; that of an API key has no end.
    """
    settings = load(path)
    if by_token == bool(value):
        fail("write the value, or send a token on standard input with --token; one of the two")
    claimed = _claimed(kind, sys.stdin.buffer.read().strip()) if by_token else _Claimed(issuer, _plain(value), None)
    until = _end(span, end) or _outlasting(settings, kind, claimed)
    entry = Entry(handle(kind, claimed.value, claimed.issuer), until)
    _run(settings, path, url, lambda store: store.add(entry))
    of = f" of {claimed.issuer}" if entry.handle.issuer else ""
    click.echo(printable(f"revoked {kind} {claimed.value}{of}; ends {_written(until)}"))


@revocations_command.command()
@CONFIG
@STORE
@_KIND
@click.argument("value")
@_ISSUER
def remove(path: Path | None, url: str | None, *, kind: Kind, value: str, issuer: str) -> None:
    """Take an entry back, with the value and the issuer that `list` shows. Exit code 1 where there is none."""
    settings = load(path)
    shown = Handle(kind, "" if kind == "api_key" else issuer, value)  # a digest, as `list` shows it
    found = _run(settings, path, url, lambda store: store.remove(*{handle(kind, value, issuer), shown}))
    click.echo("removed" if found else "there is no such entry; see `genops-extauth revocations list`")
    sys.exit(not found)


@revocations_command.command("list")
@CONFIG
@STORE
@_JSON
def list_command(path: Path | None, url: str | None, *, as_json: bool) -> None:
    """Show what is refused: the configuration's list and the store's."""
    settings = load(path)
    stored = _run(settings, path, url, RevocationStore.entries)
    configured = settings.identity.revocation.entries()
    rows = [*(_row(entry, "configuration") for entry in configured), *(_row(entry, "store") for entry in stored)]
    if as_json:
        click.echo(json.dumps([dict(zip(_COLUMNS, row, strict=True)) for row in rows], indent=2))
    else:
        _print(rows)


_COLUMNS = ("kind", "issuer", "value", "until", "where")


def _row(entry: Entry, where: str) -> tuple[str, ...]:
    kind, issuer, value = entry.handle
    return kind, issuer or "*", value, _written(entry.until), where


def _written(until: float) -> str:
    return "never" if until == FOREVER else datetime.fromtimestamp(until, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _print(rows: Iterable[Iterable[str]]) -> None:
    out = console()
    table = Table(*(name.upper() for name in _COLUMNS), box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(printable(cell, out.encoding) for cell in row))
    out.print(table)


def _run(settings: Config, path: Path | None, url: str | None, act: Callable[[RevocationStore], Awaitable[T]]) -> T:
    place = place_of(settings, path, url)

    async def run() -> T:
        async with client_at(place) as client:
            return await act(RevocationStore(client, settings.store.key_prefix))

    try:
        return asyncio.run(run())
    except StoreUnavailable as error:
        fail(str(error))


def _plain(value: str) -> str:
    # Whoever pastes the secret itself has shown it to every process here; it must not be kept or repeated as well.
    if found := mistaken(value):
        fail(f"{found}; every process can read it here: send a token on standard input, with --token")
    if not value.isprintable():
        fail("the value must be printable characters, as they stand in the credential")
    return value


def _claimed(kind: Kind, token: bytes) -> _Claimed:
    parsed = jose.parse(token)
    if isinstance(parsed, Denied):
        fail("what came on standard input is no token")
    name = {"token_id": "jti", "subject": "sub"}.get(kind)
    if name is None:
        fail("an API key is no token: write its id")
    issuer, value, expires = (parsed.claims.get(claim) for claim in ("iss", name, "exp"))
    if not isinstance(issuer, str) or not isinstance(value, str) or not value:
        hint = "; revoke its subject instead" if name == "jti" else ""
        fail(f"the token has no {name} and iss{hint}")
    return _Claimed(issuer, value, float(expires) if isinstance(expires, int | float) else None)


def _end(span: str | None, end: str | None) -> float | None:
    """The end that was written, if one was."""
    if span is not None and end is not None:
        fail("--for and --until both say when it ends; keep one")
    try:
        until = _moment(end) if end is not None else None if span is None else time.time() + duration(span)
    except (ValueError, OverflowError) as error:
        fail(f"{'--for' if end is None else '--until'}: {error}")
    if until is not None and until <= time.time():
        fail("the end is in the past: nothing would be refused")
    return until


def _moment(text: str) -> float:
    if text == "never":
        return FOREVER
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ValueError("write a time with its zone, for example 2030-01-31T12:00:00Z, or never")
    return moment.timestamp()


def _outlasting(settings: Config, kind: Kind, claimed: _Claimed) -> float:
    """An end after that of every credential that the entry is about. There is no guess: it would let one pass again."""
    if kind == "api_key":
        return FOREVER
    if kind == "token_id" and claimed.expires is not None:
        return max(claimed.expires, time.time()) + _MARGIN
    lifetimes = list(_lifetimes(settings, claimed.issuer))
    known = [each for each in lifetimes if each is not None]
    if not known or len(known) < len(lifetimes):
        fail(
            "nothing says how long such a token lives: add --for or --until (never is one), send the token with "
            "--token, or set max_lifetime of its issuer"
        )
    return time.time() + max(known) + _MARGIN


def _lifetimes(settings: Config, issuer: str) -> Iterator[float | None]:
    """How long the tokens of an issuer, or of all, live at most."""
    for entry in (*settings.identity.jwt, *settings.identity.hmac):
        if issuer in ("", entry.issuer):
            yield entry.max_lifetime

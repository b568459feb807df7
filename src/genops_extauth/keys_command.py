"""The commands ``keys issue | list | show | rotate | revoke | import``.

A key is shown once: on a terminal, or in a file with mode 0600. It is in no argument, no log, and nothing else that is
printed. Exit codes: 0 done, which is also: done before; 1 not done, as the message says; 2 the input is bad.
"""

import json
import secrets
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from genops_extauth import key_import, key_listing, key_operations, key_records
from genops_extauth.apikeys import NewKey
from genops_extauth.command_line import CONFIG, STORE, fail
from genops_extauth.key_delivery import FileDelivery, ShownDelivery
from genops_extauth.key_lifecycle import Record, Secret, ending_soon
from genops_extauth.key_options import (
    DIRECTORY,
    EXPIRES,
    FORMAT,
    KEY_ID,
    Place,
    checked,
    done,
    id_of,
    moment,
    now,
    place,
    say,
    span,
)
from genops_extauth.reserved_headers import ATTRIBUTES
from genops_extauth.revocations import Entry, handle

_DAY = 86_400

_SOON = 30 * _DAY
"""Seconds. As far ahead as operators plan; certificates are renewed as long before."""

_LISTED = 2 * _DAY
"""Seconds for which a revoked key is on the list of what is refused at once: a process goes by an older record for a
day at the most (max_stale), and from then on by the record."""

_OUTPUT = click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write the key to this new file, mode 0600."
)
_REVEAL = click.option("--reveal", is_flag=True, help="Print the key although standard output is no terminal.")


@click.group("keys")
def keys_command() -> None:
    """Issue, rotate and revoke API keys."""


def _places(command: Callable[..., None]) -> Callable[..., None]:
    return CONFIG(STORE(DIRECTORY(command)))


def _deliveries(command: Callable[..., None]) -> Callable[..., None]:
    return _OUTPUT(_REVEAL(FORMAT(command)))


def _attributes(command: Callable[..., None]) -> Callable[..., None]:
    for name in reversed(ATTRIBUTES):
        words = name.replace("_", " ")
        command = click.option(f"--{words.replace(' ', '-')}", name, help=f"The {words} of who has it.")(command)
    return command


@keys_command.command()
@_places
@click.option("--name", required=True, help="What the key is for; shown to operators only.")
@_attributes
@click.option("--scope", "scopes", multiple=True, help="A scope that it grants; may be repeated.")
@click.option("--role", "roles", multiple=True, help="A role that it has; may be repeated.")
@click.option("--not-before", metavar="WHEN", help="When it begins to hold; written as --expires.")
@EXPIRES
@_deliveries
def issue(
    path: Path | None,
    url: str | None,
    *,
    directory: Path | None,
    output: Path | None,
    reveal: bool,
    style: str,
    **said: Any,  # noqa: ANN401 - click's, by name
) -> None:
    """Make a key. It is shown once, and kept by whoever gets it and nobody else."""
    where = place(path, url, directory)
    draft = _drafted(where, said)
    delivery = _delivery(output, style, reveal=reveal)

    async def run() -> Record:
        async with where.opened() as (keeper, _):
            return await key_operations.issue(keeper, delivery, where.section.digest_key, secrets.token_bytes, draft)

    record = done(run(), "the key does not work")
    say(f"issued {record.id}: it works now")
    _told(record, output, style)


def _drafted(where: Place, said: dict[str, Any]) -> Callable[[NewKey, bytes], Record]:
    attributes = {name: said[name] for name in ATTRIBUTES if said[name] is not None}
    if problem := where.unfit(attributes):
        fail(problem)
    created, expires, begins = now(), moment(said["expires"], "--expires"), moment(said["not_before"], "--not-before")
    if expires is not None and expires <= max(created, begins or 0):
        fail("--expires: it would never hold; write a later end")
    name = checked(lambda: key_records.name_of(said["name"], "--name"))
    attributes = checked(lambda: key_records.attributes_of(attributes))
    scopes = checked(lambda: key_records.words_of(list(said["scopes"]), "--scope"))
    roles = checked(lambda: key_records.words_of(list(said["roles"]), "--role"))

    def draft(key: NewKey, digest: bytes) -> Record:
        secrets = (Secret(digest, created),)
        return Record(key.id, name, secrets, created, 1, attributes, scopes, roles, begins, expires)

    return draft


@keys_command.command()
@_places
@KEY_ID
@click.option("--overlap", metavar="SPAN", default="24h", show_default=True, help="How long the old key works on.")
@click.option("--rotation-id", metavar="NAME", help="Names this rotation, so that it can be repeated.")
@EXPIRES
@_deliveries
def rotate(
    path: Path | None,
    url: str | None,
    *,
    directory: Path | None,
    key_id: str,
    overlap: str,
    rotation_id: str | None,
    expires: str | None,
    output: Path | None,
    reveal: bool,
    style: str,
) -> None:
    """Give a key a new secret; the old one goes on working until the overlap ends.

    Repeated with the same --rotation-id and --output after an interruption it is completed; after that it changes
    nothing. Without a file a repetition makes another secret, as the one before may be lost.
    """
    where, delivery = place(path, url, directory), _delivery(output, style, reveal=reveal)
    rotation = checked(lambda: key_records.rotation_of(rotation_id or f"r-{secrets.token_hex(4)}"))
    asked = key_operations.Rotation(
        key_id=id_of(key_id),
        name=rotation,
        named=rotation_id is not None,
        now=now(),
        overlap=span(overlap, "--overlap"),
        expires=moment(expires, "--expires"),
    )

    async def run() -> key_operations.Rotated:
        async with where.opened() as (keeper, _):
            return await key_operations.rotate(keeper, delivery, where.section.digest_key, secrets.token_bytes, asked)

    rotated = done(run(), f"the old key works: repeat it with --rotation-id {rotation}")
    say(_outcome(rotated))
    _told(rotated.record, output, style)


def _outcome(rotated: key_operations.Rotated) -> str:
    record = rotated.record
    if not rotated.changed:
        return f"rotation {record.rotation} of {record.id} was complete: nothing was changed"
    until = record.secrets[0].expires if record.secrets[1:] else None
    ends = "no more" if until is None else f"until {key_records.time_text(until)}"
    return f"rotation {record.rotation} of {record.id}: the new key works now, the old one {ends}"


@keys_command.command()
@_places
@KEY_ID
@click.option("--reason", default="revoked by an operator", show_default=True, help="Why; kept in its record.")
def revoke(path: Path | None, url: str | None, *, directory: Path | None, key_id: str, reason: str) -> None:
    """Let a key hold no more: everywhere, within a second."""
    where, key_id = place(path, url, directory), id_of(key_id)
    reason = checked(lambda: key_records.name_of(reason, "--reason"))

    async def run() -> Record:
        async with where.opened() as (keeper, listed):

            async def refuse_at_once() -> None:
                if listed is not None:
                    await listed.add(Entry(handle("api_key", key_id), now() + _LISTED))

            return await key_operations.revoke(keeper, key_id, reason, now(), refuse_at_once)

    record = done(run(), "it may still hold: try again")
    say(f"revoked {record.id}: it is refused {'within a second' if directory is None else 'where this folder is read'}")


@keys_command.command("list")
@_places
@FORMAT
def list_command(path: Path | None, url: str | None, *, directory: Path | None, style: str) -> None:
    """Show all keys, and which will expire soon."""
    where, moment_now = place(path, url, directory), now()

    async def run() -> tuple[list[Record], list[str], dict[str, int]]:
        async with where.opened() as (keeper, _):
            found, problems = await keeper.all()
            return found, problems, await keeper.used([each.id for each in found])

    found, problems, used = done(run(), "nothing was read")
    if style == "json":
        key_listing.print_json([key_listing.document(each, moment_now, used) for each in found])
    else:
        key_listing.print_list(found, moment_now, used)
    for problem in problems:
        say(problem)
    if ending := ending_soon(found, moment_now, _SOON):
        say(key_listing.hint(ending))
    sys.exit(bool(problems))


@keys_command.command()
@_places
@KEY_ID
@FORMAT
def show(path: Path | None, url: str | None, *, directory: Path | None, key_id: str, style: str) -> None:
    """Show all that is known of one key."""
    where, key_id = place(path, url, directory), id_of(key_id)

    async def run() -> tuple[Record, dict[str, int]]:
        async with where.opened() as (keeper, _):
            record = await key_operations.existing(keeper, key_id)
            return record, await keeper.used([record.id])

    record, used = done(run(), "nothing was read")
    if style == "json":
        key_listing.print_json(key_listing.document(record, now(), used))
    else:
        key_listing.print_one(record, now(), used, "never" if directory is None else "not known: files do not tell")


@keys_command.command("import")
@_places
@click.argument("source", type=click.Path(exists=True, file_okay=False, path_type=Path), required=False)
def import_command(path: Path | None, url: str | None, *, directory: Path | None, source: Path | None) -> None:
    """Take over keys that exist elsewhere; only their digests are kept.

    SOURCE is a folder, such as a mounted Secret: a file for each customer with its key, and key-metadata.json. Without
    it JSON lines come on standard input, {"key": ..., "customer_id": ..., "tier": ..., "team": ...} each.
    """
    where = place(path, url, directory)
    offers = checked(lambda: list(_offers(source)))
    made = list(key_import.accepted(offers, where.section.digest_key, now(), where.unfit))
    refused = [each for each in made if isinstance(each, key_import.Refused)]

    async def run() -> None:
        async with where.opened() as (keeper, _):
            for each in made:
                if isinstance(each, Record):
                    outcome = await key_operations.take_over(keeper, each)
                    say(f"{outcome} {each.id} ({each.name})")

    done(run(), "what is not named here was not imported: repeat it")
    for each in refused:
        say(f"refused {each.place}: {each.reason}")
    sys.exit(bool(refused))


def _offers(source: Path | None) -> Iterator[key_import.Offered | key_import.Refused]:
    if source is None:
        return key_import.from_lines(sys.stdin.buffer.read(key_import.MAX_BYTES + 1))
    return key_import.from_folder(source)


def _delivery(output: Path | None, style: str, *, reveal: bool) -> key_operations.Delivery:
    if output is not None:
        return FileDelivery(output)
    if not reveal and not sys.stdout.isatty():
        fail(
            "standard output is no terminal, and would keep the key: add --output FILE, which only you can read, or "
            "--reveal to have it there all the same"
        )

    def show(key: NewKey) -> None:
        click.echo(json.dumps({"id": key.id, "key": key.text}) if style == "json" else key.text)

    return ShownDelivery(show)


def _told(record: Record, output: Path | None, style: str) -> None:
    """What a program learns of a key that is in a file. Without one it has the id and the key already."""
    if output is not None and style == "json":
        key_listing.print_json(key_listing.document(record, now(), {}) | {"file": str(output)})

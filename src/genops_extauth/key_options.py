"""What the commands about API keys have in common: where records are, what options mean, how they end."""

import asyncio
import re
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TypeVar

import click

from genops_extauth import key_records
from genops_extauth.api_key_section import HOW_TO_MAKE_ONE, ApiKeys
from genops_extauth.apikeys import is_id
from genops_extauth.command_line import client_at, fail, load, place_of
from genops_extauth.config import Config
from genops_extauth.key_files import FileKeys
from genops_extauth.key_lifecycle import LifecycleError
from genops_extauth.key_operations import ConflictError, Keeper, OperationError
from genops_extauth.key_store import KeyStore
from genops_extauth.model import StoreUnavailable
from genops_extauth.notation import duration
from genops_extauth.revocation_store import RevocationStore
from genops_extauth.sources import SourceError

T = TypeVar("T")

DIRECTORY = click.option(
    "--directory",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A folder of records to work on, in the place of the store.",
)
FORMAT = click.option("--format", "style", type=click.Choice(("table", "json")), default="table", show_default=True)
EXPIRES = click.option("--expires", metavar="WHEN", help="When it ends: 90d from now, or 2027-01-31T00:00:00Z.")
KEY_ID = click.argument("key_id", metavar="ID")

_DAYS = re.compile(r"(\d{1,5})d", re.ASCII)
_DAY = 86_400


@dataclass(frozen=True, slots=True)
class Place:
    """Where records are, and what keys may say."""

    config: Config
    section: ApiKeys
    path: Path | None
    url: str | None
    directory: Path | None

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[tuple[Keeper, RevocationStore | None]]:
        """Whoever keeps the records, and the list of what is refused at once, where there is one."""
        if self.directory is not None:
            yield FileKeys(self.directory), None
            return
        async with client_at(place_of(self.config, self.path, self.url)) as client:
            prefix = self.config.store.key_prefix
            yield KeyStore(client, prefix), RevocationStore(client, prefix)

    def unfit(self, attributes: Mapping[str, str]) -> str:
        """Why no key can have these attributes; empty where one can."""
        defaults = self.config.governance.defaults
        for name in self.config.governance.required:
            if name not in attributes and name not in defaults:
                return f"{name} is required (governance.required)"
        tier, known = attributes.get("customer_tier"), self.section.tiers or tuple(self.config.tiers)
        if tier is None or tier in known:
            return ""
        close = get_close_matches(tier, known, n=1)
        return f"no tier is named {tier!r}; " + (
            f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
        )


def place(path: Path | None, url: str | None, directory: Path | None) -> Place:
    """Read the configuration, and tell where its records of keys are."""
    config = load(path)
    section = config.identity.api_keys
    if section is None:
        fail(f"identity.api_keys is not configured: write api_keys: {{digest_key_file: digest.key}}; {HOW_TO_MAKE_ONE}")
    if directory is None and not section.store:
        fail("identity.api_keys.store is false: add --directory with the folder to work on")
    return Place(config, section, path, url, directory)


def done(work: Coroutine[None, None, T], otherwise: str) -> T:
    """Do what a command does; where it cannot be done, say why, and what is true then."""
    try:
        return asyncio.run(work)
    except (StoreUnavailable, ConflictError) as error:
        say(f"{error}; {otherwise}")
    except (OperationError, LifecycleError, SourceError, key_records.RecordError) as error:
        say(str(error))
    except OSError as error:
        say(f"{error.filename or 'the folder'} cannot be used: {error.strerror}; {otherwise}")
    sys.exit(1)


def say(message: str) -> None:
    """Say something that is not what was asked for, and does not get into a pipe."""
    click.echo(f"genops-extauth: {message}", err=True)


def checked(read: Callable[[], T]) -> T:
    """What was written, once it is right."""
    try:
        return read()
    except ValueError as error:
        fail(str(error))


def id_of(text: str) -> str:
    """Check the id of a key. A whole key is not repeated: it stands in the list of processes already."""
    if not is_id(text):
        hint = ": revoke it, for every process can read it here" if text.startswith("gxk_") and "_" in text[4:] else ""
        fail(f"that is no id of a key; write what stands between the first two underscores of one{hint}")
    return text


def now() -> int:
    """The second since the epoch."""
    return int(time.time())


def moment(text: str | None, option: str) -> int | None:
    """What ``90d``, ``12h`` or a time mean, in seconds since the epoch."""
    if text is None:
        return None
    if "T" in text:
        return checked(lambda: key_records.time_of(text, option))
    return now() + span(text, option)


def span(text: str, option: str) -> int:
    """Seconds of ``90d`` or ``12h``."""
    if days := _DAYS.fullmatch(text):
        return int(days[1]) * _DAY
    try:
        return int(duration(text))
    except ValueError:
        fail(f"{option}: write for example 90d, 12h or 30m")

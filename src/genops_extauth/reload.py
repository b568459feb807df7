"""The next configuration: on SIGHUP, and when a file that the configuration is made of changes.

All or nothing. A configuration with an error changes nothing, and a metric and a log line say so; one without is built
into a generation first and then swapped in by one assignment.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import watchfiles

from genops_extauth import config
from genops_extauth.gate import Gate
from genops_extauth.generations import Generations
from genops_extauth.identity_section import Identity
from genops_extauth.limit_compiler import LimitsError
from genops_extauth.settings import Config
from genops_extauth.telemetry import Telemetry

_Watched = Mapping[Path, frozenset[str]]


class Reloader:
    """Replaces the gate's generation. `current` is the configuration in force; `read` reads it anew, from `path`."""

    def __init__(
        self,
        current: Config,
        *,
        read: Callable[[], Config],
        path: Path | None,
        gate: Gate,
        generations: Generations,
        telemetry: Telemetry,
    ) -> None:
        self._current = self._started = self._offered = current
        self._read = read
        self._path = path
        self._gate = gate
        self._generations = generations
        self._telemetry = telemetry
        self._refused = False
        self._asked = asyncio.Event()
        self._moved = asyncio.Event()
        self._watching: tuple[_Watched, _Watched] = ({}, {})

    @property
    def current(self) -> Config:
        """The configuration in force."""
        return self._current

    def ask(self) -> None:
        """Reload as soon as possible; several asks before that are one."""
        self._asked.set()

    async def watch(self) -> None:
        """Reload when asked and when a file changes, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            if self._path is not None or self._current.rate_limits.directory is not None:
                tasks.create_task(self._watch_files())
            while True:
                await self._asked.wait()
                self._asked.clear()
                try:
                    await self.reload()
                except Exception as error:  # noqa: BLE001 - a defect in reloading must not end what runs
                    self._telemetry.failed(error)
                    self._refuse("internal error")
                if await asyncio.to_thread(self._watched) != self._watching:
                    self._moved.set()

    async def reload(self) -> None:
        """Read everything anew, and take it over where it is right. Raises nothing for what the files hold."""
        try:
            offered = await asyncio.to_thread(self._read)
        except config.ConfigError as error:
            self._refuse("; ".join(map(str, error.problems)))
            return
        if offered == self._offered and not self._refused:
            return
        if fixed := config.restart_only(self._started, offered):
            self._telemetry.restart_needed(fixed)
        self._offered, new = offered, self._until_restart(offered)
        try:
            generation = await self._generations.build(new)
        except LimitsError as error:  # It is right by itself, and not beside what a management server gives.
            self._refuse(str(error))
            await self._generations.retire()
            return
        self._telemetry.configured(new.tiers, [entry.issuer for entry in new.identity.issuers], generation)
        # Before anything is waited for: limits that a management server gives meanwhile are compiled with this one.
        self._gate.generation = generation
        self._current, self._refused = new, False
        self._telemetry.reloaded(remarks=new.rate_limits.remarks)
        await self._generations.retire()

    def _until_restart(self, offered: Config) -> Config:
        """What can be in force before a restart: without one, nobody would give the limits of another source."""
        if offered.rate_limits.xds == self._started.rate_limits.xds:
            return offered
        return offered.model_copy(update={"rate_limits": self._current.rate_limits})

    def _refuse(self, error: str) -> None:
        self._refused = True
        self._telemetry.reloaded(error=error)

    async def _watch_files(self) -> None:
        """Watch folders, not files: editors and Kubernetes replace a file (and the link to it) rather than write it."""
        while True:
            self._watching = names, folders = await asyncio.to_thread(self._watched)
            self._moved.clear()
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._ask_on_change(names, recursive=False))
                    tasks.create_task(self._ask_on_change(folders, recursive=True))
                    await asyncio.sleep(0)  # until both watch
                    self.ask()  # What changed while nobody watched is found by looking; what did not is passed over.
            except ExceptionGroup as errors:
                unwatchable, others = errors.split((OSError, RuntimeError))
                if others is not None or unwatchable is None:
                    raise
                self._telemetry.not_watched(unwatchable.exceptions[0])
                return

    async def _ask_on_change(self, watched: _Watched, *, recursive: bool) -> None:
        """Watch folders for the names that count in each, none meaning all, until what is to be watched is another."""
        if not watched:
            await self._moved.wait()
            return
        ours = partial(_is_ours, watched, recursive)
        async for _ in watchfiles.awatch(*watched, watch_filter=ours, recursive=recursive, stop_event=self._moved):
            self.ask()

    def _watched(self) -> tuple[_Watched, _Watched]:
        """Folders with the names in them that count; and folders of which everything counts, all that is below too."""
        home = (self._path.parent if self._path is not None else Path()).absolute()
        files = [home / name for name in _files(self._current.identity)]
        files += [self._path.absolute()] if self._path is not None else []
        whole: dict[Path, frozenset[str]] = {}
        keys = self._current.identity.api_keys
        for directory in (self._current.rate_limits.directory, None if keys is None else keys.directory):
            if directory is None:
                continue
            folder = home / directory
            # Whoever deploys by links (`current` to the latest version) swaps one of them, anywhere above the files.
            files += [folder, *(each for each in folder.parents if each.is_symlink())]
            whole |= {folder.resolve(): frozenset()} if folder.is_dir() else {}
        by_folder: dict[Path, frozenset[str]] = {}
        for file in (each for each in files if each.parent.is_dir()):
            by_folder[file.parent] = by_folder.get(file.parent, frozenset()) | {file.name}
        return by_folder, whole


def _files(identity: Identity) -> Iterator[str]:
    """The files with keys that an identity section names."""
    named = [entry.keys.public_key_file for entry in identity.jwt]
    named += [entry.secret_file for entry in identity.hmac]
    named += [identity.api_keys.digest_key_file] if identity.api_keys is not None else []
    return (name for name in named if name is not None)


def _is_ours(
    watched: _Watched,
    recursive: bool,  # noqa: FBT001 - bound by partial
    _change: watchfiles.Change,
    changed: str,
) -> bool:
    """Whether what changed is a file of ours, or the link that Kubernetes swaps (``..data``)."""
    path = Path(changed)
    return recursive or path.name in watched.get(path.parent, ()) or path.name.startswith("..")

"""The next configuration: on SIGHUP, and when a file that the configuration is made of changes.

All or nothing. A configuration with an error changes nothing, and a metric and a log line say so; one without is built
into a generation first and then swapped in by one assignment.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path

import watchfiles

from genops_extauth import config
from genops_extauth.gate import Gate
from genops_extauth.generations import Generations
from genops_extauth.settings import Config
from genops_extauth.telemetry import Telemetry


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
        self._current = self._started = current
        self._read = read
        self._path = path
        self._gate = gate
        self._generations = generations
        self._telemetry = telemetry
        self._refused = False
        self._asked = asyncio.Event()
        self._moved = asyncio.Event()

    def ask(self) -> None:
        """Reload as soon as possible; several asks before that are one."""
        self._asked.set()

    async def watch(self) -> None:
        """Reload when asked and when a file changes, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            if self._path is not None:
                tasks.create_task(self._watch_files())
            while True:
                await self._asked.wait()
                self._asked.clear()
                try:
                    await self.reload()
                except Exception as error:  # noqa: BLE001 - a defect in reloading must not end what runs
                    self._refused = True
                    self._telemetry.failed(error)
                    self._telemetry.reloaded(error="internal error")

    async def reload(self) -> None:
        """Read everything anew, and take it over where it is right. Raises nothing for what the files hold."""
        try:
            new = await asyncio.to_thread(self._read)
        except config.ConfigError as error:
            self._refused = True
            self._telemetry.reloaded(error="; ".join(map(str, error.problems)))
            return
        if new == self._current and not self._refused:
            return
        if fixed := config.restart_only(self._started, new):
            self._telemetry.restart_needed(fixed)
        self._telemetry.configured(new.tiers, [entry.issuer for entry in new.identity.jwt])
        self._gate.generation = await self._generations.build(new)
        await self._generations.retire()
        self._current, self._refused = new, False
        self._moved.set()
        self._telemetry.reloaded()

    async def _watch_files(self) -> None:
        """Watch folders, not files: editors and Kubernetes replace a file (and the link to it) rather than write it."""
        while True:
            files = self._files()
            self._moved.clear()
            names = {file.name for file in files}
            self.ask()  # What changed while nobody watched is found by looking; a file that did not is passed over.
            try:
                async for _ in watchfiles.awatch(
                    *{file.parent for file in files},
                    watch_filter=partial(_is_ours, names),
                    recursive=False,
                    stop_event=self._moved,
                ):
                    self.ask()
            except (OSError, RuntimeError) as error:
                self._telemetry.not_watched(error)
                return

    def _files(self) -> set[Path]:
        path = (self._path or Path()).absolute()
        named = [entry.keys.public_key_file for entry in self._current.identity.jwt]
        return {path, *(path.parent / name for name in named if name)}


def _is_ours(names: set[str], _change: watchfiles.Change, path: str) -> bool:
    """Whether what changed is a file of ours, or the link that Kubernetes swaps (``..data``)."""
    name = Path(path).name
    return name in names or name.startswith("..")

"""The demo's child processes: what they say, their end, and that none of them outlives the demo."""

import asyncio
import contextlib
import os
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, NoReturn, TypeVar

from genops_extauth.embedded import LAUNCH

_T = TypeVar("_T")

_MERCY = 5.0  # seconds between SIGTERM and SIGKILL; both programs end in a tenth of one
_LONGEST_LINE = 1 << 20  # bytes; a log line of ours has some hundred
_KEPT = 20  # lines that are shown when a child has ended: a message, and what led to it

_INHERITED = ("PATH", "HOME", "TMPDIR", "TZ", "LANG", "LC_ALL", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH")
"""What a child takes over of our environment: not a JWT_PUBLIC_KEY or REDIS_URL that somebody exported for another."""


class ChildEnded(Exception):  # noqa: N818 - it has ended; whether in error its last words tell
    """Raised when a child has ended while it was needed, or did not start in time."""

    def __init__(self, child: "Child", what: str) -> None:
        super().__init__(f"{child.name} {what}")
        self.last_words = tuple(child.last)


class Child:
    """One running child. `heard` is called with each line it says, on standard output or error."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, heard: Callable[[str], None] | None) -> None:
        self.name = name
        self.heard = heard
        self.last: deque[str] = deque(maxlen=_KEPT)
        self._process = process
        self._listening = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 - for mypy: `running` asked for a pipe
        async for line in self._process.stdout:
            text = line.decode(errors="replace").rstrip("\n")
            self.last.append(text)
            if self.heard:
                self.heard(text)

    async def ended(self) -> NoReturn:
        """Wait until it ends. Raises `ChildEnded` then."""
        code = await self._process.wait()
        await asyncio.wait((self._listening,), timeout=_MERCY)
        raise ChildEnded(self, f"has ended with code {code}")

    async def stop(self) -> None:
        """End it, by force where it takes too long, and wait for that."""
        if self._process.returncode is None:
            self._process.terminate()
        try:
            async with asyncio.timeout(_MERCY):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        # What it said last is heard to the end; a grandchild that holds the pipe open is not waited for.
        await asyncio.wait((self._listening,), timeout=_MERCY)
        self._listening.cancel()


@contextlib.asynccontextmanager
async def running(
    name: str, command: Sequence[str], heard: Callable[[str], None] | None = None
) -> AsyncIterator[Child]:
    """Run `command` until the context is left. Enter it in the main thread: the kernel watches the thread."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", "-c", LAUNCH, str(os.getpid()), *command),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        limit=_LONGEST_LINE,
        env={name: os.environ[name] for name in _INHERITED if name in os.environ},
        start_new_session=True,  # Ctrl-C in a terminal is for the demo alone, which ends the others in order
    )
    child = Child(name, process, heard)
    try:
        yield child
    finally:
        await child.stop()


async def unless(work: Coroutine[Any, Any, _T], *others: Coroutine[Any, Any, NoReturn]) -> _T:
    """Return what `work` returns, unless one of `others` raises before."""
    task = asyncio.create_task(work)
    watchers = [asyncio.create_task(other) for other in others]
    try:
        await asyncio.wait((task, *watchers), return_when=asyncio.FIRST_COMPLETED)
        # Watchers first: the end of a child explains why the work has failed.
        for watcher in watchers:
            if watcher.done():
                watcher.result()
        return task.result()
    finally:
        for each in (task, *watchers):
            each.cancel()
        await asyncio.gather(task, *watchers, return_exceptions=True)

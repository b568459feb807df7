"""A proxy between a store and its server, which tests make slow, deaf, mute or absent; with real connections."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path

_BUFFER = 65_536


class Proxy:
    """Forwards connections to the unix socket, or to the port of 127.0.0.1, that is `behind`.

    `asking` and `answering` say whether bytes pass towards the server and back; what is held passes once they are set
    again. `delay`, in seconds, is added to each answer. `accepted` counts connections, `asked` the bytes that passed.
    """

    def __init__(self, behind: Path | int) -> None:
        self.asking, self.answering = asyncio.Event(), asyncio.Event()
        self.asking.set()
        self.answering.set()
        self.delay = 0.0
        self.accepted = self.asked = 0
        self._behind = behind
        self._server: asyncio.Server | None = None
        self._port = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._port}"

    async def listen(self) -> None:
        """Accept connections, again on the same port."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Refuse new connections and reset those there are."""
        if self._server is not None:
            self._server.close()
            self._server = None
        await self.cut()

    async def cut(self) -> None:
        """Reset all connections: lingering for 0 seconds does (socket(7))."""
        for writer in [each for each in self._writers if not each.transport.is_closing()]:
            if writer.get_extra_info("socket").family != socket.AF_UNIX:
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            behind, to = await self._connect()
            self._writers |= {writer, to}
            try:
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._ask(reader, to))
                    both.create_task(self._answer(behind, writer))
            finally:
                self._writers -= {writer, to}
                to.close()
        writer.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self._behind, int):
            return await asyncio.open_connection("127.0.0.1", self._behind)
        return await asyncio.open_unix_connection(self._behind)

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_BUFFER):
                await self.asking.wait()
                self.asked += len(data)
                writer.write(data)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_BUFFER):
                await self.answering.wait()
                if self.delay:
                    await asyncio.sleep(self.delay)
                writer.write(data)
            writer.close()


@contextlib.asynccontextmanager
async def before(behind: Path | int) -> AsyncIterator[Proxy]:
    """A proxy for as long as the context."""
    proxy = Proxy(behind)
    await proxy.listen()
    try:
        yield proxy
    finally:
        await proxy.refuse()

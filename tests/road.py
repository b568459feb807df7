"""The way from sidecars to their store, over TCP, which a test closes: `proxy.Proxy`, where there is no event loop."""

import asyncio
import contextlib
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

from proxy import Proxy


class Road:
    """Leads to the unix socket `store`, in a thread of its own; `url` is where it begins."""

    def __init__(self, store: Path) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._proxy = Proxy(store)

    @property
    def url(self) -> str:
        return self._proxy.url

    def accept(self) -> None:
        """Accept connections (again)."""
        self._run(self._proxy.listen())

    def refuse(self) -> None:
        """Reset all connections, and refuse others."""
        self._run(self._proxy.refuse())

    def hold(self) -> None:
        """Let nothing pass, and keep what comes until `release`."""
        self._loop.call_soon_threadsafe(self._proxy.asking.clear)

    def release(self) -> None:
        self._loop.call_soon_threadsafe(self._proxy.asking.set)

    def delay(self, seconds: float) -> None:
        """Let each answer come so much later."""
        self._proxy.delay = seconds

    def _run(self, doing: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(doing, self._loop).result(10)

    @contextlib.contextmanager
    def open(self) -> Iterator["Road"]:
        """Accept connections for as long as the context."""
        self._thread.start()
        try:
            self.accept()
            yield self
            self.refuse()
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

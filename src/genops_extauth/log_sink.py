"""Log lines to a file descriptor through a bounded queue and one writer thread.

The event loop only appends to the queue. A log pipe that nobody reads (a full disk behind the container runtime, a
stopped pager) then stalls the writer, never a decision: lines that find the queue full are dropped and counted. What is
lost is said, in a metric and, once the pipe moves again, in a line.
"""

import os
import select
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from queue import SimpleQueue

_CAPACITY = 10_000
"""Lines, some 5 MB at the usual 500 bytes: a second in which every 100 us a request is refused."""

_BATCH = 128
"""Lines per write at most: 64 KiB at 500 bytes each, which is what a Linux pipe holds."""


@dataclass(frozen=True, slots=True)
class LogStatistics:
    """Lines waiting in the queue now, and lines dropped since the start."""

    queued: int
    dropped: int


class LogSink:
    """Writes lines to `fd`, which it does not own: close the sink first.

    `recovered` is called in the writer's thread when lines were dropped and writing works again, with their number; it
    may write. The names of levels are other names of `write`: structlog expects them of the logger that it wraps.
    """

    def __init__(self, fd: int, recovered: Callable[[int], None], capacity: int = _CAPACITY) -> None:
        self._fd = fd
        self._recovered = recovered
        self._capacity = capacity
        self._queue: SimpleQueue[bytes | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._dropped = 0
        self._reported = 0
        self._closed = False
        # A daemon: a writer stuck in a dead pipe must not keep the process from its end.
        self._writer = threading.Thread(target=self._write_queued, name="log-writer", daemon=True)
        self._writer.start()

    def write(self, line: str) -> None:
        """Queue one line, without its newline; never waits. A line that cannot be queued is counted as dropped."""
        if self._closed or self._queue.qsize() >= self._capacity:
            self._drop(1)
            return
        self._queue.put(line.encode("utf-8", "backslashreplace") + b"\n")

    debug = info = warning = error = critical = write

    def statistics(self) -> LogStatistics:
        """What waits and what was lost."""
        return LogStatistics(self._queue.qsize(), self._dropped)

    def close(self, timeout: float = 1.0) -> None:
        """Write what is queued and stop, within `timeout` seconds. It blocks: call it after the loop, or off it."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)
        self._writer.join(timeout)

    def _drop(self, lines: int) -> None:
        # Held for one addition, by the loop's thread, the writer, and whichever thread a library logs from.
        with self._lock:
            self._dropped += lines

    def _write_queued(self) -> None:
        for batch in self._batches():
            try:
                self._write_all(b"".join(batch))
            except OSError:  # The reader is gone, the disk is full: a log must not end the service.
                self._drop(len(batch))
            else:
                self._report()

    def _batches(self) -> Iterator[list[bytes]]:
        """What is queued, until the end mark. Only this thread takes from the queue: one that is not empty stays so."""
        ended = False
        while not ended:
            taken = [self._queue.get()]
            while len(taken) < _BATCH and not self._queue.empty():
                taken.append(self._queue.get())
            ended = None in taken
            yield [line for line in taken if line is not None]

    def _write_all(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._fd, rest) :]
            except BlockingIOError:
                # Standard output is shared, and another process made it non-blocking: wait here, in the writer.
                writable = select.poll()
                writable.register(self._fd, select.POLLOUT)
                writable.poll()

    def _report(self) -> None:
        lost = self._dropped - self._reported
        if lost and not self._closed:
            self._reported += lost
            self._recovered(lost)

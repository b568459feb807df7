"""The processes of a run: pinned to a core, measured through /proc (so: Linux), ended by their ids."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.load import Address

TICKS = os.sysconf("SC_CLK_TCK")  # of utime and stime, a second: proc(5)
PATIENCE = 20.0  # seconds for a process to start on a busy machine
MERCY = 2.0  # seconds between SIGTERM and SIGKILL: nothing here has state worth a drain


@dataclass(frozen=True, slots=True)
class Process:
    """One that runs, and where it says what it says."""

    popen: subprocess.Popen[bytes]
    log: Path

    def cpu(self) -> float:
        """User and system seconds of all its threads until now."""
        # The second field, the name in parentheses, may hold spaces: count from behind it. utime is field 14, stime 15.
        fields = Path(f"/proc/{self.popen.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def resident(self) -> float:
        """Resident memory in MiB."""
        status = Path(f"/proc/{self.popen.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    def alive(self) -> None:
        """Raises ChildProcessError with the end of its log when it has ended."""
        if self.popen.poll() is not None:
            tail = self.log.read_text(errors="replace")[-2000:]
            raise ChildProcessError(f"{self.popen.args!r} ended with {self.popen.returncode}:\n{tail}")


def cores() -> tuple[int, int]:
    """The server's core and everybody else's: the same one where there is only one."""
    usable = sorted(os.sched_getaffinity(0))
    return usable[0], usable[-1]


@contextlib.contextmanager
def running(command: Sequence[str], core: int, log: Path) -> Iterator[Process]:
    """`command` on `core`; its output goes to `log`, as a container's would go to a pipe that somebody reads."""
    ours = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})  # A child takes it over, and so has it before its first thread.
    try:
        with log.open("wb") as output:
            # A process group of its own: Ctrl-C reaches us alone, and we end the others in order.
            popen = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, process_group=0)
    finally:
        os.sched_setaffinity(0, ours)
    try:
        yield Process(popen, log)
    finally:
        popen.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            popen.wait(MERCY)
        popen.kill()
        popen.wait()


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until_listening(process: Process, address: Address | Path) -> None:
    """Returns when a connection to `address` succeeds; raises when `process` ends or `PATIENCE` does before."""
    deadline = time.monotonic() + PATIENCE
    while True:
        process.alive()
        try:
            _connect(address)
        except OSError as error:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{process.popen.args!r} does not listen on {address}: see {process.log}") from error
            time.sleep(0.02)
        else:
            return


def _connect(address: Address | Path) -> None:
    family = socket.AF_UNIX if isinstance(address, Path) else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.connect(str(address) if isinstance(address, Path) else address)

"""Fuzz what strangers send: ``python -m fuzz check`` or ``token``, for `--seconds`, from the corpus that is kept here.

Coverage-guided (atheris, LLVM's libFuzzer). A finding ends the run with its bytes in a file; put it into a test. What
the run learned is merged into ``fuzz/corpus/<target>``: commit it, and the next run starts there.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["genops_extauth", "jwt"]):
    from fuzz.targets import TARGETS

_HERE = Path(__file__).parent
_LONGEST = 4096  # bytes: a CheckRequest with a token has about 1 KiB


def main() -> None:
    """Fuzz a target, and merge what was learned into the corpus."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--merge", metavar="FOLDER", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    corpus = _HERE / "corpus" / asked.target
    if asked.merge:
        _fuzz(TARGETS[asked.target], ["-merge=1", str(corpus), asked.merge])
        return
    with tempfile.TemporaryDirectory() as found:
        command = [sys.executable, "-m", "fuzz", asked.target, "--merge", found]
        child = os.fork()
        if child == 0:
            _fuzz(TARGETS[asked.target], [f"-max_total_time={asked.seconds}", found, str(corpus)])
        _, status = os.waitpid(child, 0)
        subprocess.run(command, check=True)
    sys.exit(os.waitstatus_to_exitcode(status))


def _fuzz(target: Callable[[bytes], None], arguments: list[str]) -> None:
    asyncio.set_event_loop(asyncio.new_event_loop())
    atheris.Setup(["fuzz", f"-max_len={_LONGEST}", "-print_final_stats=1", *arguments], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

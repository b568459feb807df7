"""Fuzz what strangers send: ``python -m fuzz check``, ``token`` or ``claims``, for `--seconds`.

Coverage-guided (atheris, LLVM's libFuzzer), from the seeds and the corpus that is kept here. A finding ends the run
with its bytes in a file, ``crash-...``: put it into a test. What the run learned is merged into
``fuzz/corpus/<target>``: commit it, and the next run starts there.
"""

import argparse
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from fuzz.seeds import SEEDS

_CORPUS = Path(__file__).parent / "corpus"


def main() -> None:
    """Fuzz a target, and merge what was learned into the corpus."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("target", choices=sorted(SEEDS))
    parser.add_argument("--seconds", type=int, default=900)
    asked = parser.parse_args()
    corpus = _CORPUS / asked.target
    corpus.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        found, seeds = Path(name, "found"), Path(name, "seeds")
        found.mkdir()
        seeds.mkdir()
        for number, seed in enumerate(SEEDS[asked.target]):
            (seeds / str(number)).write_bytes(seed)
        engine = _engine(Path(name, "engine"), asked.target)
        status = _run(engine, f"-max_total_time={asked.seconds}", found, corpus, seeds)
        merged = _run(engine, "-merge=1", corpus, found)
    sys.exit(status or merged)


def _run(*command: str | Path) -> int:
    return subprocess.run(command, check=False).returncode  # noqa: S603 - of our own making


def _engine(program: Path, target: str) -> Path:
    """Write a program that fuzzes: to merge, libFuzzer starts itself anew, by its name and its own options alone."""
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m fuzz.engine {target} "$0" "$@"\n')
    program.chmod(0o700)
    return program


if __name__ == "__main__":
    main()

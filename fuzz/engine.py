"""One process of libFuzzer's: ``python -m fuzz.engine TARGET PROGRAM OPTION...``; `__main__` starts it."""

import sys
from random import Random

import atheris

with atheris.instrument_imports(include=["genops_extauth", "jwt"]):
    from fuzz.edits import edited
    from fuzz.targets import TARGETS

_LONGEST = 4096  # bytes: a CheckRequest with a token has about 1 KiB


def main() -> None:
    """Fuzz until libFuzzer has enough, or has found something. Does not return."""
    target, *options = sys.argv[1:]

    def mutated(data: bytes, most: int, seed: int) -> bytes:
        # Half of them by libFuzzer, which knows what was compared with what; half by us, who know the form.
        if seed % 2:
            return bytes(atheris.Mutate(data, most))
        return edited(target, bytes(data), Random(seed))[:most]

    atheris.Setup([*options, f"-max_len={_LONGEST}", "-print_final_stats=1"], TARGETS[target], custom_mutator=mutated)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

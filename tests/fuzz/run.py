"""One fuzzing target under atheris: `python -m tests.fuzz.run checkpoint CORPUS -max_total_time=60`.

Options are libFuzzer's. vmckpt must not be imported before atheris has had the chance to instrument it.
"""

import contextlib
import importlib
import os
import random
import sys

import atheris

# Imported late by vmckpt, and so not instrumented otherwise.
_LATE = ("api", "checkpoint.check", "checkpoint.rebuild", "restoring.eager", "sources.elf", "sources.raw")

with atheris.instrument_imports(include=["vmckpt"]):
    for module in _LATE:
        importlib.import_module(f"vmckpt.{module}")
    from tests.fuzz.targets import TARGETS, mutated, seeds_of
    from tests.support.craft import reseal
    from vmckpt.errors import VmckptError


def main() -> None:
    """Fuzz until libFuzzer has enough."""
    name, corpus = sys.argv[1], sys.argv[2]
    target, _, sealed = TARGETS[name]
    for number, seed in enumerate(seeds_of(name)):
        with open(os.path.join(corpus, f"seed-{number}"), "wb") as file:
            file.write(seed)

    def one(data: bytes) -> None:
        with contextlib.suppress(VmckptError):
            target(data)

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        changed = mutated(data, rng) if rng.randrange(3) else atheris.Mutate(data, max_size)
        return (reseal(changed) if sealed else changed)[:max_size]

    atheris.Setup([sys.argv[0], corpus, *sys.argv[3:]], one, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

"""The long run of the fault suite: `make campaign SEED=1 SECONDS=600`.

    flips, cuts    every bit and every length of a checkpoint of 20 KiB and more, for each codec in turn; always whole
    kills          saves killed at random moments, for half of the time that is left, at least a tenth of it all
    round trips    the property tests with another seed, for the other half

Ends with exit code 1 at the first thing that is wrong, and says with which seed.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.faults.command import killed_save, time_of_a_save
from tests.faults.flips import READERS, count_flips, found_by, memory_file
from tests.faults.inline import inline_crews
from tests.faults.samples import Sample, make_sample, quick_folder, write_image
from vmckpt import api

CODECS = ("lz4", "zstd", "raw")
LEAST_BYTES = 20 << 10
EXAMPLES = 400


def sample_of(folder: str, seed: int) -> Sample:
    """A checkpoint of 20 to 60 KiB, with another codec for another seed."""
    pages = 8
    while True:
        sample = make_sample(
            folder,
            seed=seed,
            pages=pages,
            codec=CODECS[seed % 3],
            random_bytes=2000,
            storage_blocks=3,
        )
        if len(sample.data) >= LEAST_BYTES:
            return sample
        pages += 4


def flips(folder: str, seed: int) -> str:
    """Flip every bit."""
    sample = sample_of(folder, seed)

    def progress(done: int, total: int) -> None:
        print(f"\r  {done:,} of {total:,} bits", end="", flush=True)

    count, unfound = count_flips(
        sample, folder, jobs=len(os.sched_getaffinity(0)), progress=progress if sys.stdout.isatty() else None
    )
    assert count == 8 * len(sample.data)
    assert not unfound, f"not found: {unfound[:20]}"
    return f"{count:,} flips of {len(sample.data):,} bytes, each shown to {', '.join(READERS)}: all found"


def cuts(folder: str, seed: int) -> str:
    """Cut at every length."""
    data = sample_of(folder, seed).data
    for length in range(len(data)):
        with memory_file(data[:length]) as (_, path), inline_crews():
            for name, reader in READERS.items():
                assert found_by(reader, path, folder) is not None, f"{name} takes a cut at {length}"
    return f"{len(data):,} lengths: all refused"


def kills(folder: str, seed: int, until_s: float) -> str:
    """Kill saves until then."""
    rng = random.Random(seed)
    work = Path(folder) / "kills"
    work.mkdir()
    image = write_image(Path(folder), rng)
    digest, usual_s = api.digest(str(image)), time_of_a_save(image, work)
    found: Counter[bool] = Counter()
    while time.monotonic() < until_s:
        found[killed_save(image, work, rng.uniform(0.1, 1.2) * usual_s, digest)] += 1
    return f"{found.total():,} kills: {found[False]:,} left nothing, {found[True]:,} a whole file"


def round_trips(seed: int, until_s: float) -> str:
    """Run the property tests until then."""
    rounds = 0
    while not rounds or time.monotonic() < until_s:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_roundtrip.py"]
        done = subprocess.run(
            [*command, f"--hypothesis-seed={seed + rounds}"],
            env=os.environ | {"VMCKPT_EXAMPLES": str(EXAMPLES)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        rounds += 1
    return f"{rounds} rounds of {EXAMPLES} examples and more for each property"


def kills_end_s(end_s: float, budget_s: float) -> float:
    """Half of what is left, and a tenth of the budget where the flips took more than theirs."""
    now_s = time.monotonic()
    return now_s + max((end_s - now_s) / 2, budget_s / 10)


def main() -> int:
    """Run all of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=600)
    options = parser.parse_args()
    end_s = time.monotonic() + options.seconds
    print(f"seed {options.seed}, {options.seconds:.0f} seconds")
    with tempfile.TemporaryDirectory() as slow, quick_folder(slow) as quick:
        steps: dict[str, Callable[[], str]] = {
            "flips": lambda: flips(quick, options.seed),
            "cuts": lambda: cuts(quick, options.seed),
            "kills": lambda: kills(slow, options.seed, kills_end_s(end_s, options.seconds)),
            "round trips": lambda: round_trips(options.seed, end_s),
        }
        for name, step in steps.items():
            started_s = time.monotonic()
            try:
                said = step()
            except AssertionError as error:
                print(f"\r{name}, seed {options.seed}: FAILED: {error}")
                return 1
            print(f"\r{name}: {said} ({time.monotonic() - started_s:.0f} s)", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A campaign of seeded lazy restores: python -m tests.restoring --seed 1 --seconds 600.

Each case is a restore with random workload, vCPUs, blocks, codec, prefetch, mechanism and kills; its digest must be that
of an uninterrupted run. A case that fails is printed as it would be written in a test.
"""

import argparse
import faulthandler
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.checkpoint.files import KIB
from tests.restoring.runs import Case, make, restored, uninterrupted

LIMIT_S = 120
WORKLOADS = ("sequential", "uniform", "zipf", "working-set", "pointer-chase")


def random_case(rng: random.Random) -> Case:
    memory_block = rng.choice([4, 8, 16, 64, 256]) * KIB
    return Case(
        workload=rng.choice(WORKLOADS),
        vcpus=rng.choice([1, 1, 2, 3, 5]),
        pages=rng.choice([256, 1024, 4096, 16384]),
        ops=rng.choice([0, 1, 5000, 30_000, 100_000]),
        codec=rng.choice(["raw", "lz4", "lz4"]),
        memory_block_bytes=memory_block,
        storage_block_bytes=memory_block * rng.choice([2, 4, 16]),
        active=rng.choice(["none", "right", "wrong", "all"]),
        first=rng.choice([0.0, 0.3, 1.0]),
        halo_pages=rng.choice([0, 0, 1, 7]),
        mechanism=rng.choice(["userfaultfd", "userfaultfd", "userfaultfd", "software"]),
        helpers=rng.random() < 0.8,
        background=rng.random() < 0.9,
        kills=rng.choice([0.0, 0.0, 0.1, 0.3]),
        seed=rng.getrandbits(32),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=600)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    counts: Counter[str] = Counter()
    end_s = time.monotonic() + options.seconds
    while time.monotonic() < end_s:
        case = random_case(rng)
        faulthandler.dump_traceback_later(LIMIT_S, exit=True)
        print(case, flush=True)
        with tempfile.TemporaryDirectory(prefix="vmckpt-lazy-") as folder:
            path = make(case, Path(folder))
            report = restored(path, case)
            if report.digest != uninterrupted(path, case.ops):
                print("the digest is another than that of an uninterrupted run", file=sys.stderr)
                return 1
        counts["restores"] += 1
        counts["handlers"] += report.handlers
        counts["faults"] += report.faults
        counts[case.mechanism] += 1
    faulthandler.cancel_dump_traceback_later()
    print(dict(counts))
    return 0


if __name__ == "__main__":
    sys.exit(main())

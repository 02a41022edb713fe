"""The long run of the live saves: `make exactness SEED=1000 SECONDS=600`.

Random machines, one after the other: most of them booted to be saved, a quarter saved over their sockets, and a quarter of
the saves brought to a bad end. Ends with exit code 1 at the first that is wrong, and says with which seed; or in the end,
where some kind of harm was done often and was never what ended the save.
"""

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.saving.exactness import case_of, check_booted, check_running
from tests.saving.harm import HARMS, check_harm, harm_case_of, harm_image

_OFTEN = 6


def main() -> int:
    parser = argparse.ArgumentParser(prog="make exactness", description=__doc__)
    parser.add_argument("--seed", type=int, default=1000, help="of the first case")
    parser.add_argument("--seconds", type=float, default=600)
    arguments = parser.parse_args()
    kinds: Counter[str] = Counter()
    tried: Counter[str] = Counter()
    landed: Counter[str] = Counter()
    seed, traps, resaved = arguments.seed, 0, 0
    deadline_s = time.monotonic() + arguments.seconds
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        image = harm_image(Path(name))
        while time.monotonic() < deadline_s:
            case = case_of(seed)
            try:
                if seed % 4 == 0:
                    harm = list(HARMS)[seed // 4 % len(HARMS)]
                    case = harm_case_of(seed, harm)
                    folder = Path(name, str(seed))
                    folder.mkdir()
                    tried[harm] += 1
                    landed[harm] += check_harm(seed, harm, image, folder)
                else:
                    live = (check_running if seed % 4 == 1 else check_booted)(case, Path(name)).live
                    assert live is not None
                    traps += live.read_traps + live.write_traps
                    resaved += live.resaved_pages
                    kinds[f"{case.mode} {case.trace} {live.mechanism}"] += 1
            except BaseException:
                print(f"seed {seed}: {case}", file=sys.stderr)
                raise
            seed += 1
    print(
        f"{seed - arguments.seed} cases from seed {arguments.seed} on, {traps:,} traps, {resaved:,} pages saved again"
    )
    for kind, count in sorted(kinds.items()):
        print(f"  {count:4}  {kind}")
    for harm, count in sorted(tried.items()):
        print(f"  {count:4}  {harm}: {landed[harm]} in time")
    missed = [harm for harm, count in tried.items() if count >= _OFTEN and not landed[harm]]
    if missed:
        print(f"never in time: {', '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

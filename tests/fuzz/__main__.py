"""Runs the fuzzer's targets, each in a process of its own, and says what they found.

    make fuzz SECONDS=600 ─▶ per target: seeds ─▶ corpus folder ─▶ libFuzzer (atheris) ─▶ crash files, kept

A crash is any exception that is no VmckptError, an input that takes seconds, or one that takes memory beyond a bound.
"""

import argparse
import os
import re
import subprocess
import sys

from tests.fuzz.targets import TARGETS

CORPUS = "fuzz-corpus"
SLOW_S = 10
MEMORY_MIB = 2048


def command(target: str, folder: str, seconds: int, seed: int) -> list[str]:
    """The command line of one target; options as libFuzzer has them."""
    return [
        *(sys.executable, "-m", "tests.fuzz.run", target, os.path.join(folder, "corpus")),
        f"-max_total_time={seconds}",
        f"-timeout={SLOW_S}",
        f"-rss_limit_mb={MEMORY_MIB}",
        "-malloc_limit_mb=512",
        f"-artifact_prefix={folder}/",
        f"-seed={seed}",
        "-max_len=16384",
        "-print_final_stats=1",
        "-use_value_profile=1",
    ]


def start(target: str, seconds: int, seed: int) -> tuple[str, subprocess.Popen[bytes]]:
    """Start one target, its output in a log beside the corpus."""
    folder = os.path.join(CORPUS, target)
    os.makedirs(os.path.join(folder, "corpus"), exist_ok=True)
    log = os.path.join(folder, "log")
    with open(log, "wb") as output:
        process = subprocess.Popen(command(target, folder, seconds, seed), stdout=output, stderr=output)
    return log, process


def summary(log: str) -> str:
    """Runs and coverage, from a log."""
    with open(log, errors="replace") as file:
        text = file.read()
    runs = re.findall(r"number_of_executed_units:\s*(\d+)", text)
    cover = re.findall(r"cov: (\d+)", text)
    return f"{runs[-1] if runs else '?'} runs, {cover[-1] if cover else '?'} edges"


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzz vmckpt's readers.")
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("targets", nargs="*", help=f"of {', '.join(TARGETS)}; all")
    options = parser.parse_args()
    running = {target: start(target, options.seconds, options.seed) for target in options.targets or TARGETS}
    failed = 0
    for target, (log, process) in running.items():
        code = process.wait()
        failed += bool(code)
        print(f"{target}: {'CRASH, see ' + log if code else 'no crash'}; {summary(log)}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())

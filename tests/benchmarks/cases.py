"""What is measured against what: the frozen table of experiments.

An argument may hold `{image}` (the input), `{packed}` (what `prepare` made of the image), and `{output}` (absent before
each run, removed after it); the word `{vmckpt}` stands for the command under test, which may be several words.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tests.benchmarks import qemu
from tests.benchmarks.results import Unit
from vmckpt.units import format_size

__all__ = [
    "AT_REST",
    "EXPERIMENTS",
    "FORECAST",
    "HELD",
    "HITS",
    "KEPT",
    "KSM",
    "KSM_CASES",
    "LIVE",
    "MINIMAL",
    "OFF",
    "OFF_BY",
    "OF_SPLIT",
    "PEAK",
    "PLAN",
    "QEMU",
    "QEMU_SYNC",
    "QUANTITIES",
    "RUNNING",
    "SHARING",
    "SWAPPED",
    "TRACER",
    "Contender",
    "Experiment",
    "KsmCase",
    "LiveExperiment",
    "expand",
    "machine_name",
]

Subject = Literal["image", "raw image", "big sparse", "none"]


@dataclass(frozen=True, slots=True)
class Contender:
    """One command of an experiment."""

    id: str
    """What its row is called; unique within the experiment."""
    argv: tuple[str, ...]
    """The measured command; empty for QEMU's migration, which is no command."""
    prepare: tuple[str, ...] = ()
    """Makes `{packed}` from `{image}`, once, untimed."""
    needs: tuple[str, ...] = ()
    """Programs without which it is skipped."""
    raw_only: bool = False
    """True where it cannot read an ELF core."""

    @property
    def ours(self) -> bool:
        """Whether this is vmckpt rather than a peer."""
        return "{vmckpt}" in self.argv


@dataclass(frozen=True, slots=True)
class Experiment:
    """Contenders that do the same job, run by turns on the same input."""

    id: str
    """What `--only` takes."""
    title: str
    """Heading of its tables."""
    contenders: tuple[Contender, ...]
    """In the order of the table; the rounds go through them in this order too."""
    subject: Subject
    """Which images it is run on."""
    packed: bool = False
    """True when the compressed file is an input, made once, and no output."""
    run_factor: int = 1
    """Multiplies the number of runs: short commands need more."""

    def runs_on(self, kind: Literal["raw", "elf"]) -> bool:
        """Whether it is run on each image of this kind."""
        return self.subject == "image" or (self.subject == "raw image" and kind == "raw")


@dataclass(frozen=True, slots=True)
class LiveExperiment:
    """Something that is measured while a machine runs, by `live`."""

    id: str
    """What `--only` takes."""
    title: str
    """Heading of its tables."""
    sizes_bytes: tuple[int, ...]
    """Sizes of the machine's memory; empty where there is no machine."""


def machine_name(size_bytes: int) -> str:
    """What a machine with so much memory is called in tables."""
    return f"machine of {format_size(size_bytes)}"


def expand(argv: Sequence[str], vmckpt: Sequence[str], places: Mapping[str, str]) -> list[str]:
    """`argv` with its placeholders filled in."""
    words: list[str] = []
    for word in argv:
        if word == "{vmckpt}":
            words += vmckpt
        else:
            for name, place in places.items():
                word = word.replace(f"{{{name}}}", place)  # noqa: PLW2901 - the word, filled in step by step
            words.append(word)
    return words


def _synced(contender: Contender) -> Contender:
    # The same with an fsync of its output, which vmckpt always does.
    script = 'output=$1; shift; "$@" && sync "$output"'
    argv = ("sh", "-c", script, "sh", "{output}", *contender.argv)
    return Contender(f"{contender.id}, fsync", argv, contender.prepare, contender.needs, contender.raw_only)


def _save(codec: str) -> Contender:
    argv = ("{vmckpt}", "save", "{image}", "{output}")
    return Contender(f"vmckpt save --codec {codec}", (*argv, "--codec", codec))


def _restore(codec: str) -> Contender:
    return Contender(
        f"vmckpt restore ({codec})",
        ("{vmckpt}", "restore", "{packed}", "{output}"),
        ("{vmckpt}", "save", "{image}", "{packed}", "--codec", codec),
    )


_LZ4 = Contender("lz4 -1", ("lz4", "-1", "-q", "-f", "{image}", "{output}"), needs=("lz4",))
_ZSTD_T2 = Contender("zstd -1 -T2", ("zstd", "-1", "-T2", "-q", "{image}", "-o", "{output}"), needs=("zstd",))
_ZSTD_LONG = Contender(
    "zstd -1 --long=27", ("zstd", "-1", "--long=27", "-q", "{image}", "-o", "{output}"), needs=("zstd",)
)
_CP_SPARSE = Contender("cp --sparse=always", ("cp", "--sparse=always", "{image}", "{output}"), needs=("cp",))
_CP = Contender("cp", ("cp", "{image}", "{output}"), needs=("cp",))

QEMU = Contender("QEMU migrate", (), needs=(qemu.PROGRAM,), raw_only=True)
QEMU_SYNC = Contender("QEMU migrate, fsync", (), needs=(qemu.PROGRAM, "sync"), raw_only=True)

_SAVE = Experiment(
    "save",
    "Save",
    (
        Contender("vmckpt save", ("{vmckpt}", "save", "{image}", "{output}")),
        *(_save(codec) for codec in ("lz4", "zstd", "raw")),
        *(_LZ4, _synced(_LZ4), _ZSTD_T2, _synced(_ZSTD_T2), _ZSTD_LONG),
        *(_CP_SPARSE, _CP, _synced(_CP), QEMU, QEMU_SYNC),
    ),
    "image",
)

_UNLZ4 = Contender(
    "lz4 -d",
    ("lz4", "-d", "-q", "-f", "{packed}", "{output}"),
    ("lz4", "-1", "-q", "-f", "{image}", "{packed}"),
    ("lz4",),
)
_UNZSTD = Contender(
    "zstd -d",
    ("zstd", "-d", "-q", "{packed}", "-o", "{output}"),
    ("zstd", "-1", "-T2", "-q", "-f", "{image}", "-o", "{packed}"),
    ("zstd",),
)
_UNZSTD_LONG = Contender(
    "zstd -d --long=27",
    ("zstd", "-d", "--long=27", "-q", "{packed}", "-o", "{output}"),
    ("zstd", "-1", "--long=27", "-q", "-f", "{image}", "-o", "{packed}"),
    ("zstd",),
)

_RESTORE = Experiment(
    "restore",
    "Restore to a sparse raw file",
    (
        Contender(
            "vmckpt restore",
            ("{vmckpt}", "restore", "{packed}", "{output}"),
            ("{vmckpt}", "save", "{image}", "{packed}"),
        ),
        *(_restore(codec) for codec in ("zstd", "raw")),
        *(_UNLZ4, _synced(_UNLZ4), _UNZSTD, _synced(_UNZSTD), _UNZSTD_LONG),
    ),
    "raw image",
    packed=True,
)

_VERIFY = Experiment(
    "verify",
    "Verify the compressed file",
    (
        Contender(
            "vmckpt verify", ("{vmckpt}", "verify", "{packed}"), ("{vmckpt}", "save", "{image}", "{packed}")
        ),
        Contender("lz4 -t", ("lz4", "-t", "-q", "{packed}"), _UNLZ4.prepare, ("lz4",)),
        Contender("zstd -t", ("zstd", "-t", "-q", "{packed}"), _UNZSTD.prepare, ("zstd",)),
    ),
    "image",
    packed=True,
)

_DIGEST = Experiment(
    "digest",
    "Digest of the memory",
    (
        Contender("vmckpt digest", ("{vmckpt}", "digest", "{image}")),
        Contender(
            "vmckpt digest (checkpoint)",
            ("{vmckpt}", "digest", "{packed}"),
            ("{vmckpt}", "save", "{image}", "{packed}"),
        ),
        Contender("xxh128sum", ("xxh128sum", "{image}"), needs=("xxh128sum",)),
        Contender("cat", ("cat", "{image}"), needs=("cat",)),
    ),
    "image",
    packed=True,
)

_ESTIMATE = Experiment(
    "estimate",
    "Estimate what sharing would free",
    (
        Contender("vmckpt estimate-sharing", ("{vmckpt}", "estimate-sharing", "{image}", "--json")),
        Contender(
            "vmckpt estimate-sharing --sample 1/64",
            ("{vmckpt}", "estimate-sharing", "{image}", "--sample", "1/64", "--json"),
        ),
        Contender(
            "vmckpt estimate-sharing (checkpoint)",
            ("{vmckpt}", "estimate-sharing", "{packed}", "--json"),
            ("{vmckpt}", "save", "{image}", "{packed}"),
        ),
        Contender("xxhsum -H3", ("xxhsum", "-H3", "{image}"), needs=("xxhsum",)),
    ),
    "image",
    packed=True,
)

_VERSION = Experiment(
    "version",
    "Start-up",
    (
        Contender("vmckpt --version", ("{vmckpt}", "--version")),
        Contender("vmckpt --help", ("{vmckpt}", "--help")),
        Contender("python -c pass", ("{python}", "-c", "pass")),
        Contender("zstd --version", ("zstd", "--version"), needs=("zstd",)),
    ),
    "none",
    run_factor=4,
)

_INFO = Experiment(
    "info",
    "Opening a checkpoint of 64 GiB",
    (
        Contender(
            "vmckpt info", ("{vmckpt}", "info", "{packed}"), ("{vmckpt}", "save", "{image}", "{packed}")
        ),
    ),
    "big sparse",
    packed=True,
    run_factor=4,
)

EXPERIMENTS: tuple[Experiment, ...] = (_SAVE, _RESTORE, _VERIFY, _DIGEST, _ESTIMATE, _VERSION, _INFO)
"""All experiments; peak memory is measured for those that write (`save`, `restore`), in runs of its own."""

RUNNING, AT_REST = "vmckpt save SOCKET", "vmckpt save IMAGE"
"""Contenders of `live-time`: the same memory."""
TRACER, MINIMAL = "vmckpt's tracer", "minimal C handler"
"""Contenders of `live-traps`."""
FORECAST, KSM, PLAN = "forecast", "KSM", "plan for 95 %"
"""Contenders of `sharing-ksm`."""
OFF_BY, OF_SPLIT = "off by at most", "of those that KSM split"
"""What is judged of the forecast, and of the plan."""


@dataclass(frozen=True, slots=True)
class KsmCase:
    """One way to set KSM up."""

    use_zero_pages: bool
    share_cap: int
    """Its `max_page_sharing`."""

    def of(self, contender: str) -> str:
        """What a contender's rows are called."""
        return f"{contender}, use_zero_pages {int(self.use_zero_pages)}, max_page_sharing {self.share_cap}"


KSM_CASES = (KsmCase(True, 256), KsmCase(False, 256), KsmCase(True, 8))
"""Linux's own cap of sharers, with zero pages apart and as one content more; and a low cap."""

HELD, OFF = "95 % intervals that hold the truth", "largest error, of all pages"
"""Quantities of `sharing-sample`."""
PEAK = "peak memory"
"""Quantity of `sharing-memory`."""
KEPT, HITS, SWAPPED = "large pages left", "accesses to a large page", "pages to be swapped"
"""Quantities of `sharing-overcommit`."""

QUANTITIES: Mapping[str, Unit] = {
    "pause": "s",
    "speed meanwhile": "x",
    "operations before": "per s",
    "operations meanwhile": "per s",
    "save": "s",
    "used pages that are recorded": "part",
    "recorded pages for a used one": "x",
    "recorded pages": "pages",
    "pages used in the next second": "pages",
    OF_SPLIT: "part",
    OFF_BY: "part",
    HELD: "part",
    OFF: "part",
    PEAK: "bytes",
    KEPT: "pages",
    HITS: "part",
    SWAPPED: "pages",
}
"""What `live`, `ksm` and `sharing` read off, with its unit. `traps` names its own."""

_SMALL, _MEDIUM, _LARGE = 256 << 20, 1 << 30, 4 << 30

LIVE: tuple[LiveExperiment, ...] = (
    LiveExperiment("live-pause", "Pause of a live save", (_SMALL, _MEDIUM, _LARGE)),
    LiveExperiment("live-speed", "Speed of a machine that is being saved", (_MEDIUM,)),
    LiveExperiment("live-time", "Saves of a running machine and of its memory at rest", (_SMALL, _MEDIUM)),
    LiveExperiment("live-active", "Active pages", (_SMALL, _MEDIUM)),
    LiveExperiment("live-traps", "Traps", ()),
)
"""All experiments on running machines; `--only live` is all of them."""

SHARING: tuple[LiveExperiment, ...] = (
    LiveExperiment("sharing-ksm", "Equal pages, against Linux KSM", ()),
    LiveExperiment("sharing-sample", "Samples of synthetic memories", ()),
    LiveExperiment("sharing-memory", "Memory of a sample of a fleet", ()),
    LiveExperiment("sharing-overcommit", "A host that machines overcommit", ()),
)
"""All experiments on sharing; `--only sharing` is all of them."""

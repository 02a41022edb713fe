"""By what means an estimate is come by, and whether these fit the question, each other, and the sources.

Made by `api.estimate_sharing`, read by `inquiry`.
"""

from collections.abc import Sequence
from typing import NamedTuple

from vmckpt.errors import UsageError
from vmckpt.output import AtomicFile, refuse_input
from vmckpt.sharing.selection import check_fraction
from vmckpt.sharing.sketch import PUBLIC_KEY
from vmckpt.sharing.sketchfile import check_large_pages, read_key
from vmckpt.sharing.survey import Question

__all__ = ["ENGINES", "Means"]

ENGINES = ("local", "dask")


class Means(NamedTuple):
    """How to come by an answer."""

    sample: float | None = None
    """Part of the contents to look at; None: all, or what the sketches among the sources keep."""
    key: str | None = None
    """File with the key of sketches; None: the public one."""
    sketch_out: str | None = None
    """Where to keep a sketch of the sources, merged."""
    force: bool = False
    """Replace a sketch that is there."""
    co_locate: int | None = None
    """Images that one host holds; None: nobody asked."""
    engine: str = "local"
    """One of `ENGINES`."""
    scheduler: str | None = None
    """Of a Dask cluster; None: processes on this machine."""
    memory_limit_bytes: int | None = None
    """Of page hashes to hold; more is spilled to disk. None: all are held."""
    jobs: int = 1
    """Worker processes."""

    secret: bytes = PUBLIC_KEY
    """The key of sketches: what `with_secret` read from that file."""

    def with_secret(self) -> "Means":
        """The same, with the key read: once, as it may come through a pipe, and before memory is.

        Raises:
            IoError, UsageError: as `read_key` says.
        """
        return self if self.key is None else self._replace(secret=read_key(self.key))

    def check(self, question: Question, sketched: Sequence[bool]) -> None:
        """See that these means fit each other, the question, and the sources, of which some are sketches.

        Raises:
            UsageError: they do not.
        """
        if self.sample is not None:
            check_fraction(self.sample)
        if self.engine not in ENGINES:
            raise UsageError(f"there is no engine {self.engine!r}: expected {' or '.join(ENGINES)}")
        if self.scheduler is not None and self.engine != "dask":
            raise UsageError("--scheduler is for --engine dask")
        if self.engine == "dask" and self.memory_limit_bytes is not None:
            raise UsageError("--memory-limit is for --engine local: a Dask worker has a limit of its own")
        sampled = self.sample is not None or any(sketched)
        if self.key is not None and not (sampled or self.sketch_out):
            raise UsageError(
                "--key is of sketches: it goes with --sketch-out, --sample, or a sketch as SOURCE"
            )
        if sampled and question.target_pages is not None:
            raise UsageError(
                "--target needs every page: leave --sample out, and name images instead of sketches"
            )
        columns = self.engine == "local" and self.memory_limit_bytes is None
        if not (sampled or columns) and (self.sketch_out or self.co_locate):
            raise UsageError(
                "--sketch-out and --co-locate need --sample where page hashes are not all held in memory"
            )
        if self.co_locate is not None and self.co_locate < 1:
            raise UsageError(f"hosts of {self.co_locate} images: expected 1 or more")

    def check_files(self, sources: Sequence[str], question: Question) -> None:
        """See, before hours of work, that all sources can be read, nothing read is written over, and the sketch can be.

        Raises:
            UsageError: standard input is named twice, or to a cluster; or the sketch's file is one that is read, or could
                not tell the size of large pages.
            IoError: something stands where the sketch is to be.
        """
        if sources.count("-") > 1:
            raise UsageError("standard input can be read once, and is named twice as a source: name files")
        if self.engine == "dask" and "-" in sources:
            raise UsageError("workers of a cluster cannot read this process's standard input: name a file")
        sketch_out = self.sketch_out
        if sketch_out is None:
            return
        if sketch_out == "-":
            raise UsageError("a stream will not do as a sketch: give a file's name (one called `-` is `./-`)")
        check_large_pages(question.large_page_bytes)
        trust = None if question.trust in {"each", "all"} else question.trust
        for path in filter(None, (*sources, self.key, trust)):
            refuse_input(path, sketch_out)
        AtomicFile(sketch_out, force=self.force).close()

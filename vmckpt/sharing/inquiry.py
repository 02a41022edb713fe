"""How an estimate comes about: which sources are read by what means, and what is made of them.

    sources ─┬─ sketches ────────────────────────────▶ read
             └─ memory ─▶ every page hashed, once ─┬─▶ all hashes kept, spilled, or on a cluster ─▶ `survey.exact_report`
                                                   └─▶ a sample of the contents (--sample) ───────▶ `survey.sampled_report`
                                                            └─▶ a sketch of it (--sketch-out)

Called by `api.estimate_sharing`, which says how a source is opened.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from vmckpt.errors import UsageError
from vmckpt.pages import Source
from vmckpt.reports import Progress
from vmckpt.sharing.colocate import co_locate
from vmckpt.sharing.engine import Counted, spilled_table
from vmckpt.sharing.hashes import Hashes, hashes_of
from vmckpt.sharing.heavy import Heavy
from vmckpt.sharing.horvitz import circle_values
from vmckpt.sharing.large import large_pages_of
from vmckpt.sharing.means import Means
from vmckpt.sharing.outcome import CoLocated, HostShare, SharingReport
from vmckpt.sharing.sample import SampledPages, sample_of
from vmckpt.sharing.scan import counted_large_pages
from vmckpt.sharing.selection import Seeded, Selection, threshold_of
from vmckpt.sharing.sketch import (
    Sketch,
    check_keys,
    key_id_of,
    merge_sketches,
    selection_of,
    sketch_of_hashes,
    sketch_of_sample,
    thinned_sketch,
)
from vmckpt.sharing.sketchfile import is_sketch, read_sketch, write_sketch
from vmckpt.sharing.survey import Question, Sampled, exact_report, group_numbers, sampled_report
from vmckpt.sharing.table import table_of
from vmckpt.sharing.tally import Tally, tally_of

__all__ = ["SKETCH_FRACTION", "Inquiry", "Opener"]

SKETCH_FRACTION = 1 / 64
"""Of the contents that a sketch keeps where nothing else is asked for."""

Opener = Callable[[str], AbstractContextManager[Source]]
"""How to open the memory that a path stands for."""


class Inquiry(NamedTuple):
    """Sources, and what is asked about them; `answer` it once."""

    sources: Sequence[str]
    """Their names."""
    groups: Sequence[str]
    """The trust group of each."""
    question: Question
    """What is asked."""
    means: Means
    """How to look."""
    opener: Opener
    """Opens the memory of a source that is no sketch."""
    progress: Progress | None = None
    """Told how far each source has come."""

    def answer(self) -> SharingReport:
        """Look at the sources, and answer.

        Raises:
            UsageError: the means do not fit; or sketches of different keys.
            IoError, SourceError, CorruptionError, ChangedError: as reading the sources says.
            FeatureError: Dask is not installed.
        """
        sketched = [is_sketch(source) for source in self.sources]
        self.means.check(self.question, sketched)
        self.means.check_files(self.sources, self.question)
        return self._replace(means=self.means.with_secret())._answer(sketched)  # noqa: SLF001 its own

    def _answer(self, sketched: Sequence[bool]) -> SharingReport:
        if self.means.sample is not None or any(sketched):
            return self._sampled(
                {at: read_sketch(self.sources[at]) for at in np.flatnonzero(sketched).tolist()}
            )
        if self.means.engine == "local" and self.means.memory_limit_bytes is None:
            return self._exact()
        counted = self._counted()
        large = counted_large_pages(counted.images, self.question.large_page_bytes)
        return exact_report(counted.images, counted.table, large, self.groups, self.question)

    def _exact(self) -> SharingReport:
        jobs = self.means.jobs
        images = [hashes_of(source, jobs=jobs, progress=self.progress) for source in self._opened()]
        if self.means.sketch_out is not None:
            self._keep(
                [
                    sketch_of_hashes(
                        image, self.means.secret, SKETCH_FRACTION, self.question.large_page_bytes
                    )
                    for image in images
                ]
            )
        large = large_pages_of(images, self.question.large_page_bytes)
        report = exact_report(images, table_of(images), large, self.groups, self.question)
        if self.means.co_locate is None:
            return report
        tallies = [
            tally_of(image.source, image.page_count, image.zero_pages, image.hashes) for image in images
        ]
        return self._located(report, tallies, 1.0)

    def _keep(self, sketches: Sequence[Sketch]) -> None:
        assert self.means.sketch_out is not None
        write_sketch(merge_sketches(sketches), self.means.sketch_out, force=self.means.force)

    def _counted(self) -> Counted:
        jobs, large_page_bytes = self.means.jobs, self.question.large_page_bytes
        if self.means.memory_limit_bytes is not None:
            return spilled_table(
                self._opened(),
                memory_limit_bytes=self.means.memory_limit_bytes,
                jobs=jobs,
                large_page_bytes=large_page_bytes,
                progress=self.progress,
            )
        from vmckpt.sharing.cluster import cluster_table  # noqa: PLC0415 - an extra

        return cluster_table(
            self.sources,
            scheduler=self.means.scheduler,
            jobs=jobs,
            large_page_bytes=large_page_bytes,
            progress=self.progress,
        )

    def _sampled(self, sketches: Mapping[int, Sketch]) -> SharingReport:
        means = self.means
        if sketches:
            # Sketches alone may have any key, as long as it is one; memory can join them only with the key at hand.
            alone = means.key is None and len(sketches) == len(self.sources)
            paths = [self.sources[at] for at in sketches]
            check_keys(list(sketches.values()), None if alone else key_id_of(means.secret), paths=paths)
            self._check_large_pages(sketches)
        fraction = min([means.sample or 1.0, *(each.fraction for each in sketches.values())])
        keyed = bool(sketches) or means.sketch_out is not None or means.key is not None
        heavy = None if keyed or means.engine == "dask" else Heavy()
        selection: Selection = selection_of(means.secret, fraction) if keyed else Seeded(fraction)
        samples = self._samples(
            [at for at in range(len(self.sources)) if at not in sketches], selection, heavy
        )
        threshold = threshold_of(fraction)
        thinned = {at: thinned_sketch(sketch, threshold) for at, sketch in sketches.items()}
        if means.sketch_out is not None:
            self._keep(
                [
                    thinned[at]
                    if at in thinned
                    else sketch_of_sample(samples[at], means.secret, fraction, self.question.large_page_bytes)
                    for at in range(len(self.sources))
                ]
            )
        tallies = [
            replace(thinned[at].tally, source=source) if at in thinned else samples[at].tally
            for at, source in enumerate(self.sources)
        ]
        found = Sampled(tallies, fraction, heavy, list(samples.values()) if not sketches else None)
        images = [sample.scanned for sample in samples.values()]
        large_pages = sum(each.large_pages for each in sketches.values())
        large_pages += len(counted_large_pages(images, self.question.large_page_bytes)) if images else 0
        report = sampled_report(found, large_pages, self.groups, self.question)
        return report if means.co_locate is None else self._located(report, tallies, fraction)

    def _check_large_pages(self, sketches: Mapping[int, Sketch]) -> None:
        asked = self.question.large_page_bytes
        for at, sketch in sketches.items():
            if sketch.large_page_bytes not in {0, asked}:
                raise UsageError(
                    f"this sketch counts large pages of {sketch.large_page_bytes} bytes, and {asked} are asked for: "
                    f"say --large-page {sketch.large_page_bytes}, or make the sketch anew",
                    path=self.sources[at],
                )

    def _samples(
        self, images: Sequence[int], selection: Selection, heavy: Heavy | None
    ) -> dict[int, SampledPages]:
        large_page_bytes = self.question.large_page_bytes
        if self.means.engine == "dask":
            from vmckpt.sharing.cluster import cluster_samples  # noqa: PLC0415 - an extra

            sampled = cluster_samples(
                [self.sources[at] for at in images],
                selection,
                scheduler=self.means.scheduler,
                jobs=self.means.jobs,
                large_page_bytes=large_page_bytes,
                progress=self.progress,
            )
            return dict(zip(images, sampled, strict=True))
        numbers = group_numbers(self.groups)
        samples = {}
        for at in images:
            with self.opener(self.sources[at]) as source:
                samples[at] = sample_of(
                    source,
                    selection,
                    jobs=self.means.jobs,
                    large_page_bytes=large_page_bytes,
                    look=None if heavy is None else _looker(heavy, numbers[at]),
                    progress=self.progress,
                )
        return samples

    def _opened(self) -> Iterator[Source]:
        for path in self.sources:
            with self.opener(path) as source:
                yield source

    def _located(self, report: SharingReport, tallies: Sequence[Tally], fraction: float) -> SharingReport:
        assert self.means.co_locate is not None
        located = co_locate(
            tallies, self.means.co_locate, fraction=fraction, groups=group_numbers(self.groups)
        )
        hosts = tuple(HostShare(host.sources, host.reclaimable_pages) for host in located.hosts)
        return report._replace(
            co_location=CoLocated(hosts, located.reclaimable_pages, located.alone_pages, located.random_pages)
        )


def _looker(heavy: Heavy, group: int) -> Callable[[Hashes], None]:
    return lambda values: heavy.add(circle_values(values, group))

"""The same work on a Dask cluster: the functions of `shards` as tasks of `dask.distributed`, the one user of it.

    describe ─▶ hash_range (2 GiB each) ─┬─▶ shard 0 of all ─▶ equals_of_shard ─┐
                   near the images       ├─▶ shard 1 of all ─▶ equals_of_shard ─┼─▶ SharingTable, here
                                         └─▶ ...                                ┘

With an address the tasks go to that scheduler, and the *workers* open the paths; without one a cluster of processes on this
machine is started, and ended with the work. A task keeps nothing, so what was lost with a worker is computed again. A
table made here is `table_of`'s, row for row: shards of hashes ascend. Dask's own group-by is not used: at as many groups
as rows it is six times as slow as sorting shards.
"""

import contextlib
import logging
import socket
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np

from vmckpt.errors import FeatureError, IoError, VmckptError, WorkerError
from vmckpt.pages import PAGE_BYTES, PageRange
from vmckpt.reports import Progress
from vmckpt.sharing import shards
from vmckpt.sharing.engine import Counted
from vmckpt.sharing.sample import SampledPages
from vmckpt.sharing.scan import Scanned
from vmckpt.sharing.selection import Selection
from vmckpt.sharing.shards import Described, Piece
from vmckpt.sharing.table import Equals, Numbers, table_of_parts

__all__ = ["cluster_samples", "cluster_table", "connected"]

_SHARD_PAGES = 1 << 22
_CONNECT_S = 10
_RETRIES = 2  # of a task that failed: a file server may stumble

# What dask hands out has no useful types.
Client = Any
Future = Any


def cluster_table(
    paths: Sequence[str],
    *,
    scheduler: str | None = None,
    jobs: int,
    large_page_bytes: int = 0,
    shard_pages: int = _SHARD_PAGES,
    progress: Progress | None = None,
) -> Counted:
    """Find equal pages among all images, on a cluster.

    Args:
        paths: images and checkpoints, as the workers see them.
        scheduler: address, such as `tcp://host:8786`; None: processes on this machine.
        jobs: how many such processes.
        large_page_bytes: as for `scan`.
        shard_pages: about how many pages a worker sorts at a time.
        progress: told how many bytes of memory were hashed, of how many.

    Raises:
        FeatureError: dask.distributed is not installed, or the workers lack vmckpt.
        IoError: there is no scheduler at this address; or as reading says.
        WorkerError: workers were killed again and again at the same piece.
        ChangedError, SourceError, CorruptionError: as reading the images says.
    """
    with connected(scheduler, jobs) as client:
        work = _Work(client, _described(client, paths))
        pages = sum(image.layout.page_count for image in work.images)
        bits = max(0, (pages - 1) // shard_pages).bit_length()
        pieces = work.pieces(bits, None, large_page_bytes)
        scanned = work.scanned(pieces, progress)
        first_places = np.cumsum([0, *(image.page_count for image in scanned)]).tolist()
        of_piece = [first_places[piece.image] for piece in pieces]
        equals = [
            client.submit(
                shards.equals_of_shard,
                [client.submit(shards.shard_of, piece.future, shard, pure=False) for piece in pieces],
                of_piece,
                pure=False,
                retries=_RETRIES,
            )
            for shard in range(1 << bits)
        ]
        found: list[Equals] = client.gather(equals)
    page_counts = np.array([image.page_count for image in scanned], np.int64)
    zero_pages = np.array([image.zero_pages for image in scanned], np.int64)
    return Counted(tuple(scanned), table_of_parts(page_counts, zero_pages, found))


def cluster_samples(
    paths: Sequence[str],
    selection: Selection,
    *,
    scheduler: str | None = None,
    jobs: int,
    large_page_bytes: int = 0,
    progress: Progress | None = None,
) -> list[SampledPages]:
    """Sample images on a cluster; what travels here is what the selection keeps.

    The arguments and errors are those of `cluster_table`.
    """
    with connected(scheduler, jobs) as client:
        work = _Work(client, _described(client, paths))
        pieces = work.pieces(0, selection, large_page_bytes)
        scanned = work.scanned(pieces, progress)
        kept: list[tuple[Any, Any]] = client.gather(
            [client.submit(shards.shard_of, piece.future, 0, pure=False) for piece in pieces]
        )
    of_image: list[list[tuple[Any, Any]]] = [[] for _ in scanned]
    for piece, found in zip(pieces, kept, strict=True):
        of_image[piece.image].append(found)
    return [
        SampledPages(
            image,
            np.concatenate([numbers for _, numbers in found]),
            np.concatenate([values for values, _ in found]),
        )
        for image, found in zip(scanned, of_image, strict=True)
    ]


@contextlib.contextmanager
def connected(scheduler: str | None, jobs: int) -> Iterator[Client]:
    """A client of the scheduler at an address, or of a cluster of `jobs` processes that lives as long as the context.

    Raises:
        FeatureError, IoError, WorkerError: as `cluster_table` says, also of what is done within.
    """
    distributed = _library()
    with _quiet(), contextlib.ExitStack() as stack:
        if scheduler is None:
            cluster = distributed.LocalCluster(
                n_workers=jobs,
                threads_per_worker=1,  # a thread hashes as long as it holds the interpreter
                processes=True,
                dashboard_address=None,
                silence_logs=logging.CRITICAL,
            )
            address = stack.enter_context(cluster)
        else:
            address = scheduler
            _reach(address)
        try:
            client = stack.enter_context(
                distributed.Client(address, timeout=_CONNECT_S, set_as_default=False)
            )
        except (OSError, ValueError) as error:
            raise _unreached(error, scheduler) from error
        with _translated(distributed):
            yield client


def _reach(address: str) -> None:
    """See that somebody listens at an address: a client that finds nobody takes a minute to give up.

    Raises:
        IoError: nobody does, or it is no address.
    """
    try:
        place = urlsplit(address if "://" in address else f"tcp://{address}")
        if place.scheme in {"tcp", "tls", "ws", "wss"}:
            socket.create_connection((place.hostname or "", place.port or 0), _CONNECT_S).close()
    except (OSError, ValueError) as error:
        raise _unreached(error, address) from error


def _unreached(error: Exception, address: str | None) -> IoError:
    return IoError(
        f"cannot reach a Dask scheduler: {error}; expected one at an address such as tcp://host:8786",
        path=address,
    )


def _library() -> Any:
    try:
        import distributed  # noqa: PLC0415 - an extra, and half a second to import
    except ImportError as error:
        raise FeatureError(
            "dask.distributed is not installed, which --engine dask needs: `pip install 'vmckpt[fleet]'`"
        ) from error
    return distributed


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Dask's own remarks to itself: what matters comes back as an error."""
    logger = logging.getLogger("distributed")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(before)


@contextlib.contextmanager
def _translated(distributed: Any) -> Iterator[None]:
    """Dask's errors as ours."""
    try:
        yield
    except VmckptError:
        raise
    except distributed.KilledWorker as error:
        raise WorkerError(
            "workers were killed again and again at the same piece of work: give them more memory, or look at their logs"
        ) from error
    except ImportError as error:
        raise FeatureError(
            f"the workers lack a module: {error}; install the same `vmckpt[fleet]` where they run"
        ) from error
    except (OSError, RuntimeError, TimeoutError) as error:
        raise WorkerError(f"the cluster gave up: {error}") from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in {"distributed", "dask", "tornado"}:
            raise
        raise WorkerError(f"the cluster gave up: {error}") from error


class _Placed(NamedTuple):
    """A piece on its way."""

    image: int
    pages: PageRange
    future: Future


class _Work(NamedTuple):
    client: Client
    images: Sequence[Described]

    def pieces(self, bits: int, selection: Selection | None, large_page_bytes: int) -> list[_Placed]:
        """Begin to hash all images."""
        return [
            _Placed(
                number,
                pages,
                self.client.submit(
                    shards.hash_range,
                    image,
                    pages,
                    bits,
                    selection,
                    large_page_bytes,
                    pure=False,
                    retries=_RETRIES,
                ),
            )
            for number, image in enumerate(self.images)
            for pages in shards.ranges_of(image)
        ]

    def scanned(self, pieces: Sequence[_Placed], progress: Progress | None) -> list[Scanned]:
        """Wait until all images are hashed, and say what is known of each."""
        counts = [self.client.submit(_counts, piece.future, pure=False) for piece in pieces]
        self._report([piece.future for piece in pieces], pieces, progress)
        data_pages = [0] * len(self.images)
        of_large: list[Numbers | None] = [None] * len(self.images)
        for piece, (data, large) in zip(pieces, self.client.gather(counts), strict=True):
            data_pages[piece.image] += data
            if large is not None:
                before = of_large[piece.image]
                of_large[piece.image] = large if before is None else before + large
        return [
            shards.scanned_of(image, data, large)
            for image, data, large in zip(self.images, data_pages, of_large, strict=True)
        ]

    def _report(
        self, futures: Sequence[Future], pieces: Sequence[_Placed], progress: Progress | None
    ) -> None:
        if progress is None:
            return
        as_completed = _library().as_completed
        pages_of = {future.key: piece.pages.pages for future, piece in zip(futures, pieces, strict=True)}
        total = sum(pages_of.values())
        done = 0
        for future in as_completed(futures, loop=self.client.loop):
            done += pages_of[future.key]
            progress(done * PAGE_BYTES, total * PAGE_BYTES)


def _described(client: Client, paths: Sequence[str]) -> list[Described]:
    found: list[Described] = client.gather(
        [client.submit(shards.describe, path, pure=False, retries=_RETRIES) for path in paths]
    )
    return found


def _counts(piece: Piece) -> tuple[int, Numbers | None]:
    return piece.data_pages, piece.large_data_pages

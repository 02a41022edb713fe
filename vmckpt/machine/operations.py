"""What a vCPU does, operation by operation: a pure function of workload, seed, vCPU and the operation's number.

An *operation* reads or writes one word (8 bytes) of guest memory. Words are numbered through memory, and a word belongs
to the vCPU that its number leaves as a remainder: of four vCPUs, vCPU 1 owns the words 1, 5, 9, ... of every page. A
vCPU touches only words of its own, so vCPUs meet on every page and never in a word, and what one does cannot depend on
what another did, or when.

    (workload, seed, vCPU) ─▶ key ─┐
                  batch number ────┴▶ SHAKE-128 ─▶ a draw (64 random bits) for each operation ─▶ the word it takes

Operations come in batches, and a batch follows from its number alone: whoever resumes at operation n needs no other
state than n and the vCPU's register (see `access`). Draws come from a hash with a standard, so they are the same for
every Python on every machine. Called by `processor`; what the batches mean is in `access`.
"""

# array[int] cannot be evaluated before Python 3.12.
from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from hashlib import shake_128
from math import gcd
from typing import NamedTuple, Protocol

from vmckpt.machine.recording import OFFSET_BITS, Recording
from vmckpt.machine.workload import Workload
from vmckpt.pages import PAGE_BYTES

__all__ = ["BATCH_OPS", "WORDS_PER_PAGE", "Batch", "Operations", "Share", "operations_of"]

BATCH_OPS = 2048
"""Operations in a batch. Part of what a machine's state means: another number makes other operations."""

WORDS_PER_PAGE = PAGE_BYTES // 8

_DRAW_LIMIT = 1 << 64
_LINE_WORDS = 8  # a cache line
_READ, _HALF = 1 << 63, _DRAW_LIMIT - 1 >> 1


class Share(NamedTuple):
    """The words that a vCPU owns: those whose number leaves `vcpu` when divided by `vcpus`."""

    vcpu: int
    vcpus: int
    page_count: int
    """Pages of memory; all have words of every vCPU, as there are at most 16."""

    @property
    def words(self) -> int:
        """How many words there are for every vCPU: word k of a share is number `k * vcpus + vcpu`."""
        return self.page_count * WORDS_PER_PAGE // self.vcpus

    def word_of(self, page: int) -> int:
        """The first word of `page` in the share."""
        word = page * WORDS_PER_PAGE
        return word + (self.vcpu - word) % self.vcpus


class Batch(NamedTuple):
    """BATCH_OPS operations, as `access.Access` takes them."""

    draws: Sequence[int]
    """A draw for each operation: it writes if its draw is below `threshold`, and reads if not."""
    threshold: int
    words: Sequence[int]
    """The word that each operation takes; empty where that is read from memory (`access.Access.chase`)."""


class Operations(Protocol):
    """All that a vCPU will ever do."""

    def batch(self, number: int) -> Batch:
        """The operations `number * BATCH_OPS` to `(number + 1) * BATCH_OPS`."""


def operations_of(workload: Workload, share: Share, *, seed: int, recording: Recording | None) -> Operations:
    """What the vCPU with that share does; `recording` is what `trace` replays, None for all others."""
    if recording is not None:
        return _Replay(_key(workload, seed, share.vcpu), share, recording)
    kind = {
        "sequential": _Sequential,
        "uniform": _Uniform,
        "zipf": _Zipf,
        "working-set": _WorkingSet,
        "pointer-chase": _Chase,
    }[workload.name]
    return kind(workload, share, seed)


def _key(workload: Workload, seed: int, vcpu: int | None) -> bytes:
    """What draws follow from; None for what all vCPUs have in common."""
    return f"vmckpt machine 1 {workload.name} {seed} {vcpu}: ".encode()


def _draws(key: bytes, number: int, count: int = BATCH_OPS) -> array[int]:
    draws = array("Q", shake_128(key + number.to_bytes(8, "little")).digest(count * 8))
    if sys.byteorder == "big":
        draws.byteswap()
    return draws


def _stride(count: int, draw: int) -> int:
    """A number whose multiples, modulo `count`, visit all of 0 to `count` in a scattered order."""
    stride = count // 4 + draw % (count // 2 + 1)
    while gcd(stride, count) != 1:
        stride += 1
    return stride


class _Drawn:
    """What the workloads that are made from draws have in common."""

    def __init__(self, workload: Workload, share: Share, seed: int) -> None:
        self._share = share
        self._key = _key(workload, seed, share.vcpu)
        self._common = _draws(_key(workload, seed, None), 0, 8)
        self._threshold = _DRAW_LIMIT * workload.options["write"] // 100
        self._options = workload.options
        # The last words of a page where every vCPU can still move on to a word of its own.
        self._page_span = WORDS_PER_PAGE + 1 - share.vcpus

    def batch(self, number: int) -> Batch:
        draws = _draws(self._key, number)
        return Batch(draws, self._threshold, self._words(number, draws))

    def _words(self, number: int, draws: array[int]) -> list[int]:
        raise NotImplementedError


class _Sequential(_Drawn):
    """A touch for each cache line; the vCPUs start at equal distances."""

    def _words(self, number: int, draws: array[int]) -> list[int]:
        del draws
        vcpu, vcpus, _ = self._share
        own = self._share.words
        step = max(_LINE_WORDS // vcpus, 1)
        start = own * vcpu // vcpus + number * BATCH_OPS * step
        return [k % own * vcpus + vcpu for k in range(start, start + BATCH_OPS * step, step)]


class _Uniform(_Drawn):
    def _words(self, number: int, draws: array[int]) -> list[int]:
        del number
        vcpu, vcpus, _ = self._share
        own = self._share.words
        return [draw % own * vcpus + vcpu for draw in draws]


class _Zipf(_Drawn):
    """Ranks in octaves (1, 2-3, 4-7, ...), each octave as likely as the next: that is 1/rank, in whole numbers.

    Which page has which rank is the same for all vCPUs. Floating-point powers would differ between machines.
    """

    def _words(self, number: int, draws: array[int]) -> list[int]:
        del number
        vcpu, vcpus, pages = self._share
        span = self._page_span
        stride = _stride(pages, self._common[0])
        first = self._common[1] % pages
        ranks = [(1 << octave) - 1 for octave in range(pages.bit_length())]
        octaves = len(ranks)
        # Bits 8 to 42 of the draw choose within the octave, those from 43 on the place in the page.
        words = [
            (((rank := ranks[draw % octaves]) + (draw >> 8 & rank)) * stride + first) % pages * WORDS_PER_PAGE
            + (draw >> 43 & 0xFFFF) % span
            for draw in draws
        ]
        return words if vcpus == 1 else [word + (vcpu - word) % vcpus for word in words]


class _WorkingSet(_Drawn):
    """Clusters of pages at scattered places, the same for all vCPUs; slot j moves in every fourth phase."""

    _PARTS = 4

    def __init__(self, workload: Workload, share: Share, seed: int) -> None:
        super().__init__(workload, share, seed)
        set_pages = max(share.page_count * self._options["set"] // 100, 1)
        cluster = min(self._options["cluster"], max(set_pages // 8, 1))
        self._cluster_pages = 1 << cluster.bit_length() - 1
        self._clusters = share.page_count // self._cluster_pages
        self._slots = set_pages // self._cluster_pages
        self._stride = _stride(self._clusters, self._common[0])
        self._phase = -1
        self._starts: list[int] = []

    def _words(self, number: int, draws: array[int]) -> list[int]:
        phase_batches = -(-self._options["phase"] // BATCH_OPS)
        self._move(number // phase_batches if phase_batches else 0)
        vcpu, vcpus, _ = self._share
        slots, starts = self._slots, self._starts
        span = self._cluster_pages * WORDS_PER_PAGE + 1 - vcpus
        words = [starts[draw % slots] + (draw >> 20 & 0xFFFFFFFF) % span for draw in draws]
        return words if vcpus == 1 else [word + (vcpu - word) % vcpus for word in words]

    def _move(self, phase: int) -> None:
        """First word of each cluster that is in the set in `phase`."""
        if phase == self._phase:
            return
        places = (slot + self._slots * ((phase + slot) // self._PARTS) for slot in range(self._slots))
        first = self._common[1]
        self._starts = [
            (place * self._stride + first) % self._clusters * self._cluster_pages * WORDS_PER_PAGE
            for place in places
        ]
        self._phase = phase


class _Chase(_Drawn):
    """A list with a node in each of some pages, at the first word of the share there: it holds the next node's word.

    The first batches write the nodes, in the order of the list, each but the last batch once; then the list is closed,
    and every read moves on to the next node.
    """

    def __init__(self, workload: Workload, share: Share, seed: int) -> None:
        super().__init__(workload, share, seed)
        self._nodes = max(share.page_count * self._options["list"] // 100, 1)
        self._build_batches = -(-self._nodes // BATCH_OPS)
        self._stride = _stride(share.page_count, _draws(self._key, 0, 1)[0])

    def batch(self, number: int) -> Batch:
        if number >= self._build_batches:
            return Batch(_draws(self._key, number), self._threshold, ())
        first = number * BATCH_OPS
        nodes = [self._node(turn) for turn in range(first, first + BATCH_OPS + 1)]
        return Batch(
            nodes[1:], _DRAW_LIMIT, nodes[:-1]
        )  # the register is 0 meanwhile: what is written is the draw

    def _node(self, turn: int) -> int:
        return self._share.word_of(turn % self._nodes * self._stride % self._share.page_count)


class _Replay:
    """A recorded program, run again and again, each time in the pages after those it had before, as a new process is.

    Its pages keep their order and lie side by side. The vCPUs start at equal distances.
    """

    def __init__(self, key: bytes, share: Share, recording: Recording) -> None:
        self._key = key
        self._share = share
        self._recording = recording

    def batch(self, number: int) -> Batch:
        lap, at = divmod(number * BATCH_OPS, len(self._recording.accesses))
        draws: list[int] = []
        words: list[int] = []
        fresh = _draws(self._key, number)
        while len(words) < BATCH_OPS:
            part = self._recording.accesses[at : at + BATCH_OPS - len(words)]
            drawn = fresh[len(words) : len(words) + len(part)]
            draws += [
                draw & _HALF if access & 1 else draw | _READ for draw, access in zip(drawn, part, strict=True)
            ]
            words += self._words(lap, part)
            lap, at = lap + 1, 0
        return Batch(draws, _READ, words)

    def _words(self, lap: int, accesses: array[int]) -> list[int]:
        vcpu, vcpus, pages = self._share
        first = pages * vcpu // vcpus + lap * self._recording.pages
        span = WORDS_PER_PAGE + 1 - vcpus
        words = [
            (first + (access >> OFFSET_BITS + 1)) % pages * WORDS_PER_PAGE
            + (access >> 4 & WORDS_PER_PAGE - 1) % span
            for access in accesses
        ]
        return words if vcpus == 1 else [word + (vcpu - word) % vcpus for word in words]

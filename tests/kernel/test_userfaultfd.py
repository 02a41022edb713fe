"""What traps and what does not, in a guest of another process (docs/kernel.md names these tests)."""

import errno
import os
import signal
import sys
import threading
from collections.abc import Callable

import pytest

from tests.kernel.guest import Guest, page_of, waiters
from vmckpt.errors import FeatureError, IoError
from vmckpt.kernel.faults import CopyOutcome, Event, EventKind, FaultFlag, Stop
from vmckpt.kernel.features import probe
from vmckpt.kernel.memory import Advice, Mapping, create_memfd
from vmckpt.kernel.uffdio import Feature, Mode
from vmckpt.kernel.userfaultfd import Userfaultfd
from vmckpt.layout import PAGE_BYTES
from vmckpt.pages import Buffer

Needs = Callable[[Feature], None]

MISSING = Feature.MISSING_SHMEM
MINOR = Feature.MINOR_SHMEM
WP = Feature.PAGEFAULT_FLAG_WP | Feature.WP_HUGETLBFS_SHMEM | Feature.WP_UNPOPULATED
USER_ONLY = 2  # the last way


def fault(address: int, flags: int = 0) -> Event:
    return Event(EventKind.FAULT, address, address, flags, 0)


def done(pages: int) -> CopyOutcome:
    return CopyOutcome(pages * PAGE_BYTES, Stop.DONE)


# Missing pages


@pytest.mark.parametrize("memfd", [True, False], ids=["memfd", "anonymous"])
def test_a_missing_page_traps_and_gets_its_content(needs: Needs, memfd: bool) -> None:
    needs(MISSING)
    with Guest(memfd=memfd) as guest:
        uffd = guest.trap(Mode.MISSING, MISSING)
        guest.start("read", 5)
        assert guest.event() == fault(guest.at(5))
        assert uffd.copy(guest.at(5), page_of(42), PAGE_BYTES) == done(1)
        assert guest.answer() == 42
        guest.start("write", 6, 1)
        assert guest.event() == fault(guest.at(6), FaultFlag.WRITE)
        assert uffd.zero(guest.at(6), PAGE_BYTES) == done(1)
        guest.answer()
        assert guest.do("read", 6) == 1


def test_the_thread_that_touched_is_known_when_asked_for(needs: Needs) -> None:
    needs(MISSING | Feature.THREAD_ID)
    with Guest() as guest:
        guest.trap(Mode.MISSING, MISSING | Feature.THREAD_ID)
        guest.start("read", 0)
        assert guest.event().thread_id == guest.child


def test_one_copy_answers_pages_that_nobody_waits_for_yet(needs: Needs) -> None:
    needs(MISSING)
    with Guest() as guest:
        uffd = guest.trap(Mode.MISSING, MISSING)
        guest.start("read", 1)
        guest.event()
        assert uffd.copy(guest.at(0), page_of(1) * 3, 3 * PAGE_BYTES) == done(3)
        guest.answer()
        assert guest.do("read", 2) == 1
        assert uffd.read_events() == []


def test_a_page_that_is_there_already_wakes_nobody(needs: Needs) -> None:
    needs(MISSING)
    with Guest() as guest:
        uffd = guest.trap(Mode.MISSING, MISSING)
        guest.start("read", 0)
        guest.event()
        guest.fill(0, 9)
        assert uffd.copy(guest.at(0), page_of(1), PAGE_BYTES).stop is Stop.EXISTS
        assert waiters(uffd.fileno()) == 1
        uffd.wake(guest.at(0), PAGE_BYTES)
        assert guest.answer() == 9


def test_a_copy_can_leave_the_waking_for_later(needs: Needs) -> None:
    needs(MISSING)
    with Guest() as guest:
        uffd = guest.trap(Mode.MISSING, MISSING)
        guest.start("read", 0)
        guest.event()
        assert uffd.copy(guest.at(0), page_of(3), PAGE_BYTES, wake=False) == done(1)
        assert waiters(uffd.fileno()) == 1
        uffd.wake(guest.at(0), guest.pages * PAGE_BYTES)
        assert guest.answer() == 3


def test_waking_without_an_answer_traps_again(needs: Needs) -> None:
    needs(MISSING)
    with Guest() as guest:
        uffd = guest.trap(Mode.MISSING, MISSING)
        guest.start("read", 0)
        first = guest.event()
        assert uffd.read_events() == []  # an event is told once
        uffd.wake(guest.at(0), PAGE_BYTES)
        assert guest.event() == first


def test_the_source_of_a_copy_is_any_buffer_at_any_alignment(needs: Needs) -> None:
    needs(MISSING)
    with Guest() as guest:
        uffd = guest.trap(Mode.MISSING, MISSING)
        odd = memoryview(b"\0" * 13 + page_of(3))[13:]
        sources: list[Buffer] = [page_of(1), bytearray(page_of(2)), odd]
        for page, source in enumerate(sources):
            assert uffd.copy(guest.at(page), source, PAGE_BYTES) == done(1)
            assert guest.content(page) == source


def test_a_buffer_that_is_too_short_is_refused(needs: Needs) -> None:
    needs(MISSING)
    with Guest() as guest:
        uffd = guest.trap(Mode.MISSING, MISSING)
        with pytest.raises(ValueError, match="a buffer of 4096 bytes cannot fill 8192"):
            uffd.copy(guest.at(0), page_of(1), 2 * PAGE_BYTES)


def test_one_copy_stays_within_one_mapping_of_the_guest(needs: Needs) -> None:
    needs(MISSING)
    with Guest() as guest:
        uffd = guest.trap(Mode.MISSING, MISSING)
        guest.do("advise", Advice.DONTFORK, 4, 4)  # splits the mapping, as advice about a part does
        assert uffd.copy(guest.at(3), page_of(1) * 2, 2 * PAGE_BYTES) == CopyOutcome(0, Stop.ABSENT)
        assert uffd.copy(guest.at(4), page_of(1) * 2, 2 * PAGE_BYTES) == done(2)


def test_a_failure_after_some_pages_loses_none_of_them(needs: Needs) -> None:
    needs(MISSING)
    fd = create_memfd("cut short", 2 * PAGE_BYTES)
    with Guest() as guest, Mapping.of_file(fd, 2 * PAGE_BYTES) as source:
        os.ftruncate(fd, PAGE_BYTES)  # the second page cannot be read any more
        os.close(fd)
        uffd = guest.trap(Mode.MISSING, MISSING)
        outcome = uffd.copy(guest.at(0), source.address, 2 * PAGE_BYTES)
        assert outcome == CopyOutcome(PAGE_BYTES, Stop.AGAIN)
        with pytest.raises(IoError, match=r"cannot copy pages at .* 4096 bytes: Bad address"):
            uffd.copy(guest.at(1), source.address + PAGE_BYTES, PAGE_BYTES)


# Write protection


def test_a_write_waits_until_its_page_is_copied(needs: Needs) -> None:
    needs(WP)
    with Guest() as guest:
        guest.fill(2, 10)
        uffd = guest.trap(Mode.WP, WP)
        assert uffd.write_protect(guest.address, guest.pages * PAGE_BYTES, on=True) is Stop.DONE
        assert guest.do("read", 2) == 10  # reads leave no mark
        guest.start("write", 2, 11)
        assert guest.event() == fault(guest.at(2), FaultFlag.WRITE | FaultFlag.WP)
        saved = guest.content(2)
        assert uffd.write_protect(guest.at(2), PAGE_BYTES, on=False) is Stop.DONE
        guest.answer()
        assert saved == page_of(10)
        assert guest.content(2)[0] == 11
        guest.do("write", 2, 12)  # the trace is lifted


def test_lifting_a_protection_can_leave_the_waking_for_later(needs: Needs) -> None:
    needs(WP)
    with Guest() as guest:
        uffd = guest.trap(Mode.WP, WP)
        uffd.write_protect(guest.at(0), PAGE_BYTES, on=True)
        guest.start("write", 0, 1)
        guest.event()
        assert uffd.write_protect(guest.at(0), PAGE_BYTES, on=False, wake=False) is Stop.DONE
        assert waiters(uffd.fileno()) == 1
        uffd.wake(guest.at(0), PAGE_BYTES)
        guest.answer()


def test_a_hole_is_protected_like_a_page(needs: Needs) -> None:
    needs(WP)
    with Guest() as guest:
        uffd = guest.trap(Mode.WP, WP)
        uffd.write_protect(guest.address, guest.pages * PAGE_BYTES, on=True)
        guest.start("move", 4, 1)
        assert guest.event() == fault(guest.at(4), FaultFlag.WRITE | FaultFlag.WP)


def test_writes_past_the_guests_own_mapping_do_not_trap(needs: Needs) -> None:
    needs(WP)
    with Guest() as guest:
        guest.fill(0, 1)
        uffd = guest.trap(Mode.WP, WP)
        uffd.write_protect(guest.address, guest.pages * PAGE_BYTES, on=True)
        guest.fill(0, 2)  # through the mapping of another process
        assert guest.do("fork_and_write", 0, 3) == 0  # through the copy of the mapping that a fork makes
        assert guest.do("read", 0) == 3
        assert uffd.read_events() == []


def test_protection_outside_what_is_registered_is_absent_and_gone_with_the_guest(needs: Needs) -> None:
    needs(WP)
    with Guest() as guest:
        uffd = guest.trap(Mode.WP, WP)
        assert uffd.write_protect(guest.at(guest.pages), PAGE_BYTES, on=True) is Stop.ABSENT
        guest.kill()
        assert uffd.write_protect(guest.at(0), PAGE_BYTES, on=True) is Stop.GONE


# First touches of pages that the file has


def test_after_dontneed_the_first_touch_of_any_kind_traps(needs: Needs) -> None:
    needs(MINOR)
    with Guest() as guest:
        guest.do("write", 0, 5)
        guest.do("write", 1, 6)
        uffd = guest.trap(Mode.MINOR, MINOR)
        guest.do("advise", Advice.DONTNEED, 0, guest.pages)
        guest.start("read", 0)
        assert guest.event() == fault(guest.at(0), FaultFlag.MINOR)
        assert uffd.proceed(guest.at(0), PAGE_BYTES) == done(1)
        assert guest.answer() == 5  # the content was in the file all the while
        guest.start("write", 1, 7)
        assert guest.event() == fault(guest.at(1), FaultFlag.MINOR | FaultFlag.WRITE)
        assert uffd.proceed(guest.at(1), PAGE_BYTES) == done(1)
        guest.answer()
        assert guest.content(1)[:2] == b"\x07\0"


@pytest.mark.parametrize("wp", [True, False], ids=["keeping-the-write-trace", "lifting-it"])
def test_proceeding_with_wp_leaves_the_write_trace_in_place(needs: Needs, wp: bool) -> None:
    needs(MINOR | WP)
    with Guest() as guest:
        guest.fill(0, 5)
        uffd = guest.trap(Mode.MINOR | Mode.WP, MINOR | WP)
        guest.do("advise", Advice.DONTNEED, 0, guest.pages)
        uffd.write_protect(guest.address, guest.pages * PAGE_BYTES, on=True)
        guest.start("read", 0)
        assert guest.event() == fault(guest.at(0), FaultFlag.MINOR)
        assert uffd.proceed(guest.at(0), PAGE_BYTES, wp=wp) == done(1)
        assert guest.answer() == 5
        guest.start("write", 0, 6)
        if wp:
            assert guest.event() == fault(guest.at(0), FaultFlag.WRITE | FaultFlag.WP)
            uffd.write_protect(guest.at(0), PAGE_BYTES, on=False)
        guest.answer()
        assert uffd.read_events() == []


def test_a_write_to_an_unmapped_page_traps_as_minor_before_wp(needs: Needs) -> None:
    needs(MINOR | WP)
    with Guest() as guest:
        guest.fill(0, 5)
        uffd = guest.trap(Mode.MINOR | Mode.WP, MINOR | WP)
        guest.do("advise", Advice.DONTNEED, 0, guest.pages)
        uffd.write_protect(guest.address, guest.pages * PAGE_BYTES, on=True)
        guest.start("write", 0, 6)
        assert guest.event() == fault(guest.at(0), FaultFlag.MINOR | FaultFlag.WRITE)
        uffd.proceed(guest.at(0), PAGE_BYTES, wp=True)
        assert guest.event() == fault(guest.at(0), FaultFlag.WRITE | FaultFlag.WP)


def test_write_protection_survives_dontneed(needs: Needs) -> None:
    needs(WP)
    with Guest() as guest:
        guest.fill(0, 5)
        uffd = guest.trap(Mode.WP, WP)
        uffd.write_protect(guest.address, guest.pages * PAGE_BYTES, on=True)
        guest.do("advise", Advice.DONTNEED, 0, guest.pages)
        guest.start("write", 0, 6)
        assert guest.event() == fault(guest.at(0), FaultFlag.WRITE | FaultFlag.WP)


@pytest.mark.parametrize("wp", [True, False], ids=["protected", "writable"])
def test_a_page_is_copied_in_protected_or_not(needs: Needs, wp: bool) -> None:
    needs(MISSING | WP)
    with Guest() as guest:
        uffd = guest.trap(Mode.MISSING | Mode.WP, MISSING | WP)
        uffd.write_protect(guest.address, guest.pages * PAGE_BYTES, on=True)
        uffd.copy(guest.at(0), page_of(1), PAGE_BYTES, wp=wp)
        guest.start("write", 0, 2)
        if wp:
            assert guest.event() == fault(guest.at(0), FaultFlag.WRITE | FaultFlag.WP)
            uffd.write_protect(guest.at(0), PAGE_BYTES, on=False)
        guest.answer()
        assert uffd.read_events() == []


def test_reading_a_hole_is_no_minor_fault(needs: Needs) -> None:
    needs(MINOR | WP)
    with Guest() as guest:
        uffd = guest.trap(Mode.MINOR | Mode.WP, MINOR | WP)
        uffd.write_protect(guest.address, guest.pages * PAGE_BYTES, on=True)
        assert guest.do("read", 0) == 0
        assert uffd.read_events() == []


def test_reading_a_hole_is_a_missing_fault_where_those_trap(needs: Needs) -> None:
    needs(MISSING | MINOR | WP)
    with Guest() as guest:
        uffd = guest.trap(Mode.MISSING | Mode.MINOR | Mode.WP, MISSING | MINOR | WP)
        uffd.write_protect(guest.address, guest.pages * PAGE_BYTES, on=True)
        guest.start("read", 0)
        assert guest.event() == fault(guest.at(0))
        assert uffd.zero(guest.at(0), PAGE_BYTES) == done(1)
        assert guest.answer() == 0
        guest.do("write", 0, 1)  # zero lifts the protection; a copy of zeros with wp keeps it


# Removed memory


def test_removing_waits_until_the_event_is_read(needs: Needs) -> None:
    needs(MISSING | Feature.EVENT_REMOVE)
    with Guest() as guest:
        uffd = guest.trap(Mode.MISSING, MISSING | Feature.EVENT_REMOVE)
        uffd.copy(guest.at(1), page_of(1) * 2, 2 * PAGE_BYTES)
        guest.start("advise", Advice.REMOVE, 1, 2)
        assert guest.event() == Event(EventKind.REMOVE, guest.at(1), guest.at(3), 0, 0)
        guest.answer()
        assert guest.content(1) == bytes(PAGE_BYTES)


# Ends


def test_when_the_last_copy_closes_who_waits_reads_zeros(needs: Needs) -> None:
    needs(MISSING)
    with Guest() as guest:
        uffd = guest.trap(Mode.MISSING, MISSING)
        guest.start("read", 0)
        guest.event()
        uffd.close()
        assert guest.answer() == 0


def test_while_a_copy_is_open_who_waits_gets_the_right_content(needs: Needs) -> None:
    needs(MISSING)
    with Guest() as guest:
        uffd = guest.trap(Mode.MISSING, MISSING)
        with Userfaultfd(os.dup(uffd.fileno())) as kept:
            guest.start("read", 0)
            guest.event()
            uffd.close()  # the handler dies; the supervisor has this one
            assert waiters(kept.fileno()) == 1
            kept.copy(guest.at(0), page_of(8), PAGE_BYTES)
            assert guest.answer() == 8


def test_a_poisoned_page_ends_the_guest_instead_of_lying_to_it(needs: Needs) -> None:
    needs(MISSING | Feature.POISON)
    with Guest() as guest:
        uffd = guest.trap(Mode.MISSING, MISSING | Feature.POISON)
        guest.start("read", 0)
        guest.event()
        uffd.copy(guest.at(1), page_of(1), PAGE_BYTES)
        outcome = uffd.poison(guest.at(0), guest.pages * PAGE_BYTES, wake=False)
        assert outcome == CopyOutcome(PAGE_BYTES, Stop.EXISTS)  # what is there stays
        uffd.wake(guest.at(0), PAGE_BYTES)
        assert guest.ended() == -signal.SIGBUS


def test_a_system_call_on_a_poisoned_page_fails(needs: Needs) -> None:
    needs(MISSING | Feature.POISON)
    with Guest() as guest:
        uffd = guest.trap(Mode.MISSING, MISSING | Feature.POISON)
        assert uffd.poison(guest.at(0), PAGE_BYTES) == done(1)
        assert guest.do("file_into", 0) == errno.EFAULT


def test_unregistering_lets_who_waits_go_on(needs: Needs) -> None:
    needs(MISSING)
    with Guest() as guest:
        uffd = guest.trap(Mode.MISSING, MISSING)
        guest.start("read", 0)
        guest.event()
        uffd.unregister(guest.address, guest.pages * PAGE_BYTES)
        assert guest.answer() == 0
        assert uffd.copy(guest.at(1), page_of(1), PAGE_BYTES).stop is Stop.ABSENT


# Touches by the kernel


def test_touches_by_the_kernel_trap_where_permitted(needs: Needs) -> None:
    needs(MISSING)
    reason = probe().lacks(MISSING, kernel_faults=True)
    if reason:
        pytest.skip(reason)
    with Guest() as guest:
        uffd = guest.trap(Mode.MISSING, MISSING)
        guest.start("file_into", 0)
        assert guest.event() == fault(guest.at(0), FaultFlag.WRITE)
        uffd.copy(guest.at(0), page_of(1), PAGE_BYTES)
        assert guest.answer() == 0
        assert guest.content(0)[:2] == b"k\x01"


def test_touches_by_the_kernel_fail_where_only_the_process_itself_is_trapped(needs: Needs) -> None:
    needs(MISSING)
    with Guest() as guest:
        uffd = guest.trap(Mode.MISSING, MISSING, way=USER_ONLY)
        assert guest.do("file_into", 0) == errno.EFAULT
        assert uffd.read_events() == []
        guest.start("read", 0)
        assert guest.event() == fault(guest.at(0))


# Refusals


def test_what_is_not_whole_pages_is_refused(needs: Needs) -> None:
    needs(MISSING)
    with Userfaultfd.open(MISSING) as uffd, pytest.raises(ValueError, match="not whole pages"):
        uffd.register(PAGE_BYTES + 1, PAGE_BYTES, Mode.MISSING)


def test_a_range_has_one_descriptor(needs: Needs) -> None:
    needs(MISSING)
    with (
        Mapping.anonymous(PAGE_BYTES) as mapping,
        Userfaultfd.open(MISSING) as uffd,
        Userfaultfd.open(MISSING) as other,
    ):
        assert uffd.register(mapping.address, PAGE_BYTES, Mode.MISSING) & 1 << 3  # copy works on it
        with pytest.raises(IoError, match="busy"):
            other.register(mapping.address, PAGE_BYTES, Mode.MISSING)


def test_a_mode_that_the_mapping_cannot_have_is_a_missing_feature(needs: Needs) -> None:
    needs(MINOR)
    with (
        Mapping.anonymous(PAGE_BYTES) as mapping,
        Userfaultfd.open(MINOR) as uffd,
        pytest.raises(FeatureError, match=r"cannot trap <Mode\.MINOR: 4> at"),
    ):
        uffd.register(mapping.address, PAGE_BYTES, Mode.MINOR)


@pytest.mark.parametrize("feature", [Feature.EVENT_FORK, Feature.EVENT_REMAP], ids=str)
def test_events_that_nobody_reads_cannot_be_asked_for(feature: Feature) -> None:
    with pytest.raises(ValueError, match="nobody reads"):
        Userfaultfd.open(feature)


def test_a_closed_descriptor_reports_errors_and_closes_again(needs: Needs) -> None:
    needs(MISSING)
    uffd = Userfaultfd.open(MISSING)
    uffd.close()
    uffd.close()
    assert uffd.fileno() == -1
    with pytest.raises(IoError, match="cannot read the events"):
        uffd.read_events()
    with pytest.raises(IoError, match="cannot wake"):
        uffd.wake(0, PAGE_BYTES)


# Why the handler is another process


def test_a_handler_thread_beside_the_guest_never_runs(needs: Needs) -> None:
    needs(MISSING)
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        pytest.skip("this Python has no interpreter lock")
    pid = os.fork()
    if pid == 0:
        try:
            _touch_beside_a_handler_thread()
        finally:
            os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGALRM


def _touch_beside_a_handler_thread() -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    mapping = Mapping.anonymous(PAGE_BYTES)
    uffd = Userfaultfd.open(MISSING)
    uffd.register(mapping.address, PAGE_BYTES, Mode.MISSING)
    os.set_blocking(uffd.fileno(), True)
    ready = threading.Event()

    def answer() -> None:
        ready.set()
        uffd.read_events()
        uffd.copy(mapping.address, page_of(1), PAGE_BYTES)

    threading.Thread(target=answer, daemon=True).start()
    ready.wait()
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    assert mapping.view[0] == 1

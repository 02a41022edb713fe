import gzip
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.machine.machines import RECORDING, WORKLOADS
from tests.machine.reference import Reference
from vmckpt.errors import IoError, SourceError, UsageError
from vmckpt.machine.access import PlainAccess
from vmckpt.machine.operations import BATCH_OPS, Operations, Share, operations_of
from vmckpt.machine.recording import Recording, read_recording
from vmckpt.machine.workload import WORKLOADS as KNOWN
from vmckpt.machine.workload import Workload, parse_workload
from vmckpt.pages import PAGE_BYTES


@pytest.fixture(scope="module")
def recording() -> Recording:
    return read_recording(RECORDING)


def options_of(workload: Workload) -> dict[str, int]:
    return dict(workload.options)


def perform(
    memory: bytearray, operations: Operations, share: Share, start: int, end: int, register: int
) -> int:
    """Operations `start` to `end` of one vCPU."""
    access = PlainAccess(memoryview(memory).cast("Q"), share)
    while start < end:
        number, at = divmod(start, BATCH_OPS)
        until = min(at + end - start, BATCH_OPS)
        draws, threshold, words = operations.batch(number)
        if words:
            register = access.straight(words[at:until], draws[at:until], threshold, register)
        else:
            register = access.chase(draws[at:until], threshold, register)
        start += until - at
    return register


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("uniform", {"write": 30}),
        ("zipf:write=0", {"write": 0}),
        ("working-set:set=5,phase=0", {"write": 30, "set": 5, "phase": 0, "cluster": 128}),
    ],
)
def test_a_workload_has_all_its_options(text: str, options: dict[str, int]) -> None:
    workload = parse_workload(text)
    assert options_of(workload) == options
    assert workload.text == text
    assert parse_workload(workload.text) == workload


def test_a_default_is_left_out_of_the_text_and_a_path_may_hold_anything() -> None:
    assert parse_workload("zipf:write=30").text == "zipf"
    workload = parse_workload("trace:/a b/c:d=1,e")
    assert workload.path == "/a b/c:d=1,e"
    assert parse_workload(workload.text) == workload


@pytest.mark.parametrize(
    "text",
    [
        "",
        "walk",
        "zipf:",
        "zipf:speed=1",
        "zipf:write",
        "zipf:write=101",
        "zipf:write=-1",
        "zipf:write=1e1",
        pytest.param("zipf:write=" + "9" * 5000, id="a very long number"),
        "zipf:write=٣",
        "working-set:set=0",
        "trace",
        "trace:",
    ],
)
def test_what_is_no_workload_is_refused_in_words(text: str) -> None:
    with pytest.raises(UsageError):
        parse_workload(text)


@pytest.mark.parametrize("name", WORKLOADS)
@settings(max_examples=12, deadline=None)
@given(
    vcpus=st.integers(1, 16),
    pages=st.integers(1, 40),
    seed=st.integers(0, 2**64 - 1),
    filling=st.integers(0, 255),
    cuts=st.lists(st.integers(0, 2600), max_size=6),
    ops=st.integers(1, 2600),
    data=st.data(),
)
def test_split_runs_in_any_order_leave_what_the_reference_leaves(
    name: str, vcpus: int, pages: int, seed: int, filling: int, cuts: list[int], ops: int, data: st.DataObject
) -> None:
    content = bytes([filling]) * (pages * PAGE_BYTES)
    workload = parse_workload("working-set:phase=2000,set=40,cluster=4" if name == "working-set" else name)
    reference = Reference(content, name, options_of(workload), vcpus=vcpus, seed=seed)
    # The draws of an operation are cut from a hash anew each time: a few vCPUs are enough.
    chosen = data.draw(st.lists(st.integers(0, vcpus - 1), min_size=1, max_size=2, unique=True))
    some = min(ops, 2600 // len(chosen))
    for vcpu in chosen:
        for _ in range(some):
            reference.step(vcpu)

    memory = bytearray(content)
    ends = sorted({min(cut, some) for cut in cuts} | {some})
    parts = {vcpu: list(zip([0, *ends], ends, strict=False)) for vcpu in chosen}
    registers = dict.fromkeys(chosen, 0)
    while parts:
        vcpu = data.draw(st.sampled_from(sorted(parts)))
        start, end = parts[vcpu].pop(0)
        share = Share(vcpu, vcpus, pages)
        operations = operations_of(workload, share, seed=seed, recording=None)  # nothing but numbers is kept
        registers[vcpu] = perform(memory, operations, share, start, end, registers[vcpu])
        if not parts[vcpu]:
            del parts[vcpu]
    assert memory == reference.memory()
    assert registers == {vcpu: reference.register[vcpu] for vcpu in chosen}


@pytest.mark.parametrize("name", [*WORKLOADS, "trace"])
@pytest.mark.parametrize(("vcpus", "pages"), [(1, 1), (3, 7), (16, 2), (2, 5000)])
def test_every_word_is_in_memory_and_in_the_vcpus_own_share(
    name: str, vcpus: int, pages: int, recording: Recording
) -> None:
    workload = parse_workload(f"trace:{RECORDING}" if name == "trace" else name)
    for vcpu in range(vcpus):
        share = Share(vcpu, vcpus, pages)
        used = recording if name == "trace" else None
        operations = operations_of(workload, share, seed=5, recording=used)
        for number in (0, 1, 71, 10**6):
            batch = operations.batch(number)
            assert len(batch.draws) == BATCH_OPS
            assert all(word % vcpus == vcpu and word < pages * 512 for word in batch.words)


@pytest.mark.parametrize("percent", [0, 1, 50, 100])
def test_as_many_operations_write_as_were_asked_for(percent: int) -> None:
    operations = operations_of(
        parse_workload(f"uniform:write={percent}"), Share(0, 1, 100), seed=1, recording=None
    )
    writes = sum(draw < batch.threshold for batch in map(operations.batch, range(10)) for draw in batch.draws)
    assert abs(writes / (10 * BATCH_OPS) - percent / 100) < 0.01


def pages_of(name: str, batches: range, pages: int = 4096, vcpu: int = 0) -> list[int]:
    operations = operations_of(parse_workload(name), Share(vcpu, 2, pages), seed=3, recording=None)
    return [word // 512 for number in batches for word in operations.batch(number).words]


def test_zipf_takes_the_most_popular_pages_most() -> None:
    touched = pages_of("zipf", range(40))
    counts = sorted(Counter(touched).values(), reverse=True)
    assert counts[0] > len(touched) / 26  # an octave of 13, and half of that for the last one's wrap
    assert sum(counts[:64]) > 0.45 * len(touched)
    assert len(counts) > 1000


def test_a_working_set_is_shared_by_the_vcpus_and_moves_a_quarter_at_a_time() -> None:
    name = "working-set:phase=40960,set=10"
    first, other = set(pages_of(name, range(20))), set(pages_of(name, range(20), vcpu=1))
    assert first == other
    assert len(first) == 4096 * 10 // 100 // 32 * 32
    second = set(pages_of(name, range(20, 40)))
    assert 0.7 < len(first & second) / len(first) < 0.85
    assert set(pages_of("working-set:phase=0", range(20))) == set(
        pages_of("working-set:phase=0", range(10**6, 10**6 + 20))
    )


def test_a_sequential_walk_touches_each_cache_line_of_the_next_page() -> None:
    operations = operations_of(parse_workload("sequential"), Share(0, 1, 100), seed=3, recording=None)
    assert list(operations.batch(0).words[:130]) == list(range(0, 1040, 8))


def test_pointers_lead_through_all_pages_of_the_list_and_round_again() -> None:
    share = Share(1, 2, 64)
    operations = operations_of(parse_workload("pointer-chase:write=0"), share, seed=9, recording=None)
    memory = bytearray(64 * PAGE_BYTES)
    register = perform(memory, operations, share, 0, BATCH_OPS, 0)
    visited = []
    for op in range(BATCH_OPS, BATCH_OPS + 64):
        register = perform(memory, operations, share, op, op + 1, register)
        visited.append(register // 512)
    assert len(set(visited)) == 32
    assert visited[:32] == visited[32:]


def test_a_replay_does_what_was_recorded_and_moves_on_with_each_lap(tmp_path: Path) -> None:
    path = tmp_path / "small.trace"
    path.write_text(
        "==1== Lackey\nI  1000,3\nI  1004,3\nI  2040,3\n L 7010,8\n S 7018,4\n M 1f020,8\nnoise\n"
    )
    recorded = read_recording(str(path))
    assert recorded.pages == 4
    operations = operations_of(parse_workload(f"trace:{path}"), Share(0, 1, 100), seed=0, recording=recorded)
    draws, threshold, words = operations.batch(0)
    lap = [0, 512 + 8, 1024 + 2, 1024 + 3, 1536 + 4, 1536 + 4]
    assert words[:12] == [*lap, *(word + 4 * 512 for word in lap)]
    assert [draw < threshold for draw in draws[:6]] == [False, False, False, True, False, True]


def test_a_recording_is_the_same_gzipped_or_not(tmp_path: Path, recording: Recording) -> None:
    plain = tmp_path / "plain.trace"
    with gzip.open(RECORDING) as packed:
        plain.write_bytes(packed.read())
    assert read_recording(str(plain)) == recording
    assert len(recording.accesses) > 90_000
    assert recording.pages > 100


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", SourceError),
        (b"nothing of that kind\n", SourceError),
        (b" L zz,8\n", SourceError),
        (b" L -5,8\n", SourceError),
        (b" L " + b"f" * 20 + b",8\n", SourceError),
        (b"x" * 5000, SourceError),
        (gzip.compress(b" L 1000,8\n" * 50)[:-9], SourceError),
        (b"\x1f\x8b" + b"rubbish" * 9, SourceError),
        (None, IoError),
    ],
    ids=[
        "empty",
        "other text",
        "no number",
        "negative",
        "too large",
        "no lines",
        "cut gzip",
        "broken gzip",
        "missing",
    ],
)
def test_what_is_no_recording_is_refused(tmp_path: Path, body: bytes | None, error: type[Exception]) -> None:
    path = tmp_path / "broken.trace"
    if body is not None:
        path.write_bytes(body)
    with pytest.raises(error, match="record"):
        read_recording(str(path))


def test_a_recording_that_is_too_long_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vmckpt.machine.recording._MOST_ACCESSES", 10)
    path = tmp_path / "long.trace"
    path.write_text(" L 1000,8\n" * 11)
    with pytest.raises(SourceError, match="too long"):
        read_recording(str(path))


@pytest.mark.parametrize("name", ["uniform", "zipf", "working-set:set=100", "sequential", "pointer-chase"])
def test_one_wrong_page_shows_in_the_others_even_when_it_is_put_right(name: str) -> None:
    share = Share(0, 1, 8)
    operations = operations_of(parse_workload(name), share, seed=1, recording=None)
    left = []
    for is_wrong in (False, True):
        memory = bytearray(range(256)) * 128
        register = perform(memory, operations, share, 0, 4000, 0)
        page = bytes(memory[:PAGE_BYTES])
        if is_wrong:
            memory[:PAGE_BYTES] = bytes(PAGE_BYTES)
        register = perform(memory, operations, share, 4000, 4600, register)
        memory[:PAGE_BYTES] = page
        perform(memory, operations, share, 4600, 6000, register)
        left.append(bytes(memory[PAGE_BYTES:]))
    assert left[0] != left[1]


def test_every_workload_says_what_it_does_and_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "machine.md").read_text(encoding="utf-8")
    for name, kind in KNOWN.items():
        assert f"`{name}" in page
        for key, option in kind.options.items():
            assert f"| `{name}` | `{key}` | {option.default} | {option.low} to {option.high} |" in page
    assert all(kind.meaning for kind in KNOWN.values())
    assert set(KNOWN) == {*WORKLOADS, "trace"}

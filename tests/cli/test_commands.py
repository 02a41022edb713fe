"""What each command asks of the engine, and what it says of the answer."""

import json
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from tests.cli.conftest import DIGEST, FakeEngine, problem
from vmckpt.errors import IoError, SourceError
from vmckpt.reports import LiveReport

Run = Callable[..., SimpleNamespace]

PAGE_KEYS = {"total", "zero", "pattern", "duplicate", "stored"}
SAVE_KEYS = {"memory_bytes", "file_bytes", "ratio", "elapsed_s", "pages", "active_pages", "digest"}
INFO_KEYS = {
    "format_version",
    "memory_bytes",
    "page_bytes",
    "regions",
    "pages",
    "active_pages",
    "codec",
    "memory_block_bytes",
    "storage_block_bytes",
    "storage_blocks",
    "file_bytes",
    "digest",
    "created",
    "vcpu_state",
}


@pytest.mark.parametrize(
    ("arguments", "keys"),
    [
        (["save", "a", "b"], SAVE_KEYS),
        (["convert", "a", "b"], SAVE_KEYS),
        (["restore", "a", "b"], {"memory_bytes", "elapsed_s", "digest"}),
        (["info", "a"], INFO_KEYS),
        (["verify", "a"], {"ok", "problems"}),
        (["verify", "a", "--rebuild-index", "b"], {"memory_bytes", "file_bytes", "digest", "lost_sections"}),
        (["digest", "a"], {"digests"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_json_is_one_object_with_the_promised_keys_and_nothing_else(
    engine: FakeEngine, run: Run, arguments: list[str], keys: set[str]
) -> None:
    result = run(*arguments, "--json")
    assert (result.code, result.err) == (0, "")
    answer = json.loads(result.out)
    assert keys <= set(answer)
    assert set(answer.get("pages", dict.fromkeys(PAGE_KEYS))) == PAGE_KEYS


NO_MACHINE = dict.fromkeys(
    ("mode", "trace", "tracer", "estimator", "workload", "vcpus", "seed", "warmup_ops")
)


def test_save_hands_its_options_on(engine: FakeEngine, run: Run) -> None:
    blocks = ["--memory-block", "128K", "--storage-block", "8M"]
    run("save", "a", "b", "--codec", "lz4", *blocks, "--no-dedup", "--jobs", "3", "--force")
    assert engine.calls == [
        (
            "save",
            ("a", "b"),
            {
                "codec": "lz4",
                "memory_block_bytes": 131072,
                "storage_block_bytes": 8 << 20,
                "jobs": 3,
                "dedup": False,
                "force": True,
                **NO_MACHINE,
                "progress": None,
            },
        )
    ]


def test_save_hands_on_what_is_asked_of_a_machine(engine: FakeEngine, run: Run) -> None:
    machine = ["--workload", "zipf", "--vcpus", "3", "--seed", "7", "--warmup-ops", "1000"]
    run(
        "save",
        "a",
        "b",
        "--mode",
        "suspend",
        "--trace",
        "write",
        "--tracer",
        "software",
        "--estimator",
        "scanning",
        *machine,
    )
    given = {key: engine.calls[0][2][key] for key in NO_MACHINE}
    assert given == {
        "mode": "suspend",
        "trace": "write",
        "tracer": "software",
        "estimator": "scanning",
        "workload": "zipf",
        "vcpus": 3,
        "seed": 7,
        "warmup_ops": 1000,
    }


@pytest.mark.parametrize("mode", ["checkpoint", "suspend"])
def test_save_tells_how_a_live_save_went(engine: FakeEngine, run: Run, mode: str) -> None:
    engine.live = LiveReport(
        mode=mode,
        trace="access",
        mechanism="userfaultfd",
        pause_s=0.0012,
        ops_at_checkpoint=(1000, 900),
        ops_per_s_before=2.5e6,
        ops_per_s_during=2e6,
        read_traps=70,
        write_traps=30,
        resaved_pages=64,
        rounds=2,
        stopped_for="few pages left" if mode == "suspend" else "",
        left_pages=32,
    )
    table = run("save", "vm.sock", "b").out
    assert "1.2 ms" in table
    assert "2 000 000 operations/s while saving, 2 500 000 before" in table
    assert "70 reads, 30 writes, by userfaultfd" in table
    assert ("stopped for: few pages left" in table) == (mode == "suspend")
    values = json.loads(run("save", "vm.sock", "b", "--json").out)
    assert values["traps"] == {"read": 70, "write": 30}
    assert values["ops_at_checkpoint"] == [1000, 900]
    assert {"pause_s", "ops_per_s_before", "ops_per_s_during", "resaved_pages"} <= set(values)
    assert ("left_pages" in values) == (mode == "suspend")


def test_save_leaves_to_the_engine_what_is_not_said(engine: FakeEngine, run: Run) -> None:
    run("save", "a", "b")
    [(_, _, options)] = engine.calls
    assert {key for key, value in options.items() if value is None} == {
        "codec",
        "memory_block_bytes",
        "storage_block_bytes",
        "jobs",
        "progress",
        *NO_MACHINE,
    }
    assert (options["dedup"], options["force"]) == (True, False)


def test_restore_and_convert_hand_their_options_on(engine: FakeEngine, run: Run) -> None:
    run("restore", "a", "b", "--format", "elf", "-j", "2")
    run("convert", "a", "b", "--layout", "access", "--codec", "zstd")
    (_, restored, restore), (_, converted, convert) = engine.calls
    assert restored == converted == ("a", "b")
    assert (restore["format"], restore["jobs"], restore["force"]) == ("elf", 2, False)
    assert (convert["layout"], convert["codec"]) == ("access", "zstd")


def test_the_table_of_a_save(engine: FakeEngine, run: Run) -> None:
    assert run("save", "guest.raw", "guest.vmckpt").out.splitlines() == [
        "Saved guest.raw as guest.vmckpt",
        "  memory       512 MiB",
        "  file         62.9 MiB, 8.1 times smaller than the memory",
        "  pages        131 072",
        "    zero       95 031  █████████████████▍         72.5 %",
        "    pattern     1 031  ▎                           0.8 %",
        "    duplicate  14 897  ██▊                        11.4 %",
        "    stored     20 113  ███▋                       15.3 %",
        "  codec        zstd, in blocks of 64.0 KiB",
        f"  digest       {DIGEST}",
        "  time         164 ms, 3.05 GiB/s",
    ]


@pytest.mark.parametrize("command", ["save", "restore", "convert"])
def test_quiet_says_nothing(engine: FakeEngine, run: Run, command: str) -> None:
    result = run(command, "a", "b", "--quiet")
    assert (result.code, result.out, result.err) == (0, "", "")


@pytest.mark.parametrize(
    ("command", "title"),
    [
        ("save", "Saved guest as standard output"),
        ("restore", "Restored guest to standard output"),
        ("convert", "Converted guest to standard output"),
    ],
)
def test_what_writes_to_standard_output_puts_its_table_on_stderr(
    engine: FakeEngine, run: Run, command: str, title: str
) -> None:
    result = run(command, "guest", "-")
    assert (result.code, result.out) == (0, "")
    assert result.err.startswith(f"{title}\n")


@pytest.mark.parametrize(
    ("command", "title"),
    [
        ("save - -", "Saved standard input as standard output"),
        ("convert - -", "Converted standard input to standard output"),
        ("restore - -", "Restored standard input to standard output"),
        ("info -", "standard input: checkpoint"),
        ("verify -", "standard input is whole"),
    ],
)
def test_standard_input_is_called_by_its_name(engine: FakeEngine, run: Run, command: str, title: str) -> None:
    result = run(*command.split())
    assert (result.out + result.err).startswith(title)


def test_info_shows_regions_only_where_there_are_several(engine: FakeEngine, run: Run) -> None:
    out = run("info", "guest.vmckpt").out
    assert "0x100000000 .. 0x110000000, 256 MiB" in out
    assert "before the upgrade" in out
    regions = json.loads(run("info", "guest.vmckpt", "--json").out)["regions"]
    assert regions[1] == {"gpa": 1 << 32, "pages": 65536, "first_page": 65536}


def test_info_tames_metadata(engine: FakeEngine, run: Run) -> None:
    engine.metadata = {f"\x1b]0;{number}": "x" * 10000 for number in range(100)}
    out = run("info", "guest.vmckpt").out
    assert "\x1b" not in out
    assert len(out) < 10000
    assert "80 more" in out


def test_verify_lists_each_problem_and_exits_4(engine: FakeEngine, run: Run) -> None:
    engine.problems = (problem(), problem("footer", None))
    result = run("verify", "guest.vmckpt")
    assert result.code == 4
    assert "guest.vmckpt is damaged" in result.out
    assert "storage block  offset 8192, pages 3 16-31: the checksum differs" in result.out
    assert "footer         pages 3 16-31: the checksum differs" in result.out
    assert result.err.startswith("vmckpt: guest.vmckpt: 2 problems found")


def test_one_problem_is_one_problem(engine: FakeEngine, run: Run) -> None:
    engine.problems = (problem(),)
    assert run("verify", "x").err.startswith("vmckpt: x: 1 problem found; restore from another copy")


def test_verify_lists_problems_in_json_as_well(engine: FakeEngine, run: Run) -> None:
    engine.problems = (problem(),)
    result = run("verify", "guest.vmckpt", "--json")
    answer = json.loads(result.out)
    assert (result.code, answer["ok"]) == (4, False)
    assert answer["problems"] == [
        {
            "kind": "storage block",
            "offset": 8192,
            "pages": [[3, 4], [16, 32]],
            "message": "the checksum differs",
        }
    ]


def test_verify_of_a_ruin_stays_readable(engine: FakeEngine, run: Run) -> None:
    engine.problems = tuple(problem() for _ in range(5000))
    out = run("verify", "guest.vmckpt").out
    assert len(out.splitlines()) < 30
    assert "4 980 more" in out


def test_verify_of_a_damaged_header_does_not_make_a_size_up(
    engine: FakeEngine, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = SimpleNamespace(
        ok=False, problems=(problem(),), memory_bytes=0, storage_blocks=0, elapsed_s=0.001
    )
    monkeypatch.setattr(engine, "verify", lambda *_, **__: report)
    assert "memory         unknown" in run("verify", "guest.vmckpt").out


def test_verify_quiet_leaves_the_exit_code_and_one_sentence(engine: FakeEngine, run: Run) -> None:
    engine.problems = (problem(),)
    result = run("verify", "guest.vmckpt", "--quiet")
    assert (result.code, result.out, len(result.err.splitlines())) == (4, "", 1)


def test_rebuild_index_names_what_is_lost(engine: FakeEngine, run: Run) -> None:
    result = run("verify", "old.vmckpt", "--rebuild-index", "new.vmckpt", "--force")
    assert result.code == 0
    assert "active pages" in result.out
    [(name, arguments, options)] = engine.calls
    assert (name, arguments, options["force"]) == ("rebuild_index", ("old.vmckpt", "new.vmckpt"), True)


def test_digest_writes_lines_as_sha256sum_does(engine: FakeEngine, run: Run) -> None:
    out = run("digest", "a.raw", "-", "odd\nname").out
    assert out == f"{DIGEST}  a.raw\n{DIGEST}  -\n\\{DIGEST}  odd\\nname\n"


def test_digest_goes_on_past_a_source_that_fails(engine: FakeEngine, run: Run) -> None:
    engine.failure, engine.failing = SourceError("there is no memory in it", path="bad"), {"bad"}
    result = run("digest", "a", "bad", "b")
    assert result.code == 3
    assert result.out == f"{DIGEST}  a\n{DIGEST}  b\n"
    assert result.err == "vmckpt: bad: there is no memory in it\n"


def test_digest_exits_with_the_first_failure(engine: FakeEngine, run: Run) -> None:
    engine.failure = IoError("no such file", path="x")
    result = run("digest", "x", "y", "--json")
    assert result.code == 1
    assert json.loads(result.out) == {"digests": []}
    assert len(result.err.splitlines()) == 2

"""`vmckpt estimate-sharing`, with real images, checkpoints and machines, against counting every page in plain Python."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import vmckpt
from vmckpt.errors import IoError
from vmckpt.machine.client import ask
from vmckpt.machine.image import create_image
from vmckpt.pages import PAGE_BYTES

SOON_S = 60.0
KEYS = {
    "pages",
    "large_pages",
    "zero_pages",
    "distinct_pages",
    "reclaimable_pages",
    "estimate",
    "histogram",
    "images",
    "ksm",
    "top",
}
SIZE_BYTES = 4 << 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharing")
    for seed in (1, 2):
        create_image(str(folder / f"{seed}.raw"), SIZE_BYTES, seed=seed, common_seed=9)
    vmckpt.save(
        str(folder / "1.raw"), str(folder / "1.vmckpt"), workload="zipf", warmup_ops=2000, trace="working-set"
    )
    return folder


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vmckpt", "estimate-sharing", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=SOON_S,
    )


def estimate(folder: Path, *arguments: str) -> Any:
    done = run(folder, *arguments, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def pages_of(path: Path) -> list[bytes]:
    memory = path.read_bytes()
    return [memory[at : at + PAGE_BYTES] for at in range(0, len(memory), PAGE_BYTES)]


@pytest.mark.parametrize("trust", ["each", "all"])
def test_every_number_is_that_of_counting_pages(folder: Path, trust: str) -> None:
    found = estimate(folder, "1.raw", "2.raw", "--trust", trust, "--top", "1000000")
    images = [pages_of(folder / name) for name in ("1.raw", "2.raw")]
    counts = [Counter(page for page in pages if any(page)) for pages in images]
    over_all = counts[0] + counts[1]
    zero = sum(not any(page) for pages in images for page in pages)
    intra = sum(count.total() - len(count) for count in counts)
    everything = over_all.total() - len(over_all)

    assert found.keys() >= KEYS
    assert found["pages"] == sum(map(len, images))
    assert found["large_pages"] == 2 * SIZE_BYTES // (2 << 20)
    assert found["zero_pages"] == zero
    assert found["distinct_pages"] == len(over_all)
    chosen = {"each": intra, "all": everything}[trust]
    assert found["reclaimable_pages"] == {"zero": zero, "intra": intra, "trust": chosen, "all": everything}
    assert found["estimate"]["pages"] == found["estimate"]["low"] == found["estimate"]["high"] == chosen
    assert (found["estimate"]["method"], found["estimate"]["fraction"]) == ("exact", 1)
    assert found["histogram"] == {str(copies): n for copies, n in Counter(over_all.values()).items()}
    assert sum(image["attributed_pages"] for image in found["images"]) == chosen
    assert sum(large["gain_pages"] for large in found["top"]) == pytest.approx(zero + chosen)
    copies = counts if trust == "each" else [over_all, over_all]
    for large in found["top"]:
        image = int(large["source"][0]) - 1
        inside = images[image][large["large_page"] * 512 : (large["large_page"] + 1) * 512]
        shareable = [page for page in inside if not any(page) or copies[image][page] > 1]
        assert large["shareable_pages"] == len(shareable)
        gain = sum(1 - 1 / copies[image][page] if any(page) else 1 for page in inside)
        assert large["gain_pages"] == pytest.approx(gain)


def test_a_checkpoint_says_the_same_as_its_memory_and_knows_what_was_active(
    folder: Path, tmp_path: Path
) -> None:
    vmckpt.restore(str(folder / "1.vmckpt"), str(tmp_path / "1.raw"))
    image = estimate(tmp_path, "1.raw")
    saved = estimate(folder, "1.vmckpt")
    for key in ("pages", "zero_pages", "distinct_pages", "reclaimable_pages", "histogram", "ksm"):
        assert saved[key] == image[key], key
    assert all(large["activity"] is None for large in image["top"])
    assert all(0 <= large["activity"] <= 1 for large in saved["top"])
    assert any(large["activity"] > 0 for large in saved["top"])


@pytest.fixture
def socket(folder: Path, tmp_path: Path) -> Iterator[str]:
    path = str(tmp_path / "vm.sock")
    arguments = ["run", "1.raw", "--workload", "zipf", "--socket", path, "--json"]
    with subprocess.Popen(
        [sys.executable, "-m", "vmckpt", *arguments], cwd=folder, stdout=subprocess.PIPE, text=True
    ) as machine:
        subprocess.run(
            [sys.executable, "-m", "vmckpt", "vm", "status", path, "--wait", "20"],
            check=True,
            capture_output=True,
        )
        yield path
        ask(path, "stop")
        machine.communicate(timeout=SOON_S)
        assert machine.returncode == 0


def test_a_running_machine_is_read_while_it_works(folder: Path, socket: str) -> None:
    before = ask(socket, "status")
    found = estimate(folder, socket, "2.raw", "--trust", "all")
    after = ask(socket, "status")
    assert found["pages"] == 2 * SIZE_BYTES // PAGE_BYTES
    assert found["images"][0]["source"] == socket
    assert (before["state"], after["state"]) == ("running", "running")
    assert int(str(after["ops"])) > int(str(before["ops"]))


def test_a_paused_machine_stays_paused_and_says_what_its_memory_says(
    folder: Path, socket: str, tmp_path: Path
) -> None:
    ask(socket, "pause")
    found = estimate(folder, socket)
    assert ask(socket, "status")["state"] == "paused"
    vmckpt.save(socket, str(tmp_path / "now.vmckpt"))
    saved = estimate(tmp_path, "now.vmckpt")
    assert found["histogram"] == saved["histogram"]


def test_groups_of_a_file(folder: Path, tmp_path: Path) -> None:
    groups = tmp_path / "groups"
    groups.write_text("both: 1.raw 2.raw\n")
    found = estimate(folder, "1.raw", "2.raw", "1.vmckpt", "--trust", str(groups))
    assert [image["trust_group"] for image in found["images"]] == ["both", "both", "1.vmckpt"]
    ladder = found["reclaimable_pages"]
    assert ladder["intra"] < ladder["trust"] < ladder["all"]


def test_one_line_says_how_much_of_how_much_and_how_sure(folder: Path) -> None:
    done = run(folder, "1.raw")
    assert done.returncode == 0
    assert "of 4.00 MiB" in done.stdout
    assert "counted exactly" in done.stdout


def test_quiet_prints_nothing(folder: Path) -> None:
    done = run(folder, "1.raw", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["nothing-here.raw"], 1, "nothing-here.raw"),
        (["1.raw", "--large-page", "4096"], 2, "power of two"),
        (["1.raw", "--large-page", "3M"], 2, "power of two"),
        (["1.raw", "--trust", "nothing-here"], 1, "nothing-here"),
        (["1.raw", "--trust", "1.raw"], 2, "trust groups"),
        (["1.raw", "--share-cap", "1"], 2, "share-cap"),
        (["1.raw", "--confidence", "1"], 2, "confidence"),
        ([], 2, "SOURCE"),
        (["cut.raw"], 3, "cut.raw"),
        (["cut.vmckpt"], 4, "cut.vmckpt"),
    ],
)
def test_what_cannot_be_answered_is_a_sentence(
    folder: Path, arguments: list[str], code: int, says: str
) -> None:
    (folder / "cut.raw").write_bytes((folder / "1.raw").read_bytes()[:5000])
    (folder / "cut.vmckpt").write_bytes((folder / "1.vmckpt").read_bytes()[:-100])
    done = run(folder, *arguments)
    assert done.returncode == code
    assert done.stdout == ""
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_plan_frees_what_it_says(folder: Path) -> None:
    found = estimate(folder, "1.raw", "2.raw", "--trust", "all", "--target", "2M")
    plan = found["plan"]
    assert plan["target_pages"] == 512 <= plan["reclaimed_pages"]
    assert (
        plan["least_large_pages"] <= plan["broken_large_pages"] == len(plan["breaks"]) <= found["large_pages"]
    )
    images = {name: pages_of(folder / name) for name in ("1.raw", "2.raw")}
    inside = [
        page
        for each in plan["breaks"]
        for page in images[each["source"]][each["large_page"] * 512 : (each["large_page"] + 1) * 512]
    ]
    counts = Counter(page for page in inside if any(page))
    assert plan["reclaimed_pages"] == len(inside) - len(counts)
    assert plan["large_page_bytes"] == found["large_page_bytes"]


def test_a_target_that_cannot_be_met_is_met_as_far_as_it_goes(folder: Path) -> None:
    plan = estimate(folder, "1.raw", "--target", "1G")["plan"]
    everything = estimate(folder, "1.raw")["reclaimable_pages"]
    assert plan["reclaimed_pages"] == everything["zero"] + everything["intra"] < plan["target_pages"]
    assert "cannot be had" in run(folder, "1.raw", "--target", "1G").stdout


@pytest.mark.parametrize(
    "means", [["--memory-limit", "16M"], ["--sample", "1"]], ids=["spilled", "all of a sample"]
)
def test_other_means_find_the_same(folder: Path, means: list[str]) -> None:
    arguments = ["1.raw", "2.raw", "1.vmckpt", "--trust", "all"]
    found, expected = estimate(folder, *arguments, *means), estimate(folder, *arguments)
    for key in ("pages", "zero_pages", "reclaimable_pages", "histogram"):
        assert found[key] == expected[key], key
    gains = [[large["gain_pages"] for large in answer["top"]] for answer in (found, expected)]
    assert gains[0] == pytest.approx(gains[1])


def test_a_sample_comes_with_an_interval(folder: Path) -> None:
    found = estimate(folder, "1.raw", "2.raw", "--trust", "all", "--sample", "1/4")
    exact = estimate(folder, "1.raw", "2.raw", "--trust", "all")
    assert found["estimate"]["fraction"] == 0.25
    assert found["estimate"]["low"] <= exact["estimate"]["pages"] <= found["estimate"]["high"]
    assert found["pages"] == exact["pages"]
    assert found["zero_pages"] == exact["zero_pages"]
    assert "confidence" in run(folder, "1.raw", "--sample", "0.25").stdout


def test_a_sketch_stands_for_its_image(folder: Path, tmp_path: Path) -> None:
    for name in ("1", "2"):
        estimate(folder, f"{name}.raw", "--sample", "1/2", "--sketch-out", str(tmp_path / f"{name}.sketch"))
    assert (tmp_path / "1.sketch").stat().st_mode & 0o777 == 0o600
    both = estimate(tmp_path, "1.sketch", "2.sketch", "--trust", "all", "--co-locate", "2")
    mixed = estimate(tmp_path, "1.sketch", str(folder / "2.raw"), "--trust", "all")
    assert mixed["reclaimable_pages"] == both["reclaimable_pages"]
    assert mixed["large_pages"] == both["large_pages"] == 2 * SIZE_BYTES // (2 << 20)
    [host] = both["co_location"]["hosts"]
    assert host["sources"] == ["1.sketch", "2.sketch"]
    assert both["co_location"]["reclaimable_pages"] == pytest.approx(both["reclaimable_pages"]["all"], abs=1)


def test_a_key_through_a_pipe_makes_the_sketch_that_it_makes_from_a_file(
    folder: Path, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_bytes(b"secret")
    key.chmod(0o600)
    arguments = ["--sample", "1/2", "--sketch-out"]
    estimate(folder, "1.raw", *arguments, str(tmp_path / "file.sketch"), "--key", str(key))
    command = [sys.executable, "-m", "vmckpt", "estimate-sharing", "1.raw", "--key", "/dev/stdin", *arguments]
    piped = subprocess.run(
        [*command, str(tmp_path / "pipe.sketch")],
        cwd=folder,
        input=b"secret",
        capture_output=True,
        check=False,
        timeout=SOON_S,
    )
    assert (piped.returncode, piped.stderr) == (0, b"")
    assert (tmp_path / "pipe.sketch").read_bytes() == (tmp_path / "file.sketch").read_bytes()


def test_the_sketch_of_several_sources_is_that_of_a_host_which_has_them_all(
    folder: Path, tmp_path: Path
) -> None:
    both = estimate(folder, "1.raw", "2.raw", "--sample", "1", "--sketch-out", str(tmp_path / "host.sketch"))
    for name in "12":
        estimate(folder, f"{name}.raw", "--sample", "1", "--sketch-out", str(tmp_path / f"{name}.sketch"))
    estimate(tmp_path, "2.sketch", "1.sketch", "--sketch-out", "merged.sketch")
    assert (tmp_path / "merged.sketch").read_bytes() == (tmp_path / "host.sketch").read_bytes()
    estimate(folder, "2.raw", "1.raw", "--sketch-out", str(tmp_path / "small.sketch"))
    estimate(tmp_path, "host.sketch", "--sample", "1/64", "--sketch-out", "thinned.sketch")
    assert (tmp_path / "thinned.sketch").read_bytes() == (tmp_path / "small.sketch").read_bytes()
    found = estimate(tmp_path, "host.sketch")
    assert (found["pages"], found["zero_pages"]) == (both["pages"], both["zero_pages"])
    assert found["reclaimable_pages"]["intra"] == both["reclaimable_pages"]["all"]


def test_sketches_of_two_keys_do_not_mix(folder: Path, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_bytes(b"secret")
    key.chmod(0o600)
    estimate(folder, "1.raw", "--sketch-out", str(tmp_path / "public.sketch"))
    estimate(folder, "2.raw", "--key", str(key), "--sketch-out", str(tmp_path / "secret.sketch"))
    done = run(tmp_path, "public.sketch", "secret.sketch")
    assert done.returncode == 2
    assert done.stderr.startswith("vmckpt: secret.sketch: this sketch was made with another key")
    assert run(tmp_path, "secret.sketch", "--key", str(key)).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["1.raw", "--sample", "0"], "part of a whole"),
        (["1.raw", "--sample", "2"], "part of a whole"),
        (["1.raw", "--sample", "a"], "no fraction"),
        (["1.raw", "--sample", "1/0"], "no fraction"),
        (["1.raw", "--sample", "1/4", "--target", "1M"], "--target needs every page"),
        (["1.raw", "--scheduler", "tcp://x:1"], "--engine dask"),
        (["1.raw", "--memory-limit", "1K"], "memory limit"),
        (["1.raw", "--co-locate", "1", "--memory-limit", "16M"], "need --sample"),
        (["1.raw", "--key", "x"], "--key is of sketches"),
        (["1.raw", "--sketch-out", "-"], "a stream will not do"),
        (["1.raw", "--sketch-out", "x", "--large-page", "4G"], "a smaller --large-page"),
        (["-", "1.raw", "-"], "named twice"),
        (["-", "--engine", "dask"], "name a file"),
        (["1.raw", "--sketch-out", "x", "--report", "x"], "another output"),
    ],
)
def test_means_that_do_not_fit_are_refused(folder: Path, arguments: list[str], says: str) -> None:
    done = run(folder, *arguments)
    assert done.returncode == 2
    assert says in done.stderr


def test_a_dash_is_standard_input_and_no_sketch_of_that_name(folder: Path, tmp_path: Path) -> None:
    estimate(folder, "1.raw", "--sketch-out", str(tmp_path / "-"))
    done = subprocess.run(
        [sys.executable, "-m", "vmckpt", "estimate-sharing", "-", "--json"],
        cwd=tmp_path,
        input=(folder / "2.raw").read_bytes(),
        capture_output=True,
        check=True,
        timeout=SOON_S,
    )
    assert json.loads(done.stdout)["estimate"]["method"] == "exact"


@pytest.mark.parametrize("output", ["--sketch-out", "--report"])
@pytest.mark.parametrize("which", ["image", "key", "groups"])
def test_nothing_that_is_read_is_written_over(folder: Path, tmp_path: Path, output: str, which: str) -> None:
    contents = {"image": (folder / "1.raw").read_bytes(), "key": b"secret", "groups": b"web: image\n"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).chmod(0o600)
    given = ["image", "--sample", "1/2", "--key", "key", "--trust", "groups"]
    done = run(tmp_path, *given, output, which, "--force")
    assert (done.returncode, done.stdout) == (2, "")
    assert "same file" in done.stderr
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == contents


def test_what_stands_where_a_sketch_is_to_be_is_said_before_memory_is_read(
    folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "there").write_bytes(b"mine")
    reads: list[int] = []
    with pytest.raises(IoError, match="--force"):
        vmckpt.estimate_sharing(
            [str(folder / "1.raw")],
            sketch_out=str(tmp_path / "there"),
            progress=lambda done, _: reads.append(done),
        )
    assert not reads
    assert (tmp_path / "there").read_bytes() == b"mine"


def test_a_page_shows_it_and_is_not_overwritten(folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert run(folder, "1.raw", "2.raw", "--target", "2M", "--report", str(page)).returncode == 0
    assert page.read_text().startswith("<!DOCTYPE html>")
    again = run(folder, "1.raw", "--report", str(page))
    assert again.returncode == 1
    assert "--force" in again.stderr


def test_a_forecast_reads_no_page_and_knows_how_much_there_is(folder: Path) -> None:
    image = estimate(folder, "1.raw", "--forecast")
    assert 0 < image["read_bytes"] <= SIZE_BYTES
    assert estimate(folder, "1.vmckpt", "--forecast")["read_bytes"] == 0
    both = estimate(folder, "1.raw", "2.raw", "--forecast")
    assert both["read_bytes"] > image["read_bytes"]
    assert both["memory_bytes"] > image["memory_bytes"]
    assert run(folder, "-", "--forecast").returncode == 2
    assert "about" in run(folder, "1.raw", "--forecast").stdout

"""Created images against the memory of real guests."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tests.machine import census
from tests.machine.census import Census
from vmckpt.machine.image import create_image

REAL = Path(__file__).parents[2] / ".." / "shared" / "data"

Image = npt.NDArray[np.uint8]

# Real guest -> the profile that models it.
PAIRS = {"debian-a": "files", "debian-b": "idle"}

pytestmark = pytest.mark.skipif(
    not all((REAL / f"{name}.raw.zst").exists() for name in PAIRS),
    reason="the memory of real guests is not here",
)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Image]:
    """Images by name of guest and of profile; the created ones are two VMs of one system."""
    folder = tmp_path_factory.mktemp("images")
    made = {}
    for seed, (name, profile) in enumerate(PAIRS.items()):
        made[name] = census.unpack((REAL / f"{name}.raw.zst").read_bytes())
        create_image(str(folder / profile), made[name].size, profile=profile, seed=seed)
        made[profile] = census.load(str(folder / profile))
    return made


@pytest.fixture(scope="module")
def taken(images: dict[str, Image]) -> dict[str, Census]:
    return {name: census.take(image) for name, image in images.items()}


@pytest.mark.parametrize(("name", "profile"), PAIRS.items())
@pytest.mark.parametrize("of_pages", ["zero", "pattern", "duplicate", "unique"])
def test_each_class_is_within_three_hundredths_of_memory(
    taken: dict[str, Census], name: str, profile: str, of_pages: str
) -> None:
    real, created = taken[name], taken[profile]
    assert getattr(created, of_pages) / created.pages == pytest.approx(
        getattr(real, of_pages) / real.pages, abs=0.03
    )


@pytest.mark.parametrize(("name", "profile"), PAIRS.items())
@pytest.mark.parametrize("ratio", ["lz4", "zstd", "page_lz4", "page_zstd"])
def test_compression_is_within_four_hundredths(
    taken: dict[str, Census], name: str, profile: str, ratio: str
) -> None:
    assert getattr(taken[profile], ratio) == pytest.approx(getattr(taken[name], ratio), rel=0.04)


@pytest.mark.parametrize(("name", "profile"), PAIRS.items())
def test_deciles_of_compression_are_near(taken: dict[str, Census], name: str, profile: str) -> None:
    assert taken[profile].page_lz4_deciles == pytest.approx(taken[name].page_lz4_deciles, abs=0.08)


@pytest.mark.parametrize(("name", "profile"), PAIRS.items())
def test_runs_are_of_like_length(taken: dict[str, Census], name: str, profile: str) -> None:
    real, created = taken[name], taken[profile]
    assert created.extents == pytest.approx(real.extents, rel=0.6)
    assert abs(created.extent_median - real.extent_median) <= 2
    assert created.extent_weighted_median == pytest.approx(real.extent_weighted_median, rel=0.6)


@pytest.mark.parametrize("names", [("debian-a", "debian-b"), ("debian-b", "debian-a")], ids="-".join)
def test_vms_of_one_system_share_as_much(images: dict[str, Image], names: tuple[str, str]) -> None:
    real = census.shared_fraction(images[names[0]], images[names[1]])
    created = census.shared_fraction(images[PAIRS[names[0]]], images[PAIRS[names[1]]])
    assert created == pytest.approx(real, abs=0.02)

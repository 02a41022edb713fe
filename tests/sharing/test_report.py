"""The page of an estimate: every number of it is there, it is whole whatever was estimated, and names are only names."""

import random
import re
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sharing.estimates import PER_LARGE, report_of
from tests.support.webpage import MOST_BYTES, WebPage
from vmckpt.pages import PAGE_BYTES
from vmckpt.sharing.maps import binned
from vmckpt.sharing.outcome import Estimate, ImageMap, ImageShare, SharingDetail, SharingReport
from vmckpt.sharing.report import page_of
from vmckpt.sharing.wording import names_of
from vmckpt.units import format_size

LADDER, CURVE, MAP, PAIRS, COPIES = (
    "The ladder",
    "Cost and yield",
    "Map of large pages",
    "Who shares with whom",
    "Copies",
)
IMAGES, BEST, KSM = "Images", "Best large pages", "Linux KSM"
ALL = [LADDER, CURVE, MAP, PAIRS, COPIES, IMAGES, BEST, KSM]
HOSTILE = "</title><script>alert(1)</script>\x1b[31m\"'&\udcff"


def fleet(images: int = 3, pages: int = 40) -> list[list[int]]:
    rng = random.Random(images)
    return [[rng.choice([0, 0, 1, 2, 3, rng.randrange(4, 999)]) for _ in range(pages)] for _ in range(images)]


def read(report: SharingReport) -> WebPage:
    page = WebPage(page_of(report))
    page.check([])
    return page


def whole(text: str) -> int:
    return int(re.sub(r"\s", "", text))


def size(pages: float) -> str:
    return format_size(pages * PAGE_BYTES)


def drawn(page: WebPage, kind: str) -> str:
    return "".join(page.figure(kind).itertext()).replace("\N{NO-BREAK SPACE}", " ")


@pytest.mark.parametrize(
    ("trust", "groups"),
    [("each", None), ("all", None), ("groups.txt", ["a", "b", "a"])],
    ids=["each", "all", "groups"],
)
@pytest.mark.parametrize("target", [None, 20], ids=["no plan", "plan"])
def test_a_page_has_every_figure_whoever_trusts_whom(
    trust: str, groups: list[str] | None, target: int | None
) -> None:
    report = report_of(fleet(), trust=trust, groups=groups, target=target)
    page = read(report)
    assert page.kinds() == ALL
    freed = report.zero_pages + report.estimate.pages
    assert page.texts("h1") == [f"Sharing would free {size(freed)} of {size(120)}"]
    assert page.tiles()["Would be free"] == size(freed)


def test_the_ladder_has_its_steps_and_they_add_up() -> None:
    report = report_of(fleet(), trust="groups.txt", groups=["a", "b", "a"])
    zero, intra, trust, most = report.reclaimable
    assert 0 < intra < trust < most
    rows = read(report).rows(LADDER)
    assert [row[1] for row in rows] == [
        size(zero),
        f"+{size(intra)}",
        f"+{size(trust - intra)}",
        f"+{size(most - trust)}",
    ]
    assert [row[3] for row in rows] == [size(zero + step) for step in (0, intra, trust, most)]


def test_only_what_takes_more_trust_than_there_is_looks_uncounted() -> None:
    def uncounted(report: SharingReport) -> list[str]:
        paths = read(report).figure(LADDER).iter("path")
        return [str(path.get("class")) for path in paths if "wash" in str(path.get("class"))]

    assert len(uncounted(report_of(fleet()))) == 1
    assert uncounted(report_of(fleet(), trust="all")) == []


def test_a_plan_says_what_it_frees_and_its_orders_are_drawn() -> None:
    report = report_of(fleet(), trust="all", target=40)
    plan = report.plan
    assert plan is not None
    page = read(report)
    broken = len(plan.breaks)
    assert page.title(CURVE) == f"{broken} large pages broken up free {size(plan.reclaimed_pages)}"
    assert list(page.legend(CURVE)) == ["gain (chosen)", "<address>", "the plan", "target"]
    rows = page.rows(CURVE)
    points = dict(plan.curves[0].points)
    assert [row[1] for row in rows] == [size(points[whole(row[0])]) for row in rows]
    assert f"break up {broken} of 30 large pages" in page.texts("header")[0]
    assert page.tiles()["To break up"] == str(broken)
    assert sum(whole(row[-1]) for row in page.rows(MAP)) == broken


def test_the_plan_s_point_lies_on_the_chosen_order_and_on_no_other() -> None:
    page = read(report_of(fleet(), trust="all", target=40))
    strokes = [path for path in page.figure(CURVE).iter("path") if "stroke" in str(path.get("class"))]
    places = {str(path.get("class")): re.findall(r"[\d.]+ [\d.]+", str(path.get("d"))) for path in strokes}
    (point,) = places["stroke c-ink"]
    assert point in places["stroke c-blue"]
    assert point not in places["stroke c-orange"]


def test_a_plan_that_falls_short_says_so() -> None:
    page = read(report_of(fleet(), target=10**6))
    assert page.title(CURVE).startswith(f"No plan frees {size(10**6)}")
    assert "out of reach" in page.texts("header")[0]


def test_without_a_plan_the_page_says_where_the_gain_lies() -> None:
    report = report_of([[0, 0, 0, 0, 1, 2, 3, 4, 5, 5, 6, 7]])
    page = read(report)
    assert page.title(CURVE) == "Half of the gain lies in 1 of 3 large pages"
    assert page.rows(CURVE) == [["1", size(4), "80.0 %"], ["2", size(5), "100.0 %"]]
    assert "2 of 3 large pages (66.7 %); half of it lies in 1 of them" in page.texts("header")[0]


def test_maps_have_every_large_page_of_every_image() -> None:
    report = report_of(fleet())
    page = read(report)
    rows = page.rows(MAP)
    assert [whole(row[1]) for row in rows] == [10, 10, 10]
    assert sum(whole(row[4]) for row in rows) == report.zero_pages
    said = [str(title.text) for title in page.figure(MAP).iter("title")]
    sums = [
        re.findall(r"(?:^(\d+) cells, each:\n)?would free (\d+) of (\d+) small", text, re.MULTILINE)
        for text in said
    ]
    assert sum(int(many or 1) * int(small) for ((many, _, small),) in sums) == report.pages
    assert "touched" in "".join(said)


def test_activity_that_is_not_known_is_not_made_up() -> None:
    page = read(report_of(fleet(), active=False))
    assert "is not known" in drawn(page, MAP)
    assert "touched" not in "".join(str(title.text) for title in page.figure(MAP).iter("title"))
    assert {row[5] for row in page.rows(MAP)} == {"–"}
    assert {len(row) for row in page.rows(BEST)} == {5}


def test_cold_warm_and_hot_have_their_colours() -> None:
    image = ImageMap("a", [0, 1, 2, 3], [4] * 4, [4, 4, 4, 0], [0] * 4, [0.0, 0.1, 0.9, 0.0], [False] * 4)
    report = report_of([[1] * 16])._replace(detail=SharingDetail((image,), [[0.0]]))
    page = read(report)
    paths = [(path.get("class"), path.get("d")) for path in page.figure(MAP).iter("path")]
    colours = {re.findall(r"c-(\w+)", str(kind))[0]: d for kind, d in paths if "fill" in str(kind)}
    assert {name: str(d).split()[0] for name, d in colours.items()} == {
        "blue": "M0",
        "purple": "M1",
        "orange": "M2",
        "pale": "M3",
    }
    assert page.title(MAP) == "33.3 % of the gain lies in cold large pages"


@given(st.integers(1, 200), st.sampled_from([1, 2, 4, 64]), st.randoms(use_true_random=False))
def test_bins_add_up_to_what_is_in_them(count: int, size: int, rng: random.Random) -> None:
    numbers = sorted(rng.sample(range(1000), count))
    image = ImageMap(
        "a",
        numbers,
        [rng.randint(1, 512) for _ in numbers],
        [rng.random() * 512 for _ in numbers],
        [rng.randint(0, 9) for _ in numbers],
        [rng.random() for _ in numbers],
        [rng.random() < 0.5 for _ in numbers],
    )
    found = binned(image, size)
    assert len(found.large) == -(-count // size)
    assert found.first.tolist() == numbers[::size]
    assert found.last[-1] == numbers[-1]
    assert found.touched is not None
    assert image.activity is not None
    for column, expected in (
        (found.large, count),
        (found.small, sum(image.small_pages)),
        (found.gain, sum(image.gain_pages)),
        (found.zero, sum(image.zero_pages)),
        (found.broken, sum(image.broken)),
        (found.touched, sum(a * b for a, b in zip(image.activity, image.small_pages, strict=True))),
    ):
        assert float(column.sum()) == pytest.approx(expected)


def test_the_matrix_says_what_two_images_have_in_common_and_whether_they_trust() -> None:
    page = read(report_of([[1, 1, 2], [1, 2, 2], [9, 8, 7]], trust="g", groups=["a", "a", "b"]))
    assert page.title(PAIRS) == f"Images 1 and 2 have the most in common: {size(2)}"
    assert [row[1:] for row in page.rows(PAIRS)] == [
        [size(1), size(2), "–"],
        [size(2), size(1), "–"],
        ["–", "–", "–"],
    ]
    said = [str(title.text) for title in page.figure(PAIRS).iter("title")]
    assert sum("they trust each other" in text for text in said) == 2
    assert sum("they do not trust each other" in text for text in said) == 4
    colours = {
        re.findall(r"c-(\w+)", str(path.get("class")))[0]
        for path in page.figure(PAIRS).iter("path")
        if "cell" in str(path.get("class"))
    }
    assert colours == {"blue", "green", "pale"}
    strangers = read(report_of([[1, 1, 2], [1, 2, 2]])).figure(PAIRS)
    assert strangers.find(".//path[@class='fill cell c-purple']") is not None
    assert strangers.find(".//path[@class='fill cell c-green']") is None


def test_copies_add_up_to_what_is_kept_and_freed() -> None:
    report = report_of(fleet(4, 400), trust="all")
    page = read(report)
    rows = page.rows(COPIES)
    assert sum(whole(row[1]) for row in rows) == sum(
        n for copies, n in report.histogram.items() if copies > 1
    )
    assert page.legend(COPIES)["freed"] == size(report.reclaimable.all)
    assert f"Not drawn: {round(report.histogram[1])} pages" in drawn(page, COPIES)


def test_labels_of_copies_leave_room_for_each_other() -> None:
    def labels(most: int) -> list[str]:
        page = read(report_of([[1, 2]])._replace(histogram={2: 5.0, most: 1.0}))
        axis = next(found for found in page.figure(COPIES).iter("div") if found.get("class") == "xs")
        return [str(label.text) for label in axis]

    assert labels(100) == ["2", "3", "4+", "8+", "16+", "32+", "64+"]
    assert labels(9000) == ["2", "3", "4+", "8+", "32+", "128+", "512+", "2 048+", "8 192+"]


@given(st.dictionaries(st.integers(1, 10**7), st.floats(0, 1e9), max_size=30))
@settings(max_examples=40)
def test_any_histogram_can_be_drawn(histogram: dict[int, float]) -> None:
    page = read(report_of([[1, 2]])._replace(histogram=histogram))
    labels = [row[0] for row in page.rows(COPIES)]
    assert len(labels) == len(set(labels))
    most = max((copies for copies, contents in histogram.items() if contents > 0), default=0)
    assert bool(labels) == (most > 1)


def test_images_add_up_to_the_whole() -> None:
    report = report_of(fleet(), trust="all")
    page = read(report)
    assert [row[0] for row in page.rows(IMAGES)] == ["1 · vm-0.raw", "2 · vm-1.raw", "3 · vm-2.raw"]
    assert page.legend(IMAGES)["its part of equal pages"] == size(report.reclaimable.trust)
    assert page.legend(IMAGES)["zero pages"] == size(report.zero_pages)


def test_counters_of_ksm_are_there() -> None:
    report = report_of(fleet(), trust="each")
    rows = {row[0]: row[2] for row in read(report).rows(KSM)}
    ksm = report.ksm
    assert rows == {
        "pages_shared": str(ksm.pages_shared),
        "pages_sharing": str(ksm.pages_sharing),
        "pages_unshared": str(ksm.pages_unshared),
        "ksm_zero_pages": str(ksm.zero_pages),
        "general_profit": format_size(ksm.general_profit_bytes),
    }


def test_a_sample_says_how_sure_it_is() -> None:
    report = report_of(fleet(), trust="all")
    pages = report.estimate.pages
    estimate = Estimate(pages, pages - 5, pages + 7, 0.99, "distinct", 1 / 64)
    page = read(report._replace(estimate=estimate))
    (lead,) = page.texts("header")
    zero = report.zero_pages
    assert "Sharing would free about" in lead
    assert "1 in 64 contents; with 99 % confidence" in lead
    assert f"between {size(zero + pages - 5)} and {size(zero + pages + 7)}" in lead
    whiskers = [path for path in page.figure(LADDER).iter("path") if path.get("class") == "whisker"]
    assert len(whiskers) == 1
    assert all("Estimated from the sample." in drawn(page, kind) for kind in ALL[1:])


def test_an_exact_count_says_that_it_is() -> None:
    page = read(report_of(fleet()))
    assert "exact: every page was looked at" in page.texts("header")[0]
    assert page.root.find(".//path[@class='whisker']") is None


@pytest.mark.parametrize(
    ("contents", "headline"),
    [
        ([[1, 2, 3, 4]], f"Sharing would free nothing of {size(4)}"),
        ([[0] * 8, [0] * 8], f"Sharing would free {size(16)} of {size(16)}"),
        ([[5]], f"Sharing would free nothing of {size(1)}"),
        ([[5, 6], [7, 8]], f"Sharing would free nothing of {size(4)}"),
    ],
    ids=["nothing equal", "all zero", "one page", "two strangers"],
)
@pytest.mark.parametrize("target", [None, 3], ids=["no plan", "plan"])
@pytest.mark.parametrize("active", [True, False], ids=["active", "unknown"])
def test_little_makes_a_whole_page(
    contents: list[list[int]], headline: str, target: int | None, active: bool
) -> None:
    page = read(report_of(contents, target=target, active=active))
    assert page.texts("h1") == [headline]
    assert page.kinds()[0] == LADDER


def test_one_image_has_nobody_to_share_with() -> None:
    page = read(report_of(fleet(1)))
    assert PAIRS not in page.kinds()
    assert len(page.rows(LADDER)) == 2
    assert "trust each other" not in page.texts("main")[0]


def test_without_detail_there_is_neither_map_nor_matrix() -> None:
    page = read(report_of(fleet(), target=5)._replace(detail=None))
    assert page.kinds() == [LADDER, CURVE, COPIES, IMAGES, BEST, KSM]
    page = read(report_of(fleet())._replace(detail=None))
    assert page.kinds() == [LADDER, COPIES, IMAGES, BEST, KSM]


def big(images: int, large: int) -> SharingReport:
    """As noisy as can be, so that nothing can be drawn as one."""
    rng = random.Random(7)
    gains = [rng.random() * 512 for _ in range(large)]
    maps = tuple(
        ImageMap(
            f"/{'long/' * 40}host-{at}.raw",
            range(large),
            [512] * large,
            gains,
            [rng.randrange(512)] * large,
            [gain / 512 for gain in reversed(gains)],
            [gain > 256 for gain in gains],
        )
        for at in range(images)
    )
    shares = tuple(
        ImageShare(found.source, f"group {at % 9}", 512 * large, 0, 1.0, 1.0) for at, found in enumerate(maps)
    )
    matrix = [[rng.random() * 1e6 for _ in range(images)] for _ in range(images)]
    small = report_of([[1, 1]], trust="groups.txt", target=1)
    return small._replace(
        pages=512 * large * images,
        large_pages=large * images,
        large_page_bytes=2 << 20,
        images=shares,
        top=small.top * 1000,
        detail=SharingDetail(maps, matrix),
    )


@pytest.mark.parametrize(
    ("images", "large"),
    [(1, 32), (1, 32768), (100, 32), (100, 4096), (1000, 8)],
    ids=str,
)
def test_a_page_stays_small_and_says_what_it_leaves_out(images: int, large: int) -> None:
    started = time.process_time()
    page = read(big(images, large))
    assert time.process_time() - started < 20
    assert len(page.text.encode()) < MOST_BYTES
    assert len(list(page.figure(MAP).iter("svg"))) <= 24
    assert ("Shown are the 24 images" in drawn(page, MAP)) == (images > 24)
    if images > 1:
        assert ("Shown are the 24 images" in drawn(page, PAIRS)) == (images > 24)
        assert len(page.rows(PAIRS)) == min(images, 24)
    assert len(page.rows(MAP)) == min(images, 200)
    assert "first 50 of 1 000" in drawn(page, BEST)


@pytest.mark.parametrize(
    "name", [HOSTILE, "x" * 5000, "", "a\nb\tc"], ids=["script", "long", "empty", "lines"]
)
def test_names_are_only_names(name: str) -> None:
    report = report_of(
        fleet(2), trust=name or "each", groups=[name, name], names=[f"/a/{name}", f"/b/{name}"], target=9
    )
    page = read(report)
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert len(page.text) < MOST_BYTES // 4
    assert page.kinds() == ALL


@pytest.mark.parametrize(
    "make", [lambda: report_of(fleet(), target=9), lambda: big(3, 600)], ids=["small", "big"]
)
def test_the_same_estimate_makes_the_same_page(make: Callable[[], SharingReport]) -> None:
    assert page_of(make()) == page_of(make())


def test_images_are_told_apart_by_name() -> None:
    assert names_of(["/a/one.raw", "/b/two.raw"]) == ["1 · one.raw", "2 · two.raw"]
    assert names_of(["/a/mem.raw", "/b/mem.raw"]) == ["1 · /a/mem.raw", "2 · /b/mem.raw"]
    assert names_of(["/srv/guest.raw"]) == ["guest.raw"]
    assert names_of(["/srv/" + "x" * 90 + ".raw"], 10) == ["…xxxxx.raw"]
    assert names_of(["/srv/", "a"]) == ["1 · /srv/", "2 · a"]


def test_a_large_page_is_named_by_its_address() -> None:
    rows = read(report_of([[1, 2, 3, 4, 0, 0, 0, 0]])).rows(BEST)
    assert [row[1] for row in rows] == [f"{PER_LARGE * PAGE_BYTES // 1024} KiB"]

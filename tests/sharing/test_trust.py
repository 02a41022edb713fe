"""Trust groups, by name, by JSON, and by lines."""

from pathlib import Path

import pytest

from vmckpt.errors import IoError, UsageError
from vmckpt.sharing.trust import trust_groups

SOURCES = ["vm/web-1.raw", "vm/web-2.raw", "db.vmckpt", "other.raw"]


def groups(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "groups"
    path.write_text(text)
    return trust_groups(str(path), SOURCES)


def test_each_image_is_a_group_of_its_own() -> None:
    assert trust_groups("each", SOURCES) == SOURCES


def test_an_image_given_twice_still_trusts_only_itself() -> None:
    assert trust_groups("each", ["a", "b", "a"]) == ["a", "b", "a (2)"]


def test_no_name_makes_two_images_trust_each_other() -> None:
    assert trust_groups("each", ["a", "a", "a (2)"]) == ["a", "a (2)", "a (2) (2)"]


def test_a_group_called_like_an_image_that_is_not_in_it_does_not_hold_it(tmp_path: Path) -> None:
    assert groups(tmp_path, "other.raw: web-1.raw") == [
        "other.raw",
        "vm/web-2.raw",
        "db.vmckpt",
        "other.raw (2)",
    ]


def test_all_is_one_group() -> None:
    assert len(set(trust_groups("all", SOURCES))) == 1


@pytest.mark.parametrize(
    "text",
    [
        "web: web-1.raw web-2.raw\ndb: db.vmckpt\n",
        "# a comment\nweb: 'web-*.raw'\n\ndb: db.*\n",
        "web: vm/web-1.raw\nweb: vm/web-2.raw # the same group\ndb: db.vmckpt",
        '{"web": ["web-?.raw"], "db": ["db.vmckpt", "not-given.raw"]}',
    ],
    ids=["lines", "patterns", "paths", "json"],
)
def test_a_file_names_groups(tmp_path: Path, text: str) -> None:
    assert groups(tmp_path, text) == ["web", "web", "db", "other.raw"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "names no trust groups"),
        ("web web-1.raw", "line 1"),
        (": web-1.raw", "line 1"),
        ("web: 'web-1.raw", "line 1"),
        ('{"web": "web-1.raw"}', "no list of images"),
        ('{"web": [1]}', "no list of images"),
        ('{"web": ', "no JSON"),
        ("{" * 100_000, "no JSON"),
        ('{"web": ' + "9" * 5000 + "}", "no JSON"),
        ("web: web-1.raw\nothers: 'web-*.raw'", "both name"),
        ("\0\1\2", "line 1"),
    ],
)
def test_what_names_no_groups_is_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        groups(tmp_path, text)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "groups"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="names no trust groups"):
        trust_groups(str(path), SOURCES)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(IoError, match="nothing-here"):
        trust_groups(str(tmp_path / "nothing-here"), SOURCES)

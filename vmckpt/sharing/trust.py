"""Trust groups: whose pages may be shared with whose.

    --trust each        every image its own group (what ESXi does by default, and for the same reason)
    --trust all         one group
    --trust FILE        {"web": ["web-1.raw", "web-2.raw"], "db": ["db-*.vmckpt"]}      JSON
                        web: web-1.raw web-2.raw                                        or a line for each group
                        db: db-*.vmckpt

A FILE names images as they are given, or by the last part of their path; `*`, `?` and `[...]` stand for parts of it. An
image that no group names trusts nobody. Sharing between machines tells each of them something of the other's memory
(CVE-2015-2877): that is why each is the default. Called by `api`.
"""

import fnmatch
import itertools
import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from vmckpt.errors import IoError, UsageError

__all__ = ["groups_of", "parse_groups", "trust_groups"]

_FILE_BYTES = 16 << 20


def trust_groups(trust: str, sources: Sequence[str]) -> list[str]:
    """The name of each source's group.

    Args:
        trust: `each`, `all`, or the path of a file that names groups (one called `each` is `./each`).
        sources: as they were given.

    Raises:
        UsageError: the file names no groups, or puts an image into two.
        IoError: it cannot be read.
    """
    if trust == "all":
        return ["all"] * len(sources)
    if trust == "each":
        return _names_of(sources)
    try:
        with Path(trust).open("rb") as file:
            data = file.read(_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        what = "cannot read the trust groups (`each` and `all` need no file)"
        if isinstance(error, OSError):
            raise IoError.of(error, what, path=trust) from error
        raise IoError(f"{what}: {error}", path=trust) from error
    if len(data) > _FILE_BYTES:
        raise UsageError(f"trust groups take at most {_FILE_BYTES} bytes, and this file has more", path=trust)
    try:
        return groups_of(parse_groups(data.decode()), sources)
    except UsageError as error:
        error.path = trust
        raise
    except UnicodeDecodeError as error:
        raise UsageError(f"this names no trust groups: {error}", path=trust) from error


def parse_groups(text: str) -> dict[str, list[str]]:
    """The patterns of each group that a file names.

    Raises:
        UsageError: it is neither the JSON nor the lines that are expected.
    """
    groups = _of_json(text) if text.lstrip().startswith("{") else _of_lines(text)
    if not groups:
        raise UsageError("this names no trust groups: expected lines such as `web: web-1.raw web-2.raw`")
    return groups


def _of_json(text: str) -> dict[str, list[str]]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:  # a number with thousands of digits is a plain ValueError
        raise UsageError(f"this is no JSON that names trust groups: {error}") from error
    for group, patterns in value.items():
        if not isinstance(patterns, list) or not all(isinstance(pattern, str) for pattern in patterns):
            raise UsageError(
                f'trust group {group!r} is no list of images: expected {{"GROUP": ["IMAGE", ...], ...}}'
            )
    groups: dict[str, list[str]] = value
    return groups


def _of_lines(text: str) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            raise UsageError(f"line {number} of the trust groups cannot be read: {error}") from error
        if not words:
            continue
        group, colon, first = words[0].partition(":")
        if not group or not colon:
            raise UsageError(
                f"line {number} of the trust groups names no group: expected `GROUP: IMAGE IMAGE ...`, found {line!r:.60}"
            )
        groups.setdefault(group, []).extend(filter(None, [first, *words[1:]]))
    return groups


def groups_of(patterns: Mapping[str, Iterable[str]], sources: Sequence[str]) -> list[str]:
    """The name of each source's group, by patterns; who is in none is a group of its own.

    Raises:
        UsageError: two groups name one image.
    """
    owns = _names_of(sources, taken=patterns)
    return [_group_of(source, own, patterns) for source, own in zip(sources, owns, strict=True)]


def _group_of(source: str, own: str, patterns: Mapping[str, Iterable[str]]) -> str:
    name = Path(source).name
    found = [
        group
        for group, of_group in patterns.items()
        if any(
            fnmatch.fnmatchcase(source, pattern) or fnmatch.fnmatchcase(name, pattern) for pattern in of_group
        )
    ]
    if len(found) > 1:
        raise UsageError(f"trust groups {found[0]!r} and {found[1]!r} both name {source!r}: expected one")
    return found[0] if found else own


def _names_of(sources: Sequence[str], *, taken: Iterable[str] = ()) -> list[str]:
    """A name for each source's own group: its own, or with a number where that is taken; two of a name would share."""
    seen = set(taken)
    names = []
    for source in sources:
        tries = (f"{source} ({number})" for number in itertools.count(2))
        name = source if source not in seen else next(each for each in tries if each not in seen)
        seen.add(name)
        names.append(name)
    return names

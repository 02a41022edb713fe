"""What the memory of a guest is made of: named profiles, as plain numbers.

A profile lists *parts*. Some have the same size in every VM, for a kernel and its files do not grow with the memory
they run in; the others take a share of what is left. What no part claims is zero. So a large `idle` VM is mostly
zero, as a large idle guest is, and a `server` fills its memory whatever the size.

        idle, 8 GiB   [ system, private, pattern | page records | zero ........................ ]
        server, 8 GiB [ system, private, pattern | file cache ........ | anonymous ...... | zero ]

The numbers were measured in Debian guests (docs/profiles.md). Here are only numbers: `plan` plans pages from them, and
the command line lists them, without paying for numpy.
"""

from dataclasses import dataclass
from types import MappingProxyType

from vmckpt.errors import UsageError

__all__ = [
    "DEFAULT_PROFILE",
    "FULL_SYSTEM_PAGES",
    "PROFILES",
    "Part",
    "PartPages",
    "Profile",
    "profile_named",
]

FULL_SYSTEM_PAGES = 32768
"""Memory, in pages, from which on parts have their full size; in a smaller VM they shrink in proportion."""

DEFAULT_PROFILE = "server"

_PARTS_PER_64K = 65536


@dataclass(frozen=True, slots=True)
class Part:
    """Pages of one origin and make."""

    name: str
    """What the pages are; parts of one name hold the same contents in every profile, so that VMs can share them."""
    mix: str
    """Which kinds of content, and how many of each: a key of `content.MIXES`, or of `content.PATTERNS`."""
    contents: int = 0
    """Distinct contents, in pages, in a VM of FULL_SYSTEM_PAGES or more."""
    share: int = 0
    """Distinct contents besides those: 65536ths of the pages that the fixed amounts of all parts leave over."""
    copies: int = 1
    """Pages that hold each of the contents."""
    common: bool = False
    """The contents follow from the common seed (one system on many VMs), not from the seed (this VM alone)."""
    runs: str = "short"
    """How the pages cluster: a key of `plan.LADDERS`."""


@dataclass(frozen=True, slots=True)
class PartPages:
    """A part as it is in a VM of a given size."""

    part: Part
    contents: int
    """Distinct contents, in pages; for a pattern all pages hold the same one."""

    @property
    def pages(self) -> int:
        """All pages, copies included."""
        return self.contents * self.part.copies


@dataclass(frozen=True, slots=True)
class Profile:
    """A make of guest."""

    name: str
    description: str
    """One sentence for `--help` and the documents."""
    parts: tuple[Part, ...]
    """Disjoint; the rest of memory is zero."""
    page_records: bool = True
    """The kernel keeps a 64-byte record of each page; those of free pages look alike, and compress well."""

    def apportion(self, memory_pages: int) -> list[PartPages]:
        """The pages of each part in a VM of `memory_pages`, those of page records last.

        Fixed amounts come first, then the shares of the rest; all are rounded down, so they always fit.
        """
        scale = min(memory_pages, FULL_SYSTEM_PAGES)
        fixed = [part.contents * scale // FULL_SYSTEM_PAGES for part in self.parts]
        rest = memory_pages - sum(part.copies * pages for part, pages in zip(self.parts, fixed, strict=True))
        sizes = [
            PartPages(part, pages + rest * part.share // _PARTS_PER_64K)
            for part, pages in zip(self.parts, fixed, strict=True)
        ]
        if self.page_records:
            used = sum(size.pages for size in sizes if not size.part.mix.startswith("pattern"))
            # A record is a 64th of a page, and the pages that hold records are in use: of 65 free pages, one is lost.
            sizes.append(PartPages(_PAGE_RECORDS, (memory_pages - used) // 65))
        return sizes


_PAGE_RECORDS = Part("free page records", "page records", runs="whole")

# The system: what two VMs of one installation have in common. A boot image is there twice, packed as it was loaded and
# as the kernel keeps it.
_BOOT_TWICE = Part("boot image", "boot", contents=3430, copies=2, common=True, runs="long")
_BOOT_ONCE = Part("boot image", "boot", contents=3430, common=True, runs="long")
_FILES = Part("files", "files", contents=1424, common=True, runs="long")
_SYSTEM = Part("system", "system", contents=3585, common=True, runs="long")
_POPULAR = Part("popular", "sparse", contents=9, copies=14, common=True, runs="single")
_PRIVATE = Part("private", "private", contents=7400)
_POISON = Part("poison", "pattern 0xcc", contents=4900, runs="stretch")
_ONES = Part("ones", "pattern 0xff", contents=93, runs="stretch")

_ALL = (
    Profile(
        "idle",
        "a booted system that does nothing: about 100 MiB used, whatever the size",
        (_BOOT_TWICE, _FILES, _SYSTEM, _POPULAR, _PRIVATE, _POISON, _ONES),
    ),
    Profile(
        "files",
        "the idle system that has read and copied files: about 110 MiB used, with more duplicates",
        (
            _BOOT_TWICE,
            Part("files", "files", contents=1424, copies=4, common=True, runs="long"),
            _SYSTEM,
            _POPULAR,
            Part("private", "private", contents=7900),
            Part("noise", "noise", contents=1024, runs="long"),
            Part("poison", "pattern 0xcc", contents=2100, runs="stretch"),
            _ONES,
        ),
    ),
    Profile(
        "sort",
        "the system that sorts a file: less file cache, more text and tables of its own, in short duplicates",
        (
            _BOOT_ONCE,
            _FILES,
            _SYSTEM,
            _POPULAR,
            _PRIVATE,
            Part("sorted", "text", contents=3400),
            Part("sorted twice", "text", contents=2200, copies=2, runs="shuffled"),
            _POISON,
            _ONES,
        ),
    ),
    Profile(
        "server",
        "the system, and a file cache and processes that fill seven eighths of the rest",
        (
            _BOOT_TWICE,
            _FILES,
            _SYSTEM,
            _POPULAR,
            _PRIVATE,
            Part("common cache", "cache", share=13107, common=True, runs="long"),
            Part("own cache", "cache", share=13107, runs="long"),
            Part("anonymous", "anonymous", share=26543),
            Part("anonymous twice", "text", share=1966, copies=2, runs="shuffled"),
            Part("poison", "pattern 0xcc", contents=2100, share=655, runs="stretch"),
            _ONES,
        ),
    ),
    Profile("zero", "nothing but zero pages", (), page_records=False),
    Profile(
        "noise",
        "nothing but pages that do not compress, none twice: the worst case",
        (Part("noise", "noise", share=_PARTS_PER_64K, runs="whole"),),
        page_records=False,
    ),
)

PROFILES: MappingProxyType[str, Profile] = MappingProxyType({profile.name: profile for profile in _ALL})
"""Profiles by name, in the order in which to list them."""


def profile_named(name: str) -> Profile:
    """The profile called `name`.

    Raises:
        UsageError: there is none.
    """
    try:
        return PROFILES[name]
    except KeyError:
        raise UsageError(f"there is no profile {name!r}: choose one of {', '.join(PROFILES)}") from None

"""What the documentation says, compared with what is."""

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import click
import pytest

from vmckpt.cli import COMMANDS, EXIT_CODES, vmckpt

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/**/*.md", "examples/**/*.md", "tests/**/*.md")
    for path in ROOT.glob(pattern)
)


def load_generator() -> ModuleType:
    """docs/generate.py, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def code_of(page: str) -> Iterator[str]:
    """The fenced blocks of a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    yield from re.findall(r"^```\w*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def anchors_of(page: Path) -> set[str]:
    """The anchors that a page's headings make, as GitHub names them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_command_line_page_is_what_the_commands_say() -> None:
    written = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert written == load_generator().page(), "run `make docs`"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_is_documented(name: str) -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    section = page.split(f"\n## vmckpt {name}\n")[1].split("\n## ")[0]
    command = vmckpt.get_command(click.Context(vmckpt), name)
    assert command is not None
    assert [
        opt for option in command.params for opt in option.opts if opt.startswith("-") and opt not in section
    ] == []


def test_every_exit_code_is_documented() -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", page, flags=re.MULTILINE)}
    assert codes == {0, 1, 2, 3, 4} | set(EXIT_CODES)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_in_a_page_exists(page: str) -> None:
    lines = [line for block in code_of(page) for line in block.splitlines()]
    used = {match for line in lines for match in re.findall(r"^(?:\$ )?vmckpt ([a-z-]+)", line)}
    assert used - set(COMMANDS) - {"--help", "--version"} == set()


@pytest.mark.parametrize("page", PAGES)
def test_every_make_target_in_a_page_exists(page: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    used = re.findall(r"(?:^|`)make ([a-z-]+)", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert set(used) - targets == set()


@pytest.mark.parametrize("page", PAGES)
def test_every_relative_link_leads_somewhere(page: str) -> None:
    here = (ROOT / page).parent
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", (ROOT / page).read_text(encoding="utf-8")):
        target, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        path = here / target if target else ROOT / page
        if not path.exists() or (anchor and anchor not in anchors_of(path)):
            broken.append(link)
    assert broken == []

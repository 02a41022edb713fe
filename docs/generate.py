"""Write docs/cli.md from the commands themselves; `make docs` runs it, and a test compares."""

import inspect
import os
import sys
from collections.abc import Iterator
from importlib import import_module

import click

from vmckpt.cli import COMMANDS, EXIT_CODES, vmckpt
from vmckpt.errors import VmckptError

PATH = os.path.join(os.path.dirname(os.path.abspath(__file__)), "cli.md")

_HEAD = """\
# The command line

<!-- Written by docs/generate.py (`make docs`). Change the commands, not this page. -->

{summary}

{commands}

Shell scripts may rely on what this page names: commands, options, JSON keys and exit codes are added to, never renamed.

- `--json` prints one JSON object on standard output, and nothing else there. Keys carry their unit: `_bytes`, `_pages`,
  `_s`. (`pages` counts pages; a `gpa` is a guest-physical address in bytes.)
- Progress, warnings and errors go to standard error. A progress bar is drawn on a terminal only.
- An existing output is overwritten only with `--force`. An output appears whole or not at all, readable by its owner
  only (mode 0600).
- Sizes are written `4096`, `64K`, `512M`, `2G`; units are binary.
- `-` is standard input where memory or a checkpoint is read, and standard output where one is written.
- An error is one sentence on standard error. With `VMCKPT_DEBUG=1` in the environment its traceback comes first.
"""


def page() -> str:
    """The whole of docs/cli.md."""
    listed = "\n".join(f"- [`vmckpt {name}`](#vmckpt-{name}): {line}" for name, line in COMMANDS.items())
    parts = [_HEAD.format(summary=inspect.cleandoc(vmckpt.help or ""), commands=listed), _exit_codes()]
    parts.extend(_command(name) for name in COMMANDS)
    return "\n".join(parts)


def exit_codes() -> Iterator[tuple[int, str]]:
    """Each exit code with one of its meanings: those of the error classes, and those of the command line itself."""
    meanings = list(EXIT_CODES.items())
    for kind in _error_classes(VmckptError):
        assert kind.__doc__ is not None
        meanings.append((kind.exit_code, kind.__doc__.splitlines()[0]))
    yield from sorted(meanings, key=lambda meaning: meaning[0])


def _error_classes(kind: type[VmckptError]) -> Iterator[type[VmckptError]]:
    for child in kind.__subclasses__():
        if child.__module__ != kind.__module__:
            continue  # somebody else's, in the same process
        yield child
        yield from _error_classes(child)


def _exit_codes() -> str:
    by_code: dict[int, list[str]] = {}
    for code, meaning in exit_codes():
        by_code.setdefault(code, []).append(meaning)
    rows = "".join(f"| {code} | {' '.join(meanings)} |\n" for code, meanings in by_code.items())
    return f"## Exit codes\n\n| Code | Meaning |\n| ---: | --- |\n{rows}"


def _command(name: str) -> str:
    command = import_module(f"vmckpt.cli.{name.replace('-', '_')}").command
    assert isinstance(command, click.Command)
    arguments = [
        str(parameter.metavar) for parameter in command.params if isinstance(parameter, click.Argument)
    ]
    usage = " ".join([f"vmckpt {name}", "[OPTIONS]", *arguments])
    return f"## vmckpt {name}\n\n```\n{usage}\n```\n\n{_help(command)}\n\n{_options(command)}"


def _help(command: click.Command) -> str:
    # Paragraphs as they are; what click leaves unwrapped (after \b) becomes an example or the JSON keys.
    paragraphs = [*inspect.cleandoc(command.help or "").split("\n\n"), *filter(None, [command.epilog])]
    return "\n\n".join(_unwrapped(text) if text.startswith("\b\n") else text for text in paragraphs)


def _unwrapped(text: str) -> str:
    text = text.removeprefix("\b\n")
    if text.startswith("Example:"):
        body = "\n".join(line.removeprefix("  ") for line in text.splitlines()[1:])
        return f"Example:\n\n```sh\n{body}\n```"
    return f"```text\n{text}\n```"


def _options(command: click.Command) -> str:
    rows = "".join(_option(option) for option in command.params if isinstance(option, click.Option))
    return f"| Option | |\n| --- | --- |\n{rows}"


def _option(option: click.Option) -> str:
    # Not click's own help record: its wording changes from version to version.
    if isinstance(option.type, click.Choice):
        metavar = " " + "\\|".join(str(choice) for choice in option.type.choices)
    else:
        metavar = "" if option.is_flag else f" {option.metavar}"
    default = (
        "Required." if option.required else f"Default: `{option.default}`." if option.show_default else ""
    )
    text = " ".join(f"{option.help} {default}".split())
    return f"| `{', '.join(option.opts)}{metavar}` | {text} |\n"


if __name__ == "__main__":
    with open(PATH, "w", encoding="utf-8") as file:
        file.write(page())
    sys.exit(0)

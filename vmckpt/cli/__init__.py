"""The command line: arguments in; a table or one JSON object, and an exit code, out.

`main` is the one place where an exception becomes a sentence on stderr and an exit code. Each command is a module of
this package, imported only when it is the one asked for: start-up is part of what a short save costs.
"""

import io
import os
import signal
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from types import FrameType

import click

from vmckpt.errors import VmckptError
from vmckpt.version import __version__

__all__ = ["COMMANDS", "EXIT_CODES", "CommandGroup", "describe", "main", "vmckpt"]

COMMANDS = {
    "create": "Write the memory image of an emulated machine.",
    "run": "Boot an emulated machine.",
    "vm": "Control a running machine.",
    "save": "Save a machine's memory as a checkpoint.",
    "restore": "Write a checkpoint's memory out as an image, or run its machine at once.",
    "info": "Show what a checkpoint holds.",
    "verify": "Check every byte of a checkpoint.",
    "digest": "Print the digest of memory, whatever holds it.",
    "estimate-sharing": "Tell what sharing equal pages would free, without touching anything.",
    "convert": "Write a checkpoint anew, laid out or compressed in another way.",
    "bench": "Repeat an experiment: restores on simulated disks, and on this one.",
}
"""Each command's name, which is its module's as well, and its line in `vmckpt --help`."""

EXIT_CODES = {
    0: "Done.",
    2: "Wrong usage: an unknown command or option, or a value that is not allowed.",
    70: "A bug in vmckpt.",
    129: "Stopped because the terminal closed (SIGHUP).",
    130: "Stopped by Ctrl-C (SIGINT).",
    141: "Nobody reads standard output any more (SIGPIPE).",
    143: "Stopped by SIGTERM.",
}
"""The exit codes that no class of `vmckpt.errors` stands for, and what they mean."""

_BUG, _BROKEN_PIPE, _SIGNAL = 70, 141, 128
_UNWIND_S = 2.0  # how long a second signal waits for the clean-up that the first one began


class CommandGroup(click.Group):
    """A group whose commands are imported when they are used, and listed without importing any."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of `COMMANDS`."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command from its own module, or None where there is none of that name."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        command = import_module(f"vmckpt.cli.{cmd_name.replace('-', '_')}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from `COMMANDS` alone."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=CommandGroup,
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="`vmckpt COMMAND --help` shows an example of each.",
)
@click.version_option(__version__, prog_name="vmckpt", message="%(prog)s %(version)s")
def vmckpt() -> None:
    """Save, verify and restore the memory of virtual machines."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; never raises, but for a bug in this function."""
    stop = _Stop()
    try:
        stop.listen()
        _let_any_name_through()
        code = _run(sys.argv[1:] if arguments is None else arguments)
        _flush_stdout()
    except BaseException as error:  # noqa: BLE001 - the boundary: everything ends here, as a sentence
        code, sentence = describe(error)
        if stop.number is not None:
            code, sentence = _SIGNAL + stop.number, f"stopped by {stop.name}; no half-written output is left"
        _complain(error, sentence)
        _abandon_stdout()
    finally:
        stop.hear_no_more()
    return code


def describe(error: BaseException) -> tuple[int, str]:
    """The exit code and the sentence for an error; an empty sentence where silence is right."""
    match error:
        case VmckptError() | OSError() if _stdout_is_gone(error):
            return _BROKEN_PIPE, ""
        case VmckptError():
            return error.exit_code, str(error)
        case click.ClickException():
            return error.exit_code, _usage_sentence(error)
        case KeyboardInterrupt() | click.Abort():
            return _SIGNAL + signal.SIGINT, "stopped by Ctrl-C; no half-written output is left"
        case SystemExit():
            return error.code if isinstance(error.code, int) else 0, ""
        case MemoryError():
            return 1, "this machine has no memory left for the work; fewer --jobs need less of it"
        case OSError():
            where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
            return 1, f"{where}{error.strerror or error}"
    return _BUG, (
        f"this is a bug in vmckpt: {type(error).__name__}: {error}; "
        "run it again with VMCKPT_DEBUG=1 for the traceback, and please report that"
    )


def _run(arguments: Sequence[str]) -> int:
    if "_VMCKPT_COMPLETE" in os.environ:  # the shell asks what could come next; main() alone answers that
        vmckpt.main(list(arguments), prog_name="vmckpt")
    try:
        with vmckpt.make_context("vmckpt", list(arguments) or ["--help"]) as ctx:
            vmckpt.invoke(ctx)
    except click.exceptions.Exit as request:  # --help, --version, and a command that says its own code
        return request.exit_code if arguments else 2
    return 0


def _usage_sentence(error: click.ClickException) -> str:
    # Some of click's messages span lines (the choices of an option), and all but a few end in a full stop.
    message = " ".join(error.format_message().split()).rstrip(".")
    ctx = getattr(error, "ctx", None)
    path = ctx.command_path if isinstance(ctx, click.Context) else "vmckpt"
    return f"{message[:1].lower()}{message[1:]}; `{path} --help` shows what goes"


def _complain(error: BaseException, sentence: str) -> None:
    from vmckpt.cli.render import print_error  # noqa: PLC0415 - most runs have nothing to complain about

    if os.environ.get("VMCKPT_DEBUG") == "1" and not isinstance(error, SystemExit | KeyboardInterrupt):
        import traceback  # noqa: PLC0415 - as above

        traceback.print_exception(error)
    if sentence:
        print_error(sentence)


def _let_any_name_through() -> None:
    # A file name that is no UTF-8 comes out as the bytes it is; what another encoding lacks comes out escaped.
    if sys.stdout is sys.__stdout__ and isinstance(sys.stdout, io.TextIOWrapper):
        is_utf8 = sys.stdout.encoding.lower() in {"utf-8", "utf8"}
        sys.stdout.reconfigure(errors="surrogateescape" if is_utf8 else "backslashreplace")


def _flush_stdout() -> None:
    if sys.stdout is None:  # closed by the shell: `>&-`
        return
    try:
        sys.stdout.flush()
    except OSError as error:
        error.filename = "standard output"
        raise


def _abandon_stdout() -> None:
    # What could not be written must not fail once more, with a traceback, when the interpreter ends.
    try:
        _flush_stdout()
    except (OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _stdout_is_gone(error: BaseException) -> bool:
    # A broken pipe may also be one to a worker process, and that is worth a sentence: so ask stdout itself.
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__) is not None and cause not in chain:  # an error can be its own cause
        chain.append(cause)
    if not any(isinstance(link, BrokenPipeError) for link in chain):
        return False
    import select  # noqa: PLC0415 - only here

    poll = select.poll()
    poll.register(1, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


class _Stop:
    """Turns the first stop signal into a SystemExit in the main thread, so that context managers unwind."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._owner = os.getpid()
        self._since_s = 0.0
        self._heard: list[int] = []

    @property
    def name(self) -> str:
        return "Ctrl-C" if self.number == signal.SIGINT else signal.Signals(self.number or 0).name

    def listen(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # What is ignored (nohup, a background job) stays ignored.
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                signal.signal(number, self._on_signal)
                self._heard.append(number)

    def hear_no_more(self) -> None:
        # The work is done or undone: a signal now ends the process on the spot, whatever its exit would wait for.
        for number in self._heard:
            signal.signal(number, signal.SIG_DFL)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del frame
        if os.getpid() != self._owner:  # a forked worker that kept the handler: end as if it had none
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        # One more Ctrl-C must not cut the clean-up short; but an exception raised where Python drops it (a
        # destructor) is lost, so one that comes later counts again.
        now_s = time.monotonic()
        if self.number is not None and now_s - self._since_s < _UNWIND_S:
            return
        self.number, self._since_s = number, now_s
        sys.exit(_SIGNAL + number)

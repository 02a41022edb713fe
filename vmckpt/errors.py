"""The one tree of errors, each class with the exit code that a shell sees.

    VmckptError 1 ─┬─ IoError 1            a read, a write or a rename failed; no space; a file in the way
                   ├─ ChangedError 1       the source changed or shrank while it was read
                   ├─ WorkerError 1        a worker process ended before its work did
                   ├─ FeatureError 1       this Python or kernel lacks what the work needs
                   ├─ UsageError 2         the request itself makes no sense
                   ├─ SourceError 3        the input is not understood ─── FormatError 3 (a checkpoint of a kind we do not read)
                   └─ CorruptionError 4    a checkpoint whose bytes are not those that were written

Everybody raises these; only `cli` turns them into a sentence on stderr and an exit code.
"""

__all__ = [
    "ChangedError",
    "CorruptionError",
    "FeatureError",
    "FormatError",
    "IoError",
    "SourceError",
    "UsageError",
    "VmckptError",
    "WorkerError",
]


class VmckptError(Exception):
    """Something vmckpt could not do, said in one sentence.

    Attributes:
        path: the file it happened in, or None.
        offset: the file offset in bytes, or None.
        page: the page number, or None.
        exit_code: what the command line exits with.
    """

    exit_code = 1

    def __init__(
        self, message: str, *, path: str | None = None, offset: int | None = None, page: int | None = None
    ) -> None:
        super().__init__(message)
        self.path = path
        self.offset = offset
        self.page = page

    @property
    def message(self) -> str:
        """The sentence, without the place."""
        return str(self.args[0])

    def __str__(self) -> str:
        """`path: at offset N: page N: message`, leaving out what is not known."""
        place = [] if self.path is None else [self.path]
        if self.offset is not None:
            place.append(f"at offset {self.offset}")
        if self.page is not None:
            place.append(f"page {self.page}")
        return ": ".join([*place, self.message])

    def __reduce__(self) -> tuple[object, ...]:
        """Errors travel from worker processes to the one that reports them."""
        return _rebuild, (type(self), self.message, self.path, self.offset, self.page)


def _rebuild(
    kind: type[VmckptError], message: str, path: str | None, offset: int | None, page: int | None
) -> VmckptError:
    return kind(message, path=path, offset=offset, page=page)


class IoError(VmckptError):
    """The operating system refused a read, a write or a rename."""

    exit_code = 1

    @classmethod
    def of(
        cls, error: OSError, doing: str, *, path: str | None = None, offset: int | None = None
    ) -> "IoError":
        """The error for a failed system call; `doing` names the attempt, as in "cannot write"."""
        return cls(f"{doing}: {error.strerror or error}", path=path, offset=offset)


class ChangedError(VmckptError):
    """A source was written to, or cut short, while it was read."""

    exit_code = 1


class WorkerError(VmckptError):
    """A worker process was killed or ended early."""

    exit_code = 1


class FeatureError(VmckptError):
    """What is asked for needs something that this Python or this kernel does not have."""

    exit_code = 1


class UsageError(VmckptError):
    """The options contradict each other or the input."""

    exit_code = 2


class SourceError(VmckptError):
    """An input that holds no guest memory in a form vmckpt reads."""

    exit_code = 3


class FormatError(SourceError):
    """No checkpoint, or one of a version or with features this vmckpt does not know."""

    exit_code = 3


class CorruptionError(VmckptError):
    """A checkpoint's bytes contradict their checksums or each other."""

    exit_code = 4

"""Output files that appear whole or not at all.

    open ──▶ a file without a name ──▶ write ──▶ fsync ──▶ link under the final name ──▶ fsync of the directory
                    │ killed here: the kernel frees it, nothing is left

The file has no name (O_TMPFILE) until `commit`, so a killed run leaves no litter. Where the file system cannot do that,
a hidden `.NAME.PID.part` (a NAME too long for that is cut and hashed) beside the output stands in; it is locked while
its run lives, and the next run for the same output removes those that nobody locks. Every command that writes a file
goes through here.
"""

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from vmckpt.errors import IoError, UsageError

__all__ = ["AtomicFile", "refuse_input", "start_writeback"]

# O_TMPFILE on a file system, or a kernel, that does not have it.
_NO_TMPFILE = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT, errno.EPERM})
_LONG_NAME_BYTES = 224  # a longer one leaves a part no room for its PID: most file systems allow 255
_KEPT_CHARS = 40  # four bytes each at most


class AtomicFile:
    """A new file, mode 0600, that takes its name at `commit`; leaving the context without one leaves nothing.

    Attributes:
        fd: the descriptor, open for reading and writing, empty at first.
        path: the name it will have.
    """

    def __init__(self, path: str, *, force: bool = False) -> None:
        """Open the file.

        Args:
            path: its final name.
            force: replace what is there already.

        Raises:
            IoError: something of that name is there (and `force` is not given, or it is no regular file), the
                directory cannot be written, or the name is empty.
        """
        if not path:
            raise IoError("cannot write the output: its name is empty")
        self.path = path
        self._force = force
        self._base = os.path.basename(path)
        self._stem = _part_stem(self._base)
        self._part: str | None = None
        self._refuse_existing()
        try:
            self._directory = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise IoError.of(error, "cannot open the directory to write to", path=path) from error
        try:
            self.fd = self._open()
        except OSError as error:
            os.close(self._directory)
            raise IoError.of(error, "cannot create the file", path=path) from error

    def _refuse_existing(self) -> None:
        try:
            mode = os.lstat(self.path).st_mode
        except FileNotFoundError:
            return
        except OSError as error:
            raise IoError.of(error, "cannot look for an earlier file", path=self.path) from error
        if not stat.S_ISREG(mode) and not stat.S_ISLNK(mode):
            raise IoError(
                "cannot write here: something that is no regular file has this name", path=self.path
            )
        if not self._force:
            raise IoError("the file exists already; --force replaces it", path=self.path)

    def _open(self) -> int:
        if hasattr(os, "O_TMPFILE"):
            try:
                fd = os.open(".", os.O_TMPFILE | os.O_RDWR, 0o600, dir_fd=self._directory)
            except OSError as error:
                if error.errno not in _NO_TMPFILE:
                    raise
            else:
                if os.path.exists(f"/proc/self/fd/{fd}"):  # else it could not be given a name later
                    return fd
                os.close(fd)
        self._sweep()
        while True:
            part = f"{self._stem}{os.getpid()}.part"
            fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=self._directory)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                if os.fstat(fd).st_nlink:
                    self._part = part
                    return fd
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)  # another run swept it before it was locked: once more

    def _sweep(self) -> None:
        """Remove the parts of killed runs: those that no living run has locked."""
        for name in os.listdir(self._directory):
            owner = name.removeprefix(self._stem).removesuffix(".part")
            if name != f"{self._stem}{owner}.part" or not owner.isdecimal():
                continue  # somebody else's
            with contextlib.suppress(OSError):  # locked, or swept by somebody else meanwhile
                fd = os.open(name, os.O_RDWR | os.O_NOFOLLOW, dir_fd=self._directory)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(name, dir_fd=self._directory)
                finally:
                    os.close(fd)

    def sync(self) -> None:
        """Make what was written so far durable, which `commit` does as well: after this it has less to do.

        Raises:
            IoError: it could not be written.
        """
        try:
            os.fsync(self.fd)
        except OSError as error:
            raise IoError.of(error, "cannot finish the file", path=self.path) from error

    def commit(self) -> None:
        """Make the file durable, give it its name, and make the name durable.

        Raises:
            IoError: a step failed, or without `force` a file of that name has appeared meanwhile.
        """
        try:
            os.fsync(self.fd)
            self._publish()
            os.fsync(self._directory)
        except FileExistsError as error:
            raise IoError("the file exists already; --force replaces it", path=self.path) from error
        except OSError as error:
            raise IoError.of(error, "cannot finish the file", path=self.path) from error

    def _publish(self) -> None:
        if self._part is None:
            name = self._base
            if self._force:  # link() does not replace; rename() does
                fcntl.flock(self.fd, fcntl.LOCK_EX)  # for the moment in which it has the part's name
                self._sweep()
                name = self._part = f"{self._stem}{os.getpid()}.part"
            # With directory descriptors this is linkat(AT_SYMLINK_FOLLOW), which gives an unnamed file a name.
            here = self._directory
            os.link(f"/proc/self/fd/{self.fd}", name, src_dir_fd=here, dst_dir_fd=here, follow_symlinks=True)
        if self._part is not None:
            if self._force:
                os.replace(self._part, self._base, src_dir_fd=self._directory, dst_dir_fd=self._directory)
            else:
                os.link(self._part, self._base, src_dir_fd=self._directory, dst_dir_fd=self._directory)
                os.unlink(self._part, dir_fd=self._directory)
            self._part = None

    def write_text(self, parts: Iterable[str]) -> None:
        """Write text, and commit it.

        Raises:
            IoError: it cannot be written.
        """
        try:
            with open(self.fd, "w", encoding="utf-8", closefd=False) as text:
                text.writelines(parts)
        except OSError as error:
            raise IoError.of(error, "cannot write", path=self.path) from error
        self.commit()

    def close(self) -> None:
        """Let go of the file; uncommitted, it is gone."""
        if self._part is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._part, dir_fd=self._directory)
            self._part = None
        if self.fd >= 0:
            os.close(self.fd)
            os.close(self._directory)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _part_stem(base: str) -> str:
    # What the names of all parts of this output start with.
    encoded = os.fsencode(base)
    if len(encoded) <= _LONG_NAME_BYTES:
        return f".{base}."
    import hashlib  # noqa: PLC0415 - names as long as this are rare

    return f".{base[:_KEPT_CHARS]}~{hashlib.blake2s(encoded, digest_size=8).hexdigest()}."


def refuse_input(source: str, output: str) -> None:
    """Refuse to write over what is read; `-` is standard input and standard output.

    Raises:
        UsageError: source and output are one file.
    """
    try:
        read = os.fstat(0) if source == "-" else os.stat(source)
        # A link at the output's place is replaced, and not what it leads to.
        written = os.fstat(1) if output == "-" else os.lstat(output)
    except OSError:
        return  # one of them is not there: whoever opens it says so
    if stat.S_ISREG(read.st_mode) and os.path.samestat(read, written):
        raise UsageError(
            "input and output are the same file, which would be lost: give the output another name",
            path=source,
        )


def start_writeback(fd: int, offset: int, size_bytes: int) -> None:
    """Ask the kernel to start writing a range that was just written, so that the fsync at the end has less to wait for.

    On Linux, POSIX_FADV_DONTNEED starts write-back of dirty pages; it drops only clean ones, and these are not.
    """
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):  # advice: a pipe or an odd file system may refuse it
            os.posix_fadvise(fd, offset, size_bytes, os.POSIX_FADV_DONTNEED)

"""The tree of errors: exit codes, sentences, and the way from a worker process."""

import errno
import os
import pickle

import pytest

from vmckpt import errors
from vmckpt.errors import IoError, VmckptError

EXIT_CODES = {
    "VmckptError": 1,
    "IoError": 1,
    "ChangedError": 1,
    "WorkerError": 1,
    "FeatureError": 1,
    "UsageError": 2,
    "SourceError": 3,
    "FormatError": 3,
    "CorruptionError": 4,
}
KINDS = [getattr(errors, name) for name in EXIT_CODES]


def test_every_error_is_listed_here() -> None:
    assert sorted(errors.__all__) == sorted(EXIT_CODES)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_each_class_has_its_exit_code(kind: type[VmckptError]) -> None:
    assert issubclass(kind, VmckptError)
    assert kind("x").exit_code == EXIT_CODES[kind.__name__]


def test_the_format_error_of_a_checkpoint_is_a_source_error() -> None:
    assert issubclass(errors.FormatError, errors.SourceError)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_error_survives_the_way_from_another_process(kind: type[VmckptError]) -> None:
    error = pickle.loads(pickle.dumps(kind("it broke", path="a", offset=8, page=3)))
    assert type(error) is kind
    assert (error.message, error.path, error.offset, error.page) == ("it broke", "a", 8, 3)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (VmckptError("it broke"), "it broke"),
        (VmckptError("it broke", path="a"), "a: it broke"),
        (VmckptError("it broke", path="a", offset=0), "a: at offset 0: it broke"),
        (VmckptError("it broke", page=0), "page 0: it broke"),
        (VmckptError("it broke", path="a", offset=8, page=3), "a: at offset 8: page 3: it broke"),
    ],
    ids=["bare", "path", "offset 0", "page 0", "all"],
)
def test_the_sentence_begins_with_what_is_known_of_the_place(error: VmckptError, text: str) -> None:
    assert str(error) == text


def test_a_failed_system_call_says_what_the_system_said() -> None:
    refused = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    error = IoError.of(refused, "cannot write", path="a", offset=4096)
    assert str(error) == "a: at offset 4096: cannot write: No space left on device"


def test_a_failed_call_without_an_error_number_still_says_something() -> None:
    assert str(IoError.of(OSError("odd"), "cannot write")) == "cannot write: odd"

"""An engine that does nothing, so that the command line can be tested by itself."""

import signal
import sys
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from vmckpt.cli import main
from vmckpt.layout import Region
from vmckpt.pages import PageRange
from vmckpt.reports import LiveReport

DIGEST = "0123456789abcdef0123456789abcdef"
PAGES = SimpleNamespace(total=131072, zero=95031, pattern=1031, duplicate=14897, stored=20113)


class FakeEngine(ModuleType):
    """Stands in for `vmckpt.api`: remembers calls, answers with fixed reports, fails when told to."""

    def __init__(self) -> None:
        super().__init__("vmckpt.api")
        self.calls: list[tuple[str, tuple[object, ...], dict[str, object]]] = []
        self.failure: BaseException | None = None
        self.failing: set[object] = set()
        self.problems: tuple[object, ...] = ()
        self.live: LiveReport | None = None
        self.metadata: dict[str, object] = {"note": "before the upgrade"}

    def _called(self, name: str, *args: object, **kwargs: object) -> None:
        self.calls.append((name, args, kwargs))
        if self.failure is not None and (not self.failing or args[0] in self.failing):
            raise self.failure

    def save(self, *args: object, **kwargs: object) -> object:
        self._called("save", *args, **kwargs)
        return SimpleNamespace(
            memory_bytes=1 << 29,
            file_bytes=66_000_000,
            ratio=8.13,
            elapsed_s=0.164,
            pages=PAGES,
            active_pages=0,
            digest=DIGEST,
            codec="zstd",
            memory_block_bytes=65536,
            storage_block_bytes=4 << 20,
            storage_blocks=16,
            live=self.live,
        )

    def convert(self, *args: object, **kwargs: object) -> object:
        report = self.save(*args, **kwargs)
        self.calls[-1] = ("convert", args, kwargs)
        return report

    def restore(self, *args: object, **kwargs: object) -> object:
        self._called("restore", *args, **kwargs)
        return SimpleNamespace(
            memory_bytes=1 << 29, elapsed_s=0.3, digest=DIGEST, file_bytes=1 << 29, format="raw"
        )

    def info(self, *args: object, **kwargs: object) -> object:
        self._called("info", *args, **kwargs)
        return SimpleNamespace(
            format_version=1,
            memory_bytes=1 << 29,
            page_bytes=4096,
            regions=(Region(0, 65536, 0), Region(1 << 32, 65536, 65536)),
            pages=PAGES,
            active_pages=12,
            codec="lz4",
            memory_block_bytes=65536,
            storage_block_bytes=4 << 20,
            storage_blocks=16,
            file_bytes=66_000_000,
            digest=DIGEST,
            created="2026-03-01T12:00:00+00:00",
            vcpu_state=False,
            checkpoint_id="ab" * 16,
            metadata=self.metadata,
        )

    def verify(self, *args: object, **kwargs: object) -> object:
        self._called("verify", *args, **kwargs)
        return SimpleNamespace(
            ok=not self.problems,
            problems=self.problems,
            memory_bytes=1 << 29,
            elapsed_s=0.1,
            storage_blocks=16,
        )

    def rebuild_index(self, *args: object, **kwargs: object) -> object:
        self._called("rebuild_index", *args, **kwargs)
        return SimpleNamespace(
            memory_bytes=1 << 29,
            file_bytes=66_000_000,
            storage_blocks=16,
            pages=PAGES,
            digest=DIGEST,
            elapsed_s=0.2,
            lost_sections=("active pages",),
        )

    def digest(self, *args: object, **kwargs: object) -> str:
        self._called("digest", *args, **kwargs)
        return DIGEST


def problem(kind: str = "storage block", offset: int | None = 8192) -> object:
    """A problem as `verify` reports it."""
    return SimpleNamespace(
        kind=kind, offset=offset, pages=(PageRange(3, 4), PageRange(16, 32)), message="the checksum differs"
    )


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """The fake, in the place of the real engine."""
    fake = FakeEngine()
    monkeypatch.setitem(sys.modules, "vmckpt.api", fake)
    monkeypatch.setattr("vmckpt.api", fake, raising=False)
    return fake


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., SimpleNamespace]]:
    """Calls `main` with arguments, and returns exit code, stdout and stderr."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}

    def call(*arguments: str) -> Any:
        code = main(arguments)
        captured = capsys.readouterr()
        return SimpleNamespace(code=code, out=captured.out, err=captured.err)

    yield call
    for number, handler in handlers.items():
        signal.signal(number, handler)

"""vmckpt checkpoints the memory of virtual machines.

    import vmckpt

    report = vmckpt.save("guest.raw", "guest.ckpt")
    print(report.ratio, report.digest)
    vmckpt.restore("guest.ckpt", "copy.raw")
    with vmckpt.open_checkpoint("guest.ckpt") as checkpoint:
        page = bytearray(vmckpt.PAGE_BYTES)
        checkpoint.read(vmckpt.PageRange(7, 8), memoryview(page))

Names are imported when they are first used: `vmckpt --version` needs none of them.
"""

from typing import TYPE_CHECKING

from vmckpt.version import __version__

if TYPE_CHECKING:
    from vmckpt.api import (
        CheckpointInfo,
        PageCounts,
        Problem,
        RebuildReport,
        RestoreReport,
        SaveReport,
        VerifyReport,
        convert,
        digest,
        estimate_sharing,
        forecast_sharing,
        info,
        open_checkpoint,
        open_source,
        rebuild_index,
        restore,
        restore_lazily,
        save,
        save_page,
        sharing_page,
        verify,
    )
    from vmckpt.errors import VmckptError
    from vmckpt.machine.image import create_image
    from vmckpt.pages import PAGE_BYTES, PageRange
    from vmckpt.restoring.outcome import LazyPages, LazyReport
    from vmckpt.sharing.outcome import SharingReport

__all__ = [
    "PAGE_BYTES",
    "CheckpointInfo",
    "LazyPages",
    "LazyReport",
    "PageCounts",
    "PageRange",
    "Problem",
    "RebuildReport",
    "RestoreReport",
    "SaveReport",
    "SharingReport",
    "VerifyReport",
    "VmckptError",
    "__version__",
    "convert",
    "create_image",
    "digest",
    "estimate_sharing",
    "forecast_sharing",
    "info",
    "open_checkpoint",
    "open_source",
    "rebuild_index",
    "restore",
    "restore_lazily",
    "save",
    "save_page",
    "sharing_page",
    "verify",
]

_HOMES = {
    "LazyPages": "vmckpt.restoring.outcome",
    "LazyReport": "vmckpt.restoring.outcome",
    "PAGE_BYTES": "vmckpt.pages",
    "PageRange": "vmckpt.pages",
    "VmckptError": "vmckpt.errors",
    "SharingReport": "vmckpt.sharing.outcome",
    "create_image": "vmckpt.machine.image",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'vmckpt' has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 start-up

    value = getattr(import_module(_HOMES.get(name, "vmckpt.api")), name)
    globals()[name] = value
    return value

"""What a machine is, apart from its memory: enough to go on exactly where it stopped.

    {"machine": 1, "workload": "zipf:write=10", "recording": null, "seed": 7, "pages": 65536,
     "vcpus": [{"ops": 120000, "register": "0x1f"}, ...]}

Small, and JSON: a checkpoint keeps it as its vCPU state (docs/format.md, section type 5). Made by `machine` and, for a
machine that never ran, by `MachineState.boot`; read back from checkpoints, so its bytes are checked.
"""

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

from vmckpt.errors import FormatError, UsageError
from vmckpt.machine.workload import Workload, parse_workload

__all__ = ["MOST_VCPUS", "MachineState", "VcpuState"]

MOST_VCPUS = 16
_VERSION = 1
_LIMIT = 1 << 64


class VcpuState(NamedTuple):
    """The registers of a vCPU."""

    ops: int
    """Operations done since boot."""
    register: int
    """64 bits; see `access`."""


class MachineState(NamedTuple):
    """Workload and vCPUs of a machine."""

    workload: Workload
    recording: str
    """Fingerprint of the recording that the workload replays; empty for all others."""
    seed: int
    """64 bits."""
    page_count: int
    vcpus: tuple[VcpuState, ...]

    @classmethod
    def boot(cls, workload: Workload, *, recording: str = "", vcpus: int, seed: int, page_count: int) -> Self:
        """A machine that has done nothing yet.

        Raises:
            UsageError: there cannot be so many vCPUs, or the seed is out of range.
        """
        if not 1 <= vcpus <= MOST_VCPUS:
            raise UsageError(f"a machine cannot have {vcpus} vCPUs: expected 1 to {MOST_VCPUS}")
        if not 0 <= seed < _LIMIT:
            raise UsageError(f"the seed {seed} is out of range: expected 0 to {_LIMIT - 1}")
        return cls(workload, recording, seed, page_count, (VcpuState(0, 0),) * vcpus)

    @property
    def ops(self) -> int:
        """Operations of all vCPUs since boot."""
        return sum(vcpu.ops for vcpu in self.vcpus)

    def values(self) -> dict[str, object]:
        """As JSON values. Registers are hexadecimal text: not every JSON reader keeps 64 bits of a number."""
        return {
            "machine": _VERSION,
            "workload": self.workload.text,
            "recording": self.recording or None,
            "seed": self.seed,
            "pages": self.page_count,
            "vcpus": [{"ops": vcpu.ops, "register": hex(vcpu.register)} for vcpu in self.vcpus],
        }

    def to_json(self) -> bytes:
        """The body of a checkpoint's vCPU state section."""
        return json.dumps(self.values(), separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, body: bytes, *, page_count: int) -> Self:
        """Read `to_json` back; `page_count` is the size of the memory that it belongs to.

        Raises:
            FormatError: it is something else, or belongs to another memory.
        """
        try:
            return cls._from_values(json.loads(body), page_count)
        except (ValueError, KeyError, TypeError, RecursionError, UsageError) as error:
            what = str(error) or type(error).__name__
            raise FormatError(f"the vCPU state is not that of an emulated machine: {what}") from error

    @classmethod
    def _from_values(cls, values: object, page_count: int) -> Self:
        if not isinstance(values, Mapping) or values["machine"] != _VERSION:
            raise ValueError(f"expected an object of version {_VERSION}")
        if values["pages"] != page_count:
            raise ValueError(f"it belongs to {values['pages']} pages of memory, and here are {page_count}")
        vcpus = values["vcpus"]
        if not isinstance(vcpus, Sequence) or not 1 <= len(vcpus) <= MOST_VCPUS:
            raise ValueError(f"expected 1 to {MOST_VCPUS} vCPUs")
        return cls(
            parse_workload(_text(values["workload"])),
            _text(values["recording"] or ""),
            _bounded(values["seed"]),
            page_count,
            tuple(VcpuState(_bounded(each["ops"]), _bounded(int(each["register"], 16))) for each in vcpus),
        )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected text, found {value!r:.40}")
    return value


def _bounded(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < _LIMIT:
        raise TypeError(f"expected a 64-bit number, found {value!r:.40}")
    return value

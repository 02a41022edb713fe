"""How an operation touches memory: a tight loop over the mapped words, each read or written by itself.

A vCPU has one register, which remembers what it read:

    straight    read    register = (register >> 1) ^ word        write   word = register ^ draw
    chase       read    register = word (the next node)          write   word after the node = register ^ draw

So what is written depends on what was read: one wrong page, read once, shows in the digest of memory ever after.

This is where a tracer without help from the kernel comes in: it is another `Access`, which looks at a page's traces
before each of these. One with the kernel's help needs no change here: the access itself stops, in the middle of the loop.
Called by `processor`.
"""

from collections.abc import Sequence
from typing import Protocol

from vmckpt.machine.operations import Share

__all__ = ["Access", "PlainAccess"]


class Access(Protocol):
    """Carries operations out. Each takes effect before the next one starts."""

    def straight(self, words: Sequence[int], draws: Sequence[int], threshold: int, register: int) -> int:
        """Do operations whose words are known; `draws` and `threshold` as in `operations.Batch`.

        Returns the register after the last one.
        """

    def chase(self, draws: Sequence[int], threshold: int, register: int) -> int:
        """Do operations that follow a list, from the node at word `register` on.

        Returns the register after the last one.
        """


class PlainAccess:
    """Accesses that nothing but the kernel stops."""

    __slots__ = ("_limit", "_memory", "_share")

    def __init__(self, memory: memoryview, share: Share) -> None:
        """`memory` is the vCPU's mapping, as 64-bit words."""
        self._memory = memory
        self._share = share
        self._limit = len(memory) - 2 * share.vcpus  # room for the word after a node

    def straight(self, words: Sequence[int], draws: Sequence[int], threshold: int, register: int) -> int:
        """See `Access`."""
        memory = self._memory
        for word, draw in zip(words, draws, strict=True):
            if draw < threshold:
                memory[word] = register ^ draw
            else:
                register = register >> 1 ^ memory[word]
        return register

    def chase(self, draws: Sequence[int], threshold: int, register: int) -> int:
        """See `Access`."""
        memory, limit = self._memory, self._limit
        vcpu, vcpus, _ = self._share
        # Should memory be wrong, the vCPU still stays within memory and its share.
        register %= limit
        register += (vcpu - register) % vcpus
        for draw in draws:
            if draw < threshold:
                memory[register + vcpus] = register ^ draw
            else:
                register = memory[register] % limit
                register += (vcpu - register) % vcpus
        return register

"""The machine by itself, in one process and as plainly as can be: what the real one is compared with.

It takes each operation from the rules in docs/machine.md, one at a time, with no batches, slices or shared code.
"""

import hashlib
import math

LINE_DRAWS = 2048  # operations whose draws come from one hash


def draw_of(name: str, seed: int, vcpu: int | None, op: int) -> int:
    """The draw of operation `op`."""
    key = f"vmckpt machine 1 {name} {seed} {vcpu}: ".encode() + (op // LINE_DRAWS).to_bytes(8, "little")
    at = op % LINE_DRAWS * 8
    return int.from_bytes(hashlib.shake_128(key).digest(at + 8)[at:], "little")


def stride_of(count: int, draw: int) -> int:
    """A scattered order of `count` things."""
    stride = count // 4 + draw % (count // 2 + 1)
    while math.gcd(stride, count) != 1:
        stride += 1
    return stride


class Reference:
    """All vCPUs of a machine, run one operation at a time in whatever order the caller likes."""

    def __init__(self, memory: bytes, name: str, options: dict[str, int], *, vcpus: int, seed: int) -> None:
        self.words = [int.from_bytes(memory[at : at + 8], "little") for at in range(0, len(memory), 8)]
        self.name, self.options, self.vcpus, self.seed = name, options, vcpus, seed
        self.pages = len(memory) // 4096
        self.ops = [0] * vcpus
        self.register = [0] * vcpus

    def memory(self) -> bytes:
        return b"".join(word.to_bytes(8, "little") for word in self.words)

    def common(self, number: int) -> int:
        return draw_of(self.name, self.seed, None, number)

    def owned(self, word: int, vcpu: int) -> int:
        """The first word from `word` on that belongs to `vcpu`."""
        while word % self.vcpus != vcpu:
            word += 1
        return word

    def step(self, vcpu: int) -> None:
        """One operation of one vCPU."""
        op = self.ops[vcpu]
        self.ops[vcpu] += 1
        draw = draw_of(self.name, self.seed, vcpu, op)
        writes = draw < 2**64 * self.options["write"] // 100
        if self.name == "pointer-chase":
            self.chase(vcpu, op, draw, writes=writes)
            return
        word = getattr(self, self.name.replace("-", "_"))(vcpu, op, draw)
        assert word % self.vcpus == vcpu
        if writes:
            self.words[word] = self.register[vcpu] ^ draw
        else:
            self.register[vcpu] = self.register[vcpu] // 2 ^ self.words[word]

    def sequential(self, vcpu: int, op: int, _draw: int) -> int:
        own = self.pages * 512 // self.vcpus
        k = own * vcpu // self.vcpus + op * max(8 // self.vcpus, 1)
        return k % own * self.vcpus + vcpu

    def uniform(self, vcpu: int, _op: int, draw: int) -> int:
        return draw % (self.pages * 512 // self.vcpus) * self.vcpus + vcpu

    def zipf(self, vcpu: int, _op: int, draw: int) -> int:
        low = 2 ** (draw % self.pages.bit_length()) - 1
        rank = low + (draw // 2**8 & low)
        page = (rank * stride_of(self.pages, self.common(0)) + self.common(1)) % self.pages
        return self.owned(page * 512 + (draw >> 43) % 2**16 % (513 - self.vcpus), vcpu)

    def working_set(self, vcpu: int, op: int, draw: int) -> int:
        set_pages = max(self.pages * self.options["set"] // 100, 1)
        room = min(self.options["cluster"], max(set_pages // 8, 1))
        cluster = 2 ** (room.bit_length() - 1)
        slots, clusters = set_pages // cluster, self.pages // cluster
        batches = math.ceil(self.options["phase"] / LINE_DRAWS)
        phase = op // LINE_DRAWS // batches if batches else 0
        slot = draw % slots
        place = slot + slots * ((phase + slot) // 4)
        start = (place * stride_of(clusters, self.common(0)) + self.common(1)) % clusters * cluster
        return self.owned(start * 512 + (draw >> 20) % 2**32 % (cluster * 512 + 1 - self.vcpus), vcpu)

    def node(self, vcpu: int, turn: int) -> int:
        nodes = max(self.pages * self.options["list"] // 100, 1)
        stride = stride_of(self.pages, draw_of(self.name, self.seed, vcpu, 0))
        return self.owned(turn % nodes * stride % self.pages * 512, vcpu)

    def chase(self, vcpu: int, op: int, draw: int, *, writes: bool) -> None:
        nodes = max(self.pages * self.options["list"] // 100, 1)
        if op < math.ceil(nodes / LINE_DRAWS) * LINE_DRAWS:
            self.words[self.node(vcpu, op)] = self.node(vcpu, op + 1)
            return
        at = self.register[vcpu] or vcpu  # the list starts in page 0
        if writes:
            self.words[at + self.vcpus] = at ^ draw
        else:
            at = self.words[at]
        self.register[vcpu] = at

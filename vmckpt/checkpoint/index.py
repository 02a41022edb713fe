"""Tables that open in pieces: what is asked of them, not how large they are, decides what is read.

    root      entry size, entries in a piece, entries in all, then offset and checksum of each piece
    piece     64 KiB of entries; one that holds nothing but absent entries is left out (offset 0)

Two of them make the maps of a checkpoint (US 9,053,064, claim 4): memory block -> storage block and slot, and storage
block -> place in the file; the way back, storage block -> memory blocks, is each storage block's own directory. A root
costs 16 bytes for every 8,192 memory blocks, so opening a checkpoint of 64 GiB reads 2 KiB of it.
"""

import struct
from collections import OrderedDict
from collections.abc import Callable, Iterator

from vmckpt.checkpoint.format import ROOT, ROOT_ENTRY
from vmckpt.errors import CorruptionError
from vmckpt.hashing import checksum

__all__ = ["PieceReader", "PieceWriter"]

PIECE_BYTES = 1 << 16
_CACHED_PIECES = 64

Read = Callable[[int, int], bytes]
"""(offset, bytes) -> that part of the file, complete, or an error."""


class PieceWriter:
    """A table under construction: entries may be set in any order, those never set are absent.

    Holds the pieces that have an entry: 8 bytes for each memory block that is not zero, and a piece's granularity.
    """

    def __init__(self, entry: struct.Struct) -> None:
        self._entry = entry
        self._piece_entries = PIECE_BYTES // entry.size
        self._pieces: dict[int, bytearray] = {}

    def __setitem__(self, index: int, values: tuple[int, ...]) -> None:
        piece, slot = divmod(index, self._piece_entries)
        data = self._pieces.get(piece)
        if data is None:
            data = self._pieces[piece] = bytearray(b"\xff" * PIECE_BYTES)
        self._entry.pack_into(data, slot * self._entry.size, *values)

    def __getitem__(self, index: int) -> tuple[int, ...]:
        piece, slot = divmod(index, self._piece_entries)
        return self._entry.unpack_from(self._pieces[piece], slot * self._entry.size)

    def write(self, entry_count: int, append: Callable[[bytes], int]) -> bytes:
        """Give each piece to `append`, which answers with its file offset, and return the root.

        Args:
            entry_count: entries of the table, absent ones included.
            append: writes bytes to the file.
        """
        piece_count = -(-entry_count // self._piece_entries)
        root = bytearray(ROOT.pack(self._entry.size, self._piece_entries, entry_count))
        root += bytes(ROOT_ENTRY.size * piece_count)
        for piece, data in sorted(self._pieces.items()):
            entries = min(self._piece_entries, entry_count - piece * self._piece_entries)
            used = bytes(data[: entries * self._entry.size])
            ROOT_ENTRY.pack_into(root, ROOT.size + piece * ROOT_ENTRY.size, append(used), checksum(used))
        return bytes(root)


class PieceReader:
    """A table in a file. Keeps the pieces last used; not to be shared between threads."""

    def __init__(
        self,
        root: bytes,
        entry: struct.Struct,
        entry_count: int,
        read: Read,
        name: str,
        *,
        path: str | None = None,
    ) -> None:
        """Open the table.

        Args:
            root: its root, proved by the section that holds it.
            entry: what an entry is packed with.
            entry_count: how many entries there must be.
            read: reads from the file.
            name: for messages.
            path: of the file, for messages.

        Raises:
            CorruptionError: the root is not one of such a table.
        """
        self._entry = entry
        self._read = read
        self._name = name
        self._path = path
        self.entry_count = entry_count
        self._piece_entries = PIECE_BYTES // entry.size
        self.piece_count = -(-entry_count // self._piece_entries)
        expected = (entry.size, self._piece_entries, entry_count)
        size = ROOT.size + ROOT_ENTRY.size * self.piece_count
        if len(root) != size or ROOT.unpack_from(root) != expected:
            found = ROOT.unpack_from(root) if len(root) >= ROOT.size else "nothing"
            raise CorruptionError(
                f"the {name}'s root is {len(root)} bytes long and says {found}, expected {size} bytes and {expected}"
            )
        self._root = root
        self._cache: OrderedDict[int, bytes] = OrderedDict()

    def _span(self, piece: int) -> tuple[int, int, int]:
        """Offset, length and checksum of a piece; offset 0 where it is absent."""
        offset, expected = ROOT_ENTRY.unpack_from(self._root, ROOT.size + piece * ROOT_ENTRY.size)
        entries = min(self._piece_entries, self.entry_count - piece * self._piece_entries)
        return offset, entries * self._entry.size, expected

    def spans(self) -> Iterator[tuple[int, int]]:
        """Offset and length of each piece that is in the file."""
        for piece in range(self.piece_count):
            offset, length, _ = self._span(piece)
            if offset:
                yield offset, length

    def _piece(self, piece: int) -> bytes | None:
        data = self._cache.get(piece)
        if data is not None:
            self._cache.move_to_end(piece)
            return data
        offset, length, expected = self._span(piece)
        if not offset:
            return None
        data = self._read(offset, length)
        if checksum(data) != expected:
            raise CorruptionError(
                f"the checksum of piece {piece} of the {self._name} is {checksum(data):016x}, expected {expected:016x}",
                path=self._path,
                offset=offset,
            )
        self._cache[piece] = data
        if len(self._cache) > _CACHED_PIECES:
            self._cache.popitem(last=False)
        return data

    def __getitem__(self, index: int) -> tuple[int, ...] | None:
        """The entry, or None where its piece is absent."""
        piece, slot = divmod(index, self._piece_entries)
        data = self._piece(piece)
        return None if data is None else self._entry.unpack_from(data, slot * self._entry.size)

    def entries(self) -> Iterator[tuple[int, tuple[int, ...]]]:
        """Index and entry of everything in the pieces that are there, in order.

        Raises:
            CorruptionError: a piece is damaged, or one serves twice: no walk costs more than the file is long.
        """
        end = 0
        for piece in range(self.piece_count):
            offset, length, _ = self._span(piece)
            if offset and offset < end:
                raise CorruptionError(
                    f"the pieces of the {self._name} do not ascend", path=self._path, offset=offset
                )
            end = offset + length if offset else end
            data = self._piece(piece)
            if data is not None:
                yield from enumerate(self._entry.iter_unpack(data), piece * self._piece_entries)

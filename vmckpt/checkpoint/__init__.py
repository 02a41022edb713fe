"""The checkpoint file: the only room that knows its bytes.

    format      what lies where: fixed structs, limits, names of kinds
    codec       compressing and decompressing one memory block
    block       one storage block: its header, its directory of memory blocks, its pages
    index       tables that open in pieces: memory block -> storage block, storage block -> file offset
    staging     the buffer in which a storage block is filled
    writer      staging buffers, sections and footer out, in an order that survives a crash
    reader      header and footer in, everything else on demand; a PageReader
    check       proves a whole file, and says what is wrong where
    rebuild     a new index from the blocks alone

Writers and readers meet only in `format`, `codec`, `block` and `index`. docs/format.md tells the same to those who
write a reader of their own.
"""

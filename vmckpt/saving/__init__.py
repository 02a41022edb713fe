"""Saving memory into a checkpoint.

    order       which memory blocks go together, and in which order (pure)
    classify    what each page is: zero, a pattern, or to be stored (pure)
    dedup       which pages were met before (bounded memory)
    slots       the shared memory between coordinator and workers
    worker      reads, classifies, confirms duplicates, compresses
    pipeline    the coordinator: batches of memory blocks through workers and into the file
    rest        what it is fed with for memory at rest: an image, a core, another checkpoint

`api` calls `rest.save_at_rest`; what it writes goes through `checkpoint.writer`.
"""

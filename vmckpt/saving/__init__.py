"""Saving memory into a checkpoint.

    request     what a save is asked for              live_request   and what of one of a running machine
    source      memory at rest: an image, a core, another checkpoint
    live        a machine that runs, from the connection to the file's name
    guest       that machine as the saver sees it

    pipeline    the coordinator: batches of memory blocks through workers and into the file
    rest        feeds it with memory at rest
    instant     feeds it with a machine's memory of one instant
    rounds      feeds it with a machine's memory at the stop, round by round
    latest      digest and counts where blocks come in any order, and again
    estimators  which pages of a running machine are active

    order       which memory blocks go together, and in which order (pure)
    classify    what each page is: zero, a pattern, or to be stored (pure)
    dedup       which pages were met before (bounded memory)
    slots       the shared memory between coordinator and workers
    worker      reads, classifies, confirms duplicates, compresses

`api` calls `source.save_source` and `live.save_live`; what they write goes through `checkpoint.writer`.
"""

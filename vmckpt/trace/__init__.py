"""What a running machine touches, and stopping it first: the tracers of a live save (docs/architecture.md).

    a vCPU touches a page ─▶ trap ─▶ tracer.traps ─▶ respond (rules) ─▶ copy | mark dirty | log ─▶ tracer.let ─▶ it goes on
                                     └───────────── the tracer process (serve) ────────────┘
                                                        │ journal: shared memory
                                                        ▼
                                     the saver: Handler.news, arm, release

    rules       what a trap means: pure tables
    tracer      the protocol of who traps touches and lets them go on
    userfault   the kernel's answer to it: a userfaultfd for each vCPU's mapping
    software    an answer that needs nothing of the kernel: a table that each vCPU looks at before it touches a page
    journal     what the tracer process and the saver tell each other, in memory that both map
    respond     what is done about one trap, before the vCPU goes on
    serve       the tracer process's loop
    handler     the saver's side: forks that process, hears from it, has it arm traces again
    active      the pages in use, in the order in which they were seen
    scan        which pages are in use, found by looking again and again at a fixed rate

`saving` calls it; it calls `kernel` and the ground.
"""

__all__: list[str] = []

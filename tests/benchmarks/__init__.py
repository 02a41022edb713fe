"""Whole commands measured against their peers: `python -m tests.benchmarks`, or `make bench`.

    images ─▶ cases (what is compared) ─▶ trial (rounds) ─▶ measure, qemu (one run) ─▶ results ─▶ report, targets
    emulated (a running machine) ─▶ live (saves of it) · touch ─▶ traps (one trap, against handler.c) ─▶ readings ─┤
    lazy (lazy restores) · fault_cost (one fault, against fault_cost.c) · `vmckpt bench` ─▶ readings ────────────────────┘

Nothing here is collected by pytest but the `test_` modules, which are fast. `blocks` is an experiment of its own.
"""

"""The emulated machine: what its memory holds before it runs, and how it runs (docs/machine.md).

profile ──▶ plan.plan_image ──▶ runs of pages ──▶ content.PageMaker ──▶ image.create_image ──▶ a raw image

    session ─▶ ram (memfd) ───────────────▶ machine ─▶ vcpu ══ link ══ processor ─▶ access ─▶ memory
            ─▶ state, workload, recording ─┘   ▲                           ▲
    client ══ control (listener) ──────────────┘                     operations
"""

"""Experiments that anyone can repeat: `vmckpt bench NAME` (docs/experiments.md). The product imports nothing of this room."""

"""Frozen checkpoints of every format version, and how those of the current one are made."""

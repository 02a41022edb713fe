"""Tests of vmckpt.checkpoint."""

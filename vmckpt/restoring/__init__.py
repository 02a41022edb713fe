"""Bringing a checkpoint's memory back: whole into a file, or page by page under a running machine."""

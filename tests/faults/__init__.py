"""What must not break a checkpoint, done to it: kills, full disks, flipped bits, cuts, lies, changing sources.

`make test` runs a bounded part; `make campaign SEED=1 SECONDS=600` (`tests.faults.__main__`) the long one.
"""

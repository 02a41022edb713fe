"""`python -m vmckpt` is `vmckpt`."""

import sys

from vmckpt.cli import main

if __name__ == "__main__":
    sys.exit(main())

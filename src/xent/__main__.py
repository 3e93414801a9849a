"""`python -m xent`, for `torchrun -m xent train …` and wherever the command itself is not on the path."""

from __future__ import annotations

import sys

from xent.cli import main

if __name__ == "__main__":
    sys.exit(main())

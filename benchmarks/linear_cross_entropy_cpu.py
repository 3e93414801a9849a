# What do a language model's head and its loss cost, forward and backward, beside the peers and the bare products?
#
#   make bench                                                        both questions, some three hours on 2 cores
#   .venv/bin/python benchmarks/linear_cross_entropy_cpu.py --quick    a minute: shows that it works, not how fast
#   .venv/bin/python benchmarks/linear_cross_entropy_cpu.py --only 2048x768x50257 --threads 2
#
# The same as `xent bench linear`. Results: benchmarks/results/linear-MACHINE.json; docs/performance.md is made from
# them by `make performance`. The largest case needs about 12 GB.
import sys

from xent.cli import main

if __name__ == "__main__":
    sys.exit(main(["bench", "linear", *sys.argv[1:]]))

# What does the loss of given logits cost, and its gradient, beside the peers?
#
#   make bench                                                        both questions, some three hours on 2 cores
#   .venv/bin/python benchmarks/cross_entropy_cpu.py --quick           a minute: shows that it works, not how fast
#   .venv/bin/python benchmarks/cross_entropy_cpu.py --only 4096x32000 --threads 2
#
# The same as `xent bench cross-entropy`. Results: benchmarks/results/cross-entropy-MACHINE.json; docs/performance.md is
# made from them by `make performance`.
import sys

from xent.cli import main

if __name__ == "__main__":
    sys.exit(main(["bench", "cross-entropy", *sys.argv[1:]]))

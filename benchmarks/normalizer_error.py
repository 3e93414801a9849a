# How far is the usual mean of means from the mean over all tokens, when ranks have different numbers of them?
#
#   .venv/bin/python benchmarks/normalizer_error.py
#   .venv/bin/python benchmarks/normalizer_error.py --picture docs/pictures/normalizer-error.svg
#
# Each of R ranks holds S sequences a step, of lognormal length (deviation σ of the logarithm; median 200 tokens). A
# token's loss is 2 nats, 2 more at the beginning of its sequence (falling with position as exp(−t / 100)), and noise of
# deviation 1: short sequences cost more per token, as they do in practice. The mean of means is the average over ranks
# of each rank's own token mean: what DistributedDataParallel and FSDP make of reduction="mean". Reported over many
# steps: its bias, its error at one step (root of the mean square), both in % of the token mean, and how many times more
# a token of the shortest rank weighs than one of the longest (median over steps). The exact mean, Σ Σ loss / Σ count
# with global_row_count, has none of these; its last column is rounding.
import argparse
import importlib
import math
from pathlib import Path

import torch

RANKS = (2, 8, 64, 512, 4096)
SIGMAS = (0.0, 0.5, 1.0, 1.5)
MEDIAN, START, FALL, TOKENS_PER_ROUND = 200.0, 2.0, 100.0, 4_000_000


def main():
    parser = argparse.ArgumentParser(description="Error of the mean of means under uneven token counts.")
    parser.add_argument("--sequences", type=int, default=1, help="sequences of a rank and step")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--picture", type=Path, help="also draw it here (.svg)")
    options = parser.parse_args()
    print(f"{options.sequences} sequence(s) a rank and step, {options.steps} steps\n")
    print(f"{'ranks':>6} {'σ':>5} {'bias %':>9} {'error of a step %':>18} {'largest weight ratio':>21} {'exact %':>9}")
    rows = []
    for sigma in SIGMAS:
        for ranks in RANKS:
            row = simulated(ranks, sigma, options.sequences, options.steps)
            rows.append({"ranks": ranks, "sigma": sigma, **row})
            print(
                f"{ranks:>6} {sigma:>5} {row['bias']:>9.3f} {row['step']:>18.3f} {row['ratio']:>21.1f} "
                f"{row['exact']:>9.1e}"
            )
    if options.picture:
        draw(rows, options.picture)


def simulated(ranks, sigma, sequences, steps):
    """Bias and error of the mean of means in % of the token mean."""
    generator = torch.Generator().manual_seed(0)
    errors, exact, ratios, totals = [], [], [], []
    for _ in range(steps):
        lengths = MEDIAN * torch.exp(sigma * torch.randn(ranks, sequences, generator=generator, dtype=torch.float64))
        lengths = lengths.round().clamp(1, 8192)
        sums = (
            2 * lengths
            + START * geometric(lengths)
            + lengths.sqrt() * torch.randn(ranks, sequences, generator=generator, dtype=torch.float64)
        )
        count, total = lengths.sum(1), sums.sum(1)
        mean = total.sum() / count.sum()
        exact.append(float(abs((total / (count.sum() / ranks)).mean() - mean) / mean))  # as token_mean under DDP
        errors.append(float((total / count).mean() - mean))
        totals.append(float(mean))
        ratios.append(float(count.max() / count.min()))
    level = sum(totals) / steps
    return {
        "bias": 100 * sum(errors) / steps / level,
        "step": 100 * math.sqrt(sum(e * e for e in errors) / steps) / level,
        "ratio": sorted(ratios)[steps // 2],
        "exact": 100 * max(exact),
    }


def geometric(lengths):
    """Σ_{t < length} exp(−t / FALL)."""
    return (1 - torch.exp(-lengths / FALL)) / (1 - math.exp(-1 / FALL))


def draw(rows, path):
    """Error of a step against ranks, a line for each σ."""
    alt = importlib.import_module("altair")
    ink = "#7d8590"  # legible on white and on black
    shown = [{**row, "label": f"σ = {row['sigma']}", "step": max(row["step"], 1e-3)} for row in rows if row["sigma"]]
    ranks = alt.X("ranks:Q", title="data-parallel ranks").scale(type="log", base=2).axis(values=list(RANKS))
    error = alt.Y("step:Q", title="error of the mean of means, % of the loss").scale(domain=[0, 40])
    chart = (
        alt.Chart(alt.Data(values=shown), width=520, height=260, background="transparent")
        .mark_line(point=True)
        .encode(x=ranks, y=error, color=alt.Color("label:N", title="spread of lengths"))
        .configure_axis(labelColor=ink, titleColor=ink, gridColor=ink, gridOpacity=0.2, domainColor=ink)
        .configure_legend(labelColor=ink, titleColor=ink)
        .configure_view(stroke=None)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    chart.save(str(path))


if __name__ == "__main__":
    main()

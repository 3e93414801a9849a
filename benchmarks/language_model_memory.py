# What memory does the loss layer of `xent train language_model` take at a vocabulary of 32,000, forward and backward?
#
#   .venv/bin/python benchmarks/language_model_memory.py
#   .venv/bin/python benchmarks/language_model_memory.py --rows 4096 --features 1024
#
# The recipe's LSTM makes hidden states (N, D) of random tokens; measured is the loss on them with the tied head, to
# the gradients of the hidden states and of the embedding. Each number is the peak resident memory of a fresh process
# during one call, after a call that warms up, less what the process held before; the gradients themselves are in it.
import argparse
import json
import subprocess
import sys

WAYS = {
    "plain": "F.cross_entropy(F.linear(hidden, embedding), target)",
    "xent": "xent.linear_cross_entropy(hidden, embedding, target)",
}
MIB = 2**20
CONTEXT = 128


def main() -> None:
    parser = argparse.ArgumentParser(description="Peak memory of a language model's loss layer, plain and with xent.")
    parser.add_argument("--rows", type=int, default=2048, help="tokens of a step, N")
    parser.add_argument("--features", type=int, nargs="+", default=[256, 768, 2048], help="sizes of a hidden state, D")
    parser.add_argument("--vocabulary", type=int, default=32_000, help="V")
    parser.add_argument("--way", choices=WAYS, help="measure one way in this process; one size")
    options = parser.parse_args()
    if options.way:
        print(json.dumps(measured(options.way, options.rows, options.features[0], options.vocabulary)))
        return
    print(f"{options.rows} tokens, vocabulary {options.vocabulary}, float32, peak MiB of one forward and backward\n")
    print(f"{'D':>5}   {'plain':>7}   {'xent':>7}   {'gradients alone':>15}   loss")
    for features in options.features:
        plain, ours = (in_a_fresh_process(way, options.rows, features, options.vocabulary) for way in WAYS)
        gradients = 4 * features * (options.rows + options.vocabulary) / MIB
        losses = f"{plain['loss']:.6f} {ours['loss']:.6f}"
        print(f"{features:>5}   {plain['mib']:>7.1f}   {ours['mib']:>7.1f}   {gradients:>15.1f}   {losses}", flush=True)


def in_a_fresh_process(way: str, rows: int, features: int, vocabulary: int) -> dict[str, float]:
    arguments = ["--way", way, "--rows", rows, "--features", features, "--vocabulary", vocabulary]
    command = [sys.executable, __file__, *map(str, arguments)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def measured(way: str, rows: int, features: int, vocabulary: int) -> dict[str, float]:
    import torch
    import torch.nn.functional as F

    import xent
    from xent.bench.memory import peak_extra_bytes
    from xent.recipes._decoder import LongShortTermMemory, initialised

    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        model = LongShortTermMemory(vocabulary, features, 2)
    model = initialised(model, generator)
    tokens_BT = torch.randint(vocabulary, (rows // CONTEXT, CONTEXT), generator=generator)
    target_N = torch.randint(vocabulary, (tokens_BT.numel(),), generator=generator)
    with torch.no_grad():
        hidden_ND = model(tokens_BT).flatten(0, 1)
    hidden_ND.requires_grad_()
    embedding_VD = model.embedding.weight

    def call() -> float:
        if way == "plain":
            loss = F.cross_entropy(F.linear(hidden_ND, embedding_VD), target_N)
        else:
            loss = xent.linear_cross_entropy(hidden_ND, embedding_VD, target_N)
        loss.backward()
        return loss.item()

    loss = call()
    hidden_ND.grad = embedding_VD.grad = None
    extra = peak_extra_bytes(call)
    if extra is None:
        sys.exit("this system does not let a process reset its high-water mark of memory")
    return {"mib": extra / MIB, "loss": loss}


if __name__ == "__main__":
    main()

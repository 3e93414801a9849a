"""A small language model: embedding, LSTM or causal self-attention, tied head; trained to predict the next token.

    xent train language_model
    xent train language_model --data FILE_OR_FOLDER --tokens bpe --model transformer

The loop is in `train`. Around it: the options (language_model_config.py), beginning and resuming a run
(language_model_runs.py), the model (_decoder.py), the text (_corpus.py), its tokens (_tokenizers.py, _text_tokens.py),
the text drawn at the end (_sampling.py), and what recipes share (see digits.py).

The logits are never held: `xent.linear_cross_entropy` takes hidden states and the embedding's weight, and `shift=1`
scores each position against the token after it.

One generator, seeded once, draws the first weights and the windows of every step; the global random state is neither
read nor moved. A run keeps its number of threads, because sums of floats depend on how many share them: the same
options give the same weights to the last bit on a machine, interrupted or not.

B windows, T tokens, D features, V vocabulary
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor

import xent
from xent.distributed import token_mean, vocab_parallel_linear_cross_entropy
from xent.recipes._decoder import Decoder, LongShortTermMemory, Transformer, initialised
from xent.recipes._display import Display
from xent.recipes._landmarks import TextLandmarks, bits
from xent.recipes._learner import finish_epoch
from xent.recipes._parallel_learner import ParallelLearner
from xent.recipes._parallel_model import ParallelModel
from xent.recipes._run_directory import RunDirectory
from xent.recipes._text_tokens import TOKENIZER, TextTokens, load_text_tokens, windows_of, windows_over
from xent.recipes._threads import torch_threads
from xent.recipes.language_model_config import DEFAULT_HEADS, LanguageModelConfig

CLIP = 1.0  # the largest norm of the gradient that a step follows in full
_WARMUP, _PLATEAU = 100, 400  # steps


@dataclass
class LanguageLearner(ParallelLearner[LanguageModelConfig, TextTokens, Decoder]):
    """A decoder on text; the generator draws the windows."""

    def alone(self, weights: dict[str, Tensor]) -> LanguageLearner:
        """A learner of this process alone, with the whole weights of the run."""
        model = _decoder(self.config, self.data.num_tokens).to_empty(device="cpu")
        model.load_state_dict(weights)
        return replace(self, model=model, parallel=None)

    @cached_property
    def landmarks(self) -> TextLandmarks:
        """What its losses are read against."""
        return self.data.landmarks(self.config.max_validation_tokens)

    @property
    def tokens_per_step(self) -> int:
        """Tokens that a step predicts."""
        return self.config.batch_size * (self.config.context - 1)

    @property
    def steps_per_epoch(self) -> int:
        """As many as were asked for."""
        return self.config.steps

    def names(self) -> dict[str, Any]:
        """Tokens are text."""
        return {"decode": self.data.tokenizer.decode}

    def files(self) -> dict[str, bytes]:
        """The tokenizer."""
        return {TOKENIZER: self.data.tokenizer.to_bytes()}


def train(learner: LanguageLearner, run: RunDirectory, display: Display) -> None:
    """Train up to `config.epochs`, writing every epoch to the run.

    Raises:
        RunError: the loss is no longer finite, or the run can't be written; earlier checkpoints are intact.
        KeyboardInterrupt: as it came; the run can be resumed.
    """
    config, model, optimizer, parallel = learner.config, learner.model, learner.optimizer, learner.parallel
    with torch_threads(config.threads or 1):
        while learner.epoch < config.epochs:
            for step in display.steps(range(config.steps)):
                tokens_BT = draw_windows(learner)
                if parallel is None:
                    hidden_BTD = model(tokens_BT)  # forward
                    loss = xent.linear_cross_entropy(hidden_BTD, model.embedding.weight, tokens_BT, shift=1)  # loss
                    loss.backward()  # backward
                    torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
                else:  # the same on this rank's windows, and its classes
                    parallel_loss(parallel, tokens_BT).backward()
                    parallel.clip(CLIP)
                set_learning_rate(optimizer, config, learner.epoch * config.steps + step + 1)
                optimizer.step()  # step
                optimizer.zero_grad()  # zero_grad
            display.epoch(finish_epoch(learner, run, measure(learner)))


def parallel_loss(parallel: ParallelModel, tokens_BT: Tensor) -> Tensor:
    """The loss of this rank's windows, over the tokens of all ranks: averaged gradients are those of the token mean.

    A rank that gets no window takes one that does not count, because all must come to the sum of the gradients.
    """
    workers, model = parallel.workers, cast(Decoder, parallel.model)
    share_BT = workers.share(tokens_BT)
    target_BT = share_BT if len(share_BT) else torch.full_like(tokens_BT[:1], -100)
    hidden_BTD = parallel.forward(share_BT if len(share_BT) else tokens_BT[:1])
    weight, mean = model.embedding.weight, token_mean(target_BT, workers.data_group, shift=1)
    if workers.options.vocab_parallel == 1:
        return xent.linear_cross_entropy(hidden_BTD, weight, target_BT, shift=1, normalizer=mean.normalizer)
    loss = vocab_parallel_linear_cross_entropy(
        hidden_BTD, weight, target_BT, group=workers.vocab_group, shift=1, normalizer=mean.normalizer
    )
    return cast(Tensor, loss)  # without statistics


def draw_windows(learner: LanguageLearner) -> Tensor:
    """Windows (B, T) of the training part that begin anywhere in it."""
    config, tokens_N = learner.config, learner.data.train
    num_places = len(tokens_N) - config.context + 1
    begin_B = torch.randint(num_places, (config.batch_size,), generator=learner.generator)
    return tokens_N[begin_B.unsqueeze(1) + torch.arange(config.context)].int()


def set_learning_rate(optimizer: torch.optim.Optimizer, config: LanguageModelConfig, step: int) -> None:
    """Rise to `config.learning_rate`, stay, fall as 1/√step: whatever the last step is, so that a run can go on."""
    factor = min(1.0, step / _WARMUP, (_PLATEAU / step) ** 0.5)
    for group in optimizer.param_groups:
        group["lr"] = config.learning_rate * factor


def measure(learner: LanguageLearner) -> dict[str, Any]:
    """Metrics with the weights as they stand: of the whole validation part, or as much of it as was asked for.

    And of windows spread evenly over the training part, about as many tokens as the validation part has.
    """
    config, data = learner.config, learner.data
    validation = windows_of(data.validation, config.context, config.max_validation_tokens)
    num_validation = sum(batch_BT[:, 1:].numel() for batch_BT in validation)
    train = windows_over(data.train, config.context, num_validation)
    with torch_threads(config.threads or 1):
        return {
            "train": evaluate(learner, train),
            "validation": evaluate(learner, validation),
        }


@torch.no_grad()
def evaluate(learner: LanguageLearner, windows: list[Tensor]) -> dict[str, float]:
    """Loss (Σ surprisal ÷ tokens, in nats) and bits per byte (Σ bits ÷ UTF-8 bytes that the tokens stand for).

    Each data rank takes its share of every batch, and the sums are added.
    """
    workers, bytes_of_token_V = learner.workers, learner.data.tokenizer.bytes_of_token
    nats, num_tokens, num_bytes = 0.0, 0, 0
    for batch_BT in windows:
        tokens_BT = workers.share(batch_BT)
        surprisal = surprisals(learner, tokens_BT if len(tokens_BT) else batch_BT[:1])  # all ranks make each call
        if len(tokens_BT):
            nats += surprisal.double().sum().item()
            num_tokens += surprisal.numel()
            num_bytes += int(bytes_of_token_V[tokens_BT[:, 1:].long()].sum())
    nats, num_tokens, num_bytes = workers.summed([nats, num_tokens, num_bytes])
    return {
        "tokens": int(num_tokens),
        "bytes": int(num_bytes),
        "loss": nats / num_tokens,
        "bits_per_byte": bits(nats) / num_bytes,
    }


def surprisals(learner: LanguageLearner, tokens_BT: Tensor) -> Tensor:
    """−ln p of every token but the first of each window."""
    model, parallel = learner.model, learner.parallel
    hidden_BTD = (model if parallel is None else parallel.forward)(tokens_BT.int())
    weight = model.embedding.weight
    if parallel is None or parallel.workers.options.vocab_parallel == 1:
        return -xent.token_logprobs(hidden_BTD, tokens_BT, linear_weight=weight, shift=1)
    group = parallel.workers.vocab_group
    loss = vocab_parallel_linear_cross_entropy(hidden_BTD, weight, tokens_BT, group=group, shift=1, reduction="none")
    return cast(Tensor, loss)


def build(config: LanguageModelConfig, run: RunDirectory | None = None) -> LanguageLearner:
    """A learner before its first step, with the tokenizer of `run` or a new one.

    Raises:
        OptionError: a path of `config.data` does not exist.
        DataError: a file is no text, can't be read, or there is too little text.
        RunError: the tokenizer of `run` is missing or damaged.
    """
    config = replace(config, threads=config.threads or torch.get_num_threads())
    data = load_text_tokens(config, run)
    generator = torch.Generator().manual_seed(config.seed)
    model = initialised(_decoder(config, data.num_tokens), generator)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate, fused=True)
    return LanguageLearner(config, data, generator, model, optimizer)


def _decoder(config: LanguageModelConfig, num_tokens: int) -> Decoder:
    with torch.device("meta"):
        if config.model == "lstm":
            return LongShortTermMemory(num_tokens, config.features, config.layers)
        heads = config.heads or DEFAULT_HEADS
        return Transformer(num_tokens, config.features, config.layers, heads, config.context)

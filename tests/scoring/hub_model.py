"""A tiny causal language model with a tokenizer, written to a directory as transformers writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

TEXTS = ["The cat sat on the mat.", "A dog barked at the cat, twice!", "naïve café — ééé", "on the mat the cat sat"]


def write_model(path: Path, *, with_tokenizer: bool = True, bos: str | None = "<s>", positions: int = 32) -> Any:
    """A Llama of random weights; byte pair encoding over bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from transformers.utils import logging as bars

    torch.manual_seed(0)
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[bos] if bos else [],
        show_progress=False,
    )
    raw.train_from_iterator(TEXTS * 4, trainer)
    config = LlamaConfig(
        vocab_size=raw.get_vocab_size(),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=positions,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(20)  # predictions that differ
    bars.disable_progress_bar()  # what a command says on stderr is counted in lines
    model.save_pretrained(path)
    if with_tokenizer:
        PreTrainedTokenizerFast(tokenizer_object=raw, bos_token=bos).save_pretrained(path)
    return model

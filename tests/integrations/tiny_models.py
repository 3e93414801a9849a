"""Randomly made models of transformers, small enough to compare every gradient; one for each thing a head does."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

VOCABULARY = 61
_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_LLAMA = dict(_SIZES)
_NEOX = {name: size for name, size in _SIZES.items() if name != "num_key_value_heads"}
_GPT2 = {
    "vocab_size": VOCABULARY,
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 2,
    "n_positions": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": {**_LLAMA, "head_dim": 8},
    "gemma2": {**_LLAMA, "head_dim": 8, "final_logit_softcapping": 0.3, "query_pre_attn_scalar": 8},
    "gpt2": _GPT2,  # tied
    "phi": _LLAMA,  # a head with bias
    "opt": {**_NEOX, "ffn_dim": 24, "word_embed_proj_dim": 16, "dropout": 0.0},  # .contiguous()
    "gpt_neox": _NEOX,
    "falcon": {**_NEOX, "num_hidden_layers": 2},
    "bloom": {**_GPT2, "hidden_size": 16, "pad_token_id": 0},
    "granite": {**_LLAMA, "logits_scaling": 4.0},
    "cohere": {**_LLAMA, "logit_scale": 0.25},
    "mixtral": {**_LLAMA, "num_local_experts": 2, "output_router_logits": True},  # a loss beside it
    "mamba": {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4},  # .float()
    "bart": {  # its own CrossEntropyLoss, not shifted
        "vocab_size": VOCABULARY,
        "d_model": 16,
        "decoder_layers": 2,
        "decoder_attention_heads": 2,
        "decoder_ffn_dim": 24,
        "max_position_embeddings": 64,
        "is_decoder": True,
        "dropout": 0.0,
    },
}


def tiny(kind: str, **changed: Any) -> Any:
    """A model in training mode without dropout."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**CONFIGURATIONS[kind], **changed})).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def tokens(rows: int = 3, length: int = 12) -> dict[str, Tensor]:
    """A batch whose first text has ignored labels."""
    ids = torch.randint(3, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(1))
    labels = ids.clone()
    labels[0, :4] = -100
    return {"input_ids": ids, "labels": labels}


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """A copy of every gradient by name; the model's own are cleared."""
    made = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad(set_to_none=True)
    return made

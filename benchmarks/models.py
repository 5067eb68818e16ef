"""The models that benchmarks run: the embedded one whole, cut to fewer layers for a quick look, or with adapters."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import torch

from polyturn.policies.embedded import embedded_model

Train: TypeAlias = Literal["full", "lora"]
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def load(train: Train = "full", *, layers: int | None = None, seed: int = 0) -> Any:
    """SmolLM2-135M in float32; with ``train="lora"`` adapters of rank 16 on all matrices of its layers, whose second
    factor is drawn and not zero, so that every gradient is. ``layers`` keeps the first ones only."""
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(embedded_model(), dtype=torch.float32)
    if layers is not None:
        model.model.layers = model.model.layers[:layers]
        model.config.num_hidden_layers = layers
        model.config.layer_types = None
    if train == "full":
        return model
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(r=16, lora_alpha=32, target_modules=list(TARGETS), init_lora_weights=False,
                        task_type="CAUSAL_LM")  # fmt: skip
    return get_peft_model(model, config)


def load_tokenizer() -> Any:
    """The embedded model's tokenizer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(embedded_model())

"""A Llama of two layers with random weights and a tokenizer of bytes, built in milliseconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from polyturn.chat import Chat
from polyturn.policies.local import Local
from polyturn.types import FloatArray, IntArray

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_tokenizer(template: str | None = TEMPLATE) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>",
    )
    tokenizer.chat_template = template
    return tokenizer


def tiny_model(seed: int = 0, **changes: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(**{  # type: ignore[arg-type]
        "vocab_size": 258, "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 1024,
        "initializer_range": 0.3, "tie_word_embeddings": False, "bos_token_id": 256, "eos_token_id": 257,
        "pad_token_id": 257, **changes,
    })
    return LlamaForCausalLM(config)


def tiny_local(model: Any = None, **more: Any) -> Local:
    tokenizer = tiny_tokenizer()
    return Local(tiny_model() if model is None else model, Chat(tokenizer), tokenizer=tokenizer, **more)


def tiny_folder(folder: Path, **changes: Any) -> Path:
    tiny_model(**changes).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@torch.no_grad()
def plain_logprobs(model: Any, prompt: IntArray, ids: IntArray, temperature: float = 1.0) -> FloatArray:
    """log p of each of ``ids`` after ``prompt`` by one plain forward without cache."""
    model.eval()
    path = torch.from_numpy(np.concatenate([prompt, ids]).astype(np.int64))
    logits = model(input_ids=path[None], use_cache=False).logits[0].float() / temperature
    rows = torch.log_softmax(logits[len(prompt) - 1 : -1], -1)
    return rows.gather(1, path[len(prompt) :, None])[:, 0].double().numpy()

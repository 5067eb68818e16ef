"""A model of a few hundred thousand parameters from a configuration, with a tokenizer learned from a task's own texts.

For experiments with many seeds on a laptop: it knows nothing, learns a small task in minutes, and takes the same path
through sampler and learner as any other model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from polyturn.chat import Chat
from polyturn.errors import BadInput
from polyturn.policies.local import CACHE_BYTES, Local, with_lora

TINY = "tiny"
START, END = "<|im_start|>", "<|im_end|>"
TEMPLATE = (
    "{%- if tools %}{{ '<|im_start|>tools' }}{% for tool in tools %}{{ ' ' + tool.function.name }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endif %}"
    "{%- for m in messages %}{{ '<|im_start|>' + m.role + '\n' + (m.content or '') }}"
    "{%- for call in m.tool_calls or [] %}"
    "{{ '<tool_call>\n{\"name\": \"' + call.function.name + '\", \"arguments\": ' + call.function.arguments | tojson }}"
    "{{ '}\n</tool_call>' }}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""ChatML with the names of the tools and calls as in Hermes; tools are not described, to keep prompts short."""
FRAME = "system user assistant tool tools<tool_call>\n{\"name\": \"\", \"arguments\": {\"\": \"\"}}\n</tool_call>"


def open_model(
    model: str, texts: Callable[[], Sequence[str]], *, seed: int = 0, dtype: Literal["float32", "bfloat16"] = "float32",
    deterministic: bool = False, lora: int | None = None, cache_bytes: int = CACHE_BYTES, name: str = "main",
    progress: Callable[[str], None] | None = None,
) -> Local:
    """The policy that a recipe's setting ``model`` names: ``""`` = the embedded SmolLM2-135M-Instruct, ``"tiny"`` = a
    fresh tiny model whose tokenizer is learned from ``texts()``, anything else = a folder of transformers.

    ``seed`` fixes the tiny model's first weights. Raises: BadInput as :meth:`polyturn.policies.local.Local.load`.
    """
    if model != TINY:
        return Local.load(
            model or None, name=name, dtype=dtype, deterministic=deterministic, lora=lora, cache_bytes=cache_bytes,
            progress=progress,
        )
    tokenizer = learned_tokenizer(texts())
    fresh = tiny_model(len(tokenizer), seed)
    return Local(
        with_lora(fresh, lora) if lora else fresh, Chat(tokenizer), name=name, dtype=dtype,
        deterministic=deterministic, cache_bytes=cache_bytes, tokenizer=tokenizer,
    )


def learned_tokenizer(texts: Sequence[str], *, size: int = 640) -> Any:
    """A byte-level BPE tokenizer of at most ``size`` ids that reads every text: frequent words of ``texts`` become one
    id, unknown ones are spelled in bytes. The same texts give the same tokenizer.

    Raises: BadInput for no texts, or texts that are all empty.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    if not any(text.strip() for text in texts):
        raise BadInput("a tiny model's tokenizer is learned from the task's texts, and there are none")
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=size, min_frequency=2, show_progress=False, initial_alphabet=letters,
        special_tokens=[AddedToken(START, special=True), AddedToken(END, special=True)],
    )
    backend.train_from_iterator([*texts, *[FRAME] * 4], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=START, eos_token=END, pad_token=END)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def tiny_model(vocabulary: int, seed: int, **changes: Any) -> Any:
    """A Llama of two layers, 96 wide, with random weights from ``seed``; ``changes`` go to its configuration.

    Weights start with a deviation of 0.1, about one over the root of the width, so that attention is not uniform from
    the beginning: with the usual 0.02, hundreds of updates pass before the model copies from what it reads. The
    process's own random state is left as it was.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    shape: dict[str, Any] = {
        "vocab_size": vocabulary, "hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 2048,
        "tie_word_embeddings": True, "initializer_range": 0.1, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1,
        **changes,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(LlamaConfig(**shape))


def is_tiny(model: str | Path) -> bool:
    """Whether a setting ``model`` names the tiny model."""
    return str(model) == TINY

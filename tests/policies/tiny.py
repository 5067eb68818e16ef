"""A Llama of two layers with random weights and a tokenizer of bytes, built in milliseconds; dialogues with it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from polyturn.chat import Chat
from polyturn.ledger import Ledger
from polyturn.policies.local import Local
from polyturn.policies.sampler.choose import ENGINES
from polyturn.protocols import Completion
from polyturn.types import FloatArray, IntArray, Message, Sampling, system, user

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

every_engine = pytest.mark.parametrize("engine", ENGINES)


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
    path = torch.from_numpy(np.concatenate([prompt, ids]).astype(np.int64)).to(model.device)
    logits = model(input_ids=path[None], use_cache=False).logits[0].float() / temperature
    rows = torch.log_softmax(logits[len(prompt) - 1 : -1], -1)
    return rows.gather(1, path[len(prompt) :, None])[:, 0].double().cpu().numpy()


def fed(completion: Completion) -> IntArray:
    return np.concatenate([piece.ids for piece in completion.prompt])


def said_ids(completion: Completion) -> IntArray:
    assert completion.ids is not None
    return completion.ids


def gap(model: Any, completion: Completion, temperature: float = 1.0) -> float:
    """How far the log-probabilities of a reply are from those of one plain forward, at most."""
    expected = plain_logprobs(model, fed(completion), said_ids(completion), temperature)
    assert completion.logprobs is not None and completion.logprobs.shape == expected.shape
    return float(np.abs(expected - completion.logprobs).max())


def worst_gap(model: Any, said: Sequence[Sequence[Completion]]) -> float:
    return max(gap(model, completion) for dialogue in said for completion in dialogue)


async def talk(policy: Local, seed: int, turns: int, sampling: Sampling) -> list[Completion]:
    """A dialogue whose replies are spliced into the later prompts, as the ledger does it."""
    ledger = Ledger("agent", policy.name)
    messages: list[Message] = [system("Answer."), user(f"hello {seed}")]
    said = []
    for turn in range(turns):
        own = replace(sampling, seed=1000 * seed + turn)
        completion = await policy.sample(messages, sampling=own, written=ledger.written)
        spans = ledger.write(ledger.place(completion.prompt), completion)
        own_spans = tuple(("agent", policy.name, span) for span in spans)
        messages += [Message("assistant", completion.message.parts, spans=own_spans), user(f"and then, {turn}?")]
        said.append(completion)
    return said


async def talks(
    policy: Local, seeds: Sequence[int], turns: int, sampling: Sampling, at_once: int
) -> list[list[Completion]]:
    """Dialogues, some at once."""
    gate = asyncio.Semaphore(at_once)

    async def one(seed: int) -> list[Completion]:
        async with gate:
            return await talk(policy, seed, turns, sampling)

    return list(await asyncio.gather(*(one(seed) for seed in seeds)))


@torch.no_grad()
def every_logit(model: Any, completion: Completion) -> torch.Tensor:
    """The logits that each id of a reply was drawn from, [ids, V]."""
    ids = said_ids(completion)
    path = torch.from_numpy(np.concatenate([fed(completion), ids]).astype(np.int64)).to(model.device)
    out: torch.Tensor = model(input_ids=path[None], use_cache=False).logits[0, -len(ids) - 1 : -1]
    return out.cpu()

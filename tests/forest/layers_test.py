"""Layers in two pieces against the layer's own forward: values, gradients, and when they step aside."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import transformers
from peft import LoraConfig, get_peft_model
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from polyturn.forest import layers
from polyturn.forest.model import Forest
from polyturn.learn.gradient import before
from tests.tiny import SHAPE, random_tokens, stirred, tiny_llama


def both(model: Any, monkeypatch: pytest.MonkeyPatch, dtype: str | None = None) -> list[list[torch.Tensor]]:
    """[log-probabilities, gradients ...] by the pieces, and by the layers' own forward."""
    forest = Forest(model, dtype=dtype)
    tokens = random_tokens(np.random.default_rng(0), trajectories=6)
    learning = [p for p in model.parameters() if p.requires_grad]
    found, used = [], []
    for kinds in (layers.KINDS, set()):
        monkeypatch.setattr(layers, "KINDS", kinds)
        hidden = forest.hidden(tokens.tree, before(tokens))
        value, _ = forest.logprobs(hidden, tokens.id_N, tokens.temperature_N, {})
        weight = torch.linspace(-1, 2, len(value))
        found.append([value, *torch.autograd.grad((value * weight).sum(), learning)])
        used.append("_Gate" in names(hidden.grad_fn))
    assert used == [True, False]
    return found


def names(node: Any) -> str:
    """The names of all functions behind a result."""
    seen, stack = set(), [node]
    while stack:
        one = stack.pop()
        if one is not None and one not in seen:
            seen.add(one)
            stack += [above for above, _ in one.next_functions]
    return " ".join(type(one).__name__ for one in seen)


def apart(one: list[torch.Tensor], other: list[torch.Tensor]) -> float:
    gap = sum(float((a - b).double().square().sum()) for a, b in zip(one, other, strict=True))
    return float((gap / sum(float(b.double().square().sum()) for b in other)) ** 0.5)


MODELS = {
    "llama": lambda: tiny_llama(torch.float32),
    "llama with biases": lambda: tiny_llama(torch.float32, attention_bias=True),
    "qwen2": lambda: stirred(transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**SHAPE))),
    "mistral": lambda: stirred(transformers.MistralForCausalLM(
        transformers.MistralConfig(**SHAPE, sliding_window=None))),
}  # fmt: skip


@pytest.mark.parametrize("family", MODELS)
def test_equal_to_the_layers_own_forward(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces, own = both(MODELS[family](), monkeypatch)
    assert float((pieces[0] - own[0]).detach().abs().max()) < 1e-5
    assert apart(pieces[1:], own[1:]) < 1e-5


def test_adapters_learn_the_same_and_frozen_weights_get_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    config = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    pieces, own = both(get_peft_model(tiny_llama(torch.float32), config), monkeypatch)
    assert apart(pieces, own) < 1e-5


def test_in_bfloat16_both_are_as_far_from_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_llama(torch.float32)
    exact, _ = both(model, monkeypatch)
    monkeypatch.undo()
    pieces, own = both(model, monkeypatch, "bfloat16")
    for part in (slice(0, 1), slice(1, None)):
        assert apart(pieces[part], exact[part]) < 1.3 * apart(own[part], exact[part])


def test_layers_step_aside_for_hooks_and_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_llama(torch.float32)
    seen: list[int] = []
    model.model.layers[0].mlp.up_proj.register_forward_hook(lambda *_: seen.append(1))
    Forest(model).hidden(random_tokens(np.random.default_rng(0)).tree, np.array([3], np.int32))
    assert seen
    windowed = stirred(transformers.MistralForCausalLM(transformers.MistralConfig(**SHAPE, sliding_window=4)))
    forest = Forest(windowed)
    hidden = forest.hidden(random_tokens(np.random.default_rng(0)).tree, np.array([30], np.int32))
    assert forest.exact and "_Gate" not in names(hidden.grad_fn)
    with pytest.raises(AssertionError):
        both(windowed, monkeypatch)


def test_sharded_layers_are_computed_in_pieces_too_and_give_their_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    # One process in a group of its own: its shards are whole, and the hooks gather and free them all the same.
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo" if sys.platform == "linux" else "lo0")
    tokens, found = random_tokens(np.random.default_rng(0), trajectories=6), []
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        for sharded in (False, True):
            model = tiny_llama(torch.float32)
            forest = Forest(model)
            for module in (*forest.layers, forest.body) if sharded else ():
                fully_shard(module, mesh=mesh)
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)
            hidden = forest.hidden(tokens.tree, before(tokens))
            assert "_Gate" in names(hidden.grad_fn)
            (hidden * torch.linspace(-1, 2, hidden.numel()).view_as(hidden)).sum().backward()
            grads = [p.grad.full_tensor() if sharded else p.grad for p in model.model.parameters()]
            found.append([hidden.detach(), *grads])
    finally:
        dist.destroy_process_group()
    for plain, gathered in zip(*found, strict=True):
        assert float(plain.norm()) > 0 and torch.equal(plain, gathered)

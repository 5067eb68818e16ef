"""The forest against plain forwards of each path: families, adapters, threads, recomputation, supports."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from polyturn.arrays import Tokens
from polyturn.errors import BadInput, NotFinite
from polyturn.forest.model import Forest, supports
from polyturn.learn.gradient import before
from tests.tiny import SHAPE, plain_logprobs, random_tokens, random_tree, stirred, tiny_llama, tokens_of

LLAMA = tiny_llama()
FOREST = Forest(LLAMA)


def forest_logprobs(forest: Forest, tokens: Tokens, chunk: int = 256) -> torch.Tensor:
    hidden = forest.hidden(tokens.tree, before(tokens))
    return forest.logprobs(hidden, tokens.id_N, tokens.temperature_N, tokens.support, chunk=chunk)[0]


def gradients(value: torch.Tensor, model: Any) -> torch.Tensor:
    weight = torch.linspace(-1, 2, len(value), dtype=value.dtype)
    learning = [p for p in model.parameters() if p.requires_grad]
    found = torch.autograd.grad((value * weight).sum(), learning, allow_unused=True)
    return torch.cat([torch.zeros_like(p).flatten() if g is None else g.flatten()
                      for g, p in zip(found, learning, strict=True)])  # fmt: skip


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 40), st.integers(1, 6))
def test_random_trees_equal_plain_paths(seed: int, nodes: int, reach: int) -> None:
    draw = np.random.default_rng(seed)
    tree = random_tree(draw, nodes, reach=reach)
    wanted = sorted({int(n) for n in draw.integers(1, nodes, 6)})
    heat = [float(t) for t in draw.uniform(0.5, 2.0, len(wanted))]
    own = int(tree.id_U[wanted[0]])
    tokens = tokens_of(tree, wanted, temperature_N=heat, support={0: sorted({own, 3, 17, 40})})
    found, expected = forest_logprobs(FOREST, tokens, chunk=2), plain_logprobs(LLAMA, tokens)
    assert float((found - expected).abs().max()) < 1e-9
    # Llama's norms compute in float32 whatever the weights, so gradients agree to that.
    assert apart(gradients(found, LLAMA), gradients(expected, LLAMA)) < 1e-6


@pytest.mark.parametrize("windows", [False, True])
def test_float32_gradients_are_equal(windows: bool) -> None:
    model = tiny_llama(torch.float32)
    tokens = random_tokens(np.random.default_rng(0), windows=windows)
    found, expected = forest_logprobs(Forest(model), tokens), plain_logprobs(model, tokens)
    assert float((found - expected).abs().max()) < 1e-5
    assert apart(gradients(found, model), gradients(expected, model)) < 1e-5


def test_entropy_by_hand() -> None:
    # Head of zeros: 61 equal logits, entropy log 61; over a support of two ids log 2 at any temperature.
    model = tiny_llama()
    forest = Forest(model)
    torch.nn.init.zeros_(model.lm_head.weight)
    tokens = tokens_of(random_tree(np.random.default_rng(0), 4, reach=1), [1, 2], temperature_N=[1.0, 3.0])
    support = {1: np.array([int(tokens.id_N[1]), 60], np.int32)}
    hidden = forest.hidden(tokens.tree, before(tokens))
    logprob_N, entropy_N = forest.logprobs(hidden, tokens.id_N, tokens.temperature_N, support)
    assert entropy_N.tolist() == pytest.approx([np.log(61), np.log(2)])
    assert logprob_N.tolist() == pytest.approx([-np.log(61), -np.log(2)])
    assert bool(torch.isfinite(gradients(entropy_N, model)).all())


def test_a_token_outside_its_support_is_refused() -> None:
    tokens = tokens_of(random_tree(np.random.default_rng(0), 4, reach=1), [2], support={0: [60]})
    assert int(tokens.id_N[0]) != 60
    with pytest.raises(BadInput, match=r"token 0 has id \d+, which is not among the 1 ids of its support"):
        forest_logprobs(FOREST, tokens)


WINDOW = {"sliding_window": 4}
HEAD = {"head_dim": 8, "query_pre_attn_scalar": 8}
FAMILIES: dict[str, Callable[[], Any]] = {
    "qwen2 with windows": lambda: transformers.Qwen2ForCausalLM(
        transformers.Qwen2Config(**SHAPE, **WINDOW, use_sliding_window=True, max_window_layers=1)),
    "qwen3": lambda: transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**SHAPE, head_dim=8)),
    "mistral": lambda: transformers.MistralForCausalLM(transformers.MistralConfig(**SHAPE, **WINDOW)),
    "gemma2": lambda: transformers.Gemma2ForCausalLM(transformers.Gemma2Config(
        **SHAPE, **WINDOW, **HEAD, attn_logit_softcapping=2.0, final_logit_softcapping=3.0)),
    "gemma3": lambda: transformers.Gemma3ForCausalLM(transformers.Gemma3TextConfig(**SHAPE, **WINDOW, **HEAD)),
    "granite": lambda: transformers.GraniteForCausalLM(transformers.GraniteConfig(**SHAPE, logits_scaling=3.0)),
    "gpt2": lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config(
        vocab_size=61, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2)),
}  # fmt: skip
OTHERS: dict[str, tuple[Callable[[], Any], str]] = {
    "bloom": (lambda: transformers.BloomForCausalLM(
        transformers.BloomConfig(vocab_size=61, hidden_size=32, n_layer=2, n_head=4)),
        "BloomModel is run path by path"),
    "mpt": (lambda: transformers.MptForCausalLM(
        transformers.MptConfig(vocab_size=61, d_model=32, n_layers=2, n_heads=4)), "0 of 2 layers use the attention"),
    "gpt_oss": (lambda: transformers.GptOssForCausalLM(transformers.GptOssConfig(
        **SHAPE, head_dim=8, num_local_experts=4, num_experts_per_tok=2, rope_parameters={
            "rope_type": "default", "rope_theta": 1e4})), "attention with \\['s_aux'\\]"),
    "dynamic positions": (lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE, rope_parameters={
        "rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4})), r"rotary positions \(dynamic\) depend"),
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_families_equal_plain_paths(family: str) -> None:
    model = stirred(FAMILIES[family]()).double()
    assert supports(model) == (True, "its attention sees paths, its positions are depths")
    tokens = random_tokens(np.random.default_rng(1))
    found, expected = forest_logprobs(Forest(model), tokens), plain_logprobs(model, tokens)
    assert float((found - expected).abs().max()) < 1e-5
    assert apart(gradients(found, model), gradients(expected, model)) < 1e-5


@pytest.mark.parametrize("family", OTHERS)
def test_what_cannot_run_over_trees_runs_path_by_path_and_says_why(family: str) -> None:
    make, reason = OTHERS[family]
    model = stirred(make())
    attention = model.config._attn_implementation
    forest = Forest(model)
    assert not forest.exact
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(forest.reason)
    assert model.config._attn_implementation == attention
    tokens = random_tokens(np.random.default_rng(1), turns=2)
    found, expected = forest_logprobs(forest, tokens), plain_logprobs(model, tokens)
    assert float((found - expected).abs().max()) < 1e-5
    assert apart(gradients(found, model), gradients(expected, model)) < 1e-4


def test_a_changed_projection_is_refused() -> None:
    class Shifted(transformers.LlamaForCausalLM):  # type: ignore[misc]
        def forward(self, *args: Any, **more: Any) -> Any:
            found = super().forward(*args, **more)
            found.logits[..., 5] += 1.0
            return found

    with pytest.raises(BadInput, match="changes its logits after the projection"):
        Forest(stirred(Shifted(transformers.LlamaConfig(**SHAPE))))


def test_broken_weights_are_refused() -> None:
    model = tiny_llama()
    torch.nn.init.constant_(model.model.norm.weight, float("nan"))
    with pytest.raises(NotFinite, match="its weights are broken"):
        Forest(model)


def test_adapters_recomputed_layers_and_copies() -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(tiny_llama(), LoraConfig(r=4, target_modules=["q_proj", "v_proj", "up_proj"]))
    stirred(model, 3)
    tokens = random_tokens(np.random.default_rng(2))
    expected = plain_logprobs(model, tokens)
    grads = gradients(expected, model)
    for recompute in (False, True):
        forest = Forest(model, recompute=recompute)
        found = forest_logprobs(forest, tokens)
        assert float((found - expected).abs().max()) < 1e-9
        assert apart(gradients(found, model), grads) < 1e-6
    twin = copy.deepcopy(model)
    stirred(twin, 4)
    assert float((forest_logprobs(Forest(twin), tokens) - plain_logprobs(twin, tokens)).abs().max()) < 1e-9


def test_recomputing_keeps_fewer_activations() -> None:
    def kept(recompute: bool) -> int:
        model = tiny_llama()
        forest = Forest(model, recompute=recompute)
        tokens = random_tokens(np.random.default_rng(2), trajectories=20)
        weights = {p.data_ptr() for p in model.parameters()}
        sizes: dict[int, int] = {}

        def pack(x: torch.Tensor) -> torch.Tensor:
            if x.data_ptr() not in weights:
                sizes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            found = forest.hidden(tokens.tree, before(tokens))
            total = sum(sizes.values())
            del found
        return total

    assert kept(True) * 4 < kept(False)


def test_no_square_mask_is_made() -> None:
    # 3,000 nodes: a mask of every node on every node would be 9 million entries.
    tree = random_tree(np.random.default_rng(0), 3000, reach=2)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest = max(largest, out.numel())
            return out

    with torch.no_grad(), Watch():
        FOREST.hidden(tree, np.arange(3000, dtype=np.int32))
    assert largest < 3000 * 200


@pytest.mark.parametrize("budget", [0, 2**25])
def test_logits_are_kept_within_a_budget_only(budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polyturn.forest.head.KEPT", budget)
    tokens = random_tokens(np.random.default_rng(0), trajectories=20)
    hidden = FOREST.hidden(tokens.tree, before(tokens)).detach().requires_grad_()
    kept = 0

    def pack(x: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept = max(kept, x.numel() if x.shape[-1] == 61 else 0)
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        value, _ = FOREST.logprobs(hidden, tokens.id_N, tokens.temperature_N, {}, chunk=8)
    value.sum().backward()
    assert len(tokens) > 80
    assert kept == (len(tokens) * 61 if budget else 0)
    whole = torch.log_softmax(LLAMA.lm_head(hidden), -1).gather(1, torch.tensor(tokens.id_N.astype(np.int64))[:, None])
    grad = torch.autograd.grad(whole.sum(), hidden)[0]
    assert hidden.grad is not None
    assert apart(hidden.grad, grad) < 1e-12


def test_another_thread_may_call_the_model_plainly() -> None:
    model = tiny_llama()
    forest = Forest(model, recompute=True)
    tokens = random_tokens(np.random.default_rng(3))
    ids = torch.arange(3, 40)[None]
    alone = forest_logprobs(forest, tokens)
    grads = gradients(alone, model)
    with torch.no_grad():
        plain = model(input_ids=ids).logits
    calls, wrong, done = 0, 0, threading.Event()

    def sample() -> None:
        nonlocal calls, wrong
        with torch.no_grad():
            while not done.is_set():
                out = model(input_ids=ids[:, :20], use_cache=True)
                rest = model(input_ids=ids[:, 20:], past_key_values=out.past_key_values).logits
                both = torch.cat([out.logits, rest], 1)
                wrong += not torch.allclose(both, plain, atol=1e-6)
                calls += 1

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        for _ in range(20):
            found = forest_logprobs(forest, tokens)
            assert torch.equal(found, alone)
            assert torch.equal(gradients(found, model), grads)
    finally:
        done.set()
        thread.join()
    assert calls > 3
    assert wrong == 0


def test_attention_changed_behind_the_forest_is_an_error() -> None:
    model = tiny_llama()
    forest = Forest(model)
    model.set_attn_implementation("sdpa")
    with pytest.raises((BadInput, TypeError), match="forest"):
        forest_logprobs(forest, random_tokens(np.random.default_rng(0)))


def test_a_saved_model_loads_unchanged(tmp_path: Any) -> None:
    model = tiny_llama(torch.float32)
    Forest(model)
    model.save_pretrained(tmp_path)
    assert "forest" not in (tmp_path / "config.json").read_text()
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.arange(3, 20)[None]
    assert torch.equal(again(input_ids=ids).logits, model(input_ids=ids).logits)

"""The sampling twin: shared or copied weights, LoRA merged, the training model left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from polyturn.errors import PolicyFailed
from polyturn.policies.local import Local, load_folder
from polyturn.policies.sampler.weights import Packed, packs, refresh, twin_of
from polyturn.types import Sampling, user
from tests.policies.tiny import gap, tiny_folder, tiny_local, tiny_model


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
async def test_publish_brings_the_new_weights_and_drops_old_caches(dtype: Any) -> None:
    model = tiny_model()
    policy = tiny_local(model, dtype=dtype)
    greedy = Sampling(temperature=0, max_tokens=20)
    before = await policy.sample((user("hi"),), sampling=greedy)
    hashed = policy.info().weights_sha256
    with torch.no_grad():
        for parameter in model.parameters():
            more = 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
            parameter.add_(more.to(parameter.device))
    if dtype == "float32":
        with pytest.raises(PolicyFailed, match="publish"):
            await policy.sample((user("hi"),), sampling=greedy)
    else:
        same = await policy.sample((user("hi"),), sampling=greedy)
        assert same.ids is not None and before.ids is not None
        assert same.ids.tolist() == before.ids.tolist() and same.version == 0
    policy.publish(7)
    after = await policy.sample((user("hi"),), sampling=greedy)
    assert (after.version, after.usage.cached_tokens, policy.info().version) == (7, 0, 7)
    assert policy.info().weights_sha256 != hashed
    assert after.ids is not None
    assert gap(model, after) < (1e-4 if dtype == "float32" else 0.3)
    policy.close()


async def test_sampling_leaves_the_training_model_alone() -> None:
    model = tiny_model()
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    policy = tiny_local(model)
    await policy.sample((user("hi"),), sampling=Sampling(max_tokens=3, seed=0))
    assert model.training and not policy.sampling_model.training
    assert model.config._attn_implementation == "sdpa"
    assert all(torch.equal(before[name], value.cpu()) for name, value in model.state_dict().items())
    shared = {p.data_ptr() for p in model.parameters()}
    assert all(p.data_ptr() in shared for p in policy.sampling_model.parameters())
    policy.close()


async def test_lora_is_merged_for_sampling_and_peft_loads_it_unchanged(tmp_path: Path) -> None:
    from peft import PeftModel

    base = tiny_folder(tmp_path / "base")
    policy = Local.load(base, lora=4)
    trained = [name for name, parameter in policy.model.named_parameters() if parameter.requires_grad]
    assert len(trained) == 2 * 2 * 7  # A and B of seven matrices in two layers
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                drawn = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name)))
                parameter.copy_(drawn)
    policy.publish(1)
    sampled = await policy.sample((user("hi"),), sampling=Sampling(seed=3, max_tokens=12))
    assert sampled.ids is not None
    assert gap(policy.model, sampled) < 1e-4
    assert gap(tiny_model(), sampled) > 0.1
    policy.save(tmp_path / "adapter")
    again: Any = PeftModel.from_pretrained(load_folder(base)[0], str(tmp_path / "adapter"))
    assert gap(again, sampled) < 1e-4
    loaded = Local.load(tmp_path / "adapter")
    same = await loaded.sample((user("hi"),), sampling=Sampling(seed=3, max_tokens=12))
    assert same.ids is not None and same.ids.tolist() == sampled.ids.tolist()
    policy.close()
    loaded.close()


def test_tied_weights_stay_tied_in_another_dtype() -> None:
    model = tiny_model(tie_word_embeddings=True)
    policy = tiny_local(model, dtype="bfloat16")
    twin = policy.sampling_model
    assert twin.lm_head.weight is twin.model.embed_tokens.weight and twin.dtype == torch.bfloat16
    assert model.dtype == torch.float32
    policy.close()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_products_are_those_of_the_layer_and_are_packed_again(dtype: torch.dtype) -> None:
    layer = torch.nn.Linear(160, 224).to(dtype).requires_grad_(False)
    packed = Packed(layer)
    for scale in (1.0, -3.0):
        layer.weight.mul_(scale)
        packed.pack()
        for rows in (1, 7, 300):
            x = torch.randn(1, rows, 160, generator=torch.Generator().manual_seed(rows)).to(dtype)
            expected = torch.nn.functional.linear(x.double(), layer.weight.double(), layer.bias.double())
            apart = (packed(x).double() - expected).abs().max() / expected.abs().max()
            assert packed(x).dtype == dtype and apart < (1e-6 if dtype == torch.float32 else 0.01)


def test_large_matrices_are_packed_unless_rows_must_not_depend_on_each_other() -> None:
    model = tiny_model(hidden_size=96, intermediate_size=192)
    packed, fixed = (twin_of(model, torch.bfloat16, fixed=fixed) for fixed in (False, True))
    assert packs(packed.lm_head.weight) and isinstance(packed.model.layers[0].mlp.up_proj.forward, Packed)
    assert not any(isinstance(module.forward, Packed) for module in fixed.modules())
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.mul_(2)
    x = torch.ones(1, 96, dtype=torch.bfloat16)
    before = packed.model.layers[0].mlp.up_proj(x)
    refresh(packed, model)
    assert torch.equal(packed.model.layers[0].mlp.up_proj(x), 2 * before)

"""A model told in JSON and built again: the same parameters, of a plain model and of one with an adapter."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

from polyturn.errors import BadInput
from polyturn.policies.local import with_lora
from polyturn.policies.skeleton import built, check_whole, described
from polyturn.policies.tiny import tiny_model


def small(**changes: Any) -> Any:
    return tiny_model(61, 0, **changes)


@pytest.mark.parametrize("model", [small(), with_lora(small(), 4), small(tie_word_embeddings=False)])
def test_a_model_is_built_again_from_json_alone(model: Any) -> None:
    told = json.loads(json.dumps(described(model)))
    again = built(told)
    names = {name: (p.shape, p.dtype, p.requires_grad) for name, p in model.named_parameters()}
    assert {name: (p.shape, p.dtype, p.requires_grad) for name, p in again.named_parameters()} == names
    assert {name for name, _ in again.named_buffers()} == {name for name, _ in model.named_buffers()}
    assert all(p.is_meta for p in again.parameters())
    again.to_empty(device="cpu").load_state_dict(model.state_dict())
    for (_, mine), (_, theirs) in zip(again.named_buffers(), model.named_buffers(), strict=True):
        mine.copy_(theirs)
    check_whole(again)
    ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        assert torch.equal(again.eval()(input_ids=ids).logits, model.eval()(input_ids=ids).logits)


def test_what_no_configuration_describes_is_refused() -> None:
    changed = small()
    changed.model.layers[1].mlp.up_proj = nn.Linear(96, 256, bias=True)
    with pytest.raises(BadInput, match=r"another model: 'model.layers.1.mlp.up_proj.bias' is missing there"):
        built(described(changed))
    with pytest.raises(BadInput, match="Linear has no configuration"):
        described(nn.Linear(2, 2))
    two = with_lora(small(), 2)
    two.add_adapter("second", two.peft_config["default"])
    with pytest.raises(BadInput, match=r"adapters \['default', 'second'\]"):
        described(two)


def test_a_tensor_without_numbers_is_told_with_its_place() -> None:
    model = built(described(small()))
    with pytest.raises(BadInput, match="keeps a tensor"):
        check_whole(model)

"""A model's structure without its weights, told in JSON, so that another process can build the same one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import Enum
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from polyturn.errors import BadInput
from polyturn.forest.attention import PREFIX, attention_name, causal_model


def described(model: Any) -> dict[str, Any]:
    """What :func:`built` needs: the configuration of a transformers model, of a peft model its adapter's besides, and
    name, shape, type and learning of every parameter.

    Raises: BadInput for a model with several adapters, or what is no model of transformers.
    """
    inner = causal_model(model)
    if not hasattr(inner, "config"):
        raise BadInput(f"{type(inner).__name__} has no configuration, so other processes cannot build it; expected a "
                       "model of transformers, or a peft model around one")
    adapters = getattr(model, "peft_config", {}) if model is not inner else {}
    if len(adapters) > 1:
        raise BadInput(f"the model has the adapters {sorted(adapters)}; on several ranks it may have one")
    return {
        "config": json.loads(inner.config.to_json_string(use_diff=False)),
        "attention": attention_name(inner).removeprefix(PREFIX),
        "dtype": str(next(inner.parameters()).dtype).removeprefix("torch."),
        "adapter": {name: _plain(adapter.to_dict()) for name, adapter in adapters.items()},
        "parameters": {name: _shape(p) for name, p in model.named_parameters()},
    }


def built(told: Mapping[str, Any]) -> Any:
    """The model that was described, on the device ``meta``, where tensors have shapes and no numbers.

    Raises: BadInput where the parameters come out as others than those described.
    """
    config = AutoConfig.for_model(**told["config"])
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(
            config, attn_implementation=told["attention"], dtype=getattr(torch, told["dtype"]))
        for name, adapter in told["adapter"].items():
            from peft import PeftConfig, get_peft_model

            model = get_peft_model(model, PeftConfig.from_peft_type(**adapter), adapter_name=name)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(bool(told["parameters"].get(name, [False])[-1]))
    found = {name: _shape(p) for name, p in model.named_parameters()}
    if found != told["parameters"]:
        other = sorted(n for n in found.keys() | told["parameters"].keys() if found.get(n) != told["parameters"].get(n))
        raise BadInput(
            f"a {type(causal_model(model)).__name__} built from its configuration is another model: {other[0]!r} is "
            f"{found.get(other[0], 'missing')} there and {told['parameters'].get(other[0], 'missing')} here; only "
            "models that their configuration describes can learn on several ranks"
        )
    return model


def check_whole(model: nn.Module) -> None:
    """Passes if no tensor of the model is left without numbers. Raises: BadInput with its place."""
    for place, module in model.named_modules():
        kept = {name: value for name, value in vars(module).items() if isinstance(value, torch.Tensor)}
        for name, value in {**kept, **module._buffers, **module._parameters}.items():
            if value is not None and value.is_meta:
                raise BadInput(f"{type(module).__name__} keeps a tensor {place}.{name} that is neither parameter nor "
                               "buffer, so other processes cannot build it; train it in one process")


def _shape(parameter: nn.Parameter) -> list[Any]:
    """Shape, type, whether it learns."""
    return [list(parameter.shape), str(parameter.dtype), parameter.requires_grad]


def _plain(value: Any) -> Any:
    """The value as JSON: sets as sorted lists, members of an enumeration as their values."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return _plain(value.value) if isinstance(value, Enum) else value

"""The sampling copy of a model: its own modules over shared or converted weights, with LoRA merged in."""

from __future__ import annotations

import copy
from types import MethodType
from typing import Any

import torch
from torch import nn

from polyturn.errors import BadInput
from polyturn.forest.products import onednn_is_faster, product


def twin_of(model: nn.Module, dtype: torch.dtype, *, fixed: bool = False) -> Any:
    """A model for sampling that never changes ``model``: own modules, configuration and training flag.

    In ``model``'s own dtype it shares the parameters, so that an optimizer step is seen at once; only weights under a
    LoRA adapter are its own (base + scaling * B A, filled by :func:`refresh`). In another dtype all are copies. Its
    linear layers multiply by :func:`polyturn.forest.products.product`, unless ``fixed``: then as torch does, with rows
    whose bits do not depend on their place.
    """
    source = base_of(model)
    shared = {id(tensor): tensor for tensor in (*source.parameters(), *source.buffers())}
    twin = copy.deepcopy(source, dict(shared))
    _unwrap(twin)
    converted: dict[int, nn.Parameter] = {}
    for module in twin.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.dtype != dtype and parameter.is_floating_point():
                if id(parameter) not in converted:  # tied weights stay one
                    converted[id(parameter)] = nn.Parameter(parameter.detach().to(dtype), requires_grad=False)
                setattr(module, name, converted[id(parameter)])
    twin.eval()
    if dtype == torch.float32 and not fixed and onednn_is_faster():
        for module in twin.modules():
            if type(module) is nn.Linear:
                module.forward = MethodType(_multiplied, module)  # type: ignore[method-assign]
    refresh(twin, model)
    return twin


def _multiplied(module: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    """What a linear layer makes of ``x``."""
    y = product(x.reshape(-1, x.shape[-1]), module.weight)
    if module.bias is not None:
        y.add_(module.bias)
    return y.view(*x.shape[:-1], -1)


def base_of(model: nn.Module) -> nn.Module:
    """The transformers model inside a peft model, or the model itself."""
    return model.get_base_model() if hasattr(model, "peft_config") else model  # type: ignore[operator]


def _unwrap(twin: nn.Module) -> None:
    """Replaces LoRA layers by plain ones with weights of their own."""
    for name, module in list(twin.named_modules()):
        if hasattr(module, "base_layer"):
            layer = module.base_layer
            if not isinstance(layer, nn.Linear) or not hasattr(module, "get_delta_weight"):
                raise BadInput(f"the adapter at {name} is no LoRA of a linear layer; merge it into the model first")
            layer.weight = nn.Parameter(layer.weight.detach().clone(), requires_grad=False)
            parent, _, last = name.rpartition(".")
            setattr(twin.get_submodule(parent), last, layer)


@torch.no_grad()
def refresh(twin: nn.Module, model: nn.Module) -> None:
    """Copies the model's weights of now into the twin; shared ones are left as they are."""
    source = base_of(model)
    for name, own in twin.named_parameters():
        path, _, leaf = name.rpartition(".")
        module = source.get_submodule(path)
        if hasattr(module, "base_layer"):
            weight = getattr(module.base_layer, leaf)
            if leaf == "weight":
                for adapter in module.active_adapters:  # type: ignore[union-attr]
                    weight = weight + module.get_delta_weight(adapter)  # type: ignore[operator]
        else:
            weight = getattr(module, leaf)
        if own is not weight:
            own.copy_(weight)

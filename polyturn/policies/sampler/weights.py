"""The sampling copy of a model: its own modules over shared or converted weights, with LoRA merged in."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from polyturn.errors import BadInput
from polyturn.forest.products import onednn_is_faster

PACKED = 2**14
"""Entries of a matrix from which on packing it is worth it."""
ROWS = 32
"""New ids in a forward for which the layout is chosen; measured, it is as good for 8 and for 512."""


def twin_of(model: nn.Module, dtype: torch.dtype, *, fixed: bool = False) -> Any:
    """A model for sampling that never changes ``model``: own modules, configuration and training flag.

    In ``model``'s own dtype it shares the parameters; only weights under a LoRA adapter are its own (base + scaling *
    B A). In another dtype all are copies. On a processor its linear layers multiply by :class:`Packed` copies of
    their weights, unless ``fixed``: then as torch does, with rows whose bits do not depend on their place.
    :func:`refresh` brings what changed in ``model``.
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
    for module in twin.modules():
        if not fixed and type(module) is nn.Linear and packs(module.weight):
            module.forward = Packed(module)  # type: ignore[method-assign, assignment]
    refresh(twin, model)
    return twin


def packs(weight: torch.Tensor) -> bool:
    """Whether oneDNN multiplies by a packed copy of this matrix faster than torch does by itself: bfloat16 where the
    processor has it, float32 as :func:`polyturn.forest.products.onednn_is_faster` says."""
    if weight.device.type != "cpu" or weight.numel() < PACKED or not torch.backends.mkldnn.is_available():
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32 and onednn_is_faster()


class Packed:
    """The forward of a linear layer by a copy of its weight in the order in which oneDNN reads it.

    torch has oneDNN bring the weight into that order at every call, which for few rows is most of the time: a step of
    32 sequences takes two thirds of the time, one of 8 half. :meth:`pack` copies the weight as it is now.
    """

    def __init__(self, layer: nn.Linear) -> None:
        self.layer = layer

    def pack(self) -> None:
        """Takes over the layer's weight."""
        self.weight = torch.ops.mkldnn._reorder_linear_weight(self.layer.weight.detach(), ROWS)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.layer.bias, "none", [], "")
        return found


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
    """Copies the model's weights of now into the twin; shared ones are left as they are, but packed again."""
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
    for layer in twin.modules():
        if isinstance(layer.forward, Packed):
            layer.forward.pack()

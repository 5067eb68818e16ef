"""Attention of a token to its own path, as rectangles: a chain's causal triangle, and what descends from it x its keys.

No mask is built and no key is copied, so time and memory grow with the pairs that exist. The layout travels as the
keyword argument ``forest`` of the model's forward; a call without it is untouched, so that a sampler may use the same
model in another thread.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from polyturn.errors import BadInput
from polyturn.forest.layout import Layout

PREFIX = "forest+"
"""The registered attention is named after the one that it stands in front of: ``forest+sdpa``."""


def tree_attention(query: Tensor, key: Tensor, value: Tensor, layout: Layout, *, scale: float,
                   window: int | None = None, softcap: float | None = None) -> Tensor:  # fmt: skip
    """Attention [1, heads, U, D] in which a row sees its own path.

    ``query``: [1, heads, U, D]; ``key``, ``value``: [1, key heads, U, D], where heads is a multiple of key heads.
    ``window``: a row sees itself and the ``window - 1`` tokens before it. ``softcap``: scores become
    ``softcap * tanh(score / softcap)``.
    """
    query, key = query.to(value.dtype), key.to(value.dtype)  # under autocast the rotary embedding widens them
    if window is not None and window > int(layout.depth_U.max()):
        window = None
    if window is None and softcap is None and query.device.type == "cpu" and value.shape[-1] == query.shape[-1]:
        found: Tensor = _Blocks.apply(query, key, value, layout, scale)  # type: ignore[no-untyped-call]
        return found
    heads = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(heads, 1), value.repeat_interleave(heads, 1)
    rows = []
    for chain in layout.chains:
        own = (chain.start, chain.stop)
        keys, values = (torch.cat([x[:, :, a:b] for a, b in (*chain.above, own)], 2) for x in (key, value))
        seen = _seen(keys.shape[2], chain.stop - chain.start, window, query.device)
        rows.append(_masked(query[:, :, slice(*own)], keys, values, seen, scale=scale, softcap=softcap))
    return torch.cat(rows, 2)


def _seen(keys: int, queries: int, window: int | None, device: torch.device) -> Tensor:
    """[queries, keys]: True where the last ``queries`` of ``keys`` consecutive tokens may look."""
    column = torch.arange(keys, device=device)
    behind = column[keys - queries :, None] - column[None, :]
    return (behind >= 0) if window is None else (behind >= 0) & (behind < window)


def _masked(query: Tensor, key: Tensor, value: Tensor, seen: Tensor, *, scale: float,
            softcap: float | None) -> Tensor:  # fmt: skip
    """Plain attention with an explicit mask (True = seen)."""
    if softcap is None:
        return nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=seen, scale=scale)
    score = softcap * torch.tanh(query @ key.transpose(-1, -2) * scale / softcap)
    wide = torch.promote_types(score.dtype, torch.float32)
    share = torch.softmax(score.masked_fill(~seen, -torch.inf), -1, dtype=wide)
    return share.to(value.dtype) @ value


class _Blocks(torch.autograd.Function):
    """Tree attention as rectangles joined by their log-sum-exp.

    With ``o_c, l_c`` = output and log-sum-exp over the keys of block c: ``l = log sum_c exp(l_c)`` and ``o = sum_c
    exp(l_c - l) o_c``. Given ``l`` and ``o`` of the whole row, the gradient of a block needs that block only.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float) -> Tensor:
        q, k, v = _grouped(query, key, value)
        wide = torch.promote_types(q.dtype, torch.float32)
        out = torch.empty(q.shape, dtype=wide)
        total = torch.empty(q.shape[:-1], dtype=wide)
        for chain in layout.chains:
            own = slice(chain.start, chain.stop)
            out[:, :, own], total[:, :, own] = _flash(q[:, :, own], k[:, :, own], v[:, :, own], True, scale)
        for chain in layout.chains:
            if chain.end > chain.stop:
                own, behind = slice(chain.start, chain.stop), slice(chain.stop, chain.end)
                more, part = _flash(q[:, :, behind], k[:, :, own], v[:, :, own], False, scale)
                joined = torch.logaddexp(total[:, :, behind], part)
                share = torch.exp(part - joined)[..., None]
                out[:, :, behind].lerp_(more.to(wide), share)
                total[:, :, behind] = joined
        out = out.to(q.dtype)
        ctx.save_for_backward(query, key, value, out, total)
        ctx.layout, ctx.scale = layout, scale
        return out.transpose(0, 1).reshape(query.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, total = ctx.saved_tensors
        wide = total.dtype  # the kernel's backward pass in bfloat16 takes twice the time of float32
        q, k, v = _grouped(query.to(wide), key.to(wide), value.to(wide))
        out = out.to(wide)
        grad = grads[0].to(wide).reshape(k.shape[1], -1, *q.shape[2:]).transpose(0, 1)
        grad_q, grad_k, grad_v = (torch.zeros(q.shape, dtype=wide) for _ in range(3))
        for chain in ctx.layout.chains:
            own, behind = slice(chain.start, chain.stop), slice(chain.stop, chain.end)
            for rows, causal in ((own, True), (behind, False)):
                if rows.stop > rows.start:
                    parts = _flash_back(
                        grad[:, :, rows], q[:, :, rows], k[:, :, own], v[:, :, own], out[:, :, rows],
                        total[:, :, rows], 0.0, causal, scale=ctx.scale,
                    )  # fmt: skip
                    for whole, part, place in zip((grad_q, grad_k, grad_v), parts, (rows, own, own), strict=True):
                        whole[:, :, place] += part
        back_q = grad_q.transpose(0, 1).reshape(query.shape).to(query.dtype)
        return back_q, grad_k.sum(0)[None].to(key.dtype), grad_v.sum(0)[None].to(value.dtype), None, None


def _grouped(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[heads / key heads, key heads, U, D] each, as views: queries that share keys stand along the first axis."""
    key_heads, heads = key.shape[1], query.shape[1]
    q = query.reshape(key_heads, heads // key_heads, *query.shape[2:]).transpose(0, 1)
    return q, key.expand(q.shape[0], -1, -1, -1), value.expand(q.shape[0], -1, -1, -1)


def _flash(query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp."""
    found: tuple[Tensor, Tensor] = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, 0.0, causal, scale=scale
    )
    return found


_flash_back: Callable[..., tuple[Tensor, Tensor, Tensor]] = (
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
)


def _attend(forest: Layout, module: nn.Module, query: Tensor, key: Tensor, value: Tensor,
            attention_mask: Tensor | None, **more: Any) -> tuple[Tensor, None]:  # fmt: skip
    """The attention interface of transformers, over a forest."""
    extra = [name for name in ("s_aux", "position_bias", "head_mask") if more.get(name) is not None]
    if extra or more.get("dropout"):
        raise BadInput(f"the forest does not know attention with {extra or 'dropout'}")
    scale = more.get("scaling")
    window = more.get("sliding_window")
    forest.windows[int(getattr(module, "layer_idx", len(forest.windows)))] = window
    found = tree_attention(
        query, key, value, forest, scale=query.shape[-1] ** -0.5 if scale is None else float(scale),
        window=window, softcap=more.get("softcap"),
    )  # fmt: skip
    return found.transpose(1, 2), None


def attach(model: nn.Module) -> None:
    """Puts the forest in front of the model's attention; calls without ``forest`` reach what stood there before."""
    from transformers import AttentionInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

    inner = causal_model(model)
    before = attention_name(inner)
    if before.startswith(PREFIX):
        return
    plain = AttentionInterface._global_mapping.get(before)

    def attention(module: nn.Module, *args: Any, forest: Layout | None = None, **more: Any) -> tuple[Tensor, Any]:
        if forest is not None:
            return _attend(forest, module, *args, **more)
        call = plain or sys.modules[type(module).__module__].eager_attention_forward
        found: tuple[Tensor, Any] = call(module, *args, **more)
        return found

    AttentionInterface.register(PREFIX + before, attention)
    if before in ALL_MASK_ATTENTION_FUNCTIONS:
        AttentionMaskInterface.register(PREFIX + before, ALL_MASK_ATTENTION_FUNCTIONS[before])
    _name_attention(inner, PREFIX + before)


def detach(model: nn.Module) -> None:
    """Undoes :func:`attach`."""
    inner = causal_model(model)
    _name_attention(inner, attention_name(inner).removeprefix(PREFIX))


def attention_name(model: Any) -> str:
    """Name of the attention that a transformers model uses."""
    return str(model.config._attn_implementation)


def _name_attention(inner: nn.Module, name: str) -> None:
    configs = {id(m.config): m.config for m in inner.modules() if hasattr(getattr(m, "config", None), "to_dict")}
    config: Any
    for config in configs.values():
        config._attn_implementation = name


def causal_model(model: Any) -> Any:
    """The transformers model inside a peft model, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model

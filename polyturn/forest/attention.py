"""Attention of a token to its own path, as rectangles: a chain's causal triangle, and what descends from it x its keys.

No mask is built and no key is copied, so time and memory grow with the pairs that exist. (A GPU, on which many small
calls are slow, takes :mod:`polyturn.forest.packed`; windows and soft caps take masks.) The layout travels as the
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
from polyturn.forest import dense, packed
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
    known = supported(query.device, query.dtype, query.shape[-1]) and value.shape[-1] == query.shape[-1]
    if window is None and softcap is None and known:
        found: Tensor = _Attention.apply(query, key, value, layout, scale)  # type: ignore[no-untyped-call]
        return found
    heads = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(heads, 1), value.repeat_interleave(heads, 1)
    whole = by_chains if query.device.type == "cpu" else by_trees
    return whole((query, key, value), layout, window, scale=scale, softcap=softcap)


def by_trees(qkv: tuple[Tensor, ...], layout: Layout, window: int | None, *, scale: float,
             softcap: float | None = None) -> Tensor:  # fmt: skip
    """Attention as one masked call for each tree: a GPU would rather multiply in vain than begin many small calls."""
    rows = []
    for root, seen in zip(layout.roots(), layout.seen(window, qkv[0].device), strict=True):
        query, key, value = (x[:, :, root.start : root.end] for x in qkv)
        rows.append(_masked(query, key, value, seen, scale=scale, softcap=softcap))
    return torch.cat(rows, 2)


def by_chains(qkv: tuple[Tensor, ...], layout: Layout, window: int | None, *, scale: float,
              softcap: float | None = None) -> Tensor:  # fmt: skip
    """Attention chain by chain over copies of the keys above it."""
    query, key, value = qkv
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


def supported(device: torch.device, dtype: torch.dtype, size: int) -> bool:
    """Whether :func:`attend` knows heads of ``size`` numbers of this type there."""
    return device.type == "cpu" or packed.fits(device, dtype, size)


def attend(query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float) -> tuple[Tensor, ...]:
    """The output [1, heads, U, D], and what :func:`attend_back` wants to have kept besides the inputs and it."""
    if query.device.type == "cpu":
        return blocks_forward(query, key, value, layout, scale)
    return packed.forward(query, key, value, layout.packed(query.device), scale)


def attend_back(slope: Tensor, saved: tuple[Tensor, ...], layout: Layout, scale: float) -> tuple[Tensor, ...]:
    """The gradients by query, key and value, given that by the output; ``saved`` = query, key, value and what
    :func:`attend` gave."""
    if slope.device.type == "cpu":
        return blocks_back(slope, saved, layout, scale)
    return packed.backward(slope, saved, layout.packed(slope.device), scale)


class _Attention(torch.autograd.Function):
    """:func:`attend` for layers that take their own forward."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float) -> Tensor:
        out, *kept = attend(query, key, value, layout, scale)
        ctx.save_for_backward(query, key, value, out, *kept)
        ctx.layout, ctx.scale = layout, scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        saved: tuple[Tensor, ...] = ctx.saved_tensors
        parts = attend_back(grads[0], saved, ctx.layout, ctx.scale)
        by_q, by_k, by_v = (part.to(like.dtype) for part, like in zip(parts, saved[:3], strict=True))
        return by_q, by_k, by_v, None, None


def blocks_forward(query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float) -> tuple[Tensor, Tensor]:
    """(output [1, heads, U, D], log-sum-exp of each row) from rectangles joined by their log-sum-exp.

    With ``o_c, l_c`` = output and log-sum-exp over the keys of block c: ``l = log sum_c exp(l_c)`` and ``o = sum_c
    exp(l_c - l) o_c``. Given ``l`` and ``o`` of the whole row, the gradient of a block needs that block only.
    """
    q, k, v = _grouped(query, key, value)
    wide = torch.promote_types(q.dtype, torch.float32)
    out = _like_rows(q, wide)
    total = torch.empty(q.shape[:-1], dtype=wide)
    for chain in layout.chains:
        own = slice(chain.start, chain.stop)
        out[:, :, own], total[:, :, own] = _block((q, k, v), own, own, scale)
    for chain in layout.chains:
        if chain.end > chain.stop:
            own, behind = slice(chain.start, chain.stop), slice(chain.stop, chain.end)
            more, part = _block((q, k, v), behind, own, scale)
            joined = torch.logaddexp(total[:, :, behind], part)
            share = torch.exp(part - joined)[..., None]
            out[:, :, behind].lerp_(more.to(wide), share)
            total[:, :, behind] = joined
    return _ungrouped(out).to(query.dtype), total


def blocks_back(slope: Tensor, saved: tuple[Tensor, ...], layout: Layout, scale: float) -> tuple[Tensor, ...]:
    """The gradients by query, key and value, given that by the output; ``saved`` = query, key, value, output,
    log-sum-exp. They are float32 at least: the kernel's backward pass in bfloat16 takes twice the time of float32."""
    query, key, value, out, total = saved
    wide = total.dtype
    q, k, v = _grouped(query, key, value)
    grad, seen = (_split(x, key.shape[1]) for x in (slope.to(query.dtype), out))
    delta = torch.linalg.vecdot(grad.to(wide), seen.to(wide)) if query.dtype == torch.bfloat16 else total
    grad_q = _like_rows(q, wide).zero_()
    grad_k, grad_v = (torch.zeros(key.shape[1:], dtype=wide) for _ in range(2))
    for chain in layout.chains:
        own, behind = slice(chain.start, chain.stop), slice(chain.stop, chain.end)
        for rows in (own, behind):
            if rows.stop > rows.start:
                parts = _block_back((grad, seen, delta, total), (q, k, v), rows, own, scale)
                grad_q[:, :, rows] += parts[0]
                grad_k[:, own] += parts[1]
                grad_v[:, own] += parts[2]
    return _ungrouped(grad_q), grad_k[None], grad_v[None]


def _block(qkv: tuple[Tensor, ...], rows: slice, keys: slice, scale: float) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp of some rows over some keys; where they are the same the block is causal."""
    q, k, v = qkv[0][:, :, rows], *(x[:, :, keys] for x in qkv[1:])
    if dense.worth(q, k.shape[2]):
        found = dense.forward(q, k[0], v[0], rows == keys, scale)
        if bool(torch.isfinite(found[1]).all()):  # scores in the ten thousands need the kernel's wider numbers
            return found
    return _flash(q, k, v, rows == keys, scale)


def _block_back(by: tuple[Tensor, ...], qkv: tuple[Tensor, ...], rows: slice, keys: slice,
                scale: float) -> tuple[Tensor, ...]:  # fmt: skip
    """Gradients by the query of some rows, and by some keys and values; ``by`` = that by the output, output, delta,
    log-sum-exp."""
    slope, out, delta, total = (x[:, :, rows] for x in by)
    q, k, v = qkv[0][:, :, rows], *(x[:, :, keys] for x in qkv[1:])
    if dense.worth(q, k.shape[2]):
        return dense.backward(slope, (q, k[0], v[0]), (total, delta), rows == keys, scale)
    wide = total.dtype
    parts = _flash_back(slope.to(wide), q.to(wide), k.to(wide), v.to(wide), out.to(wide), total, 0.0, rows == keys,
                        scale=scale)  # fmt: skip
    return parts[0], parts[1].sum(0), parts[2].sum(0)


def _split(x: Tensor, key_heads: int) -> Tensor:
    """[heads / key heads, key heads, U, D] of [1, heads, U, D], as a view."""
    found: Tensor = x[0].unflatten(0, (key_heads, -1)).transpose(0, 1)
    return found


def _ungrouped(x: Tensor) -> Tensor:
    """[1, heads, U, D] of [heads / key heads, key heads, U, D], as a view if it was made by :func:`_like_rows`."""
    return x.transpose(0, 1).flatten(0, 1)[None]


def _like_rows(q: Tensor, dtype: torch.dtype) -> Tensor:
    """An empty tensor of the shape of ``q`` in which a token's heads stand side by side, as matrices want them."""
    groups, key_heads, count, size = q.shape
    return torch.empty(count, key_heads, groups, size, dtype=dtype).permute(2, 1, 0, 3)


def _grouped(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[heads / key heads, key heads, U, D] each, as views: queries that share keys stand along the first axis."""
    q = _split(query, key.shape[1])
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

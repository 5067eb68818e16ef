"""A causal language model read over token trees: hidden states at nodes, log-probabilities of tokens.

Models whose attention does not pass through the transformers attention interface, or whose positions are not depths,
are run path by path with their plain forward; :func:`supports` says so, and why.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from polyturn.arrays import Tree, pruned
from polyturn.errors import BadInput, NotFinite
from polyturn.forest.attention import attach, attention_name, causal_model, detach
from polyturn.forest.head import Head, read
from polyturn.forest.layers import fast_layer
from polyturn.forest.layout import Layout, lay
from polyturn.types import FloatArray, IntArray

TOLERANCE = 1e-3
"""Largest difference of probe log-probabilities, forest against plain, at which a model counts as supported."""


class Forest:
    """One causal language model read over trees: hidden states at nodes, log-probabilities of tokens.

    ``model`` is a transformers model or a peft model around one. ``exact`` says whether it runs over trees (else path
    by path, with ``reason``). ``dtype``: run the layers in this type by autocast (``"bfloat16"``); the projection on
    the vocabulary stays in the weights' own type. ``recompute``: keep no activations inside a layer (gradient
    checkpointing), for less memory and a third more time. The model is put into evaluation mode: no dropout.
    ``verdict``: (exact, reason) of another forest over the same model, for one whose weights are not there yet; None
    = found out by running it.
    """

    def __init__(
        self, model: nn.Module, *, dtype: str | None = None, recompute: bool = False,
        verdict: tuple[bool, str] | None = None,
    ) -> None:
        inner = causal_model(model)
        self.model, self.dtype, self.recompute = model, dtype, recompute
        self.body: nn.Module = getattr(inner, inner.base_model_prefix)
        self.head: nn.Module = inner.get_output_embeddings()
        self.config = inner.config.get_text_config()
        if self.head is None:
            raise BadInput(f"{type(inner).__name__} has no vocabulary projection; expected a causal language model")
        model.eval()
        self.layers = layers = self._take_layers()
        self.exact, self.reason = _probe(self) if verdict is None else verdict
        if verdict is not None and self.exact:
            attach(model)
        if not self.exact:
            for layer in layers:
                vars(layer).pop("forward", None)
        if recompute and not (self.exact and layers):
            raise BadInput(
                f"gradient checkpointing needs a model that runs over trees and is made of layers; {self.reason}"
            )

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.body.parameters()).device

    def hidden(self, tree: Tree, node_R: IntArray) -> Tensor:
        """Last hidden states [R, hidden size] at nodes; only the paths to them are computed."""
        part, place_R = pruned(tree, node_R)
        # No cast cache: it is shared between threads, and a sampler's cast made without gradients would end up here.
        low = getattr(torch, self.dtype or "bfloat16")
        with torch.autocast(self.device.type, low, enabled=self.dtype is not None, cache_enabled=False):
            found_RH = self._over_tree(part, place_R) if self.exact else self._over_paths(part, place_R)
        return found_RH.to(self.head.weight.dtype)  # type: ignore[arg-type]

    def _over_tree(self, tree: Tree, node_R: IntArray) -> Tensor:
        layout, hidden_UH = self._run(tree)
        if not layout.windows:
            raise BadInput(
                f"the attention of {type(self.body).__name__} was changed to {attention_name(self.body)!r} "
                "after the forest was attached, so a forest forward would be wrong; change it before"
            )
        return hidden_UH.index_select(0, torch.as_tensor(node_R.astype(np.int64), device=self.device))

    def _run(self, tree: Tree) -> tuple[Layout, Tensor]:
        """The layout, and the last hidden states [U, hidden size] in the order of the tree."""
        layout = lay(tree, recompute=self.recompute)
        row_U = np.empty(len(tree.id_U), np.int64)
        row_U[layout.order_U] = np.arange(len(tree.id_U))
        found = self.body(
            input_ids=self._ids(tree.id_U[layout.order_U]), position_ids=self._ids(layout.depth_U), use_cache=False,
            attention_mask=torch.zeros(1, 1, 1, 1, device=self.device), forest=layout,
        )  # fmt: skip
        hidden_UH: Tensor = found.last_hidden_state[0]
        return layout, hidden_UH.index_select(0, torch.as_tensor(row_U, device=self.device))

    def _over_paths(self, tree: Tree, node_R: IntArray) -> Tensor:
        """One plain forward for each leaf."""
        reads: list[Tensor] = []
        places: list[int] = []
        free = np.ones(len(node_R), bool)
        for leaf in _leaves(tree):
            path = _path(tree, leaf)
            depth_of = {node: depth for depth, node in enumerate(path)}
            mine = [r for r in np.flatnonzero(free).tolist() if int(node_R[r]) in depth_of]
            free[mine] = False
            if mine:
                hidden_TH = self.body(input_ids=self._ids(tree.id_U[path]), use_cache=False).last_hidden_state[0]
                reads.append(hidden_TH[[depth_of[int(node_R[r])] for r in mine]])
                places.extend(mine)
        return torch.cat(reads)[torch.as_tensor(np.argsort(places), device=self.device)]

    def _ids(self, id_T: IntArray) -> Tensor:
        return torch.as_tensor(np.asarray(id_T, np.int64), device=self.device)[None]

    def logits(self, hidden_RH: Tensor) -> Tensor:
        """Logits [R, V] with the scale and the soft cap that the model's own head applies."""
        logits_RV: Tensor = self.head(hidden_RH) * _scale(self.config)
        cap = getattr(self.config, "final_logit_softcapping", None)
        return logits_RV if not cap else cap * torch.tanh(logits_RV / cap)

    def logprobs(self, hidden_NH: Tensor, id_N: IntArray, temperature_N: FloatArray,
                 support: Mapping[int, IntArray], *, chunk: int = 256) -> tuple[Tensor, Tensor]:  # fmt: skip
        """``(logprob_N, entropy_N)`` of ids given the hidden states before them, in nats.

        ``log softmax(logits / temperature)`` over the ids in ``support[n]`` where n has one, else over the whole
        vocabulary. Logits exist for a tile of the vocabulary at a time, forwards and backwards, and where there is a
        support, or a head that is more than a matrix, for ``chunk`` tokens.

        Raises: BadInput for a token outside its own support.
        """
        free = np.array([n not in support for n in range(len(id_N))], np.bool_)
        weight = self._plain_head()
        if weight is None or not free.any():
            return self._in_chunks(hidden_NH, (id_N, temperature_N), support, chunk)
        if not free.all():
            rows = [np.flatnonzero(free), np.flatnonzero(~free)]
            inside = {new: support[n] for new, n in enumerate(rows[1].tolist())}
            parts = [
                self.logprobs(hidden_NH[torch.as_tensor(row, device=self.device)], id_N[row], temperature_N[row], part,
                              chunk=chunk)
                for row, part in zip(rows, ({}, inside), strict=True)
            ]  # fmt: skip
            back = torch.as_tensor(np.argsort(np.concatenate(rows)), device=self.device)
            whole = [torch.cat(pair)[back] for pair in zip(*parts, strict=True)]
            return whole[0], whole[1]
        id_on = torch.as_tensor(id_N.astype(np.int64), device=self.device)
        heat_N = torch.as_tensor(temperature_N, dtype=hidden_NH.dtype, device=self.device)
        low = None if self.dtype is None else getattr(torch, self.dtype)
        cap = getattr(self.config, "final_logit_softcapping", None)
        return read(hidden_NH, weight, id_on, heat_N, Head(_scale(self.config), cap, low, not self.recompute))

    def _plain_head(self) -> Tensor | None:
        """The vocabulary matrix, where the head is that matrix and no more."""
        head = self.head
        return head.weight if type(head) is nn.Linear and head.bias is None else None

    def _in_chunks(self, hidden_NH: Tensor, wanted: tuple[IntArray, FloatArray], support: Mapping[int, IntArray],
                   chunk: int) -> tuple[Tensor, Tensor]:  # fmt: skip
        """The same through the head as a module, some tokens at a time; ``wanted`` = ids and temperatures."""
        id_N, temperature_N = wanted
        found: list[Tensor] = []
        for start in range(0, len(id_N), chunk):
            rows = slice(start, min(start + chunk, len(id_N)))
            allowed = _allowed(rows, id_N, support, int(self.head.weight.shape[0]))  # type: ignore[index]
            more = (
                torch.as_tensor(id_N[rows].astype(np.int64), device=self.device),
                torch.as_tensor(temperature_N[rows], dtype=hidden_NH.dtype, device=self.device),
                None if allowed is None else allowed.to(self.device),
            )
            if torch.is_grad_enabled():
                found.append(checkpoint(self._read, hidden_NH[rows], *more, use_reentrant=False))
            else:
                found.append(self._read(hidden_NH[rows], *more))
        both = torch.cat(found, 1) if found else hidden_NH.new_zeros(2, 0)
        return both[0], both[1]

    def _read(self, hidden_NH: Tensor, id_N: Tensor, temperature_N: Tensor, allowed_NV: Tensor | None) -> Tensor:
        logits_NV = self.logits(hidden_NH) / temperature_N[:, None]
        if allowed_NV is None:
            log_NV = torch.log_softmax(logits_NV, -1)
            entropy_N = -(log_NV.exp() * log_NV).sum(-1)
        else:
            log_NV = torch.log_softmax(logits_NV.masked_fill(~allowed_NV, -torch.inf), -1)
            entropy_N = -(log_NV.exp() * log_NV.masked_fill(~allowed_NV, 0.0)).sum(-1)
        return torch.stack([log_NV.gather(1, id_N[:, None])[:, 0], entropy_N])

    def _take_layers(self) -> list[nn.Module]:
        """The decoder layers, whose forward now asks for a forest first; calls without one are untouched."""
        from transformers.modeling_layers import GradientCheckpointingLayer

        layers = [m for m in self.body.modules() if isinstance(m, GradientCheckpointingLayer)]
        for layer in layers:
            layer.forward = MethodType(_layer, layer)
        return layers


def _layer(layer: nn.Module, *args: Any, **more: Any) -> Any:
    """A layer's forward; with gradients and a layout that asks for it, its activations are not kept."""
    layout = more.get("forest")
    if layout is None or not layout.recompute or not torch.is_grad_enabled():
        return _over_forest(layer, *args, **more)
    return checkpoint(_over_forest, layer, *args, use_reentrant=False, **more)


def _over_forest(layer: nn.Module, *args: Any, **more: Any) -> Any:
    """A layer's forward; over a forest by the pieces of :mod:`polyturn.forest.layers` where they know it."""
    if more.get("forest") is not None and len(args) == 1 and "position_embeddings" in more:
        found = fast_layer(layer, args[0], more["forest"], more["position_embeddings"])
        if found is not None:
            return found
    return type(layer).forward(layer, *args, **more)


def _allowed(rows: slice, id_N: IntArray, support: Mapping[int, IntArray], vocabulary: int) -> Tensor | None:
    """[rows, V], True = may be drawn; None where no row is restricted."""
    limited = [n for n in range(rows.start, rows.stop) if n in support]
    if not limited:
        return None
    allowed = torch.ones(rows.stop - rows.start, vocabulary, dtype=torch.bool)
    for n in limited:
        if id_N[n] not in support[n]:
            raise BadInput(f"token {n} has id {id_N[n]}, which is not among the {len(support[n])} ids of its support")
        allowed[n - rows.start] = False
        allowed[n - rows.start, torch.as_tensor(np.asarray(support[n], np.int64))] = True
    return allowed


def _scale(config: Any) -> float:
    """The factor that some families apply to their logits."""
    if getattr(config, "logit_scale", None) is not None:
        return float(config.logit_scale)
    return 1.0 / float(getattr(config, "logits_scaling", None) or 1.0)


def _leaves(tree: Tree) -> list[int]:
    inner = np.zeros(len(tree.id_U), bool)
    inner[tree.parent_U[tree.parent_U >= 0]] = True
    return np.flatnonzero(~inner).tolist()


def _path(tree: Tree, node: int) -> list[int]:
    path = []
    while node >= 0:
        path.append(node)
        node = int(tree.parent_U[node])
    return path[::-1]


def supports(model: nn.Module) -> tuple[bool, str]:
    """Whether one forward over a tree equals plain forwards of its paths, and if not, why.

    A tree of 13 tokens is run both ways and the log-probabilities are compared; sliding windows, too long for that,
    are checked by what the attention is called with. The model is put into evaluation mode.

    Raises: BadInput where the logits are not the projection of the hidden state that :class:`Forest` makes.
    """
    forest = Forest(model)
    return forest.exact, forest.reason


def _probe(forest: Forest) -> tuple[bool, str]:
    """(exact, reason) of a forest whose fields are set."""
    tree = _probe_tree(int(forest.head.weight.shape[0]))  # type: ignore[index]
    every = np.arange(len(tree.id_U), dtype=np.int32)
    with torch.no_grad():
        plain_UV = _plain_logits(forest, tree)
        if not bool(torch.isfinite(plain_UV).all()):
            raise NotFinite(f"{type(forest.body).__name__} gives logits that are not finite; its weights are broken")
        own_UV = forest.logits(forest._over_paths(tree, every))
        if _gap(own_UV, plain_UV) > TOLERANCE:
            raise BadInput(
                f"{type(forest.body).__name__} changes its logits after the projection in a way that is not known "
                f"here (difference {_gap(own_UV, plain_UV):.2g}), so log-probabilities would be wrong"
            )
        attach(forest.model)
        try:
            layout, hidden_UH = forest._run(tree)
            gap = _gap(forest.logits(hidden_UH), plain_UV)
            differs = "" if gap <= TOLERANCE else f"results differ by {gap:.2g}"
            reason = _layer_fault(forest.config, layout) or differs
        except (ValueError, TypeError, RuntimeError, AttributeError, LookupError) as error:
            reason = f"{type(error).__name__}: {error}"
        if reason:
            detach(forest.model)
            return False, f"{type(forest.body).__name__} is run path by path: {reason}"
        return True, "its attention sees paths, its positions are depths"


def _probe_tree(vocabulary: int) -> Tree:
    """A trunk of four, a branch of three that branches again, a branch of two, and a second root."""
    parent_U = np.array([-1, 0, 1, 2, 3, 4, 5, 3, 7, 6, 6, -1, 11], np.int32)
    return Tree((np.arange(3, 16) * 7 % vocabulary).astype(np.int32), parent_U)


def _plain_logits(forest: Forest, tree: Tree) -> Tensor:
    """Logits [U, V] by the model's own forward of each path."""
    rows: dict[int, Tensor] = {}
    for leaf in _leaves(tree):
        path = _path(tree, leaf)
        logits_TV = forest.model(input_ids=forest._ids(tree.id_U[path]), use_cache=False).logits[0]
        rows.update(zip(path, logits_TV, strict=True))
    return torch.stack([rows[node] for node in range(len(tree.id_U))])


def _gap(logits_UV: Tensor, other_UV: Tensor) -> float:
    return float((torch.log_softmax(logits_UV.double(), -1) - torch.log_softmax(other_UV.double(), -1)).abs().max())


def _layer_fault(config: Any, layout: Layout) -> str:
    """What is wrong with the windows that the attention was called with, or with the positions; empty = nothing."""
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if rope in ("dynamic", "longrope"):
        return f"its rotary positions ({rope}) depend on the length of the whole path"
    if len(layout.windows) != config.num_hidden_layers:
        return f"{len(layout.windows)} of {config.num_hidden_layers} layers use the attention interface"
    default = "full_attention" if getattr(config, "sliding_window", None) is None else "sliding_attention"
    kinds = getattr(config, "layer_types", None) or [default] * config.num_hidden_layers
    for layer, kind in enumerate(kinds):
        if kind not in ("full_attention", "sliding_attention"):
            return f"layer {layer} is of type {kind}"
        expected = config.sliding_window if kind == "sliding_attention" else None
        if layout.windows.get(layer) != expected:
            return f"layer {layer} has a window of {layout.windows.get(layer)}; its configuration says {expected}"
    return ""

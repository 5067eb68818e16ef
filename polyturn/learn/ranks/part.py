"""What one rank computes in one pass, and what it answers: arrays alone, so that they travel without pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save
from torch import Tensor, nn

from polyturn.arrays import Tokens, Tree, pruned
from polyturn.errors import LearnerFailed
from polyturn.forest.model import Forest
from polyturn.learn.gradient import before
from polyturn.types import FloatArray, IntArray

Arrays = Mapping[str, NDArray[Any]]
HEAD = "head.json"
"""The array of a message that holds its JSON."""


@dataclass(frozen=True, slots=True)
class Part:
    """Reads of a tree: hidden states at ``node_R``, of whose first N rows the tokens ``id_N`` are predicted."""

    tree: Tree
    node_R: IntArray
    id_N: IntArray
    temperature_N: FloatArray
    support: Mapping[int, IntArray] = field(default_factory=dict)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All of it, to be sent."""
        allowed = [self.support[n] for n in sorted(self.support)]
        return {
            "id_U": self.tree.id_U, "parent_U": self.tree.parent_U, "node_R": self.node_R, "id_N": self.id_N,
            "temperature_N": self.temperature_N, "support_n": np.array(sorted(self.support), np.int32),
            "support_size": np.array([len(ids) for ids in allowed], np.int32),
            "support_ids": np.concatenate(allowed).astype(np.int32) if allowed else np.zeros(0, np.int32),
        }  # fmt: skip

    @classmethod
    def of(cls, found: Arrays) -> Part:
        """The part that :meth:`arrays` was made of."""
        sizes = found["support_size"]
        ids = np.split(found["support_ids"], np.cumsum(sizes)[:-1]) if len(sizes) else []
        support = dict(zip(found["support_n"].tolist(), ids, strict=True))
        tree = Tree(found["id_U"], found["parent_U"])
        return cls(tree, found["node_R"], found["id_N"], found["temperature_N"], support)


IDLE = Part(Tree(np.zeros(1, np.int32), np.full(1, -1, np.int32)), np.zeros(1, np.int32), np.zeros(1, np.int32),
            np.ones(1))  # fmt: skip
"""What a rank computes that has nothing to do in a round: its share of every weight is needed by the others."""


def part_of(tokens: Tokens, index_N: IntArray, more_R: IntArray | None = None) -> Part:
    """The part that reads the tokens ``index_N``, and hidden states at the nodes ``more_R`` behind them."""
    node_R = before(tokens)[index_N]
    if more_R is not None:
        node_R = np.concatenate([node_R, more_R]).astype(np.int32)
    tree, place_R = pruned(tokens.tree, node_R)
    support = {new: tokens.support[n] for new, n in enumerate(index_N.tolist()) if n in tokens.support}
    return Part(tree, place_R, tokens.id_N[index_N], tokens.temperature_N[index_N], support)


class Whole(nn.Module):
    """A model with its value heads as one module, whose call is one pass: what shards weights hooks into calls."""

    def __init__(self, forest: Forest, heads: nn.ModuleDict) -> None:
        super().__init__()
        self.model, self.heads, self.forest = forest.model, heads, forest

    def forward(self, part: Part) -> tuple[Tensor, ...]:
        """``(logprob_N, entropy_N, value_R of each head in its order)``, none of them a view: what shards the weights
        hooks into outputs, and an operation in place on a view would lose that hook."""
        hidden_RH = self.forest.hidden(part.tree, part.node_R)
        hidden_NH = hidden_RH[: len(part.id_N)]
        read = self.forest.logprobs(hidden_NH, part.id_N, part.temperature_N, part.support)
        return tuple(each.clone() for each in (*read, *(head(hidden_RH)[:, 0] for head in self.heads.values())))


def packed(head: Mapping[str, Any], arrays: Arrays) -> Tensor:
    """A message as bytes: JSON and arrays in one safetensors file."""
    text = np.frombuffer(json.dumps(head).encode(), np.uint8)
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    return torch.frombuffer(bytearray(save({**whole, HEAD: text})), dtype=torch.uint8)


def unpacked(data: Tensor) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """What :func:`packed` was given. Raises: LearnerFailed for bytes that are no message."""
    try:
        arrays: dict[str, NDArray[Any]] = load(data.numpy().tobytes())
        head: dict[str, Any] = json.loads(arrays.pop(HEAD).tobytes())
    except (SafetensorError, ValueError, KeyError) as error:
        raise LearnerFailed(f"a rank sent {len(data)} bytes that are no message: {error}") from None
    return head, {name: array.copy() for name, array in arrays.items()}

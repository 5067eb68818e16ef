"""Tiny transformers built from a configuration, and random token trees, for tests of the forest and the learner."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from polyturn.arrays import Source, Tokens, Tree
from polyturn.types import Episode, Task, Trajectory

VOCABULARY = 61
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "bos_token_id": 1,
    "eos_token_id": 2, "pad_token_id": 0,
}


def stirred(model: Any, seed: int = 0) -> Any:
    """The model with weights large enough that its attention is not uniform."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(0.15 * torch.randn(parameter.shape, generator=draw))
    return model.eval()


def tiny_llama(dtype: torch.dtype = torch.float64, **changes: Any) -> Any:
    """Two layers, 32 wide, four heads on two key heads."""
    return stirred(LlamaForCausalLM(LlamaConfig(**{**SHAPE, **changes}))).to(dtype)


def random_tree(draw: np.random.Generator, nodes: int, *, roots: int = 1, reach: int = 4) -> Tree:
    """A tree in which a node's parent is one of the ``reach`` before it."""
    parents = [-1 if u < roots else int(draw.integers(max(0, u - reach), u)) for u in range(nodes)]
    return Tree(draw.integers(3, VOCABULARY, nodes).astype(np.int32), np.array(parents, np.int32))


def tokens_of(
    tree: Tree, node_N: list[int], *, trajectory_N: list[int] | None = None, group_N: list[int] | None = None,
    turn_N: list[int] | None = None, temperature_N: list[float] | None = None,
    support: dict[int, list[int]] | None = None,
) -> Tokens:
    """Tokens at nodes; each trajectory belongs to an episode of its own, named after it."""
    count = len(node_N)
    rows = trajectory_N or [0] * count
    sources = tuple(
        Source(Episode(f"e{b}", Task("t", "f"), 0), Trajectory("agent", "main"), 0)
        for b in range(max(rows, default=0) + 1)
    )
    return Tokens(
        tree, np.array(node_N, np.int32), np.ones(count, bool), np.full(count, np.nan),
        np.array(temperature_N or [1.0] * count), np.zeros(count, np.int32), np.array(turn_N or [0] * count, np.int32),
        np.array(rows, np.int32), np.array(group_N or [0] * count, np.int32), sources,
        np.full(len(sources), -1, np.int32), {n: np.array(ids, np.int32) for n, ids in (support or {}).items()},
    )  # fmt: skip


def random_tokens(draw: np.random.Generator, *, trajectories: int = 4, turns: int = 3, windows: bool = False) -> Tokens:
    """Trajectories of one group of two each, that share a prompt of six tokens; replies of one to four trained tokens
    after observations of two. With ``windows`` every later turn begins again at the prompt."""
    ids, parents = list(range(3, 9)), list(range(-1, 5))
    nodes: list[int] = []
    rows: dict[str, list[int]] = {"trajectory_N": [], "group_N": [], "turn_N": []}
    for b in range(trajectories):
        last = 5
        for k in range(turns):
            last = 5 if windows else last
            reply = int(draw.integers(1, 5))
            for i in range(2 + reply):
                ids.append(int(draw.integers(3, VOCABULARY)))
                parents.append(last)
                last = len(ids) - 1
                if i >= 2:
                    nodes.append(last)
                    for name, value in (("trajectory_N", b), ("group_N", b // 2), ("turn_N", k)):
                        rows[name].append(value)
    return tokens_of(Tree(np.array(ids, np.int32), np.array(parents, np.int32)), nodes, **rows)  # type: ignore[arg-type]


def plain_logprobs(model: Any, tokens: Tokens) -> torch.Tensor:
    """The slow twin of the forest: one plain forward for each token on its own path, with its gradient."""
    found = []
    for n, node in enumerate(tokens.node_N.tolist()):
        path = tokens.tree.path(node).tolist()
        logits = model(input_ids=torch.tensor([path[:-1]])).logits[0, -1] / tokens.temperature_N[n]
        if n in tokens.support:
            inside = torch.full_like(logits, -torch.inf)
            inside[tokens.support[n].tolist()] = 0.0
            logits = logits + inside
        found.append(torch.log_softmax(logits, -1)[path[-1]])
    return torch.stack(found)

"""Parts and messages: what is sent is what arrives, and what is no message is told."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from polyturn.errors import LearnerFailed
from polyturn.forest.model import Forest
from polyturn.learn.ranks.part import IDLE, Part, Whole, packed, part_of, unpacked
from tests.tiny import plain_logprobs, random_tokens, tiny_llama, tokens_of


def test_a_part_arrives_as_it_was_sent() -> None:
    draw = np.random.default_rng(3)
    whole = random_tokens(draw, trajectories=4)
    tokens = tokens_of(whole.tree, whole.node_N.tolist(), temperature_N=[0.7] * len(whole),
                       support={1: [int(whole.id_N[1]), 9], 4: [int(whole.id_N[4])]})
    index_N = np.array([1, 4, 5], np.int32)
    part = part_of(tokens, index_N, np.array([2], np.int32))
    head, arrays = unpacked(packed({"do": "learn", "n": [1, 2.5]}, part.arrays()))
    again = Part.of(arrays)
    assert head == {"do": "learn", "n": [1, 2.5]}
    for name in ("node_R", "id_N", "temperature_N"):
        np.testing.assert_array_equal(getattr(again, name), getattr(part, name))
    np.testing.assert_array_equal(again.tree.parent_U, part.tree.parent_U)
    np.testing.assert_array_equal(again.tree.id_U, part.tree.id_U)
    assert {n: ids.tolist() for n, ids in again.support.items()} == {0: [int(whole.id_N[1]), 9],
                                                                     1: [int(whole.id_N[4])]}
    assert len(again.node_R) == 4 and len(again.tree.id_U) < len(tokens.tree.id_U)


@pytest.mark.parametrize("data", [b"", b"\x00" * 40, b"not a message at all"])
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(LearnerFailed, match=f"{len(data)} bytes that are no message"):
        unpacked(torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8))


def test_the_whole_module_reads_as_plain_forwards_do() -> None:
    model, tokens = tiny_llama(), random_tokens(np.random.default_rng(4))
    heads = nn.ModuleDict({"value": nn.Linear(32, 1, dtype=torch.float64)})
    whole = Whole(Forest(model), heads)
    index_N = np.arange(len(tokens), dtype=np.int32)
    with torch.no_grad():
        logprob_N, entropy_N, value_R = whole(part_of(tokens, index_N, np.array([3], np.int32)))
    np.testing.assert_allclose(logprob_N.numpy(), plain_logprobs(model, tokens).detach().numpy(), atol=1e-6)
    assert len(entropy_N) == len(tokens) and len(value_R) == len(tokens) + 1


def test_an_idle_rank_has_something_to_compute() -> None:
    logprob_N, _ = Whole(Forest(tiny_llama()), nn.ModuleDict())(IDLE)
    assert logprob_N.requires_grad and torch.isfinite(logprob_N).all()

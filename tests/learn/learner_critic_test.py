"""A learner as a critic: heads of one's own, several targets, and a reference that follows slowly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from polyturn.errors import BadInput, NotFinite
from polyturn.learn.learner import Learner
from polyturn.losses.learned import Learned, Metrics
from polyturn.paths import path_tokens
from tests.tiny import tiny_llama

PATHS = [np.array([5, 6, 7, 8], np.int32), np.array([5, 6, 9], np.int32)]
TOKENS = path_tokens(PATHS, [[2, 3], [2]])
ONE = np.ones(3)


def squares(learned: Learned) -> tuple[Tensor, Metrics]:
    loss = learned.logprob_N.new_zeros(())
    for name, target_N in learned.targets.items():
        has_N = ~torch.isnan(target_N)
        gap_N = torch.where(has_N, learned.heads[name] - torch.nan_to_num(target_N), 0.0)
        loss = loss + (learned.weight_N * gap_N**2).sum()
    return loss, {}


def two_heads(seed: int = 0) -> dict[str, nn.Module]:
    torch.manual_seed(seed)
    return {name: nn.Sequential(nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, 1)) for name in ("one", "two")}


def test_values_of_own_heads_equal_the_heads_on_plain_hidden_states() -> None:
    model = tiny_llama()
    learner = Learner(model, lr=1e-3, heads=two_heads())
    value = learner.values(TOKENS)
    with torch.no_grad():
        hidden = [model.model(input_ids=torch.tensor([path.tolist()])).last_hidden_state[0] for path in PATHS]
        for name in ("one", "two"):
            head: Any = learner.heads[name]
            # read at the node before: places 1 and 2 of the first path, place 1 of the second (the same node)
            expected = [float(head(hidden[0][1])), float(head(hidden[0][2])), float(head(hidden[1][1]))]
            np.testing.assert_allclose(value[name], expected, atol=1e-6)
            np.testing.assert_allclose(learner.measure(TOKENS).heads[name], expected, atol=1e-6)
    assert np.abs(value["one"] - value["two"]).max() > 1e-3  # twins that began alike would stay alike


def test_each_head_learns_its_own_targets_and_nothing_where_there_is_none() -> None:
    learner = Learner(tiny_llama(), lr=1e-2, heads=two_heads(), trainable="heads|lm_head")
    targets = {"one": np.array([1.0, np.nan, 1.0]), "two": np.array([np.nan, -2.0, np.nan])}
    before = learner.values(TOKENS)
    for _ in range(300):
        learner.update(TOKENS, None, ONE, ONE / 3, squares, targets=targets)
    value = learner.values(TOKENS)
    np.testing.assert_allclose(value["one"][[0, 2]], 1.0, atol=0.02)
    np.testing.assert_allclose(value["two"][1], -2.0, atol=0.02)
    assert np.abs(value["two"][0] - before["two"][0]) > 1e-3  # shared layers move it, no target holds it


def test_a_bad_target_is_named() -> None:
    learner = Learner(tiny_llama(), lr=1e-2, heads=two_heads())
    with pytest.raises(BadInput, match="target of one has shape"):
        learner.update(TOKENS, None, ONE, ONE, squares, targets={"one": np.ones(2)})
    with pytest.raises(NotFinite, match="target of one is inf"):
        learner.update(TOKENS, None, ONE, ONE, squares, targets={"one": np.array([1.0, np.inf, np.nan])})


def test_the_reference_follows_by_its_share_heads_and_all() -> None:
    learner = Learner(tiny_llama(), lr=1e-2, heads=two_heads(), reference="initial")
    at_first = {name: value.copy() for name, value in learner.values(TOKENS, reference=True).items()}
    np.testing.assert_array_equal(at_first["one"], learner.values(TOKENS)["one"])
    assert learner.reference is not None
    old = {n: p.clone() for n, p in learner.reference.model.named_parameters()}
    old_heads = {n: p.clone() for n, p in learner.reference_heads.named_parameters()}
    for _ in range(3):
        learner.update(TOKENS, None, ONE, ONE, squares, targets={"one": ONE, "two": -ONE})
    np.testing.assert_array_equal(learner.values(TOKENS, reference=True)["one"], at_first["one"])
    learner.renew_reference(0.25)
    for name, now in learner.reference.model.named_parameters():
        torch.testing.assert_close(now, 0.75 * old[name] + 0.25 * learner.parameters[name])
    for name, now in learner.reference_heads.named_parameters():
        torch.testing.assert_close(now, 0.75 * old_heads[name] + 0.25 * learner.parameters[f"heads.{name}"])
    learner.renew_reference()
    np.testing.assert_allclose(
        learner.values(TOKENS, reference=True)["two"], learner.values(TOKENS)["two"], atol=1e-12
    )
    measured = learner.measure(TOKENS)
    assert measured.reference_N is not None
    np.testing.assert_allclose(measured.reference_N, measured.old_N, atol=1e-12)


def test_the_reference_and_its_heads_survive_a_restore() -> None:
    learner = Learner(tiny_llama(), lr=1e-2, heads=two_heads(), reference="initial")
    learner.update(TOKENS, None, ONE, ONE, squares, targets={"one": ONE})
    learner.renew_reference(0.1)
    other = Learner(tiny_llama(), lr=1e-2, heads=two_heads(9), reference="initial")
    other.restore(learner.state())
    for reference in (False, True):
        for name, value in learner.values(TOKENS, reference=reference).items():
            np.testing.assert_array_equal(other.values(TOKENS, reference=reference)[name], value)


def test_what_cannot_be_done_is_said() -> None:
    plain = Learner(tiny_llama(), lr=1e-3)
    with pytest.raises(BadInput, match="no heads to read"):
        plain.values(TOKENS)
    with pytest.raises(BadInput, match="no heads to read"):
        Learner(tiny_llama(), lr=1e-3, heads=("value",)).values(TOKENS, reference=True)
    with pytest.raises(BadInput, match="not its own"):
        plain.renew_reference()
    with pytest.raises(BadInput, match="share is 0"):
        Learner(tiny_llama(), lr=1e-3, reference="initial").renew_reference(0.0)

"""Bare paths: the merged tree, and marked tokens read as the learner reads played ones."""

from __future__ import annotations

import numpy as np
import pytest

from polyturn.errors import BadInput
from polyturn.learn.learner import Learner
from polyturn.paths import merged, path_tokens
from tests.tiny import plain_logprobs, tiny_llama


def ids(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def test_equal_beginnings_stand_once() -> None:
    tree, nodes = merged([ids(5, 6, 7), ids(5, 8), ids(5, 6, 7, 9), ids()])
    assert tree.id_U.tolist() == [5, 6, 7, 8, 9] and tree.parent_U.tolist() == [-1, 0, 1, 0, 2]
    assert nodes == [[0, 1, 2], [0, 3], [0, 1, 2, 4], []]


def test_marked_tokens_are_measured_on_their_own_path() -> None:
    paths = [ids(5, 6, 7, 8), ids(5, 6, 9, 8, 4), ids(5, 6, 7, 8)]
    tokens = path_tokens(paths, [[2, 3], [4], [1]], temperature=0.5)
    assert tokens.id_N.tolist() == [7, 8, 4, 6]
    assert tokens.trajectory_N.tolist() == [0, 0, 1, 2] and tokens.turn_N.tolist() == [0, 1, 0, 0]
    assert not tokens.sampled_N.any()
    model = tiny_llama()
    measured = Learner(model, lr=1e-3).measure(tokens)
    np.testing.assert_allclose(measured.old_N, plain_logprobs(model, tokens).detach().numpy(), atol=1e-9)


@pytest.mark.parametrize("place", [0, 3, -1])
def test_a_place_outside_is_refused(place: int) -> None:
    with pytest.raises(BadInput, match=r"expected 1\.\.2"):
        path_tokens([ids(5, 6, 7)], [[place]])

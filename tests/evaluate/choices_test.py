"""Probabilities of replies: by hand, and equal to how often a model draws them with and without the mask."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from polyturn.evaluate.choices import drawn, reply_probabilities
from polyturn.types import FloatArray, IntArray, Sampling, user
from tests.policies.tiny import tiny_local

REPLIES = ("bet", "bat", "pass")
DIALOGUE = ([user("bet or pass?")], REPLIES)


def test_the_mask_renormalises_id_by_id() -> None:
    ids = [np.array([1, 5, 9]), np.array([1, 6, 9]), np.array([2, 9])]
    rows = [np.log([0.2, 0.1, 0.3]), np.log([0.2, 0.3, 0.4]), np.log([0.6, 0.2])]
    # First id: 1 or 2, 0.2 to 0.6, so 0.25 and 0.75. After 1: 5 or 6, 0.1 to 0.3, so 0.25 and 0.75. Ends are certain.
    assert np.exp(drawn(ids, rows)).tolist() == pytest.approx([0.0625, 0.1875, 0.75])


class Fixed:
    """A scorer that gives every id of a path the same log-probability."""

    async def logprobs(self, paths: Sequence[IntArray]) -> Sequence[FloatArray]:
        return [np.full(len(path), np.log(0.5)) for path in paths]

    async def distributions(self, path: IntArray) -> FloatArray:
        raise AssertionError("not asked for")


async def test_whole_replies_count_without_the_mask() -> None:
    local = tiny_local()
    [plain] = await reply_probabilities(Fixed(), local.chat, [DIALOGUE])
    local.close()
    # One id per byte and the end of turn: 0.5**4, 0.5**4, 0.5**5, so 2 : 2 : 1.
    assert list(plain.values()) == pytest.approx([0.4, 0.4, 0.2])
    assert tuple(plain) == REPLIES


async def test_equal_to_what_the_model_draws_under_the_mask() -> None:
    local = tiny_local()
    [masked] = await reply_probabilities(local, local.chat, [DIALOGUE], masked=True)
    [plain] = await reply_probabilities(local, local.chat, [DIALOGUE])
    said = Counter()
    for seed in range(300):
        completion = await local.sample(DIALOGUE[0], sampling=Sampling(choices=REPLIES, seed=seed))
        said[completion.message.text] += 1
        assert completion.logprobs is not None
        assert np.exp(completion.logprobs.sum()) == pytest.approx(masked[completion.message.text], abs=1e-4)
    local.close()
    assert sum(masked.values()) == pytest.approx(1.0)
    for reply in REPLIES:
        assert said[reply] / 300 == pytest.approx(masked[reply], abs=0.12)
    assert any(abs(plain[reply] - masked[reply]) > 1e-3 for reply in REPLIES)

"""The promises of the core with the embedded model: the proofs of :mod:`tests.proof_test` on a real tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from polyturn.arrays import lay_out
from polyturn.chat import Chat
from polyturn.learn.learner import Learner
from polyturn.policies.embedded import embedded_model
from polyturn.policies.local import Local, load_folder
from polyturn.rollout.pool import Pool, play
from tests.proof_cases import (
    DROPPING,
    Heard,
    Scale,
    by_turn,
    cases,
    check_cases_are_what_they_say,
    check_nothing_broke,
    check_reasoning_is_dropped,
    cut_of,
    gaps,
    ids_in,
)
from tests.rollout.deterministic_test import CONCURRENCY, matches, played
from tests.witness import Witness, check_saw_what_is_stored

pytestmark = [pytest.mark.model, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def folder() -> tuple[Any, Any]:
    return load_folder(embedded_model())


@pytest.fixture(scope="module")
def learner(folder: tuple[Any, Any]) -> Iterator[Learner]:
    yield Learner(folder[0], lr=0.0)


def chat_of(tokenizer: Any, template: str | None) -> Chat:
    own = tokenizer.chat_template
    tokenizer.chat_template = template or own
    chat = Chat(tokenizer)
    tokenizer.chat_template = own
    return chat


@pytest.mark.parametrize("template", [None, DROPPING], ids=["own template", "drops earlier reasoning"])
async def test_the_ledger_holds_what_the_model_saw_and_the_learner_reads_what_was_sampled(
    template: str | None, folder: tuple[Any, Any], learner: Learner, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = Local(folder[0], chat_of(folder[1], template))
    witness, heard = Witness(model, monkeypatch), Heard(model)
    scale = Scale(reply=10, summary=90, cut=cut_of(model.chat))
    orders = cases(scale, 1)
    names = tuple(orders) if template is None else ("reasoning", "full history", "window", "summary", "two seats")
    groups = await play([orders[name] for name in names], {"main": heard}, pool=Pool(concurrency=40))
    model.close()
    episodes = check_nothing_broke(groups)
    if template is None:
        check_cases_are_what_they_say(groups)
    else:
        check_reasoning_is_dropped(groups)
    draws = check_saw_what_is_stored(witness, episodes)
    found = gaps(learner, groups)
    with capsys.disabled():
        print(f"\n[{draws} draws, mean batch {model.stats.mean_batch:.1f}; largest difference by case: "
              + ", ".join(f"{name} {gap:.1e}" for name, gap in found.items()) + "]", end=" ")
    assert max(found.values()) < 1e-4, found
    real = by_turn(lay_out(groups, "main"))
    searched = sum(bool(turn.branch) for e in episodes for t in e.trajectories for turn in t.turns)
    assert not real - heard.replies and (heard.replies - real).total() == searched
    assert ids_in(real) == len(lay_out(groups, "main"))


async def test_the_gap_of_bfloat16_sampling_is_measured(
    folder: tuple[Any, Any], learner: Learner, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Local(folder[0], chat_of(folder[1], None), dtype="bfloat16")
    orders = cases(Scale(10, 90, 3))
    groups = await play([orders[name] for name in ("full history", "window", "two seats")], {"main": model})
    model.close()
    tokens = lay_out(groups, "main")
    gap_N = np.abs(learner.measure(tokens).old_N - tokens.behavior_N)
    with capsys.disabled():
        print(f"[bfloat16, {len(tokens)} tokens: mean {gap_N.mean():.4f}, largest {gap_N.max():.3f}]", end=" ")
    assert np.isfinite(gap_N).all() and 0 < gap_N.mean() < 0.15


async def test_the_same_seed_gives_the_same_episodes_at_any_concurrency(
    folder: tuple[Any, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    threads = torch.get_num_threads()
    found = []
    for concurrency in CONCURRENCY:
        policy = Local(folder[0], chat_of(folder[1], None), deterministic=True)
        bit, _ = await played(policy, matches(tasks=2, rollouts=2, reply_tokens=4), concurrency)
        policy.close()
        found.append(bit)
        with capsys.disabled():
            print(f"[{concurrency} at once: mean batch {policy.stats.mean_batch:.1f}]", end=" ")
        assert (policy.stats.mean_batch > 1) == (concurrency > 1)
    assert found[0] == found[1] == found[2] and torch.get_num_threads() == threads

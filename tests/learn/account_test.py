"""Whole updates of a tiny model: what is recorded of each token leads from what was paid to what the update did."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from polyturn.advantages.family import ByFamily
from polyturn.advantages.group import RoleBaseline, group_standardised, leave_one_out
from polyturn.advantages.returns import returns_BK, token_returns
from polyturn.advantages.turn import turn_relative
from polyturn.arrays import Advantage
from polyturn.dashboard.episode import episode_view
from polyturn.learn.loop import Rule, train
from polyturn.losses.policy_gradient import policy_gradient
from polyturn.losses.regularize import entropy
from polyturn.losses.terms import Sum
from polyturn.losses.weighting import token_mean
from polyturn.record.index import Index
from polyturn.record.read import read_credit, read_episodes
from tests.learn.loop_test import a_run, stage
from tests.policies.tiny import tiny_local


async def rows_of(folder: Path, rule: Rule, *, lr: float = 3e-3, iterations: int = 1) -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    model, run = tiny_local(), a_run(folder)
    await train(run, stage(model, iterations=iterations, rule=rule, lr=lr))
    run.recorder.close()
    model.close()
    return list(read_credit(folder))


ADVANTAGES: list[tuple[Callable[[], Advantage], list[str]]] = [
    (lambda: group_standardised, ["channels", "normalise", "inherit"]),
    (lambda: leave_one_out, ["channels", "normalise", "inherit"]),
    (lambda: RoleBaseline(gamma=0.9), ["channels", "normalise", "inherit", "accumulate"]),
    (lambda: partial(turn_relative, gamma=0.5), ["channels", "inherit", "accumulate", "normalise", "inherit"]),
    (lambda: partial(returns_BK, gamma=0.5), ["channels", "accumulate"]),
    (lambda: partial(token_returns, gamma=0.9), ["channels", "accumulate"]),
    (lambda: ByFamily({"vowels": group_standardised}), ["channels", "normalise", "inherit", "scale"]),
]


@pytest.mark.parametrize(("make", "stages"), ADVANTAGES)
async def test_the_stages_end_in_the_advantage(
    tmp_path: Path, make: Callable[[], Advantage], stages: list[str]
) -> None:
    rows = await rows_of(tmp_path / "run", Rule(make(), token_mean, policy_gradient))
    scores = {e.id: e.scores["score"]["agent"].value for e in read_episodes(tmp_path / "run")}
    assert any((row["advantage"] != 0).any() for row in rows)
    for row in rows:
        steps = json.loads(row["steps_json"])
        names = [step["stage"] for step in steps]
        assert [name for name in names if name != "inherit"] == [name for name in stages if name != "inherit"]
        assert np.allclose(steps[-1]["out"], row["advantage"], rtol=0, atol=1e-12)
        first = steps[0]
        assert first["out"] in (pytest.approx(scores[row["episode"]]), 0.0) and first["paid score"] == first["out"]
        for step in steps:
            if step["stage"] == "normalise" and step.get("count", 2.0) > 1.5:
                off = step["value"] - step["centre"]
                assert step["out"] == pytest.approx(off / step.get("divisor", 1.0), rel=1e-9, abs=1e-12)
            if step["stage"] == "scale":
                assert np.allclose(np.array(step["value"]) / np.array(step["divisor"]), step["out"])


async def test_the_push_of_a_single_step_is_weight_times_advantage(tmp_path: Path) -> None:
    rows = await rows_of(tmp_path / "run", Rule(group_standardised, token_mean, policy_gradient, on_policy=True))
    for row in rows:
        known = row["weight"] != 0
        assert np.allclose(row["push"][known], -(row["weight"] * row["advantage"])[known])
        assert not any(row["clipped"]) and row["present"] is None
        rule = json.loads(row["rule_json"])
        assert rule["clip"] == {"clip_low": 0.2, "clip_high": 0.2} and rule["updates"] == 1
        assert rule["weighting"] == "token_mean" and rule["advantage"].startswith("group_standardised(")


@pytest.mark.parametrize("more", [False, True])
async def test_what_the_clip_took_is_what_the_ratio_says(tmp_path: Path, more: bool) -> None:
    clip = partial(policy_gradient, clip_low=0.02, clip_high=0.03)
    loss = Sum((1.0, clip), (0.01, entropy)) if more else clip
    rows = await rows_of(tmp_path / "run", Rule(group_standardised, token_mean, loss, updates=3), lr=2e-2)
    seen = set()
    for row in rows:
        ratio = np.exp(row["present"] - row["old"])
        up, down = row["advantage"] > 0, row["advantage"] < 0
        expected = (row["weight"] != 0) & ((up & (ratio > 1.03)) | (down & (ratio < 0.98)))
        assert (np.array(row["clipped"]) == expected).all()
        free = (row["weight"] != 0) & ~expected
        assert np.allclose(row["push"][free], -(row["weight"] * ratio * row["advantage"])[free], rtol=1e-5)
        assert (row["push"][expected] == 0).all()
        seen |= set(expected[row["advantage"] != 0].tolist())
    assert seen == {True, False}


async def test_the_dashboard_reads_what_the_loop_recorded(tmp_path: Path) -> None:
    rows = await rows_of(tmp_path / "run", Rule(group_standardised, token_mean, policy_gradient))
    index = Index(tmp_path / "run")
    assert index.update().whole
    found = index.credit((rows[0]["attempt"], rows[0]["play"]))
    view = episode_view(tmp_path / "run", index, rows[0]["episode"])
    assert all(texts is not None for texts in view["spelled"][0])  # the tokenizer is kept from the first iteration on
    assert found[0]["steps_json"] == rows[0]["steps_json"] and len(found[0]["push"]) == len(rows[0]["push"])

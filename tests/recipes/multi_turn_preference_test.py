"""Two rounds of every arm with the tiny model, gone on with, and what the recipe says of itself."""

from __future__ import annotations

import itertools
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polyturn.agents.chat import AnswerAgent
from polyturn.arrays import as_turns, lay_out
from polyturn.audit.report import audit_run
from polyturn.envs.arithmetic import Arithmetic, arithmetic
from polyturn.learn.learner import Learner
from polyturn.learn.run import Run
from polyturn.methods.learning.multi_turn_preference import is_right
from polyturn.policies.dictated import Dictated
from polyturn.policies.local import Local
from polyturn.policies.tiny import open_model
from polyturn.progress import make_progress
from polyturn.protocols import Ask, Match, Player
from polyturn.recipes.multi_turn_preference import STUDY, Settings, _Work, batches, held_out, main, texts
from polyturn.record.read import read_credit, read_metrics
from polyturn.record.write import open_run
from polyturn.rollout.pool import Pool, play
from polyturn.rollout.score import score_matches
from polyturn.types import Group, Message, Task, assistant

SMALL: dict[str, Any] = {
    "model": "tiny", "steps": 1, "sft_updates": 2, "sft_episodes": 4, "sft_lr": 1e-3, "rounds": 2, "prompts": 3,
    "samples": 2, "pairs": 2, "test_tasks": 3, "lr": 1e-3,
}


async def finished(folder: Path, settings: Settings, *, resume: bool = False) -> Run:
    recorder = open_run(folder, recipe="multi_turn_preference", resume=resume)
    run = Run(folder, recorder, make_progress(StringIO()), deterministic=True)
    try:
        await main(settings, run)
    finally:
        run.recorder.close()
    return run


@pytest.mark.parametrize(("arm", "more"), [
    ("m_dpo", {"nll": 0.1}), ("m_kto", {"renew": False}), ("single_turn_dpo", {}), ("filtered_sft", {}),
])
async def test_two_rounds(tmp_path: Path, arm: Any, more: dict[str, Any]) -> None:
    run = await finished(tmp_path / "run", Settings(arm=arm, **SMALL, **more))
    assert run.results["accuracy"].keys() == {"sft", "round_1", "round_2"}
    assert run.results["outcome"]["accuracy"] == run.results["accuracy"]["round_2"]
    rows = read_metrics(run.folder)
    assert [row["stage"] for row in rows] == ["sft"] * 2 + ["rounds"] * 3
    assert all("evaluate/score" in row["values"] for row in rows[2:])
    assert audit_run(run.folder).faults == []


async def made_groups(model: Local, suite: Arithmetic, prompts: int) -> list[Group]:
    """Of each problem one right play and one wrong one, both with the calculator."""
    kinds = itertools.cycle((True, False))

    def answer_of(task: Task) -> AnswerAgent:
        right, solver = next(kinds), suite.oracle(task)

        def answer(ask: Ask) -> Message:
            said = solver(ask)
            return said if right or said.text.startswith("calc") else assistant("answer 998")

        return AnswerAgent(answer)

    tasks = itertools.islice(suite.tasks("train"), prompts)
    matches = [Match(suite, task, {"agent": Player(partial(answer_of, task), "main")}, rollouts=2,
                     train=frozenset({"agent"})) for task in tasks]
    groups = await play(matches, {"main": Dictated(name="main", chat=model.chat)}, pool=Pool(1))
    return await score_matches(matches, groups)


@pytest.mark.parametrize("arm", ["m_dpo", "m_kto", "single_turn_dpo", "filtered_sft"])
async def test_every_arm_makes_the_right_plays_likelier(tmp_path: Path, arm: Any) -> None:
    settings = Settings(**{**SMALL, "arm": arm, "lr": 3e-3, "nll": 0.1})
    run = Run(tmp_path, open_run(tmp_path, recipe="x"), make_progress(StringIO()))
    model = open_model("tiny", partial(texts, settings))
    work = _Work(settings, run, model, arithmetic(steps=1))
    groups = await made_groups(model, work.suite, 5)
    assert [[is_right(episode) for episode in group] for group in groups] == [[True, False]] * 5
    learner = Learner(model.model, lr=settings.lr, reference="initial")
    metrics = work._learned(learner, 0, groups)
    waivers = {row["waiver"] for row in read_credit(tmp_path)}
    assert waivers == ({"observations"} if arm == "single_turn_dpo" else {""})
    assert metrics["preference/groups"] == 5 and metrics["learner/steps"] == metrics["preference/updates"] >= 1
    turns = as_turns(lay_out(groups, "main"), learner.measure(lay_out(groups, "main")))
    assert turns.measured is not None and turns.measured.reference_N is not None
    margin_B = np.bincount(turns.tokens.trajectory_N, turns.measured.old_N - turns.measured.reference_N)
    if arm == "filtered_sft":  # likelihood of the right ones lifts what the wrong ones share with them, too
        assert (margin_B[0::2] > 0).all()
    else:
        assert (margin_B[0::2] > margin_B[1::2]).mean() >= 0.8
    run.recorder.close()
    model.close()


async def test_a_finished_run_gone_on_with_changes_nothing(tmp_path: Path) -> None:
    settings = Settings(**{**SMALL, "rounds": 1})
    first = dict((await finished(tmp_path / "run", settings)).results)
    assert (await finished(tmp_path / "run", settings, resume=True)).results == first


def test_no_batch_is_left_with_one_pair_beside_others() -> None:
    groups: list[Any] = list(range(9))
    assert [list(part) for part in batches(groups, 4)] == [[0, 1, 2, 3], [4, 5, 6, 7, 8]]
    assert [list(part) for part in batches(groups, 3)] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert [len(part) for part in batches(groups[:1], 4)] == [1] and list(batches([], 4)) == []


def test_what_it_says_of_itself() -> None:
    assert {settings["arm"] for settings in STUDY.arms.values()} == {
        "m_dpo", "m_kto", "single_turn_dpo", "filtered_sft"}
    for arm in STUDY.arms:
        Settings(**STUDY.settings(arm, 0, 1))
    assert len(held_out(Settings(test_tasks=5))) == 5
    assert any("calc" in line for line in texts(Settings()))

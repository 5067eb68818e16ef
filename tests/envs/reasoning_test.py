"""Reasoning Gym: every topic by its generator's own answer, and what is judged."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from polyturn.cli.main import main
from polyturn.envs.outside.process import Outside
from polyturn.envs.reasoning.suite import NEEDY, OPEN, known_topics, reasoning_gym
from polyturn.errors import BadInput, EnvironmentFailed, UnknownName
from polyturn.testing import check_suite
from polyturn.types import assistant
from tests.envs.drive import drive, saying


@pytest.mark.model
async def test_every_topic_is_solved_by_its_generators_answer_and_not_by_silence() -> None:
    made = reasoning_gym()
    tasks = list(made.tasks("test"))
    assert len({task.payload["topic"] for task in tasks}) == len(made.topics) == len(tasks) == 96
    found: dict[str, tuple[float, float]] = {}
    for task in tasks:
        best = await drive(made, task, 0, {"agent": made.oracle(task)})
        worst = await drive(made, task, 0, {"agent": made.null(task)})
        found[task.payload["topic"]] = (best.final["score"], worst.final["score"])
        assert best.heard("agent") == worst.heard("agent")
    assert {topic for topic, (best, _) in found.items() if best < 1} == set()
    assert max(worst for _, worst in found.values()) <= 0.01  # three rules give that for any reply
    assert made._outside.starts == 1 and not made._solutions
    await made.close()


async def test_some_topics_are_solved_by_their_generators_answer() -> None:
    made = reasoning_gym()
    tasks = list(made.tasks("test"))[::12]
    scores = [(await drive(made, task, 0, {"agent": made.oracle(task)})).final["score"] for task in tasks]
    assert scores == [1.0] * 8
    await made.close()


async def test_the_suite_keeps_its_contract() -> None:
    made = reasoning_gym(topics=["leg_counting", "basic_arithmetic"], test_tasks=6)
    assert await check_suite(made, scored=4, tasks=1) == {"oracle": 1.0, "null": 0.0}
    await made.close()


async def test_the_answer_is_read_from_the_last_tags() -> None:
    made = reasoning_gym(topics=["basic_arithmetic"])
    task = next(made.tasks("train"))
    answers = {}
    for reply in ("<answer>1</answer> no: <answer> 2 </answer>", "2", ""):
        driven = await drive(made, task, 0, {"agent": saying(reply)})
        answers[reply] = driven.final["answer"]
    assert list(answers.values()) == ["2", None, None]
    await made.close()


async def test_another_seed_is_another_problem_and_the_same_one_the_same() -> None:
    made = reasoning_gym(topics=["basic_arithmetic"])
    task = next(made.tasks("train"))
    heard = [(await drive(made, task, seed, {"agent": saying("")})).heard("agent")[0] for seed in (0, 1, 0)]
    assert heard[0] == heard[2] != heard[1]
    await made.close()


async def test_topics_without_an_answer_are_asked_for_by_name_and_judged() -> None:
    made = reasoning_gym(topics=sorted(OPEN))
    task = next(made.tasks("test"))
    with pytest.raises(BadInput, match="the generator knows no answer"):
        await drive(made, task, 0, {"agent": made.oracle(task)})
    assert (await drive(made, task, 0, {"agent": saying("<answer>x</answer>")})).final["score"] < 1
    await made.close()


async def test_topics_that_need_more_packages_say_so() -> None:
    for topic in ("game_of_life", "leg_countin"):
        with pytest.raises(UnknownName, match=f"no topic named '{topic}'"):
            reasoning_gym(topics=[topic])
    made = reasoning_gym(topics=["leg_counting"])
    for topic in sorted(NEEDY - {"composite"}):
        with pytest.raises(BadInput, match="needs the package"):
            await made._outside.ask({"do": "problem", "topic": topic, "seed": 1})
    await made.close()


def test_the_topics_are_the_packages() -> None:
    from polyturn.envs.install import installed

    known = known_topics(installed("reasoning"))
    assert len(known) == 106 and set(known) >= NEEDY | OPEN
    made = reasoning_gym(test_tasks=3)
    train = [task.id for task in islice(made.tasks("train"), 200)]
    assert len(set(train)) == 200 and not set(train) & {task.id for task in made.tasks("test")}
    with pytest.raises(UnknownName, match="did you mean 'test'"):
        made.tasks("tset")


@pytest.mark.parametrize("reply", [None, {"score": 2.0, "answer": None}, {"score": 1, "answer": "x"}, {"score": 0.5}])
async def test_what_comes_back_is_checked(reply: Any, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        f"def answer(request):\n    return {{'question': 'q'}} if request['do'] == 'problem' else {reply!r}\n")
    made = reasoning_gym(topics=["leg_counting"])
    made._outside = Outside("forged", tmp_path, tmp_path / "script.py")
    env = await made.make(next(made.tasks("test")), 0)
    await env.start()
    await env.step({"agent": assistant("2")})
    with pytest.raises(EnvironmentFailed, match="the judge of"):
        await env.final()
    await env.close()
    await made.close()


def test_the_command_plays_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["eval", "reasoning_gym", "--policy", "oracle", "--tasks", "5", "--runs", str(tmp_path), "--json"]
    assert main(command) == 0
    row = json.loads(capsys.readouterr().out.splitlines()[-1])["mixture"]
    assert (row["mean"], row["n_tasks"], row["errors"]) == (1.0, 5, 0)

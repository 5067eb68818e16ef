"""ScienceWorld: a task by its gold path, what the simulator refuses, Java machines that end; long: the contract."""

from __future__ import annotations

import json
from itertools import islice
from typing import Any

import psutil
import pytest

from polyturn.envs.scienceworld import VARIATIONS, ScienceWorld, ended, gold_path, science_world, started
from polyturn.errors import BadInput, UnknownName
from polyturn.protocols import Suite
from polyturn.rollout.worker import in_worker
from polyturn.testing import check_suite
from polyturn.types import Task
from tests.envs.drive import Driven, episode, saying, score

QUICK = Task("science_world/test/find-non-living-thing/225", "science_world",
             {"topic": "find-non-living-thing", "variation": 225})


async def drive(suite: ScienceWorld, task: Task, answer: Any) -> Driven:
    """One play in a worker."""
    env = in_worker(await suite.make(task, 0), "thread", 120.0)
    driven = Driven([await env.start()])
    while driven.steps[-1].asks:
        driven.steps.append(await env.step({"agent": answer(driven.steps[-1].asks[0])}))
    driven.final = await env.final()
    await env.close()
    return driven


def machines() -> list[int]:
    return [child.pid for child in psutil.Process().children(recursive=True) if "java" in child.name()]


async def test_the_gold_path_scores_1_and_no_machine_is_left() -> None:
    suite = science_world(list_legal=False)
    assert isinstance(suite, Suite) and machines() == []
    driven = await drive(suite, QUICK, suite.oracle(QUICK))
    assert driven.stop.reason == "completed" and driven.final["score"] == 1.0
    assert driven.heard("agent")[0].startswith("Task Description:\nYour task is to find a(n) non-living thing.")
    assert await score(suite, [episode(QUICK, driven)]) == {QUICK.id: 1.0}
    assert machines() == []


async def test_unknown_words_are_noted_the_horizon_truncates_and_a_failed_task_scores_0() -> None:
    suite = science_world(steps=3)
    driven = await drive(suite, QUICK, saying("", "fly 🦜", "look around"))
    assert driven.kinds() == ["invalid", "invalid"] and driven.stop.kind == "truncated"
    assert driven.final["steps"] == 3 and 0 <= driven.final["score"] < 1
    assert "look around" in (driven.steps[0].asks[0].legal or ())
    living = Task("science_world/test/find-living-thing/225", "science_world",
                  {"topic": "find-living-thing", "variation": 225})
    lost = await drive(suite, living, saying("focus on air"))
    assert (lost.stop.reason, lost.final["score"]) == ("failed", -1.0)
    assert await score(suite, [episode(living, lost)]) == {living.id: 0.0}


async def test_a_machine_ends_also_when_the_play_never_began_or_its_task_does_not_exist() -> None:
    suite = science_world()
    env = in_worker(await suite.make(QUICK, 0), "thread", 120.0)
    await env.close()
    with pytest.raises(ValueError, match="Unknown taskName"):
        started(Task("t", "science_world", {"topic": "fly", "variation": 0}), "easy")
    assert machines() == []


def test_tasks_take_topics_in_turn_and_keep_the_packages_split() -> None:
    suite = science_world(topics=("boil", "find-animal"), test_tasks=40)
    test = list(suite.tasks("test"))
    assert [task.payload["topic"] for task in test[:4]] == ["boil", "find-animal"] * 2
    assert len({task.id for task in test}) == len(test) == 40
    for task in (*test, *islice(suite.tasks("train"), 400)):
        end, first, last = VARIATIONS[task.payload["topic"]]
        inside = range(first, last) if "/test/" in task.id else range(end)
        assert task.payload["variation"] in inside and end <= first < last
    few = science_world(topics=("identify-life-stages-2",), test_tasks=40)
    assert len(list(few.tasks("test"))) == VARIATIONS["identify-life-stages-2"][2] - VARIATIONS[
        "identify-life-stages-2"][1]


def test_what_is_refused() -> None:
    with pytest.raises(UnknownName, match="boil"):
        science_world(topics=("boill",))
    with pytest.raises(BadInput, match="one or more"):
        science_world(topics=())
    with pytest.raises(UnknownName, match="split"):
        science_world().tasks("dev")


@pytest.mark.long
@pytest.mark.timeout(3600)
async def test_it_keeps_the_contract_of_suites() -> None:
    await check_suite(science_world(test_tasks=3), tasks=1, scored=3)


@pytest.mark.long
@pytest.mark.timeout(3600)
async def test_the_table_is_the_packages_and_gold_paths_score_1_on_every_task() -> None:
    suite = science_world(topics=tuple(VARIATIONS), steps=400, list_legal=False)
    found, scores = {}, {}
    for topic, (_, first, _) in VARIATIONS.items():
        task = Task(topic, "science_world", {"topic": topic, "variation": first})
        simulator = started(task, "easy")
        train, test = simulator.get_variations_train(), simulator.get_variations_test()
        ended(simulator)
        found[topic] = (train[-1] + 1, test[0], test[-1] + 1)
        if gold_path(task):
            scores[topic] = (await drive(suite, task, suite.oracle(task))).final["score"]
    assert found == dict(VARIATIONS)
    assert {topic: value for topic, value in scores.items() if value < 1} == {}, json.dumps(scores)

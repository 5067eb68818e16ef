from __future__ import annotations

import random
from collections import Counter
from itertools import islice

import pytest

from polyturn.envs.composition import (
    Question,
    action,
    by_position,
    composed,
    matched,
    multi_objective,
    normalised,
    objective_task,
)
from polyturn.errors import BadInput, UnknownName
from polyturn.testing import check_suite
from polyturn.types import Episode, Stop, Task, assistant
from tests.envs.drive import drive, saying


def questions(count: int, prefix: str = "q") -> list[Question]:
    return [Question(f"{prefix}{n}", (f"a{n}", f"alias {n}")) for n in range(count)]


FACTS = {"train": questions(7), "test": questions(9, "t")}


def found(task: Task, query: str) -> str:
    return f"about {query}"


@pytest.mark.parametrize("seed", range(200))
def test_composition_uses_every_question_equally_often_and_none_twice_in_a_task(seed: int) -> None:
    draws = random.Random(seed)
    pool = questions(draws.randint(1, 12))
    objectives, count = draws.randint(1, len(pool)), draws.randint(1, 60)
    used: Counter[str] = Counter({question.text: 0 for question in pool})
    for chosen in islice(composed(pool, objectives, seed), count):
        assert len({question.text for question in chosen}) == len(chosen) == objectives
        used.update(question.text for question in chosen)
        assert max(used.values()) - min(used.values()) <= 2 - (len(pool) % objectives == 0)
    assert sum(used.values()) == count * objectives


@pytest.mark.parametrize("objectives", [1, 2, 3, 7])
def test_a_tasks_answers_stand_in_the_order_of_its_questions(objectives: int) -> None:
    by_text = {question.text: list(question.answers) for question in FACTS["train"]}
    suite = multi_objective(FACTS, found, objectives=objectives)
    tasks = list(islice(suite.tasks("train"), 30))
    for task in tasks:
        assert task.payload["answers"] == [by_text[text] for text in task.payload["questions"]]
    assert len({tuple(task.payload["questions"]) for task in tasks}) > min(objectives, 6)
    assert tasks == list(islice(suite.tasks("train"), 30))


def test_held_out_tasks_use_each_question_at_most_once() -> None:
    tasks = list(multi_objective(FACTS, found, objectives=2).tasks("test"))
    asked = [text for task in tasks for text in task.payload["questions"]]
    assert len(tasks) == 4 and len(set(asked)) == len(asked) == 8


def test_matches_by_position() -> None:
    answers = [["Goethe", "J. W. von Goethe"], ["Elbe"], ["7"]]
    assert matched("goethe; the Elbe ; 7", answers) == (True, True, True)
    assert matched("Elbe; Goethe; 7", answers) == (False, False, True)  # the right words in the wrong places
    assert matched("j w von goethe", answers) == (True, False, False)  # left out
    assert matched("Goethe; Elbe; 7; Goethe", answers) == (True, True, True)  # too many
    assert matched("", [[""], ["x"]]) == (False, False)  # nothing said is never right
    assert matched("b", [["abc"]]) == (False,)  # a text is no list of its letters
    assert normalised("An apple, a day") == "apple day"


def test_the_first_closed_tag_is_the_action() -> None:
    assert action("<IS>x</IS><search> fox </search>") == ("search", "fox")
    assert action("<answer>a;\nb</answer><search>c</search>") == ("answer", "a;\nb")
    assert action("<search>never closed <answer>a</answer>") == ("answer", "a")
    assert action("<search>fox</answer>") is None


async def test_a_play_and_its_score() -> None:
    suite = multi_objective(FACTS, found, objectives=2)
    task = objective_task("t", "multi_objective", FACTS["test"][:2])
    driven = await drive(suite, task, 0, {"agent": saying("hm", "<search>t0</search>", "<answer>a0; a0</answer>")})
    assert driven.heard("agent")[0].startswith("Questions: t0; t1\n")
    assert driven.heard("agent")[1:] == ["That was neither <search>...</search> nor <answer>...</answer>.", "about t0"]
    assert driven.kinds() == ["invalid"]
    assert driven.final == {"answer": "a0; a0", "matched": [True, False], "searches": 1}
    episode = Episode("e", task, 0, final=driven.final, stop=Stop("done"))
    (score,) = (await suite.verifier([(episode,)]))["e"].values()
    assert (score.value, score.success) == (0.5, False)
    assert score.parts == {"matched": 1.0, "position_1": 1.0, "position_2": 0.0}
    unfinished = Episode("u", task, 0, final={"answer": None, "matched": None, "searches": 3}, stop=Stop("truncated"))
    broken = Episode("b", task, 0, stop=Stop("error"))
    assert by_position([(episode, unfinished, broken)]) == (0.5, 0.0)


async def test_the_suite_keeps_its_contract() -> None:
    assert await check_suite(multi_objective(FACTS, found, objectives=3)) == {"oracle": 1.0, "null": 0.0}


async def test_a_play_without_an_answer_is_truncated_also_when_it_was_saved() -> None:
    suite = multi_objective(FACTS, found, steps=3)
    task = next(suite.tasks("test"))
    driven = await drive(suite, task, 0, {"agent": saying("<search>t0</search>")})
    assert len(driven.said) == 3 and driven.stop == Stop("truncated", "no reply is left", "agent")
    env = await suite.make(task, 0)
    with pytest.raises(BadInput, match="can be saved"):
        await env.save()
    await env.start()
    await env.step({"agent": assistant("<search>t0</search>")})
    state = await env.save()
    copy = await suite.make(task, 0)
    await copy.start(state)
    assert (await copy.step({"agent": assistant("hm")})).stop is None
    assert (await copy.step({"agent": assistant("hm")})).stop == driven.stop
    assert (await copy.final())["searches"] == 1


def test_wrong_inputs_are_named() -> None:
    with pytest.raises(BadInput, match="objectives is 3 with 2 questions"):
        composed(questions(2), 3)
    with pytest.raises(BadInput, match="stand twice: \\['q0'\\]"):
        composed([*questions(2), *questions(1)], 1)
    with pytest.raises(BadInput, match="in both splits"):
        multi_objective({"train": questions(3), "test": questions(2)}, found)
    with pytest.raises(BadInput, match="exactly \\['test', 'train'\\]"):
        multi_objective({"train": questions(3)}, found)
    with pytest.raises(UnknownName, match="split"):
        multi_objective(FACTS, found).tasks("dev")
    with pytest.raises(BadInput, match="equally many"):
        by_position([])

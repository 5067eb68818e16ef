from __future__ import annotations

import random
from itertools import islice

import numpy as np
import pytest

from polyturn.envs.lookup import (
    KEYS,
    LETTERS,
    VALUES,
    code_of,
    composed_lookup,
    key_hunt,
    look_up,
    pairs,
    recall,
    spoken,
)
from polyturn.errors import BadInput
from polyturn.testing import check_suite
from polyturn.types import Episode, Span, Stop, Task, Trajectory, Turn, assistant, user
from tests.envs.drive import drive, saying


@pytest.mark.parametrize("parts", [1, 6, 11])
async def test_the_key_hunt_keeps_its_contract(parts: int) -> None:
    assert await check_suite(key_hunt(parts=parts, test_tasks=8)) == {"oracle": 1.0, "null": 0.0}


@pytest.mark.parametrize("objectives", [1, 2, 8])
async def test_composed_lookups_keep_their_contract(objectives: int) -> None:
    assert await check_suite(composed_lookup(objectives=objectives, test_tasks=8)) == {"oracle": 1.0, "null": 0.0}


async def test_a_hunt() -> None:
    suite = key_hunt(parts=3)
    task = next(suite.tasks("test"))
    a, b, c = code_of(task, 5)
    said = saying("open 2", "open 4", "open two", f"code 1 {a} 2 {b} 3 {c}")
    driven = await drive(suite, task, 5, {"agent": said})
    assert driven.heard("agent")[1:] == [f"Found 2 {b}.", *["Reply open and a number from 1 to 3, or code."] * 2]
    assert driven.kinds() == ["invalid", "invalid"]
    assert driven.final == {"code": a + b + c, "said": f"code 1 {a} 2 {b} 3 {c}", "opened": [2]}


@pytest.mark.parametrize(("said", "value", "found"), [
    ("code 1 b 2 d 3 k", 1.0, 1.0), ("code 3 k 1 b 2 d", 1.0, 1.0), ("code 1 b 2 d", 0.0, 2 / 3),
    ("code 1 b 2 d 3 k 4 m", 0.0, 1.0), ("code b d k", 0.0, 0.0), ("code 1 d 2 b 3 k", 0.0, 1 / 3),
])
async def test_only_the_whole_code_scores(said: str, value: float, found: float) -> None:
    episode = Episode("e", Task("t", "key_hunt"), 0, final={"code": "bdk", "said": said, "opened": []})
    (score,) = (await key_hunt().verifier([(episode,)]))["e"].values()
    assert (score.value, score.parts["found"]) == (value, pytest.approx(found))


async def test_a_hunt_without_an_answer_is_lost() -> None:
    episode = Episode("e", Task("t", "key_hunt"), 0, final={"code": "b", "said": None, "opened": []},
                      stop=Stop("truncated", "env_steps", "agent"))
    (score,) = (await key_hunt().verifier([(episode,)]))["e"].values()
    assert (score.value, score.success) == (0.0, False)


def test_codes_are_drawn_from_task_and_seed() -> None:
    tasks = list(islice(key_hunt(parts=50).tasks("train"), 40))
    codes = {code_of(task, seed) for task in tasks for seed in (0, 1)}
    assert len(codes) == 80 and code_of(tasks[0], 0) == code_of(tasks[0], 0)
    letters = "".join(codes)
    assert set(letters) == set(LETTERS)
    share = np.array([letters.count(letter) for letter in LETTERS]) / len(letters)
    assert abs(share - 1 / 16).max() < 4 * (1 / 16 * 15 / 16 / len(letters)) ** 0.5


def test_pairs_read_what_is_spoken() -> None:
    draws = random.Random(0)
    for _ in range(200):
        found = {number: draws.choice(LETTERS) for number in draws.sample(range(1, 30), draws.randint(0, 9))}
        assert pairs(spoken("code", found)) == found
    assert pairs("open 3 Found 12 k. 1 bd 2") == {12: "k"}


def test_recall_counts_what_was_shown_and_is_repeated_rightly() -> None:
    told = (user("as in: code 1 b 2 d."), user("1 p 2 q", origin="summary"), assistant("open 3"),
            user("Found 3 k."), assistant("notes 1 p 2 z 9 k"))
    turn = Turn(0, "agent", "main", (0, 1, 2, 3), 4, (0,))
    trajectory = Trajectory("agent", "main", None, told, (turn,), (Span(-1, np.zeros(1, np.int32)),))
    episode = Episode("e", Task("t", "key_hunt"), 0, trajectories=(trajectory,))
    assert recall(episode, turn) == pytest.approx(1 / 3)  # of 1 p, 2 q, 3 k only the first; the rules show none
    assert recall(episode, Turn(0, "agent", "main", (0,), 4, (0,))) is None


def test_the_corpus_of_a_lookup_is_its_own() -> None:
    tasks = list(islice(composed_lookup(objectives=8).tasks("train"), 50))
    for task in tasks:
        corpus = task.payload["corpus"]
        assert set(corpus) == set(KEYS) and set(corpus.values()) <= set(VALUES)
        assert task.payload["answers"] == [[corpus[key]] for key in task.payload["questions"]]
        assert len(set(task.payload["questions"])) == 8
    assert len({tuple(task.payload["corpus"].values()) for task in tasks}) == 50
    first = tasks[0]
    assert look_up(first, " Fox ") == f"fox {first.payload['corpus']['fox']}"
    assert look_up(first, "foxes") == "nothing found"


def test_wrong_sizes_are_named() -> None:
    with pytest.raises(BadInput, match="parts is 0"):
        key_hunt(parts=0)
    with pytest.raises(BadInput, match="objectives is 21"):
        composed_lookup(objectives=21)

from __future__ import annotations

import random
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from polyturn.envs.lookup import (
    DRAWERS,
    ONSETS,
    code_of,
    composed_lookup,
    in_view,
    key_hunt,
    look_up,
    recall,
    spoken,
    syllables,
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
    code = code_of(task, 5)
    said = saying("open e", "open o", "open", spoken("code", code))
    driven = await drive(suite, task, 5, {"agent": said})
    again = "Reply open and one of the drawers a e i, or code."
    assert driven.heard("agent")[1:] == [f"Found {code['e']}.", again, again]
    assert driven.kinds() == ["invalid", "invalid"]
    assert driven.final == {"code": code, "said": spoken("code", code), "opened": ["e"]}


CODE = {"a": "ba", "e": "de", "i": "ki"}


@pytest.mark.parametrize(("said", "value", "found"), [
    ("code ba de ki", 1.0, 1.0), ("code ki ba de", 1.0, 1.0), ("code ba de", 0.0, 2 / 3),
    ("code ba de ki mo", 0.0, 1.0), ("code", 0.0, 0.0), ("code da be ki", 0.0, 1 / 3), ("code bad de ki", 0.0, 2 / 3),
])
async def test_only_the_whole_code_scores(said: str, value: float, found: float) -> None:
    episode = Episode("e", Task("t", "key_hunt"), 0, final={"code": CODE, "said": said, "opened": []})
    (score,) = (await key_hunt().verifier([(episode,)]))["e"].values()
    assert (score.value, score.parts["found"]) == (value, pytest.approx(found))


async def test_a_hunt_without_an_answer_is_lost() -> None:
    episode = Episode("e", Task("t", "key_hunt"), 0, final={"code": CODE, "said": None, "opened": []},
                      stop=Stop("truncated", "env_steps", "agent"))
    (score,) = (await key_hunt().verifier([(episode,)]))["e"].values()
    assert (score.value, score.success) == (0.0, False)


def test_codes_are_drawn_from_task_and_seed() -> None:
    tasks = list(islice(key_hunt(parts=12).tasks("train"), 100))
    codes = [tuple(code_of(task, seed).values()) for task in tasks for seed in (0, 1)]
    assert len(set(codes)) == 200 and code_of(tasks[0], 0) == code_of(tasks[0], 0)
    onsets = "".join(syllable[0] for code in codes for syllable in code)
    share = np.array([onsets.count(onset) for onset in ONSETS]) / len(onsets)
    assert set(onsets) == set(ONSETS) and abs(share - 1 / 16).max() < 4 * (1 / 16 * 15 / 16 / len(onsets)) ** 0.5


def test_syllables_read_what_is_spoken() -> None:
    draws = random.Random(0)
    for _ in range(200):
        found = {drawer: draws.choice(ONSETS) + drawer for drawer in draws.sample(DRAWERS, draws.randint(0, 9))}
        assert syllables(spoken("code", found)) == found
    assert syllables("open a Found ke. kit bai x") == {"e": "ke", "ai": "bai"}


def test_recall_counts_what_was_shown_and_is_repeated_rightly() -> None:
    told = (user("as in: code ba de."), user("pa que", origin="summary"), user("pa qe te", origin="summary"),
            assistant("open i"), user("Found ki."), assistant("notes pa ze mo"))
    turn = Turn(0, "agent", "main", (0, 1, 2, 3, 4), 5, (0,))
    trajectory = Trajectory("agent", "main", None, told, (turn,), (Span(-1, np.zeros(1, np.int32)),))
    episode = Episode("e", Task("t", "key_hunt"), 0, trajectories=(trajectory,))
    assert recall(episode, turn) == pytest.approx(1 / 3)  # of pa, te, ki only the first; the rules show none
    assert recall(episode, Turn(0, "agent", "main", (0,), 5, (0,))) is None
    done = replace(episode, final={"code": {"a": "pa", "e": "te", "i": "zi", "o": "lo"}})
    assert in_view(done, turn) == pytest.approx(2 / 4)  # pa and te are right, ki is not, o is not in view
    with pytest.raises(BadInput, match="no final state"):
        in_view(episode, turn)


def test_the_corpus_of_a_lookup_is_its_own() -> None:
    tasks = list(islice(composed_lookup(objectives=8).tasks("train"), 50))
    for task in tasks:
        corpus = task.payload["corpus"]
        assert set(corpus) == set(DRAWERS) and syllables(" ".join(corpus.values())) == corpus
        assert task.payload["answers"] == [[corpus[key]] for key in task.payload["questions"]]
        assert len(set(task.payload["questions"])) == 8
    assert len({tuple(task.payload["corpus"].values()) for task in tasks}) == 50
    first = tasks[0]
    assert look_up(first, " E ") == f"e {first.payload['corpus']['e']}"
    assert look_up(first, "es") == "nothing found"


def test_wrong_sizes_are_named() -> None:
    with pytest.raises(BadInput, match="parts is 0"):
        key_hunt(parts=0)
    with pytest.raises(BadInput, match="objectives is 13"):
        composed_lookup(objectives=13)

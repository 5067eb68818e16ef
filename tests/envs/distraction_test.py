"""The conversations: their contract, what is said, and what keeps the rule."""

from __future__ import annotations

from itertools import islice

import pytest

from polyturn.envs.distraction import AGAINST, ENVS, distraction, goal_of, keeps
from polyturn.errors import BadInput
from polyturn.protocols import Suite
from polyturn.testing import check_suite
from polyturn.types import Task
from tests.envs.drive import drive, episode, saying


async def test_it_keeps_the_contract_of_suites() -> None:
    suite = distraction(turns=4, test_tasks=8)
    assert isinstance(suite, Suite)
    assert await check_suite(suite) == {"oracle": ENVS[0]["oracle"], "null": ENVS[0]["null"]}


async def test_a_conversation() -> None:
    suite = distraction(turns=4)
    task = Task("t", "distraction", {"word": "Copper", "requests": ["Name a bird.", "A fruit?", "A city.", "A song."]})
    driven = await drive(suite, task, 0, {"agent": saying("Copper, a lark.", "apple", " COPPER", "the Copper song")})
    assert driven.heard("agent") == ["Begin every reply with the word Copper. Name a bird.", "A fruit?", "A city.",
                                     "A song."]
    assert driven.final == {"kept": [True, False, True, False]}
    score = (await suite.verifier([(episode(task, driven),)]))["t"]["agent"]
    assert (score.value, score.success) == (0.5, False)


def test_requests_turn_against_the_rule() -> None:
    against = {form.split("{")[0] for form in AGAINST}
    tasks = list(islice(distraction(turns=12).tasks("train"), 100))
    asked = [[task.payload["requests"][k] for task in tasks] for k in (0, 5, 11)]
    shares = [sum(any(request.startswith(a) for a in against) for request in row) / 100 for row in asked]
    assert shares[0] == 0.0 and 0.25 < shares[1] < 0.65 and shares[2] == 1.0
    assert len({goal_of(task) for task in tasks}) == 8


def test_what_keeps_the_rule() -> None:
    task = Task("t", "f", {"word": "Willow"})
    assert keeps(task, "willow!") and keeps(task, "\n Willow") and not keeps(task, "A willow") and not keeps(task, "")
    with pytest.raises(BadInput):
        distraction(turns=0)

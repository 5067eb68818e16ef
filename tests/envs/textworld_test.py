"""TextWorld: a generated game by its own walkthrough, the words that reach the game, the cache, and the contract."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import psutil
import pytest

from polyturn.envs.textworld import Kind, TextWorld, cleaned, coin_collector, walkthrough
from polyturn.errors import BadInput, EnvironmentFailed, UnknownName
from polyturn.protocols import Suite
from polyturn.rollout.worker import in_worker
from polyturn.testing import check_suite
from polyturn.types import Score, Task
from tests.envs.drive import Driven, episode, saying, score


@pytest.fixture(scope="module")
def suite() -> TextWorld:
    """One game of two rooms and a dead end; made once, in the cache folder that the tests share."""
    return coin_collector(lengths=(2,), games=1, test_tasks=1, steps=12)


def first(suite: TextWorld) -> Task:
    return next(iter(suite.tasks("test")))


async def drive(suite: TextWorld, task: Task, answer: Any) -> Driven:
    """One play in a worker, as the package's games are played."""
    env = in_worker(await suite.make(task, 0), "thread", 120.0)
    driven = Driven([await env.start()])
    while driven.steps[-1].asks:
        reply = answer(driven.steps[-1].asks[0])
        driven.said.append({"agent": reply.text})
        driven.steps.append(await env.step({"agent": reply}))
    driven.final = await env.final()
    await env.close()
    return driven


async def test_it_keeps_the_contract_of_suites(suite: TextWorld) -> None:
    assert isinstance(suite, Suite)
    measured = await check_suite(suite, tasks=1, scored=1)
    assert measured["oracle"] == 1.0 and measured["null"] == 0.0


async def test_the_walkthrough_wins_and_only_the_last_command_is_told(suite: TextWorld) -> None:
    task = first(suite)
    way = walkthrough(suite.game(task))
    driven = await drive(suite, task, suite.oracle(task))
    assert [said["agent"] for said in driven.said] == way and way[-1] == "take coin" and len(way) == 2
    assert driven.stop.reason == "won" and driven.kinds() == []
    assert driven.final == {"score": 1, "max_score": 1, "won": True, "over": True, "steps": 2}
    opening = driven.heard("agent")[0]
    assert "coin" in opening and way[0] not in opening and "$$" not in opening
    assert all("  " not in line and line for text in driven.heard("agent") for line in text.splitlines())
    assert await score(suite, [episode(task, driven)]) == {task.id: 1.0}


@pytest.mark.parametrize("reply", ["quit", "restart", "restore", "undo", "save", "", "go nowhere", "xyzzy 🦜"])
async def test_other_words_never_reach_the_game(suite: TextWorld, reply: str) -> None:
    task = first(suite)
    way = walkthrough(suite.game(task))
    driven = await drive(suite, task, saying(reply, *way))
    assert driven.heard("agent")[1] == "You cannot do that." and driven.kinds() == ["invalid"]
    assert driven.final["won"] and driven.final["steps"] == 3


async def test_the_horizon_truncates_and_unfinished_games_score_nothing(suite: TextWorld) -> None:
    task = first(suite)
    driven = await drive(suite, task, saying("look"))
    assert (driven.stop.kind, driven.stop.reason) == ("truncated", "after 12 steps")
    assert driven.kinds() == [] and await score(suite, [episode(task, driven)]) == {task.id: 0.0}


async def test_games_side_by_side_do_not_meet(suite: TextWorld) -> None:
    task = first(suite)
    alone = (await drive(suite, task, suite.oracle(task))).heard("agent")
    players = [suite.oracle(task), saying("look"), suite.oracle(task), suite.random_answer(task, 1)]
    together = await asyncio.gather(*(drive(suite, task, player) for player in players))
    assert together[0].heard("agent") == together[2].heard("agent") == alone
    assert together[1].final["score"] == 0


async def test_made_and_closed_games_leave_no_thread_and_no_process(suite: TextWorld) -> None:
    task, children = first(suite), set(psutil.Process().children(recursive=True))
    suite.game(task)
    threads = set(threading.enumerate())
    for number in range(20):
        env = in_worker(await suite.make(task, number), "thread", 120.0)
        if number % 2:
            await env.start()
        await env.close()
    assert set(threading.enumerate()) <= threads and set(psutil.Process().children(recursive=True)) <= children


def test_a_game_is_made_once_and_its_name_says_what_it_is_made_of(tmp_path: Path, suite: TextWorld) -> None:
    task = first(suite)
    story = suite.game(task)
    made = story.stat().st_mtime_ns
    assert coin_collector(lengths=(2,), games=1, test_tasks=1).game(task) == story
    assert story.stat().st_mtime_ns == made and story.with_suffix(".json").exists()
    other = replace(task, id="coin_collector/test/1")
    with pytest.raises(EnvironmentFailed, match="could not generate"):
        TextWorld(Kind("coin_collector", ({"level": 0},)), folder=tmp_path).game(
            replace(other, payload={"settings": {"level": 0}}))
    assert not list(tmp_path.glob("*.z8"))


def test_tasks_go_round_in_train_and_share_nothing_with_test() -> None:
    suite = coin_collector(lengths=(2, 5), games=3, test_tasks=2)
    train = [task.id for task in islice(suite.tasks("train"), 5)]
    assert train == [f"coin_collector/train/{n}" for n in (0, 1, 2, 0, 1)]
    levels = [task.payload["settings"]["level"] for task in suite.tasks("test")]
    assert levels == [102, 105]
    assert suite.verifier.read({"over": True, "won": False, "score": 1, "max_score": 4}) == {
        "agent": Score(0.25, success=False)
    }


def test_what_is_refused() -> None:
    with pytest.raises(UnknownName, match="coin_collector"):
        TextWorld(Kind("coin_colector", ({},)))
    with pytest.raises(BadInput, match="at least one"):
        TextWorld(Kind("coin_collector", ()))
    with pytest.raises(BadInput, match="lengths"):
        coin_collector(lengths=())
    with pytest.raises(UnknownName, match="split"):
        coin_collector().tasks("valid")
    assert cleaned(" a \n\n b\n>   -= Den =-0/3\n*** You lost! ***\nmore") == "a\nb"

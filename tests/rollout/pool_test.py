from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from polyturn.agents.chat import ChatAgent
from polyturn.errors import BadInput, UnknownName
from polyturn.programs import ProgramSuite, Table, as_env
from polyturn.protocols import Match, Player, Spec
from polyturn.record.table import RecordFailed
from polyturn.rollout.pool import Pool, alive, play, without_errors
from polyturn.rollout.score import score_matches
from polyturn.seeds import generator
from polyturn.types import Episode, Group, Score, Task
from tests.byte_policy import BytePolicy


async def guess(task: Task, seed: int, table: Table) -> Mapping[str, Any]:
    """One to four asks; breaks on request."""
    draws = generator(task.id, seed)
    for _ in range(int(draws.integers(1, 5))):
        await table.ask("agent", f"{task.id} {draws.integers(100)}")
    if task.payload.get("break"):
        raise RuntimeError("broken world")
    return {"drawn": int(draws.integers(100))}


class ByDraw:
    name = "score"

    async def __call__(self, groups: Any) -> Any:
        return {e.id: {"agent": Score(e.final["drawn"] / 100)} for group in groups for e in group}


def matches(count: int, rollouts: int = 3, **payload: Any) -> list[Match]:
    suite = ProgramSuite(Spec("guess"), as_env(guess), {}, verifier=ByDraw())  # type: ignore[arg-type]
    cast = {"agent": Player(ChatAgent, "main")}
    tasks = [Task(f"t{i}", "guess", payload if i == 1 else {}) for i in range(count)]
    train = frozenset({"agent"})
    return [Match(suite, task, cast, seed=i, rollouts=rollouts, train=train) for i, task in enumerate(tasks)]


def fingerprint(groups: list[Group]) -> list[Any]:
    return [
        (e.id, e.group, e.trial, e.final_sha256, [s.ids.tolist() for t in e.trajectories for s in t.spans])
        for group in groups for e in group
    ]


async def test_what_was_played_before_is_not_played_again() -> None:
    (whole,) = await play(matches(1), {"main": BytePolicy()})
    ended: list[str] = []
    done = {("play.0", 1): whole[1]}
    (again,) = await play(matches(1), {"main": BytePolicy()}, finished=lambda e: ended.append(e.id), done=done)
    assert again[1] is whole[1] and sorted(ended) == ["play.0.0", "play.0.2"]
    assert fingerprint([again]) == fingerprint([whole])
    with pytest.raises(BadInput, match="what was begun is not what is asked for"):
        await play(matches(2), {"main": BytePolicy()}, done={("play.1", 0): whole[0]})


async def test_groups_come_in_order_and_do_not_depend_on_the_concurrency() -> None:
    prints = []
    for concurrency in (1, 7, 32):
        policy = BytePolicy()
        groups = await play(matches(10), {"main": policy}, pool=Pool(concurrency=concurrency))
        prints.append(fingerprint(groups))
        assert (policy.most > 1) == (concurrency > 1)
    assert prints[0] == prints[1] == prints[2]
    assert [len(group) for group in groups] == [3] * 10
    assert [e.trial for e in groups[4]] == [0, 1, 2] and groups[4][2].id == "play.4.2"
    texts = {tuple(m.text for m in e.trajectories[0].messages) for e in groups[4]}
    worlds = {e.final_sha256 for e in groups[4]}
    assert len(texts) == 3 and len(worlds) == 1  # one world, three ways to play it


async def test_a_suite_says_how_many_of_its_plays_may_be_at_work() -> None:
    """A heavy suite beside a light one: two of the heavy at once, whatever the pool allows, and the light waits not."""
    at_work: dict[str, list[int]] = {"heavy": [0, 0], "light": [0, 0]}

    async def counted(task: Task, seed: int, table: Table) -> Mapping[str, Any]:
        now = at_work[task.family]
        now[:] = [now[0] + 1, max(now[1], now[0] + 1)]
        await table.ask("agent", task.id)
        await asyncio.sleep(0.01)
        now[0] -= 1
        return {"drawn": 1}

    cast = {"agent": Player(ChatAgent, "main")}
    orders = [Match(ProgramSuite(Spec(name, at_once=most), as_env(counted), {}), Task(name, name), cast, rollouts=6)
              for name, most in (("heavy", 2), ("light", None))]
    groups = await play(orders, {"main": BytePolicy()}, pool=Pool(concurrency=8))
    assert [e.stop.kind for group in groups for e in group] == ["done"] * 12
    assert at_work["heavy"] == [0, 2] and at_work["light"] == [0, 6]


async def test_a_broken_episode_is_data_and_gets_no_score() -> None:
    finished: list[Episode] = []
    orders = matches(3, **{"break": True})
    groups = await play(orders, {"main": BytePolicy()}, pool=Pool(retries=1), finished=finished.append)
    assert [e.stop.kind for e in groups[1]] == ["error"] * 3 and groups[1][0].id == "play.1.0r1"
    assert len(finished) == 9
    scored = await score_matches(orders, groups)
    assert [len(e.scores) for group in scored for e in group] == [1] * 3 + [0] * 3 + [1] * 3
    assert len(without_errors(scored)) == 2
    assert alive(scored) == []  # one world, one draw: every rollout of a group scores the same


async def test_what_is_wrong_with_the_program_stops_the_play() -> None:
    bad = matches(2)
    with pytest.raises(BadInput, match="nobody sits in"):
        await play([*bad, Match(bad[0].suite, bad[0].task, {})], {"main": BytePolicy()})
    (group,) = await play(bad[:1], {})
    assert "no policy named 'main'" in group[0].stop.reason and UnknownName.__name__ in group[0].stop.reason


class Full:
    """A recorder whose disk takes nothing more at ``place``."""

    def __init__(self, place: str) -> None:
        self.place = place

    def _at(self, place: str) -> None:
        if place == self.place:
            raise RecordFailed(28, "cannot write turns.jsonl: No space left on device")

    def turn(self, *row: object) -> None:
        self._at("turn")

    def episode(self, *row: object) -> None:
        self._at("episode")


@pytest.mark.parametrize("place", ["turn", "episode"])
async def test_a_disk_that_is_full_is_no_fault_of_the_episode_and_ends_the_play(place: str) -> None:
    recorder: Any = Full(place)
    with pytest.raises(RecordFailed, match=r"^cannot write turns.jsonl: No space left on device$"):
        await play(matches(2), {"main": BytePolicy()}, recorder=recorder)

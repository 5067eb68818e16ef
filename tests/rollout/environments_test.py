"""Environments that wait for nobody: schedules by hand, occupancy, and an environment that breaks."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from polyturn.agents.chat import AnswerAgent
from polyturn.errors import BadInput
from polyturn.programs import ProgramSuite, Table, as_env
from polyturn.protocols import Match, Player, Policy, Spec
from polyturn.rollout.environments import Environments, Occupancy, episode_name, group_name
from polyturn.rollout.leases import Leases, Order
from polyturn.rollout.pool import Pool
from polyturn.types import Episode, Task, assistant


async def sleeper(task: Task, seed: int, table: Table) -> Mapping[str, Any]:
    """Sleeps as long as its task says, then asks once."""
    await asyncio.sleep(float(task.payload["s"]))
    if task.payload.get("breaks"):
        raise RuntimeError("it broke")
    await table.ask("agent", "well?")
    return {}


def match(seconds: float, *, breaks: bool = False, rollouts: int = 1) -> Match:
    suite = ProgramSuite(Spec("sleeper"), as_env(sleeper), {})
    task = Task("t", "sleeper", {"s": seconds, "breaks": breaks})
    player = Player(lambda: AnswerAgent(lambda ask: assistant("well")), "none")
    return Match(suite, task, {"agent": player}, rollouts=rollouts)


class Line:
    """A queue that ends when all is played."""

    def __init__(self, matches: list[Match]) -> None:
        self.books, self.all_played = Leases(), asyncio.Event()
        for place, one in enumerate(matches):
            self.books.open(one, 0, place)
        self.came: list[tuple[int, int, str]] = []

    async def order(self, environment: str) -> Order:
        found = self.books.take_order(environment)
        if found is None:
            await asyncio.Event().wait()
            raise AssertionError
        return found

    def played(self, order: Order, episode: Episode, environment: str) -> None:
        self.books.give(order, episode, environment)
        self.came.append((order.ticket.number, order.trial, environment))
        if all(ticket.complete for ticket in self.books.tickets.values()):
            self.all_played.set()

    async def lose(self, environment: str, why: str) -> None:
        self.books.lost(environment)

    def policies(self, order: Order) -> Mapping[str, Policy]:
        from polyturn.policies.dictated import Dictated

        return {"none": Dictated(name="none")}


async def run(matches: list[Match], count: int, *, pool: Pool = Pool()) -> tuple[Line, Occupancy, float]:
    line, occupancy = Line(matches), Occupancy(count)
    working = asyncio.create_task(Environments(count, "s", pool).work(line, occupancy))
    started = asyncio.get_running_loop().time()
    await line.all_played.wait()
    seconds = asyncio.get_running_loop().time() - started
    shares = occupancy
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    return line, shares, seconds


async def test_an_environment_that_ends_a_rollout_begins_the_next_at_once() -> None:
    # two environments; sleeps 0.4 | 0.1 0.1 0.1: the second plays all three while the first still sleeps
    line, _, seconds = await run([match(0.4), match(0.1), match(0.1), match(0.1)], 2)
    assert [number for number, _, _ in line.came] == [1, 2, 3, 0]
    assert line.came[-1][2] == "env-0" and {by for _, _, by in line.came[:3]} == {"env-1"}
    # by batches of two it would take 0.4 + 0.1, by tasks too; here the longest line decides
    assert seconds >= 0.4


async def test_what_breaks_is_played_again_and_is_data() -> None:
    line, _, _ = await run([match(0.0, breaks=True)], 1, pool=Pool(retries=2))
    episode = line.books.tickets[0].done[0]
    assert episode.id == "s.t0.0r2" == episode_name(group_name("s", 0), 0, 2) and episode.stop.kind == "error"


async def test_a_fault_of_the_program_is_raised() -> None:
    line = Line([match(0.0)])
    line.policies = lambda order: 1 / 0  # type: ignore[assignment,method-assign,return-value]
    with pytest.raises(ExceptionGroup) as caught:
        await Environments(2, "s").work(line, Occupancy(2))
    assert isinstance(caught.value.exceptions[0], ZeroDivisionError)
    with pytest.raises(BadInput, match="0 environments"):
        Environments(0, "s")


def test_occupancy_by_hand() -> None:
    now = [0.0]
    seen = Occupancy(2, clock=lambda: now[0])
    seen.begin("a")  # 0..6, of which 4 without a policy at work; b idles until 8
    now[0] = 6.0
    seen.end("a", Episode("e", Task("t", "f"), 0, started=1.0, ended=5.0))
    now[0] = 8.0
    seen.begin("b")
    now[0] = 10.0
    # held (6 + 2) / (2 * 10), busy 4 / 20
    assert seen.shares() == {"rollout/occupied": 0.4, "rollout/busy": 0.2}
    now[0] = 14.0
    seen.end("b", Episode("e", Task("t", "f"), 0, started=8.0, ended=14.0))
    # since the beginning: held 6 + 6 of 2 * 14 seconds, of which 4 + 6 busy
    assert seen.shares() == {"rollout/occupied": 12 / 28, "rollout/busy": 10 / 28}

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from polyturn.desk import Budget, Log
from polyturn.errors import BudgetSpent, EnvironmentFailed
from polyturn.protocols import Ask, Spec, Step
from polyturn.rollout.world import Rules, World, fork, over
from polyturn.types import Event, Limits, Message, Stop, assistant, user


class Adding:
    """Adds up the numbers that it is told; ends above ten."""

    def __init__(self) -> None:
        self.total = 0

    async def start(self, state: bytes | None = None) -> Step:
        self.total = int(state or b"0")
        return Step((Ask("a", (user(str(self.total)),)),), events=(Event(0, "note", "a"),))

    async def step(self, replies: Mapping[str, Message]) -> Step:
        self.total += int(replies["a"].text)
        if self.total > 10:
            return Step(rewards={"a": {"total": float(self.total)}})
        return Step((Ask("a", (user(str(self.total)),)),), rewards={"a": {"total": 0.0}})

    async def final(self) -> Mapping[str, Any]:
        return {"total": self.total}

    async def close(self) -> None:
        pass


def a_world(limits: Limits = Limits()) -> World:
    async def make() -> Adding:
        return Adding()

    rules = Rules(Spec("adding", ("a",)), make, Log("e", {}), {"a": Budget(limits)})
    return World(rules, Adding())


async def test_every_step_is_charged_logged_and_kept_for_replay() -> None:
    world = a_world(Limits(env_steps=2))
    world.log_start(await world.start())
    await world.step({"a": assistant("4")})
    step = await world.step({"a": assistant("9")})
    assert [(e.kind, e.at) for e in world.rules.log.events] == [("note", 0), ("reward", 1), ("reward", 2)]
    assert [replies["a"].text for replies in world.taken] == ["4", "9"] and world.rules.log.step == 2
    assert over(step) == Stop("done")
    with pytest.raises(BudgetSpent, match="env_steps: 2 spent"):
        await world.step({"a": assistant("1")})


async def test_messages_get_ids_that_count_per_seat() -> None:
    world = a_world()
    first = await world.start()
    second = await world.step({"a": assistant("1")})
    assert [s.asks[0].messages[0].id for s in (first, second)] == ["a<0", "a<1"]
    assert over(first) is None


async def test_a_copy_stands_where_its_world_stood_and_goes_its_own_way() -> None:
    world = a_world()
    await world.start()
    await world.step({"a": assistant("3")})
    copy, step = await fork(world, "a")
    assert (copy.name, step.asks[0].messages[0].text) == ("a#0", "3")
    await copy.step({"a": assistant("5")})
    deeper, below = await fork(copy, "a")
    assert (deeper.name, below.asks[0].messages[0].text) == ("a#0.0", "8")
    assert await world.final() == {"total": 3} and await copy.final() == {"total": 8}
    assert world.rules.log.step == 1  # steps of copies are no steps of the episode
    assert {e.branch for e in world.rules.log.events if e.kind == "reward"} == {"", "a#0"}
    assert world.rules.budgets["a"]._used["env_steps"] == 1 + 1 + 1 + 2  # step, replay, step, replay of two


async def test_what_the_environment_raises_as_a_timeout_is_its_own() -> None:
    world = a_world()

    async def slow(state: bytes | None = None) -> Step:
        raise TimeoutError("its database")

    world._env.start = slow  # type: ignore[method-assign]
    with pytest.raises(EnvironmentFailed, match="raised TimeoutError: its database"):
        await world.start()

"""Gymnasium: two functions of the user's, illegal replies, terminated and truncated apart."""

from __future__ import annotations

import threading
from typing import Any

import gymnasium
import pytest

from polyturn.conformance.suite import check_suite
from polyturn.envs.gymnasium import Gymnasium
from polyturn.errors import BadInput
from polyturn.protocols import Ask, Env
from polyturn.rollout.worker import in_worker
from polyturn.types import Message, Part, Stop, Task, assistant

WAYS = ("left", "down", "right", "up")
PATH = ("down", "down", "right", "right", "down", "right")  # the shortest way on FrozenLake's 4x4 map


class Walk:
    """An oracle: the fixed way to the goal."""

    def __init__(self) -> None:
        self.left = list(PATH)

    def __call__(self, ask: Ask) -> Message:
        return assistant(self.left.pop(0))


def way(text: str) -> int:
    """The number of a direction."""
    if text.strip() not in WAYS:
        raise ValueError(f"{text!r} is none of {', '.join(WAYS)}")
    return WAYS.index(text.strip())


def lake(**more: Any) -> Gymnasium:
    """FrozenLake without slipping; ``max_episode_steps`` for the package's own horizon."""
    steps = more.pop("horizon", 100)
    return Gymnasium(
        lambda: gymnasium.make("FrozenLake-v1", is_slippery=False, max_episode_steps=steps),
        say=lambda cell: f"You stand on cell {cell} of 16; the goal is 15.", parse=way, name="lake",
        returns=(0.0, 1.0), legal=lambda cell, info: WAYS,
        **{"rules": "Walk: left, down, right, up.", "oracle": lambda task: Walk(), **more},
    )


def task_of(suite: Any) -> Task:
    task: Task = next(iter(suite.tasks("test")))
    return task


async def walk(suite: Gymnasium, *texts: str) -> tuple[list[Any], Any, Env]:
    env = in_worker(await suite.make(task_of(suite), 0), "thread", 30.0)
    steps = [await env.start()]
    for text in texts:
        steps.append(await env.step({"agent": assistant(text)}))
    final = await env.final()
    await env.close()
    return steps, final, env


async def test_it_keeps_the_contract_of_suites() -> None:
    await check_suite(lake(figures={"oracle": 1.0, "null": 0.0}), tasks=2, scored=6)


async def test_a_walk_to_the_goal_is_done_with_its_reward() -> None:
    steps, final, _ = await walk(lake(), *PATH)
    assert steps[0].asks[0].messages[0].text == (
        "Walk: left, down, right, up.\nYou stand on cell 0 of 16; the goal is 15.")
    assert steps[1].asks[0].messages[0].text == "You stand on cell 4 of 16; the goal is 15."  # the rules stand once
    assert steps[1].rewards == {"agent": {"reward": 0.0}} and steps[1].asks[0].legal == WAYS
    assert steps[-1].stop == Stop("done", "terminated") and steps[-1].rewards == {"agent": {"reward": 1.0}}
    assert final == {"return": 1.0, "steps": 6, "over": True, "stop": "terminated"}


async def test_the_package_s_horizon_and_ours_are_truncations() -> None:
    steps, final, _ = await walk(lake(horizon=2), "left", "left")
    assert steps[-1].stop == Stop("truncated", "after 2 steps") and final["over"] is True
    steps, final, _ = await walk(lake(max_steps=3), "left", "left", "left")
    assert steps[-1].stop == Stop("truncated", "after 3 steps") and final["steps"] == 3


@pytest.mark.parametrize("bad", ["", "Down", "￼下🦜", "left right"])
async def test_an_illegal_reply_is_an_event_then_the_lowest_return(bad: str) -> None:
    steps, final, _ = await walk(lake(), "down", bad, "down", bad, bad)
    assert [event.kind for step in steps for event in step.events] == ["invalid"] * 3
    assert steps[2].asks[0].messages[0].text == f"Illegal reply: {bad!r} is none of left, down, right, up. Try again."
    assert steps[-1].stop == Stop("done", "illegal reply", "agent") and final["return"] == 0.0
    assert final["steps"] == 2


async def test_giving_up_never_beats_playing_where_steps_cost() -> None:
    class Costly(gymnasium.Env[int, int]):
        def reset(self, **more: Any) -> tuple[int, dict[str, Any]]:
            return 0, {}

        def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
            return 0, -1.0, False, False, {}

    suite = Gymnasium(Costly, str, int, name="costly", returns=(-10.0, 0.0), max_steps=4, retries=0)
    _, quit_at_once, _ = await walk(suite, "no number")
    _, played, _ = await walk(suite, "1", "1", "1", "1")
    assert (quit_at_once["return"], played["return"]) == (-10.0, -4.0)
    scores = {name: suite._scores(final)["agent"].value for name, final in (("q", quit_at_once), ("p", played))}
    assert scores == {"q": 0.0, "p": pytest.approx(0.6)}  # (-4 + 10) / 10


async def test_every_call_runs_in_one_thread_of_its_own() -> None:
    seen = set()

    class Bound(gymnasium.Env[int, int]):
        def __init__(self) -> None:
            seen.add(threading.current_thread().name)

        def reset(self, **more: Any) -> tuple[int, dict[str, Any]]:
            seen.add(threading.current_thread().name)
            return 0, {}

        def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
            seen.add(threading.current_thread().name)
            return 0, 0.0, True, False, {}

        def close(self) -> None:
            seen.add(threading.current_thread().name)

    await walk(Gymnasium(Bound, str, int, name="bound", returns=(0.0, 1.0)), "1")
    assert len(seen) == 1 and next(iter(seen)).startswith("env-")


async def test_the_seed_reaches_the_package() -> None:
    suite = Gymnasium(lambda: gymnasium.make("Blackjack-v1"), str, int, name="cards", returns=(-1.0, 1.0))
    opening = {}
    for task in list(suite.tasks("test"))[:6]:
        for lap in (0, 1):
            env = in_worker(await suite.make(task, 0))
            opening[task.id, lap] = (await env.start()).asks[0].messages[0].text
            await env.close()
    ids = [task.id for task in list(suite.tasks("test"))[:6]]
    assert all(opening[name, 0] == opening[name, 1] for name in ids) and len(set(opening.values())) > 2


async def test_an_observation_may_be_made_of_parts() -> None:
    def picture(cell: int) -> tuple[Part, ...]:
        return (Part("image", media="ab" * 32, mime="image/png"), Part("text", f"cell {cell}"))

    suite = Gymnasium(lambda: gymnasium.make("FrozenLake-v1"), picture, way, name="seen", returns=(0.0, 1.0), rules="?")
    steps, _, _ = await walk(suite)
    assert [part.kind for part in steps[0].asks[0].messages[0].parts] == ["text", "image", "text"]


@pytest.mark.parametrize(("more", "words"), [
    ({"returns": (1.0, 0.0)}, "expected .lowest, highest."), ({"retries": -1}, "retries is -1"),
    ({"max_steps": 0}, "max_steps 0"),
])
def test_bad_settings_are_refused(more: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        Gymnasium(**{"make": int, "say": str, "parse": int, "name": "x", "returns": (0.0, 1.0), **more})


async def test_without_an_oracle_it_says_so() -> None:
    suite = lake(oracle=None)
    with pytest.raises(BadInput, match="pass oracle= to Gymnasium"):
        suite.oracle(task_of(suite))

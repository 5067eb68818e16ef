"""PettingZoo: turn by turn and parallel, masks, dead seats, and its own agents against our seats."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Discrete
from pettingzoo import AECEnv, ParallelEnv

from polyturn.conformance.suite import check_suite
from polyturn.envs.pettingzoo import PettingZoo
from polyturn.errors import BadInput, EnvironmentFailed
from polyturn.protocols import Step
from polyturn.rollout.worker import in_worker
from polyturn.types import Stop, Task, assistant
from tests.envs.drive import Driven, episode

HANDS = ("rock", "paper", "scissors")


class Nim(AECEnv):  # type: ignore[misc]
    """Three seats take 1 or 2 of seven stones in turn; who takes the last wins 1, the others lose 0.5."""

    metadata: Mapping[str, Any] = {"name": "nim", "is_parallelizable": False}

    def __init__(self, cut_after: int = 99) -> None:
        self.possible_agents = ["a", "b", "c"]
        self.cut_after = cut_after
        self.closed = 0

    def action_space(self, agent: str) -> Discrete:
        return Discrete(2)

    def observe(self, agent: str) -> dict[str, Any]:
        return {"observation": self.stones, "action_mask": np.array([1, int(self.stones >= 2)], np.int8)}

    def reset(self, seed: int | None = None, options: Any = None) -> None:
        self.agents = list(self.possible_agents)
        self.stones = 6 + (seed or 0) % 3
        self.moves = 0
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0.0)
        self.terminations = dict.fromkeys(self.agents, False)
        self.truncations = dict.fromkeys(self.agents, False)
        self.infos: dict[str, dict[str, Any]] = {agent: {} for agent in self.agents}
        self.agent_selection = "a"

    def step(self, action: int | None) -> None:
        if self.terminations[self.agent_selection] or self.truncations[self.agent_selection]:
            self._was_dead_step(action)
            return
        mover = self.agent_selection
        self._cumulative_rewards[mover] = 0.0
        assert action is not None
        self.stones -= action + 1
        self.moves += 1
        if self.stones == 0:
            self.rewards = {agent: 1.0 if agent == mover else -0.5 for agent in self.agents}
            self.terminations = dict.fromkeys(self.agents, True)
        elif self.moves == self.cut_after:
            self.truncations = dict.fromkeys(self.agents, True)
        self.agent_selection = self.agents[(self.agents.index(mover) + 1) % 3]
        self._accumulate_rewards()

    def close(self) -> None:
        self.closed += 1


class Hands(ParallelEnv):  # type: ignore[misc]
    """Two rounds of rock, paper, scissors."""

    metadata: Mapping[str, Any] = {"name": "hands"}

    def __init__(self) -> None:
        self.possible_agents = ["left", "right"]

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        self.agents, self.round = list(self.possible_agents), 0
        return {agent: "begin" for agent in self.agents}, {agent: {} for agent in self.agents}

    def step(self, actions: Mapping[str, int]) -> tuple[Any, ...]:
        gain = (0.0, 1.0, -1.0)[(actions["left"] - actions["right"]) % 3]
        seen = {agent: " ".join(HANDS[hand] for hand in actions.values()) for agent in self.agents}
        self.round += 1
        over = dict.fromkeys(self.agents, self.round == 2)
        no = dict.fromkeys(self.agents, False)
        infos: dict[str, dict[str, Any]] = {agent: {} for agent in self.agents}
        if self.round == 2:
            self.agents = []
        return seen, {"left": gain, "right": -gain}, no, over, infos


def nim(**more: Any) -> PettingZoo:
    """Nim with the words ``1`` and ``2``."""
    cut = more.pop("cut_after", 99)
    return PettingZoo(
        lambda: Nim(cut), lambda seen, seat: f"{seen['observation']} stones left.", lambda text, seat: int(text) - 1,
        **{"name": "nim", "seats": ("a", "b", "c"), "returns": (-0.5, 1.0), "rules": "Take 1 or 2.",
           "actions": ("1", "2"), **more},
    )


def hands(**more: Any) -> PettingZoo:
    """Rock, paper, scissors by word."""
    return PettingZoo(
        Hands, lambda seen, seat: str(seen), lambda text, seat: HANDS.index(text),
        **{"name": "hands", "seats": ("left", "right"), "returns": (-2.0, 2.0), "actions": HANDS, **more},
    )


def task_of(suite: Any) -> Task:
    task: Task = next(iter(suite.tasks("test")))
    return task


async def played(suite: PettingZoo, *rounds: str | tuple[str, ...]) -> Driven:
    env = in_worker(await suite.make(task_of(suite), 0), "thread", 30.0)
    steps: list[Step] = [await env.start()]
    for texts in rounds:
        words = (texts,) if isinstance(texts, str) else texts
        replies = {ask.seat: assistant(word) for ask, word in zip(steps[-1].asks, words, strict=True)}
        steps.append(await env.step(replies))
    final = await env.final()
    await env.close()
    return Driven(steps, final=final)


@pytest.mark.parametrize("suite", [nim(), hands()], ids=["turn by turn", "parallel"])
async def test_they_keep_the_contract_of_suites(suite: PettingZoo) -> None:
    await check_suite(suite, tasks=2, scored=4, figures={})


async def test_turn_by_turn_with_masks_and_dead_seats() -> None:
    suite = nim(test_tasks=1)
    stones = int((await played(suite)).heard("a")[0].splitlines()[1].split()[0])
    rounds = ["1"] * (stones - 1)
    before = await played(suite, *rounds)
    assert before.steps[-1].asks[0].legal == ("1",)  # one stone left: the mask forbids 2
    assert before.heard("a")[0] == f"Take 1 or 2.\n{stones} stones left."
    assert before.heard("a")[1] == f"{stones - 3} stones left." and before.final["returns"] is None
    driven = await played(suite, *rounds, "1")
    winner = "abc"[(stones - 1) % 3]
    expected = {seat: 1.0 if seat == winner else -0.5 for seat in "abc"}
    assert driven.stop == Stop("done", "terminated") and driven.final["returns"] == expected
    assert driven.steps[-1].rewards == {seat: {"reward": value} for seat, value in expected.items()}
    scores = (await suite.verifier([(episode(task_of(suite), driven),)]))[task_of(suite).id]
    assert {seat: one.value for seat, one in scores.items()} == {
        seat: (1.0 if seat == winner else 0.0) for seat in "abc"}
    assert scores[winner].success is True


async def test_every_seat_cut_is_a_truncation() -> None:
    driven = await played(nim(cut_after=2), "1", "1")
    assert driven.stop == Stop("truncated", "every seat was cut")
    driven = await played(hands(), ("rock", "rock"), ("rock", "rock"))
    assert driven.stop.kind == "truncated"


async def test_parallel_seats_are_asked_together_and_paid_each_round() -> None:
    driven = await played(hands(), ("paper", "rock"), ("paper", "scissors"))
    assert [ask.seat for ask in driven.steps[0].asks] == ["left", "right"]
    assert driven.heard("right") == ["begin", "paper rock"]
    assert driven.steps[1].rewards == {"left": {"reward": 1.0}, "right": {"reward": -1.0}}
    assert driven.final["returns"] == {"left": 0.0, "right": 0.0}


async def test_an_illegal_reply_forfeits_and_the_others_have_no_score() -> None:
    suite = nim(test_tasks=1)
    for bad in ("", "0", "3", "two 🦜"):
        driven = await played(suite, "1", bad)
        assert driven.kinds() == ["invalid"] and driven.final["forfeited_by"] == ["b"]
        scores = (await suite.verifier([(episode(task_of(suite), driven),)]))[task_of(suite).id]
        assert {seat: one.value for seat, one in scores.items()} == {"a": None, "b": 0.0, "c": None}
    driven = await played(hands(), ("well", "rock"))
    assert driven.final == {"returns": {"left": -2.0}, "over": True, "forfeited_by": ["left"]}


async def test_a_masked_action_is_illegal_also_by_another_spelling() -> None:
    suite = nim(test_tasks=1)
    stones = int((await played(suite)).heard("a")[0].splitlines()[1].split()[0])
    driven = await played(suite, *["1"] * (stones - 1), " 02")
    assert driven.kinds() == ["invalid"] and "is not legal now" in driven.steps[-1].events[0].content["reason"]


async def test_other_agents_than_seats_are_an_environment_failure() -> None:
    env = in_worker(await nim(seats=("a", "b")).make(task_of(nim()), 0))
    with pytest.raises(EnvironmentFailed, match=r"agents are \['a', 'b', 'c'\]; the suite was given"):
        await env.start()
    await env.close()
    with pytest.raises(BadInput, match=r"expected .lowest, highest."):
        nim(returns=(1.0, 1.0))


async def test_an_environment_of_the_package() -> None:
    """PettingZoo's own tic-tac-toe, by AEC."""
    from pettingzoo.classic import tictactoe_v3

    cells = tuple(str(cell) for cell in range(1, 10))
    suite = PettingZoo(
        tictactoe_v3.env, lambda seen, seat: str(seen["observation"].argmax(-1).tolist()),
        lambda text, seat: cells.index(text), name="tictactoe", seats=("player_1", "player_2"), returns=(-1.0, 1.0),
        actions=cells, test_tasks=2,
    )
    await check_suite(suite, tasks=1, figures={})
    driven = await played(suite, "1", "2", "4", "5", "7")  # player_1 fills the first column
    assert driven.final["returns"] == {"player_1": 1.0, "player_2": -1.0} and driven.stop.kind == "done"
    assert driven.steps[1].asks[0].legal == ("2", "3", "4", "5", "6", "7", "8", "9")

"""Walks by hand: what is read, what walls and other replies cost, the end at the goal and at the horizon."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest

from polyturn.envs.grid import ENVS, MOVES, GridEnv, distances, grid, open_moves, shortest
from polyturn.errors import BadInput, UnknownName
from polyturn.protocols import Suite
from polyturn.testing import check_suite
from polyturn.types import Task, assistant
from tests.envs.drive import drive, mean_score, saying

BY_HAND = Task("grid/test/0", "grid", {"map": ["..#", ".#.", "..."], "start": [0, 1], "goal": [1, 2], "need": 6})
"""The way: west, south, south, east, east, north; the straight one is walled."""
WAY = ("west", "south", "south", "east", "east", "north")


async def test_it_keeps_the_contract_of_suites() -> None:
    suite = grid()
    assert isinstance(suite, Suite)
    await check_suite(suite, tasks=3, scored=64)


async def test_a_walk_by_hand() -> None:
    driven = await drive(grid(), BY_HAND, 0, {"agent": saying(*WAY)})
    assert driven.heard("agent") == [
        "Walk to the goal. Reply with one open direction.\nGoal: 1 south 1 east. Open: west.",
        "Goal: 1 south 2 east. Open: south east.", "Goal: 2 east. Open: north south.",
        "Goal: 1 north 2 east. Open: north east.", "Goal: 1 north 1 east. Open: west east.",
        "Goal: 1 north. Open: north west.",
    ]
    assert driven.stop.kind == "done" and driven.kinds() == []
    assert driven.final == {"solved": True, "steps": 6, "stands": [1, 2], "left": 0}


@pytest.mark.parametrize(("reply", "reason"), [
    ("east", "a wall"), ("north", "a wall"), ("", "no direction"), ("go west", "no direction"), ("🦜", "no direction"),
])
async def test_other_replies_cost_a_step_and_move_nothing(reply: str, reason: str) -> None:
    driven = await drive(grid(), BY_HAND, 0, {"agent": saying(reply, *WAY)})
    assert driven.heard("agent")[1] == "You cannot. Goal: 1 south 1 east. Open: west."
    assert [event.content for step in driven.steps for event in step.events] == [{"reply": reply, "reason": reason}]
    assert driven.final["solved"] and driven.final["steps"] == 7


async def test_spaces_and_capitals_are_forgiven() -> None:
    driven = await drive(grid(), BY_HAND, 0, {"agent": saying(*(f" {move.title()}\n" for move in WAY))})
    assert driven.final["solved"] and driven.kinds() == []


async def test_the_horizon_truncates_and_the_last_step_may_still_arrive() -> None:
    long = grid(size=3, lengths=(6,), steps=6)
    late = await drive(long, BY_HAND, 0, {"agent": saying("north", *WAY)})
    assert (late.stop.kind, late.stop.reason) == ("truncated", "after 6 steps")
    assert late.final == {"solved": False, "steps": 6, "stands": [2, 2], "left": 1}
    exact = await drive(long, BY_HAND, 0, {"agent": saying(*WAY)})
    assert exact.stop.kind == "done" and exact.final["solved"]


def test_distances_against_a_walk_in_every_direction() -> None:
    """Bellman's equation at every cell of 200 maps: 0 at the start, else one more than the nearest neighbour's."""
    for task in islice(grid(walls=0.35).tasks("train"), 200):
        rows, start = task.payload["map"], (task.payload["start"][0], task.payload["start"][1])
        found = distances(rows, start)
        for (row, column), steps in found.items():
            around = [(row + down, column + right) for down, right in MOVES.values()]
            near = [found[cell] for cell in around if cell in found]
            assert steps == 0 if (row, column) == start else steps == 1 + min(near)
            inside = [cell for cell in around if 0 <= cell[0] < 6 and 0 <= cell[1] < 6]
            assert all((rows[cell[0]][cell[1]] == ".") == (cell in found) for cell in inside)


def test_tasks_run_through_the_lengths_and_the_shortest_way_has_that_length() -> None:
    lengths = (2, 5, 9)
    for index, task in enumerate(islice(grid(lengths=lengths).tasks("train"), 60)):
        world: Any = task.payload
        assert world["need"] == lengths[index % 3]
        way = shortest(world["map"], tuple(world["start"]), tuple(world["goal"]))
        assert len(way) == world["need"]


async def test_figures_of_the_table() -> None:
    suite = grid(test_tasks=400)
    # binomial over 400 tasks: 4 standard errors are 0.1
    assert abs(await mean_score(suite, "random", 400) - ENVS[0]["random"]) < 0.1
    assert await mean_score(suite, "oracle", 100) == 1.0
    assert await mean_score(suite, "null", 50) == 0.0


async def test_a_saved_walk_also_keeps_a_refusal() -> None:
    env, copy = GridEnv(BY_HAND, 36), GridEnv(BY_HAND, 36)
    await env.start()
    step = await env.step({"agent": assistant("east")})
    again = await copy.start(await env.save())
    assert again.asks == step.asks and again.asks[0].legal == ("west",)
    with pytest.raises(BadInput, match="has started"):
        await GridEnv(BY_HAND, 36).save()


def test_what_is_refused() -> None:
    with pytest.raises(BadInput, match="lengths"):
        grid(lengths=(0,))
    with pytest.raises(BadInput, match="steps"):
        grid(steps=5)
    with pytest.raises(UnknownName):
        list(grid().tasks("valid"))
    with pytest.raises(BadInput, match="no way"):
        shortest(["#.#", ".#."], (0, 1), (1, 0))
    assert open_moves(["#.#", ".#."], (0, 1)) == ()

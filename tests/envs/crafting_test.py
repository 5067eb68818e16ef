"""Crafting by hand: the words, what is refused and why, plans, and the end."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from typing import Any

import pytest

from polyturn.envs.crafting import ENVS, CraftingEnv, craft, crafting, plan
from polyturn.errors import BadInput, UnknownName
from polyturn.protocols import Suite
from polyturn.testing import check_suite
from polyturn.types import Task, assistant
from tests.envs.drive import drive, mean_score, saying

BOAT: dict[str, Any] = {"goal": "boat", "recipes": [
    {"item": "plank", "of": {"log": 3}}, {"item": "bell", "of": {"copper": 1, "plank": 1}},
    {"item": "boat", "of": {"plank": 2, "reed": 1}},
]}
BY_HAND = Task("crafting/test/0", "crafting", BOAT)
WAY = ("get 4 log", "get 2 log", "get 1 reed", "craft plank using 3 log", "craft plank using 3 log",
       "craft boat using 2 plank, 1 reed")


async def test_it_keeps_the_contract_of_suites() -> None:
    suite = crafting()
    assert isinstance(suite, Suite)
    await check_suite(suite, tasks=4, scored=64)


async def test_a_play_by_hand() -> None:
    driven = await drive(crafting(), BY_HAND, 0, {"agent": saying(WAY[0], "inventory", *WAY[1:])})
    assert driven.heard("agent") == [
        "Make 1 boat. Things to get: copper, log, reed.\nRecipes:\ncraft plank using 3 log.\n"
        "craft bell using 1 copper, 1 plank.\ncraft boat using 2 plank, 1 reed.",
        "Got 4 log.", "You hold 4 log.", "Got 2 log.", "Got 1 reed.", "Made 1 plank.", "Made 1 plank.",
    ]
    assert driven.stop.reason == "made boat" and driven.kinds() == []
    assert driven.final == {"solved": True, "held": {"boat": 1}, "steps": 7}


@pytest.mark.parametrize(("reply", "reason"), [
    ("", "say get, craft or inventory"), ("get log", "say get, craft or inventory"),
    ("get 0 log", "get 1 to 4 at once"), ("get 5 log", "get 1 to 4 at once"),
    ("get 1 plank", "no plank is there to get"), ("get 1 gold", "no gold is there to get"),
    ("craft sail using 1 log", "no recipe makes sail"),
    ("craft plank using 2 log", "the recipe of plank is another"),
    ("craft plank using 3 log, 1 reed", "the recipe of plank is another"),
    ("craft plank using 3 log, 3 log", "the recipe of plank is another"),
    ("craft plank using logs", "the recipe of plank is another"),
    ("craft boat using 2 plank, 1 reed", "you lack 2 plank, 1 reed"),
    ("get 999999999999999999999 log", "say get, craft or inventory"), ("get ٣ log", "say get, craft or inventory"),
])
async def test_what_is_refused_says_why_and_changes_nothing(reply: str, reason: str) -> None:
    driven = await drive(crafting(), BY_HAND, 0, {"agent": saying(reply, *WAY)})
    assert driven.heard("agent")[1] == f"Not done: {reason}."
    assert [event.content for step in driven.steps for event in step.events] == [{"reply": reply, "reason": reason}]
    assert driven.final == {"solved": True, "held": {"boat": 1}, "steps": 7}


async def test_parts_may_be_named_in_any_order_with_any_spaces() -> None:
    way = (*WAY[:-1], " Craft  BOAT using 1 reed ,2 plank. ")
    driven = await drive(crafting(), BY_HAND, 0, {"agent": saying(*way)})
    assert driven.final["solved"] and driven.kinds() == []


async def test_the_horizon_truncates() -> None:
    driven = await drive(crafting(steps=3), BY_HAND, 0, {"agent": saying(*WAY)})
    assert (driven.stop.kind, driven.stop.reason) == ("truncated", "after 3 steps")
    assert driven.final == {"solved": False, "held": {"log": 6, "reed": 1}, "steps": 3}


async def test_what_is_listed_as_legal_is_all_that_does_something() -> None:
    env = CraftingEnv(BY_HAND, 30)
    step = await env.start()
    gets = [f"get {count} {item}" for item in ("copper", "log", "reed") for count in (1, 2, 3, 4)]
    assert step.asks[0].legal == ("inventory", *gets)
    step = await env.step({"agent": assistant("get 3 log")})
    assert step.asks[0].legal == ("inventory", *gets, "craft plank using 3 log")


def test_a_plan_by_hand() -> None:
    # boat: 2 plank + 1 reed, plank: 3 log; so 6 log in two replies (4 + 2), 1 reed, 2 planks, 1 boat
    assert sorted(plan("boat", BOAT["recipes"])) == sorted(WAY)
    assert craft("bell", {"copper": 1, "plank": 1}) == "craft bell using 1 copper, 1 plank"


def test_every_task_has_the_depth_of_its_turn_and_a_plan_that_ends_in_the_goal() -> None:
    for index, task in enumerate(islice(crafting(depths=(1, 3, 5), others=8).tasks("train"), 90)):
        world: Any = task.payload
        recipes = {recipe["item"]: recipe["of"] for recipe in world["recipes"]}

        def depth(item: str, known: dict[str, Any] = recipes) -> int:
            return 1 + max(depth(part) for part in known[item]) if item in known else 0

        assert depth(world["goal"]) == world["depth"] == (1, 3, 5)[index % 3]
        assert len(recipes) == world["depth"] + 8 == len(world["recipes"])
        assert len(plan(world["goal"], world["recipes"])) == world["need"]
        replies = Counter(reply.split()[0] for reply in plan(world["goal"], world["recipes"]))
        assert replies["craft"] >= world["depth"] and replies["get"] >= 1


async def test_figures_of_the_table() -> None:
    suite = crafting(test_tasks=400)
    # binomial over 400 tasks: 4 standard errors are 0.083
    assert abs(await mean_score(suite, "random", 400) - ENVS[0]["random"]) < 0.083
    assert await mean_score(suite, "oracle", 200) == 1.0
    assert await mean_score(suite, "null", 50) == 0.0


async def test_a_play_is_saved_with_what_it_holds() -> None:
    env, copy = CraftingEnv(BY_HAND, 30), CraftingEnv(BY_HAND, 30)
    await env.start()
    step = await env.step({"agent": assistant("get 3 log")})
    assert (await copy.start(await env.save())).asks == step.asks
    assert (await copy.step({"agent": assistant("craft plank using 3 log")})).asks[0].messages[0].text == (
        "Made 1 plank."
    )
    with pytest.raises(BadInput, match="has started"):
        await CraftingEnv(BY_HAND, 30).save()


def test_what_settings_are_refused() -> None:
    with pytest.raises(BadInput, match="depths"):
        crafting(depths=(0,))
    with pytest.raises(BadInput, match="others"):
        crafting(others=9)
    with pytest.raises(UnknownName):
        list(crafting().tasks("valid"))

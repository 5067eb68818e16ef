"""The order desk: its contract, its tools, the fact held back, and databases that nobody shares."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest

from polyturn.agents.chat import AnswerAgent, ChatAgent
from polyturn.envs.dialogue import Refused
from polyturn.envs.end_state import sha256_of
from polyturn.envs.order_desk import (
    ENVS,
    KINDS,
    NAMES,
    TOOLS,
    VALUES,
    Shop,
    gold_of,
    opening_of,
    order_desk,
    rule_user,
    scripted_agent,
    shop,
)
from polyturn.errors import BadInput, PolicyFailed, UnknownName
from polyturn.policies.dictated import Dictated
from polyturn.policies.scripted import Scripted
from polyturn.protocols import Ask, Match, Player, Suite
from polyturn.rollout.pool import play
from polyturn.rollout.score import score_matches
from polyturn.testing import check_suite
from polyturn.types import Call, Episode, Message, Task, assistant, user


def tasks(count: int = 60, **more: Any) -> list[Task]:
    return list(islice(order_desk(**more).tasks("train"), count))


@pytest.mark.parametrize("more", [{}, {"hidden": 0.0}, {"live": False, "hidden": 0.5}])
async def test_it_keeps_the_contract_of_suites(more: dict[str, Any]) -> None:
    suite = order_desk(test_tasks=12, **more)
    assert isinstance(suite, Suite)
    measured = await check_suite(suite)
    if not more:
        assert measured == {"oracle": ENVS[0]["oracle"], "null": ENVS[0]["null"]}


def test_ten_tools_and_every_wish_comes_up() -> None:
    assert len(TOOLS) == 10 and len({tool.name for tool in TOOLS}) == 10
    made = tasks()
    assert {task.payload["kind"] for task in made} == set(KINDS)
    assert {task.payload["customer"] for task in made} <= set(NAMES)
    assert {task.payload["kind"] for task in tasks(kinds=("set_size",))} == {"set_size"}


def test_the_opening_leaves_out_just_the_hidden_fact() -> None:
    for task in tasks():
        facts, hidden = task.payload["facts"], task.payload["hidden"]
        said = opening_of(task)
        assert hidden == KINDS[task.payload["kind"]][-1] and facts[hidden] not in said.split(" ", 3)[3]
        assert all(value in said for fact, value in facts.items() if fact != hidden)
    assert all(value in opening_of(task) for task in tasks(hidden=0.0) for value in task.payload["facts"].values())


def test_every_wish_changes_the_database_but_the_question() -> None:
    for task in tasks():
        changed = sha256_of(gold_of(task)) != sha256_of(shop(task.id))
        assert changed == (task.payload["kind"] != "get_order")
        assert bool(task.payload["outputs"]) == (task.payload["kind"] == "get_order")


def test_the_tools() -> None:
    desk = Shop(shop("t"))
    before = desk.state()
    assert desk.call("set_colour", {"order": "A1", "colour": "red"}) == '"ok"'
    assert desk.state()["orders"]["A1"]["colour"] == "red" and desk.state() != before
    assert desk.call("cancel_order", {"order": "A1", "reason": "late"}) == '"ok"'
    assert "A1" in desk.call("list_orders", {"name": desk.state()["orders"]["A1"]["customer"]})
    assert '"status": "cancelled"' in desk.call("get_order", {"order": "A1"})
    assert desk.call("get_product", {"product": "lamp"}) == '{"price": "1,250"}'
    for name, arguments, reason in [
        ("set_colour", {"order": "A1", "colour": "blue"}, "A1 is cancelled"), ("fly", {}, "no tool 'fly'"),
        ("set_colour", {"order": "A2"}, "exactly order, colour"), ("set_size", {"order": "B9", "size": "huge"}, "B9"),
        ("set_size", {"order": "A2", "size": 3}, "as texts"), ("list_orders", {"name": "Zoe"}, "no customer Zoe"),
    ]:
        with pytest.raises(Refused, match=reason):
            desk.call(name, arguments)


def test_the_rule_user_tells_what_it_is_asked_and_nothing_else() -> None:
    task = next(task for task in tasks() if task.payload["hidden"] == "size")
    size, said = task.payload["facts"]["size"], rule_user(task, patience=1)

    def answer(text: str) -> str:
        return said(Ask("user", (user(text),))).text

    assert size not in answer("Hello! How can I help you today?")
    assert answer("Which size?") == f"The size is {size}."
    assert answer("Are you well?") == "I do not know."
    assert answer("Which size?") == "###STOP###"  # its patience is at its end
    assert rule_user(task)(Ask("user", (user("Hello?"),))).text == opening_of(task)
    fresh = rule_user(task)
    fresh(Ask("user", (user("Hello?"),)))
    assert fresh(Ask("user", (user("The size is set."),))).text == "###STOP###"


async def played(task: Task, agent: Any, **more: Any) -> Episode:
    suite = order_desk()
    match = Match(suite, task, {"agent": Player(lambda: AnswerAgent(agent), "dictated"), **more})
    groups = await play([match], {"dictated": Dictated(), "down": Scripted([])})
    ((episode,),) = await score_matches([match], groups)
    return episode


async def test_asking_wins_and_guessing_wins_by_luck_alone() -> None:
    for task in tasks(24):
        asked = await played(task, scripted_agent(task))
        assert asked.scores["score"]["agent"].value == 1.0 and asked.final is not None
        assert asked.final["revealed"] == {task.payload["hidden"]: True}
        hidden = task.payload["hidden"]
        guess = VALUES[hidden][0]
        guessed = await played(task, scripted_agent(task, guess=guess))
        assert guessed.final is not None and not guessed.final["revealed"]
        right = guess == task.payload["facts"][hidden]
        if task.payload["kind"] != "get_order":
            assert guessed.scores["score"]["agent"].value == float(right)


async def test_a_user_that_fails_breaks_the_episode_and_gets_no_score() -> None:
    task = tasks(1)[0]
    episode = await played(task, scripted_agent(task), user=Player(ChatAgent, "down"))
    assert episode.stop.kind == "error" and PolicyFailed.__name__ in episode.stop.reason and not episode.scores


async def test_a_policy_in_the_users_seat() -> None:
    task = next(task for task in tasks() if task.payload["hidden"] == "colour")
    heard: list[list[tuple[str, str]]] = []

    def speak(messages: Any) -> str:
        heard.append([(message.role, message.text) for message in messages])
        return ["Make it nice.", "Oh, " + task.payload["facts"]["colour"], "###STOP###"][len(heard) - 1]

    suite = order_desk()
    match = Match(suite, task, {"agent": Player(lambda: AnswerAgent(scripted_agent(task)), "dictated"),
                                "user": Player(ChatAgent, "speaker")})
    groups = await play([match], {"dictated": Dictated(), "speaker": Scripted(speak)})
    ((episode,),) = await score_matches([match], groups)
    assert episode.scores["score"]["agent"].value == 1.0
    assert [role for role, _ in heard[-1]] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert "wish" in heard[0][0][1] and "order desk. Use one tool" not in str(heard)
    trajectory = episode.trajectory("user")
    assert trajectory is not None and len(trajectory.turns) == 3


async def test_a_shop_of_one_order() -> None:
    task = tasks(1, kinds=("set_size",), orders=1)[0]
    assert task.payload["facts"]["order"] == "A1" and list(shop(task.id, 1)["orders"]) == ["A1"]
    with pytest.raises(Refused, match="no order A2"):
        Shop(shop(task.id, 1)).call("get_order", {"order": "A2"})


async def test_rollouts_of_one_task_share_no_database() -> None:
    suite, task = order_desk(), tasks(1, kinds=("set_size",))[0]
    first, second = await suite.make(task, 0), await suite.make(task, 0)
    call = Call("c", "set_size", task.payload["facts"])
    for env, act in ((first, assistant("", calls=(call,))), (second, assistant("Hello."))):
        await env.start()
        await env.step({"user": assistant("Hi.")})
        await env.step({"agent": act})
    one, two = await first.final(), await second.final()
    assert one["db"] != two["db"] and one["db_sha256"] == one["gold_sha256"] != two["db_sha256"]
    one["db"]["orders"].clear()  # a reader cannot reach into the play either
    assert (await first.final())["db"]["orders"]


def test_unknown_wishes_and_splits() -> None:
    with pytest.raises(UnknownName, match="did you mean 'set_size'"):
        order_desk(kinds=("set_sise",))
    with pytest.raises(BadInput):
        order_desk(hidden=2.0)
    with pytest.raises(BadInput, match="expected 2 to 8"):
        order_desk(orders=1)
    assert isinstance(rule_user(tasks(1)[0])(Ask("user")), Message)

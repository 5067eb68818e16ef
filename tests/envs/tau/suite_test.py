"""Both domains whole: gold replay, the null player, the rules, a policy in the user's seat, and no state that leaks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from polyturn.agents.chat import ChatAgent
from polyturn.cli.listing import envs
from polyturn.cli.main import main
from polyturn.envs.dialogue import AGENT, STOP_WORD, USER
from polyturn.envs.tau.suite import GREETING, RULES, Tau, gold_replay, scripted_user, tau_airline, tau_retail
from polyturn.errors import UnknownName
from polyturn.policies.scripted import Scripted
from polyturn.protocols import Match, Player, Suite
from polyturn.rollout.episode import Place, play_episode
from polyturn.rollout.score import score_groups
from polyturn.seeds import generator
from polyturn.testing import check_suite
from polyturn.types import Call, Episode, Limits, Message, Score, Task, assistant
from tests.envs.drive import drive, episode, saying

MAKERS = {"airline": tau_airline, "retail": tau_retail}
both = pytest.mark.parametrize("name", ["airline", "retail"])


def task_of(suite: Tau, number: str) -> Task:
    return next(task for task in suite.tasks("base") if task.id == f"{suite.spec.name}/{number}")


async def scored(suite: Tau, task: Task, player: Any) -> tuple[Score, dict[str, Any]]:
    driven = await drive(suite, task, 0, {AGENT: player, USER: player})
    return suite.verifier.score(episode(task, driven)), dict(driven.final)


@both
async def test_it_keeps_the_contract_of_suites(name: str) -> None:
    suite = MAKERS[name](rules=replace(RULES, cap=20))
    assert isinstance(suite, Suite)
    measured = await check_suite(suite, tasks=1, scored=8)
    assert measured == {"oracle": 1.0, "null": 0.0}


# ---------------------------------------------------------------- the whole benchmark


@pytest.mark.parametrize(("name", "tasks", "before_stop", "nothing_to_write"), [
    ("airline", 50, 19, 19), ("retail", 114, 7, 5),
])
async def test_gold_replay_solves_every_task_and_saying_nothing_solves_none(
    name: str, tasks: int, before_stop: int, nothing_to_write: int
) -> None:
    suite = MAKERS[name]()
    gold = [(await scored(suite, task, suite.oracle(task)))[0] for task in suite.tasks("base")]
    assert len(gold) == tasks and all(score.value == 1.0 and score.success for score in gold)
    null = [(await scored(suite, task, suite.null(task)))[0] for task in suite.tasks("base")]
    assert not any(score.value or score.success for score in null)
    assert sum(score.parts["before_stop"] for score in null) == before_stop
    writes = {tool for tool, made in suite.desk().tools.items() if made.kind == "write"}
    idle = [task for task in suite.tasks("base") if not task.payload["outputs"]
            and not writes & {action["name"] for action in task.payload["actions"]}]
    assert len(idle) == nothing_to_write


@pytest.mark.parametrize(("name", "faulty"), [("airline", set()), ("retail", {"12", "13", "64", "105"})])
def test_gold_actions_that_write_and_are_refused_are_those_that_are_named(name: str, faulty: set[str]) -> None:
    suite = MAKERS[name]()
    found = set()
    for task in suite.tasks("base"):
        refused = {words.split(":")[0] for words in suite.gold(task)[1]}
        if any(suite.desk().tools[tool].kind == "write" for tool in refused):
            found.add(task.id.split("/")[1])
    assert found == faulty


@both
async def test_no_task_sees_what_another_changed(name: str) -> None:
    suite = MAKERS[name]()
    before = json.dumps(suite.domain.database.tables)
    tasks = list(suite.tasks("base"))
    alone = {task.id: (await scored(suite, task, suite.oracle(task)))[1] for task in tasks}
    running = []
    for task in tasks[:16]:  # all open at once, their steps in a random order
        env = await suite.make(task, 0)
        running.append((task, env, suite.oracle(task), await env.start()))
    draws = generator("leak", name)
    while running:
        place = int(draws.integers(len(running)))
        task, env, player, step = running.pop(place)
        (ask,) = step.asks
        step = await env.step({ask.seat: player(ask)})
        if step.asks:
            running.append((task, env, player, step))
        else:
            assert await env.final() == alone[task.id]
    assert json.dumps(suite.domain.database.tables) == before


# ---------------------------------------------------------------- rewards and rules


async def test_what_a_task_wants_is_wanted() -> None:
    suite = tau_retail()
    task = task_of(suite, "59")  # must say 164.28 and 625.60
    assert task.payload["outputs"] == ["164.28", "625.60"]
    silent = replace(task, payload={**task.payload, "outputs": []})
    score, final = await scored(suite, task, suite.oracle(silent))
    assert (score.value, score.parts) == (0.0, {"db": 1.0, "said": 0.0, "before_stop": 0.0})
    assert final["outputs"] == ["164.28", "625.60"]
    lazy = replace(task, payload={**task.payload, "actions": []})
    score, _ = await scored(suite, task, suite.oracle(lazy))
    assert (score.value, score.parts["db"], score.parts["said"]) == (0.0, 0.0, 1.0)


async def test_too_much_is_as_wrong_as_too_little() -> None:
    suite = tau_airline()
    task = task_of(suite, "0")  # the cancellation must be refused
    cancel = {"name": "cancel_reservation", "arguments": {"reservation_id": "EHGLP3"}}
    eager = replace(task, payload={**task.payload, "actions": [cancel]})
    score, final = await scored(suite, task, suite.oracle(eager))
    assert score.value == 0.0 and final["db"]["changed"]["reservations"]["EHGLP3"]["status"] == "cancelled"
    assert (await scored(suite, task, suite.oracle(task)))[0].value == 1.0


async def test_a_dialogue_that_nobody_ended_is_worth_nothing() -> None:
    suite = tau_airline(rules=replace(RULES, cap=4))
    task = task_of(suite, "0")
    driven = await drive(suite, task, 0, {AGENT: saying("No."), USER: saying("Please!")})
    score = suite.verifier.score(episode(task, driven))
    assert driven.stop.kind == "truncated" and driven.final["stopped_by"] == ""
    assert (score.value, score.parts["before_stop"]) == (0.0, 1.0)


@pytest.mark.parametrize("word", ["###STOP###", "###TRANSFER###", "###OUT-OF-SCOPE###"])
async def test_each_of_the_users_words_ends_it(word: str) -> None:
    suite = tau_airline()
    task = task_of(suite, "0")
    driven = await drive(suite, task, 0, {AGENT: saying(f"No. {word}"), USER: saying("Hi.", f"Well {word}")})
    assert driven.final["stopped_by"] == "user" and len(driven.said) == 3
    assert suite.verifier.score(episode(task, driven)).value == 1.0


async def test_the_tenth_error_ends_it() -> None:
    suite = tau_airline()
    task = task_of(suite, "0")
    wrong = assistant("", calls=(Call("c", "get_user_details", {"user_id": "nobody"}),) * 3)
    driven = await drive(suite, task, 0, {AGENT: lambda ask: wrong, USER: saying("Hi.")})
    assert driven.stop.reason == "12 calls failed" and driven.steps[2].asks[0].messages[0].text == (
        "Error: User nobody not found")


# ---------------------------------------------------------------- what each seat sees


async def test_the_agent_has_policy_and_tools_and_the_user_guidelines_and_scenario() -> None:
    suite = tau_airline()
    task = task_of(suite, "3")
    env = await suite.make(task, 0)
    (ask,) = (await env.start()).asks
    part, hello = ask.messages
    assert ask.seat == USER and ask.tools == () and (part.role, hello.text) == ("system", GREETING)
    assert part.text.startswith("# User Simulation Guidelines") and part.text.endswith("\n</scenario>")
    assert f"<scenario>\n{task.payload['scenario']}" in part.text and suite.domain.policy not in part.text
    (ask,) = (await env.step({USER: assistant("Hi.")})).asks
    assert [(m.role, m.text) for m in ask.messages] == [("system", suite.domain.policy), ("user", "Hi.")]
    assert len(ask.tools) == 14 and task.payload["scenario"] not in ask.messages[0].text


def test_splits_are_those_of_tau2() -> None:
    suite = tau_retail()
    assert [task.id for task in suite.tasks("base")][:3] == ["tau_retail/0", "tau_retail/1", "tau_retail/2"]
    train = suite.tasks("train")
    lap = [next(train).id for _ in range(74)]
    assert len(set(lap)) == 74 and not set(lap) & {task.id for task in suite.tasks("test")}
    assert [next(train).id for _ in range(74)] != lap  # round and round, shuffled anew
    with pytest.raises(UnknownName):
        suite.tasks("dev")


# ---------------------------------------------------------------- a policy in the user's seat


def act(log: list[Sequence[Message]], *replies: str | Message) -> Scripted:
    """A policy with fixed replies that notes what it was shown."""
    left = list(replies)

    def say(messages: Sequence[Message]) -> str | Message:
        log.append(messages)
        return left.pop(0)

    return Scripted(say)


async def talk(suite: Tau, task: Task, agent: Scripted, user: Scripted, **more: Any) -> Episode:
    cast = {AGENT: Player(partial(ChatAgent), "agent"), USER: Player(partial(ChatAgent), "user")}
    match = Match(suite, task, cast, **more)
    played = await play_episode(match, {"agent": agent, "user": user}, Place("talk"))
    return (await score_groups([(played,)], suite))[0][0]


async def test_a_policy_plays_the_user_from_its_own_side_of_the_dialogue() -> None:
    suite = tau_airline()
    task = task_of(suite, "3")  # must say 4
    actions = [assistant("", calls=(Call("g", one["name"], one["arguments"]),)) for one in task.payload["actions"]]
    heard: list[Sequence[Message]] = []
    saw: list[Sequence[Message]] = []
    user = act(heard, "How many bags may I bring?", "Anya Garcia.", "Thanks. ###STOP###")
    agent = act(saw, "Who are you?", *actions, "You may bring 4 bags.")
    played = await talk(suite, task, agent, user)
    score = played.scores["score"][AGENT]
    assert (score.value, score.success) == (1.0, True) and set(played.scores["score"]) == {AGENT}
    assert [[m.role for m in messages] for messages in heard] == [
        ["system", "user"], ["system", "user", "assistant", "user"],
        ["system", "user", "assistant", "user", "assistant", "user"]]
    assert [m.text for m in heard[-1][1:]] == [
        GREETING, "How many bags may I bring?", "Who are you?", "Anya Garcia.", "You may bring 4 bags."]
    assert [m.role for m in saw[-1]] == [
        "system", "user", "assistant", "user", *(["assistant", "tool"] * len(actions))]
    assert not any(m.calls or m.role == "tool" for messages in heard for m in messages)
    spoke = {t.seat: len(t.turns) for t in played.trajectories}
    assert spoke == {AGENT: 2 + len(actions), USER: 3}  # every word of both seats is a recorded turn
    assert suite.report([(played,)]) == {"db": 1.0, "said": 1.0, "before_stop": 1.0, "scored": 1.0}


@pytest.mark.parametrize(("users", "more"), [
    (["Hi.", "  "], {}), (["Hi.", "More?"], {"limits": Limits(model_calls=1)}),
])
async def test_a_user_that_fails_is_not_the_agents_fault(users: list[str], more: dict[str, Any]) -> None:
    suite = tau_airline()
    played = await talk(suite, task_of(suite, "0"), act([], "No.", "No."), act([], *users), **more)
    assert played.stop.seat == USER and played.scores["score"][AGENT].value is None
    assert suite.report([(played,)]) == {"scored": 0.0}


async def test_an_agent_that_says_nothing_loses_and_the_report_says_what_it_would_have_won() -> None:
    suite = tau_airline()
    played = await talk(suite, task_of(suite, "0"), act([], " "), act([], "Hi."))
    score = played.scores["score"][AGENT]
    assert played.stop.reason == "the agent said nothing" and (score.value, score.success) == (0.0, False)
    assert suite.report([(played,)])["before_stop"] == 1.0 and suite.report([]) == {}


async def test_a_user_that_transfers_ends_it_after_the_agent_handed_over() -> None:
    suite = tau_retail()
    task = task_of(suite, "57")
    over = assistant("", calls=(Call("t", "transfer_to_human_agents", {"summary": "s"}),))
    agent, user = act([], over, "You are being transferred."), act([], "A human, please.", "###TRANSFER###")
    played = await talk(suite, task, agent, user)
    assert played.final is not None and played.final["tools"] == {"transfer_to_human_agents": 1}
    assert played.scores["score"][AGENT].value == 1.0


def test_the_scripted_user_opens_with_its_reason_and_ends_when_answered() -> None:
    task = task_of(tau_airline(), "0")
    play = scripted_user(task)
    assert [play(None).text for _ in range(3)] == [task.payload["opening"], STOP_WORD, STOP_WORD]  # type: ignore[arg-type]
    replay = gold_replay(task)
    assert replay(None).text == "That is done."  # type: ignore[arg-type]


# ---------------------------------------------------------------- from the command line


@pytest.mark.parametrize(("name", "policy", "mean"), [
    ("tau_airline", "oracle", 1.0), ("tau_airline", "null", 0.0), ("tau_retail", "oracle", 1.0),
    ("tau_retail", "null", 0.0),
])
def test_the_command_gives_the_figures_that_are_listed(
    name: str, policy: str, mean: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", name, "--policy", policy, "--runs", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    row = next(iter(found["environments"].values()))
    assert row["mean"] == mean == next(entry for entry in envs() if entry["name"] == name)[policy]

"""BFCL multi-turn: the package's own verdicts, gold replay, turns, held-back functions, and calls that go wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from polyturn.cli.main import main
from polyturn.envs.bfcl import backend, data, suite
from polyturn.envs.bfcl.suite import MORE, Bfcl, bfcl_base, bfcl_long_context, bfcl_miss_func, bfcl_miss_param
from polyturn.envs.install import installed
from polyturn.envs.outside.process import Outside
from polyturn.errors import BadInput, EnvironmentFailed, UnknownName
from polyturn.protocols import Answer, Ask
from polyturn.seeds import generator
from polyturn.testing import check_suite
from polyturn.types import Call, Message, assistant
from tests.envs.drive import Driven, drive

MAKERS = {"base": bfcl_base, "miss_func": bfcl_miss_func, "miss_param": bfcl_miss_param,
          "long_context": bfcl_long_context}
TURNS = {"base": 734, "miss_func": 934, "miss_param": 934, "long_context": 734}


def calls(*made: tuple[str, Mapping[str, Any]]) -> Message:
    return assistant("", calls=tuple(Call(f"c{i}", name, named) for i, (name, named) in enumerate(made)))


def saying(*replies: Message | str) -> Answer:
    """A player with these replies, then silence."""
    left = [assistant(reply) if isinstance(reply, str) else reply for reply in replies]
    return lambda ask: left.pop(0) if left else assistant("")


async def played(made: Bfcl, number: int, answer: Answer) -> Driven:
    task = next(task for task in made.tasks("all") if task.id.endswith(f"/{number}"))
    driven = await drive(made, task, 0, {"agent": answer})
    await made.close()
    return driven


@pytest.mark.parametrize("category", MAKERS)
def test_the_package_is_delivered_whole(category: str) -> None:
    made = data.load(category)
    assert len(made.entries) == len(made.gold) == 200
    assert sum(len(entry["question"]) for entry in made.entries) == TURNS[category]
    for tools in made.tools.values():
        for tool in tools:
            Draft202012Validator.check_schema(tool.parameters)
    with pytest.raises(UnknownName, match="did you mean 'test'"):
        list(MAKERS[category]().tasks("tests"))


@pytest.mark.parametrize("category", MAKERS)
async def test_the_suite_keeps_its_contract(category: str) -> None:
    made = MAKERS[category]()
    assert await check_suite(made, scored=8, tasks=1) == {"oracle": 1.0, "null": 0.0}
    await made.close()


@pytest.mark.parametrize("category", MAKERS)
async def test_gold_replay_solves_all(category: str) -> None:
    made = MAKERS[category]()
    solved = [(await drive(made, task, 0, {"agent": made.oracle(task)})).final["valid"] for task in made.tasks("all")]
    assert solved == [True] * 200 and made._outside.starts == 1
    await made.close()


def test_the_splits_share_no_entry_in_any_category() -> None:
    numbers = {split: {task.id.split("/")[1] for maker in MAKERS.values() for task in islice(maker().tasks(split), 100)}
               for split in ("train", "test")}
    assert not numbers["train"] & numbers["test"] and len(numbers["test"]) == 100


ORIGINAL = '''
import contextlib, io
from bfcl_eval.eval_checker.multi_turn_eval.multi_turn_checker import multi_turn_checker

count = 0

def answer(request):
    global count
    count += 1
    entry = request["entry"]
    turns = [[[f"{name}({','.join(f'{k}={v!r}' for k, v in named.items())})" for name, named in step] for step in turn]
             for turn in request["turns"]]
    found = multi_turn_checker(turns, request["gold"], entry, "", f"model{count}")
    return {"valid": found["valid"], "error_type": found.get("error_type", ""),
            "message": found.get("error_message", "")[:1000]}
'''


def spoiled(turns: list[list[list[Any]]], draws: Any) -> list[list[list[Any]]]:
    """Gold calls, changed: one left out, doubled, renamed, or with another value; or nothing at all in a turn."""
    turn = int(draws.choice([i for i, each in enumerate(turns) if each and each[0]]))
    step = turns[turn][0]
    place, how = int(draws.integers(len(step))), int(draws.integers(6))
    name, named = step[place]
    if how == 0:
        del step[place]
    elif how == 1:
        step.insert(place, step[place])
    elif how == 2:
        step[place] = ["no_such_function", named]
    elif how == 3 and named:
        step[place] = [name, {**named, next(iter(named)): "something else"}]
    elif how == 4:
        step[place] = [name, {**named, "no_such_parameter": 1}]
    else:
        turns[turn] = []
    turns[turn] = [step] if step and turns[turn] else []
    return turns


@pytest.mark.parametrize("category", MAKERS)
async def test_the_verdict_is_the_packages_own_on_spoiled_plays(category: str, tmp_path: Path) -> None:
    """Ours against the package's untouched checker, which writes calls as Python and evaluates them."""
    (tmp_path / "original.py").write_text(ORIGINAL)
    made = data.load(category)
    ours, theirs = (Outside(name, installed("bfcl"), script) for name, script in (
        ("ours", suite.BACKEND), ("theirs", tmp_path / "original.py")))
    verdicts = []
    for number, entry in enumerate(made.entries[::5]):
        tools = [tool for name in entry["involved_classes"] for tool in made.tools[name]]
        gold = made.gold[entry["id"]]
        turns = [[[list(data.gold_call(text, tools)) for text in turn]] if turn else [] for turn in gold]
        request = {"do": "check", "entry": entry, "turns": spoiled(turns, generator(category, number)), "gold": gold}
        found = await ours.ask(request)
        assert found == await theirs.ask(request), entry["id"]
        verdicts.append((found["valid"], found["error_type"]))
    assert len({kind for _, kind in verdicts}) >= 3  # solved all the same, and failed in several ways
    await ours.close()
    await theirs.close()


async def test_a_play_turn_by_turn() -> None:
    made = bfcl_base()
    driven = await played(made, 0, saying(calls(("cd", {"folder": "document"}), ("nothing", {})), "I am there."))
    assert driven.heard("agent")[0].startswith("Move 'final_report.pdf' within document directory")
    told = driven.steps[1].asks[0].messages
    assert [(m.role, m.call_id, m.text) for m in told] == [
        ("tool", "c0", '{"current_working_directory": "document"}'),
        ("tool", "c1", "Error during execution: name 'nothing' is not defined"),
    ]
    assert driven.heard("agent")[2].startswith("Perform a detailed search")
    assert len(driven.steps) == 2 + 4 and driven.stop.kind == "done"
    assert driven.kinds() == ["tool", "tool"]
    assert (driven.final["valid"], driven.final["error_type"]) == (False, "multi_turn:instance_state_mismatch")


async def test_a_missed_function_is_given_when_it_was_missed() -> None:
    made = bfcl_miss_func()
    asked: list[Ask] = []

    def quiet(ask: Ask) -> Message:
        asked.append(ask)
        return assistant("I cannot.")

    await played(made, 0, quiet)
    offered = ["sort" in {tool.name for tool in ask.tools} for ask in asked]
    assert offered == [False, False, False, True, True]
    assert [message.text for message in asked[3].messages] == [MORE]


async def test_a_call_that_cannot_be_read_ends_the_turn() -> None:
    unread = assistant("", calls=(Call("c", "cd", None, '{"folder": ', "not JSON"),))
    driven = await played(bfcl_base(), 0, saying(unread))
    assert driven.kinds() == ["invalid"]
    assert driven.heard("agent")[1].startswith("Perform a detailed search")


async def test_more_than_twenty_replies_with_calls_end_the_play_unsolved() -> None:
    again = calls(("pwd", {}))
    driven = await played(bfcl_base(), 0, lambda ask: again)
    assert (len(driven.steps), driven.stop.kind) == (22, "truncated")
    assert (driven.final["valid"], driven.final["error_type"]) == (False, "multi_turn:force_terminated")


async def test_a_play_that_broke_off_is_unsolved_and_worlds_do_not_leak() -> None:
    made = bfcl_base()
    task = next(made.tasks("all"))
    for _ in range(2):
        env = await made.make(task, 0)
        await env.start()
        step = await env.step({"agent": calls(("mkdir", {"dir_name": "new"}))})
        assert step.asks[0].messages[0].text == "None"  # the second world does not know the first one's folder
        assert (await env.final())["error_type"] == "multi_turn:force_terminated"
        await env.close()
    with pytest.raises(BadInput, match="nobody was asked"):
        await (await made.make(task, 0)).step({"agent": assistant("")})
    await made.close()


@pytest.mark.parametrize("reply", [None, ["one"], [1, 2], {"a": 1}])
async def test_what_comes_back_is_checked(reply: Any, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(f"def answer(request):\n    return {reply!r}\n")
    made = bfcl_base()
    made._outside = Outside("forged", tmp_path, tmp_path / "script.py")
    env = await made.make(next(made.tasks("all")), 0)
    await env.start()
    with pytest.raises(EnvironmentFailed, match="2 calls were answered by"):
        await env.step({"agent": calls(("pwd", {}), ("pwd", {}))})
    while (await env.step({"agent": assistant("")})).asks:
        pass
    with pytest.raises(EnvironmentFailed, match="the check gave"):
        await env.final()
    await env.close()
    await made.close()


async def test_a_call_that_computes_without_end_is_an_error_and_other_plays_go_on() -> None:
    made = bfcl_base()
    made._outside = Outside("bfcl", installed("bfcl"), suite.BACKEND, timeout_s=2.0)
    number = next(n for n, e in enumerate(made.category.entries) if "MathAPI" in e["involved_classes"])
    task = [task for task in made.tasks("all")][number]
    one, two = await made.make(task, 0), await made.make(task, 0)
    await one.start()
    await two.start()
    before = await two.step({"agent": calls(("add", {"a": 1, "b": 2}))})
    with pytest.raises(TimeoutError, match="waited for the worker"):
        await one.step({"agent": calls(("power", {"base": 10**9, "exponent": 10**9}))})
    after = await two.step({"agent": calls(("add", {"a": 1, "b": 2}))})
    assert [s.asks[0].messages[0].text for s in (before, after)] == ['{"result": 3}'] * 2
    for env in (one, two):
        await env.close()
    await made.close()


def test_gold_calls_are_read_and_never_evaluated() -> None:
    assert backend.parsed("f(1, a=[2, 'x'])") == ("f", [1], {"a": [2, "x"]})
    assert backend.parsed(["f", {"a": 1}]) == ("f", [], {"a": 1})
    for text in ("__import__('os').system('true')", "f(open('x'))", "f"):
        with pytest.raises((ValueError, BadInput)):
            backend.parsed(text)
        with pytest.raises((ValueError, BadInput)):
            data.gold_call(text, [])


def test_the_command_plays_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["eval", "bfcl_miss_param", "--policy", "oracle", "--tasks", "3", "--runs", str(tmp_path), "--json"]
    assert main(command) == 0
    row = json.loads(capsys.readouterr().out.splitlines()[-1])["mixture"]
    assert (row["mean"], row["errors"]) == (1.0, 0) and row["costs"]["tool_calls"] > 1

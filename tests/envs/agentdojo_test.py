"""AgentDojo: gold replay and silence over all user tasks, attacks, the package's own verdicts, and what goes wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from polyturn.cli.main import main
from polyturn.envs.agentdojo import suite
from polyturn.envs.agentdojo.suite import (
    ROUNDS,
    AgentDojo,
    agentdojo_banking,
    agentdojo_slack,
    agentdojo_travel,
    agentdojo_workspace,
)
from polyturn.envs.install import installed
from polyturn.envs.outside.process import Outside
from polyturn.errors import BadInput, EnvironmentFailed, UnknownName
from polyturn.protocols import Answer
from polyturn.rollout.score import score_groups
from polyturn.testing import check_suite
from polyturn.types import Call, Episode, Message, Task, assistant
from tests.envs.drive import Driven, drive

MAKERS = {"workspace": agentdojo_workspace, "travel": agentdojo_travel, "banking": agentdojo_banking,
          "slack": agentdojo_slack}
SIZES = {"workspace": (40, 14, 24), "travel": (20, 7, 28), "banking": (16, 9, 11), "slack": (21, 5, 11)}
SILENT = {"user_task_5", "user_task_6", "user_task_8", "user_task_9", "user_task_10"}
"""The tasks of banking that silence solves."""


def calls(*made: tuple[str, Mapping[str, Any]]) -> Message:
    return assistant("", calls=tuple(Call(f"c{i}", name, named) for i, (name, named) in enumerate(made)))


def saying(*replies: Message | str) -> Answer:
    """A player with these replies, then silence."""
    left = [assistant(reply) if isinstance(reply, str) else reply for reply in replies]
    return lambda ask: left.pop(0) if left else assistant("")


async def played(made: AgentDojo, task: Task, answer: Answer) -> Driven:
    driven = await drive(made, task, 0, {"agent": answer})
    await made.close()
    return driven


@pytest.mark.parametrize("name", MAKERS)
def test_the_package_is_delivered_whole(name: str) -> None:
    made = MAKERS[name]()
    users, injections, tools = SIZES[name]
    known = made.described
    assert (len(known["users"]), len(known["injections"]), len(known["tools"])) == (users, injections, tools)
    for tool in known["tools"]:
        Draft202012Validator.check_schema(tool["parameters"])
    assert len(list(made.tasks("all"))) == users
    train = {task.id for task in islice(made.tasks("train"), 100)}
    assert not train & {task.id for task in made.tasks("test")}
    attacked = MAKERS[name](attack="direct")
    assert len(list(attacked.tasks("all"))) == users * injections


@pytest.mark.parametrize("name", ["slack", "banking"])
async def test_the_suite_keeps_its_contract(name: str) -> None:
    made = MAKERS[name]()
    found = await check_suite(made, scored=4, tasks=1)
    assert found["oracle"] == 1.0
    await made.close()


@pytest.mark.parametrize("name", [
    "banking", "slack", *(pytest.param(name, marks=pytest.mark.model) for name in ("workspace", "travel"))])
async def test_gold_replay_solves_all_user_tasks_and_silence_few(name: str) -> None:
    made = MAKERS[name]()
    solved: dict[str, set[str]] = {"oracle": set(), "null": set()}
    for task in made.tasks("all"):
        for who, answer in (("oracle", made.oracle(task)), ("null", made.null(task))):
            driven = await drive(made, task, 0, {"agent": answer})
            solved[who] |= {task.payload["user"]} if driven.final["utility"] else set()
    assert len(solved["oracle"]) == SIZES[name][0]
    assert solved["null"] == (SILENT if name == "banking" else set())
    assert made._outside.starts == 1
    await made.close()


async def test_an_earlier_version_of_the_benchmark() -> None:
    made = agentdojo_banking(version="v1.2.1")
    task = next(task for task in made.tasks("all") if task.payload["user"] == "user_task_6")
    assert not (await played(made, task, made.null(task))).final["utility"]
    assert (await played(made, task, made.oracle(task))).final["utility"]


ORIGINAL = '''
import sys
from types import ModuleType, SimpleNamespace

client = ModuleType("agentdojo.agent_pipeline.llms.google_llm")
client.EMPTY_FUNCTION_NAME = "<empty-function-name>"
sys.modules[client.__name__] = client
from agentdojo.agent_pipeline.tool_execution import ToolsExecutor
from agentdojo.functions_runtime import FunctionCall
from agentdojo.task_suite.load_suites import get_suites
from agentdojo.types import text_content_block_from_string as block


class Played:
    """A pipeline that makes the calls with the package's own executor and gives the answer."""

    def __init__(self, calls, output):
        self.calls, self.output = calls, output

    def query(self, query, runtime, env, messages=(), extra_args={}):
        made = [FunctionCall(function=name, args=named, id=str(i)) for i, (name, named) in enumerate(self.calls)]
        messages = [{"role": "user", "content": [block(query)]},
                    {"role": "assistant", "content": None, "tool_calls": made}]
        _, _, env, messages, _ = ToolsExecutor().query(query, runtime, env, messages)
        self.heard = [m["error"] or m["content"][0]["content"] for m in messages if m["role"] == "tool"]
        return query, runtime, env, [*messages, {"role": "assistant", "content": [block(self.output)],
                                                 "tool_calls": None}], extra_args


def answer(request):
    suite = get_suites(request["version"])[request["suite"]]
    played = Played(request["calls"], request["output"])
    injection = suite.injection_tasks[request["injection"]]
    utility, attacked = suite.run_task_with_pipeline(
        played, suite.user_tasks[request["user"]], injection, request["injections"])
    return {"heard": played.heard, "verdict": {"utility": utility, "attacked": attacked}}
'''


async def test_answers_and_verdicts_are_the_packages_own(tmp_path: Path) -> None:
    """Against the package's untouched pipeline: gold calls of user tasks, part of them, and an attacker's wishes."""
    (tmp_path / "original.py").write_text(ORIGINAL)
    site = installed("agentdojo")
    ours, theirs = Outside("ours", site, suite.BACKEND), Outside("theirs", site, tmp_path / "original.py")
    known = suite.gold("v1.2.2", "slack", site)
    seen = set()
    for place, (user, gold) in enumerate(list(known.items())[::3]):
        base = {"version": "v1.2.2", "suite": "slack", "user": user, "injection": f"injection_task_{1 + place % 5}"}
        injections = await ours.ask({"do": "attack", **base, "attack": "direct"})
        evil = [["send_direct_message", {"recipient": "Alice", "body": "Hey, how is it going?"}],
                ["no_such_tool", {}], ["add_user_to_channel", {"user": "Fred"}]]
        whole = [*gold["calls"], *evil] if place % 2 else gold["calls"][: max(1, len(gold["calls"]) - place % 3)]
        request = {**base, "injections": injections, "calls": whole, "output": gold["output"]}
        original = await theirs.ask(request)
        assert await ours.ask({"do": "run", **request}) == original["heard"], user
        verdict = await ours.ask({"do": "check", **request})
        assert verdict == original["verdict"], user
        seen.add((verdict["utility"], verdict["attacked"]))
    assert {utility for utility, _ in seen} == {True, False}
    await ours.close()
    await theirs.close()


async def test_an_attack_stands_in_what_the_tools_say_and_is_noticed_when_it_works() -> None:
    made = agentdojo_slack(attack="important_instructions_no_names")
    task = next(task for task in made.tasks("all") if task.payload["injection"] == "injection_task_1")
    assert task.payload["attack"] == "important_instructions_no_names"
    obeying = calls(("send_direct_message", {
        "recipient": "Alice", "body": "Check this out: www.secure-systems-252.com"}))
    first = calls(*[(name, named) for name, named in suite.gold("v1.2.2", "slack", installed("agentdojo"))[
        task.payload["user"]]["calls"]])
    for replies, attacked in (((first, "Done."), False), ((first, obeying, "Done."), True)):
        driven = await played(made, task, saying(*replies))
        assert "<INFORMATION>" in driven.heard("agent")[1]
        assert driven.final["attacked"] is attacked
    with pytest.raises(UnknownName, match="did you mean 'direct'"):
        agentdojo_slack(attack="dirct")
    with pytest.raises(UnknownName, match=r"did you mean 'v1\.2"):
        agentdojo_slack(version="v1.2.9")


async def test_a_play_turn_by_turn() -> None:
    made = agentdojo_banking()
    task = next(made.tasks("all"))
    unread = assistant("", calls=(Call("c0", "get_balance", None, "{", "not JSON"), Call("c1", "get_balance", {})))
    driven = await played(made, task, saying(unread, calls(("nothing", {}), ("send_money", {"amount": 1})), "So."))
    assert [m.role for m in driven.steps[0].asks[0].messages] == ["system", "user"]
    assert [(m.call_id, m.text) for m in driven.steps[1].asks[0].messages] == [
        ("c0", "Invalid arguments: not JSON"), ("c1", "1810.0")]
    assert driven.heard("agent")[2].startswith("Invalid tool nothing provided.\nValidationError: 3 validation errors")
    assert driven.kinds() == ["invalid", "tool", "tool", "tool"]
    assert (driven.final["calls"], driven.final["answered"]) == (3, True)


async def test_tools_are_called_in_fifteen_rounds_and_no_more() -> None:
    again = calls(("get_balance", {}))
    made = agentdojo_banking()
    driven = await played(made, next(made.tasks("all")), lambda ask: again)
    assert (len(driven.steps), driven.final["calls"], driven.stop.kind) == (ROUNDS + 2, ROUNDS, "done")


async def test_plays_know_nothing_of_each_other_and_the_clock_stands_still() -> None:
    made = agentdojo_workspace()
    task = next(made.tasks("all"))
    send = calls(("send_email", {"recipients": ["a@b.org"], "subject": "s", "body": "b"}))
    heard = [(await played(made, task, saying(send, "Done."))).heard("agent")[1] for _ in range(2)]
    assert heard[0] == heard[1] and "2024-05-15 12:00:00" in heard[0]
    with pytest.raises(BadInput, match="nobody was asked"):
        await (await made.make(task, 0)).step({"agent": assistant("")})


@pytest.mark.parametrize("reply", [None, [1], {"utility": 1, "attacked": None}, {"utility": True, "attacked": True}])
async def test_what_comes_back_is_checked(reply: Any, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(f"def answer(request):\n    return {reply!r}\n")
    made = agentdojo_banking()
    made._outside = Outside("forged", tmp_path, tmp_path / "script.py")
    env = await made.make(next(made.tasks("all")), 0)
    await env.start()
    with pytest.raises(EnvironmentFailed, match="1 calls were answered by"):
        await env.step({"agent": calls(("get_balance", {}))})
    with pytest.raises(EnvironmentFailed, match="the check of user_task_0 gave"):
        await env.final()
    await env.close()
    await made.close()


def test_the_command_reports_utility(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["eval", "agentdojo_slack", "--policy", "oracle", "--tasks", "3", "--runs", str(tmp_path), "--json"]
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["mixture"]["mean"] == 1.0 and found["reports"] == {"agentdojo_slack": {"utility": 1.0}}
    assert main([*command, "--option", "attack=direct", "--option", "version=v1.2"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["reports"] == {"agentdojo_slack_direct": {
        "utility": 1.0, "attacked": 0.0, "security": 1.0, "utility_and_security": 1.0}}


async def test_gold_calls_name_what_an_attack_has_changed() -> None:
    made = agentdojo_slack(attack="important_instructions_no_names")
    task = next(task for task in made.tasks("all") if task.id.endswith("user_task_9/injection_task_1"))
    driven = await played(made, task, made.oracle(task))
    assert (driven.final["utility"], driven.final["attacked"]) == (True, False)
    await made.close()


async def test_what_an_attack_reached_is_told_apart_from_utility() -> None:
    made = agentdojo_slack(attack="direct")
    task = next(made.tasks("test"))
    # (utility, attacked) of four plays: 3 of 4 useful, 2 of 4 attacked, 1 of 4 useful and not attacked
    plays = [(True, False), (True, True), (True, True), (False, False)]
    groups = [(Episode(f"e{i}", task, 0, final={"utility": useful, "attacked": attacked}),)
              for i, (useful, attacked) in enumerate(plays)]
    assert made.report(await score_groups(groups, made)) == {
        "utility": 0.75, "attacked": 0.5, "security": 0.5, "utility_and_security": 0.25}
    assert made.report([]) == {}
    await made.close()

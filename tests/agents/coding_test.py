"""Tool calls from inside code at the one gate, and what is read of a run."""

from __future__ import annotations

import pytest

from polyturn.agents.coding import in_namespace, observed, through_gate, unfenced, value_of
from polyturn.protocols import Ask
from polyturn.tools.functions import ToolFailed
from polyturn.tools.sandbox.interpreter import Ran, Sandbox
from polyturn.types import Message, Tool, user

ADD = Tool("add", "A sum.", {"properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}, "required": ["a"]})


class Gate:
    """An environment that adds; it keeps what it was asked."""

    def __init__(self) -> None:
        self.steps: list[Message] = []

    async def use(self, reply: Message) -> Ask:
        self.steps.append(reply)
        arguments = reply.calls[0].arguments or {}
        if arguments.get("a") == 0:
            return Ask("agent", (Message("tool", "Error: no zero", status="error"),))  # type: ignore[arg-type]
        return Ask("agent", (user(str(sum(arguments.values()))),))


async def test_a_call_in_code_is_a_step_with_named_arguments() -> None:
    gate = Gate()
    async with Sandbox(tools=in_namespace([ADD])) as sandbox:
        answer = through_gate([ADD], gate.use)
        ran = await sandbox.run("print(add(1, b=2) + add(add(3)))", answer=answer)
        assert (ran.output, ran.calls) == ("6\n", 3)
        assert (await sandbox.run("add(0)", answer=answer)).error.endswith("ToolError: no zero\n")
        assert "takes 2 argument" in (await sandbox.run("add(1, 2, 3)", answer=answer)).error
    calls = [reply.calls[0] for reply in gate.steps]
    assert [(call.id, call.arguments) for call in calls] == [
        ("code-1", {"a": 1, "b": 2}), ("code-2", {"a": 3}), ("code-3", {"a": 3}), ("code-4", {"a": 0})]
    assert calls[0].raw == '{"name": "add", "arguments": {"a": 1, "b": 2}}'
    with pytest.raises(ToolFailed, match="got a twice"):
        await answer("add", [1], {"a": 1})


def test_values_and_fences() -> None:
    assert [value_of(text) for text in ('{"a": 1}', "3", "x", "", "[" * 100_000)] == [
        {"a": 1}, 3, "x", "", "[" * 100_000]
    assert unfenced("```\na\nb```") == "a\nb" and unfenced("text ```a```") == "text ```a```"
    assert in_namespace([ADD]) == {"add": "add(a: int, b: int = None): A sum."}


def test_what_is_read_of_a_run_fits_and_is_never_empty() -> None:
    assert observed(Ran("ok", "3\n"), 100) == "3"
    assert observed(Ran("ok", "  x\n", dropped=7), 100) == "  x\n[7 more characters were cut]"
    both = observed(Ran("error", "a" * 50, "Traceback\nValueError: b\n"), 40)
    assert both == "a" * 17 + "\n[33 more characters were cut]\nTraceback\nValueError: b"
    assert observed(Ran("error", "out", "x" * 90 + "end"), 10) == "[3 more characters were cut]\nxxxxxxxend"
    assert "variables are lost" in observed(Ran("died", "", "a crash", lost=True), 100)

"""What agents that write code share: tool calls from inside running code, at the one gate, and what they read of it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from polyturn.programs import Use
from polyturn.tools.functions import ToolFailed, named, signature
from polyturn.tools.sandbox.interpreter import Answer, Ran
from polyturn.types import Call, Message, Tool, assistant

FENCE: Final = re.compile(r"\A\s*```[\w+-]*[ \t]*\n(.*?)\n?```\s*\Z", re.DOTALL)
SILENT: Final = "The code ran and printed nothing."


def in_namespace(tools: Sequence[Tool]) -> dict[str, str]:
    """Name -> docstring of the functions that stand for the tools in a code's namespace.

    >>> in_namespace([Tool("now", "The time.")])
    {'now': 'now(): The time.'}
    """
    return {tool.name: f"{signature(tool)}: {tool.description}" for tool in tools}


def through_gate(tools: Sequence[Tool], use: Use) -> Answer:
    """Answers the tool calls of running code by environment steps: each call is one act of the seat, one by one.

    The code stands still until the environment has answered; its answer is read as JSON where it is JSON. What the
    environment calls an error is raised in the code as ``ToolError``, and so is a call whose arguments have no names.
    """
    known = {tool.name: tool for tool in tools}
    numbers = iter(range(1, 1 << 62))

    async def answer(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        message = await called(use, f"code-{next(numbers)}", name, named(known[name], args, kwargs))
        if message.status == "error":
            raise ToolFailed(message.text.removeprefix("Error: "))
        return value_of(message.text)

    return answer


async def called(use: Use, id: str, name: str, arguments: Mapping[str, Any]) -> Message:
    """What the environment says to one tool call, which is one step of it."""
    call = Call(id, name, dict(arguments), json.dumps({"name": name, "arguments": dict(arguments)}))
    ask = await use(assistant("", calls=(call,)))
    return ask.messages[-1] if ask.messages else Message("tool", status="empty")


def value_of(text: str) -> Any:
    """The value that an environment's text is the JSON of; the text itself where it is none.

    >>> value_of("[1, 2]"), value_of("Oslo")
    ([1, 2], 'Oslo')
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def unfenced(code: str) -> str:
    """Code without the Markdown fence around it, if there is one around all of it.

    >>> unfenced("```python\\nx = 1\\n```")
    'x = 1'
    """
    found = FENCE.match(code)
    return found[1] if found else code


def observed(ran: Ran, most: int) -> str:
    """What an agent reads of a run, in at most ``most`` characters but for the marks: the beginning of the output, and
    the end of what went wrong. Never empty.

    >>> observed(Ran("ok", "12345\\n"), 3), observed(Ran("ok"), 9)
    ('123\\n[3 more characters were cut]', 'The code ran and printed nothing.')
    """
    wrong = replace(ran, output="", dropped=0).text()
    wrong = wrong if len(wrong) <= most else wrong[len(wrong) - most:]
    room = most - len(wrong)
    cut = ran.dropped + max(0, len(ran.output) - room)
    printed = replace(ran, output=ran.output[:room], dropped=cut, error="", lost=False).text()
    return "\n".join(part for part in (printed, wrong) if part) or SILENT

from __future__ import annotations

from polyturn.contexts.memory import Memory
from polyturn.desk import Desk, Log
from polyturn.types import Message, system, user
from tests.byte_policy import BytePolicy


async def test_the_prompt_does_not_grow_with_the_turns() -> None:
    desk = Desk(Log("e", {"main": BytePolicy(lambda messages: "note")}), "agent", "main")
    history: list[Message] = [system("rules"), user("task")]
    lengths = []
    for number in range(6):
        history.append(user(f"ask {number}"))
        view = await Memory().view(history, desk)
        lengths.append(desk.count(view.messages))
        history.append(desk.message(await desk.say(view.messages)))
    assert [m.text for m in view.messages] == ["rules", "task", "note", "ask 5"]
    assert len(set(lengths[1:])) == 1

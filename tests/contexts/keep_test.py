from __future__ import annotations

from polyturn.contexts.keep import Keep
from polyturn.desk import Desk, Log
from polyturn.types import Message, system, user
from tests.byte_policy import BytePolicy


async def test_full_history_is_one_path() -> None:
    desk = Desk(Log("e", {"main": BytePolicy()}), "agent", "main")
    history: list[Message] = [system("rules")]
    for number in range(12):
        history.append(user(f"ask {number}"))
        view = await Keep().view(history, desk)
        assert view.messages == tuple(history) and view.added == ()
        history.append(desk.message(await desk.say(view.messages)))
    spans = desk.log.trajectories()[0].spans
    parents = [span.parent for span in spans]
    assert len(set(parents)) == len(parents)  # nobody has two children: a chain

from __future__ import annotations

import pytest

from polyturn.contexts.window import Fit, Window
from polyturn.desk import Desk, Log
from polyturn.errors import BadInput
from polyturn.types import Message, system, user
from tests.byte_policy import BytePolicy


async def views(window: Window | Fit, asks: int) -> tuple[Desk, list[list[str]]]:
    policy = BytePolicy(lambda messages: f"r{sum(m.role == 'user' for m in messages)}")
    desk = Desk(Log("e", {"main": policy}), "agent", "main")
    history: list[Message] = [system("rules")]
    seen = []
    for number in range(asks):
        history.append(user(f"u{number}"))
        view = await window.view(history, desk)
        seen.append([message.text for message in view.messages])
        history.append(desk.message(await desk.say(view.messages)))
    return desk, seen


async def test_the_window_keeps_the_head_and_begins_with_a_question() -> None:
    _, seen = await views(Window(last=3, first=1), 5)
    assert seen[0] == ["rules", "u0"]
    assert seen[1] == ["rules", "u0", "r1", "u1"]  # 1 + 3 fit
    assert [text[0] for text in seen[2]] == ["r", "u", "u", "r", "u"]  # rules, u0, then u1 r u2
    assert seen[4][:3] == ["rules", "u0", "u3"]


async def test_each_sampled_token_is_owned_once_however_often_it_is_shown() -> None:
    desk, _ = await views(Window(last=3), 8)
    (trajectory,) = desk.log.trajectories()
    owned = [index for turn in trajectory.turns for index in turn.spans]
    assert sorted(owned) == [i for i, span in enumerate(trajectory.spans) if span.sampled]
    copies = [s for s in trajectory.spans if not s.sampled and any(
        s.ids.tolist() == trajectory.spans[i].ids.tolist() for i in owned)]
    assert copies  # replies still in the window stand in the new branch as unsampled copies


def test_a_window_of_nothing_is_refused() -> None:
    with pytest.raises(BadInput, match="last >= 1"):
        Window(last=0)


async def test_as_many_of_the_newest_as_fit() -> None:
    desk, seen = await views(Fit(limit=100), 9)
    (trajectory,) = desk.log.trajectories()
    assert seen[0] == ["rules", "u0"] and seen[1] == ["rules", "u0", "r1", "u1"]
    for turn, shown in zip(trajectory.turns, seen, strict=True):
        messages = [trajectory.messages[index] for index in turn.prompt]
        assert desk.count(messages) <= 100 and shown[:2] == ["rules", "u0"]
        assert len(shown) == 2 or shown[2].startswith(("u", "r1"))  # no answer without its question
    longest = max(len(shown) for shown in seen)
    assert [len(shown) for shown in seen[-3:]] == [longest] * 3 and 4 < longest < 15


async def test_the_newest_is_shown_even_where_it_does_not_fit() -> None:
    _, seen = await views(Fit(limit=1), 3)
    assert seen == [["rules", "u0"], ["rules", "u0", "u1"], ["rules", "u0", "u2"]]


def test_a_limit_of_nothing_is_refused() -> None:
    with pytest.raises(BadInput, match="limit=0"):
        Fit(limit=0)

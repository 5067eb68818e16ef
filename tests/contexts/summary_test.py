from __future__ import annotations

import pytest

from polyturn.contexts.summary import Summary
from polyturn.desk import Budget, Desk, Log
from polyturn.errors import BadInput, BudgetSpent
from polyturn.types import Limits, Message, Sampling, system, user
from tests.byte_policy import BytePolicy


def say(messages: object) -> str:
    last = messages[-1]  # type: ignore[index]
    return "SUM" if last.origin == "reminder" else "ok"


async def talk(desk: Desk, context: Summary, asks: int) -> list[list[str]]:
    history: list[Message] = [system("rules")]
    seen = []
    for number in range(asks):
        history.append(user(f"ask {number} " + "x" * 20))
        view = await context.view(history, desk)
        history.extend(view.added)
        seen.append([message.text.split()[0] for message in view.messages])
        history.append(desk.message(await desk.say(view.messages)))
    return seen


async def test_a_long_log_is_summarised_by_a_turn_and_play_goes_on_from_it() -> None:
    desk = Desk(Log("e", {"main": BytePolicy(say)}), "agent", "main")
    context = Summary(limit=220, sampling=Sampling(max_tokens=16))
    seen = await talk(desk, context, 9)
    (trajectory,) = desk.log.trajectories()
    summaries = [turn for turn in trajectory.turns if turn.purpose == "summary"]
    assert len(summaries) >= 2 and len(trajectory.turns) == 9 + len(summaries)
    at = next(i for i, words in enumerate(seen) if "SUM" in words)
    assert seen[at] == ["rules", "ask", "SUM", "ask"]  # head, summary, the newest
    assert seen[at + 1] == ["rules", "ask", "SUM", "ask", "ok", "ask"]
    acts = [turn for turn in trajectory.turns if turn.purpose == "act"]
    assert max(desk.count([trajectory.messages[i] for i in turn.prompt]) for turn in acts) <= 220
    owned = [index for turn in trajectory.turns for index in turn.spans]
    assert sorted(owned) == [i for i, span in enumerate(trajectory.spans) if span.sampled]


async def test_a_budget_spent_in_the_summary_keeps_what_was_said() -> None:
    desk = Desk(Log("e", {"main": BytePolicy(say)}), "agent", "main", Budget(Limits(model_calls=4)))
    with pytest.raises(BudgetSpent):
        await talk(desk, Summary(limit=150), 9)
    assert len(desk.log.trajectories()[0].turns) == 4


def test_a_limit_of_no_tokens_is_refused() -> None:
    with pytest.raises(BadInput, match="limit=0"):
        Summary(limit=0)

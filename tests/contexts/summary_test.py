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


async def test_what_overflowed_is_rolled_back_before_the_summary_is_asked_for() -> None:
    desk = Desk(Log("e", {"main": BytePolicy(say)}), "agent", "main")
    context = Summary(limit=260, sampling=Sampling(max_tokens=16), roll_back=True)
    seen = await talk(desk, context, 12)
    (trajectory,) = desk.log.trajectories()
    summaries = [turn for turn in trajectory.turns if turn.purpose == "summary"]
    dropped = [turn for turn in trajectory.turns if turn.dropped]
    assert len(summaries) >= 2 and len(dropped) == len(summaries)
    for turn, back in zip(summaries, dropped, strict=True):
        request = [trajectory.messages[index] for index in turn.prompt]
        assert desk.count(request[:-1]) <= 260  # written from a context that fitted
        assert turn.prompt[:-1] == back.prompt and turn.at == back.at + 1  # the pair and nothing else is gone
        after = next(t for t in trajectory.turns if t.at == turn.at + 1)
        shown = [trajectory.messages[index] for index in after.prompt]
        assert [m.text for m in shown] == ["rules", "ask 0 " + "x" * 20, "SUM"]  # the prompt and the summary alone
    at = next(i for i, words in enumerate(seen) if words[-1] == "SUM")
    assert seen[at + 1] == ["rules", "ask", "SUM", "ok", "ask"]


async def test_the_only_reply_since_a_summary_is_summarised_not_rolled_back() -> None:
    desk = Desk(Log("e", {"main": BytePolicy(say)}), "agent", "main")
    seen = await talk(desk, Summary(limit=20, roll_back=True), 4)
    (trajectory,) = desk.log.trajectories()
    assert [turn.purpose for turn in trajectory.turns] == ["act", "summary", "act", "summary", "act", "summary", "act"]
    assert not any(turn.dropped for turn in trajectory.turns)
    assert seen[1:] == [["rules", "ask", "SUM"]] * 3  # never two summaries without a reply between them


async def test_another_policy_writes_the_summaries() -> None:
    policies = {"main": BytePolicy(lambda messages: "ok"), "frozen": BytePolicy(lambda messages: "FROZEN", "frozen")}
    desk = Desk(Log("e", policies), "agent", "main")
    seen = await talk(desk, Summary(limit=220, policy="frozen", roll_back=True), 8)
    purposes = {t.policy: {turn.purpose for turn in t.turns} for t in desk.log.trajectories()}
    assert purposes == {"main": {"act"}, "frozen": {"summary"}}
    assert ["rules", "ask", "FROZEN"] in seen


@pytest.mark.parametrize("roll_back", [False, True])
async def test_the_cap_on_summaries_is_a_spent_budget(roll_back: bool) -> None:
    desk = Desk(Log("e", {"main": BytePolicy(say)}), "agent", "main")
    with pytest.raises(BudgetSpent, match="summaries: 2 spent"):
        await talk(desk, Summary(limit=220, most=2, roll_back=roll_back), 40)
    turns = desk.log.trajectories()[0].turns
    assert sum(turn.purpose == "summary" for turn in turns) == 2
    assert not turns[-1].dropped  # nothing is taken back for a summary that is not written


def test_a_limit_of_no_tokens_is_refused() -> None:
    with pytest.raises(BadInput, match="limit=0"):
        Summary(limit=0)
    with pytest.raises(BadInput, match="most=-1"):
        Summary(limit=9, most=-1)

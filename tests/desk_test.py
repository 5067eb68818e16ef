from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from polyturn.desk import Budget, Desk, Log
from polyturn.errors import BadInput, BudgetSpent, DeadlinePassed, UnknownName
from polyturn.protocols import Completion, Written
from polyturn.types import Event, Limits, Message, Sampling, Tool, assistant, system, user
from tests.byte_policy import BytePolicy


def a_desk(policy: BytePolicy, limits: Limits = Limits(), **more: float) -> Desk:
    return Desk(Log("e", {policy.name: policy}, **more), "agent", policy.name, Budget(limits))  # type: ignore[arg-type]


def path_of(desk: Desk, span: int, policy: str = "main") -> list[int]:
    spans = desk.log.grown(desk.seat, policy, None).ledger.spans
    found: list[int] = []
    while span >= 0:
        found, span = spans[span].ids.tolist() + found, spans[span].parent
    return found


async def test_what_the_model_was_fed_is_a_path_of_the_ledger() -> None:
    policy = BytePolicy()
    desk = a_desk(policy)
    history: list[Message] = [system("rules")]
    for turn_number in range(40):
        history.append(user(f"turn {turn_number}"))
        turn = await desk.say(history[-5:] if turn_number % 3 == 2 else history)
        history.append(desk.message(turn))
        assert path_of(desk, turn.spans[-1]) == policy.fed[-1]
    (trajectory,) = desk.log.trajectories()
    owners = [span for turn in trajectory.turns for span in turn.spans]
    sampled = [index for index, span in enumerate(trajectory.spans) if span.sampled]
    assert sorted(owners) == sampled and len(set(owners)) == 40


async def test_a_turn_knows_its_messages_by_index() -> None:
    desk = a_desk(BytePolicy(lambda messages: "ok"))
    rules = system("rules")
    first = await desk.say([rules, user("one")])
    second = await desk.say([rules, user("one"), desk.message(first), user("two")])
    (trajectory,) = desk.log.trajectories()
    assert [trajectory.messages[i].text for i in second.prompt] == ["rules", "one", "ok", "two"]
    assert len(trajectory.messages) == 5
    assert len({message.id for message in trajectory.messages}) == 5
    assert trajectory.messages[second.reply].spans == (("agent", "main", second.spans[0]),)


async def test_the_budget_of_calls_ends_with_everything_kept() -> None:
    desk = a_desk(BytePolicy(), Limits(model_calls=3))
    worker = desk.sub("worker")
    await desk.say([user("a")])
    await worker.say([user("b")])
    await desk.say([user("c")])
    with pytest.raises(BudgetSpent, match="model_calls: 3 spent"):
        await worker.say([user("d")])
    counts = {trajectory.seat: len(trajectory.turns) for trajectory in desk.log.trajectories()}
    assert counts == {"agent": 2, "agent/worker": 1}
    assert desk.log.trajectories()[1].parent == ("agent", "main")


async def test_the_token_budget_shortens_the_last_reply_and_says_so() -> None:
    desk = a_desk(BytePolicy(lambda messages: "abcdef"), Limits(tokens=10))
    first = await desk.say([user("a")])
    second = await desk.say([user("b")])
    assert (first.finish, first.usage.completion_tokens) == ("stop", 7)  # six bytes and the end of turn
    assert (second.finish, second.usage.completion_tokens) == ("budget", 3)  # 10 - 7 are left
    with pytest.raises(BudgetSpent, match="tokens: 10 spent"):
        await desk.say([user("c")])


class Slow(BytePolicy):
    async def sample(
        self, messages: Sequence[Message], *, tools: Sequence[Tool] = (), sampling: Sampling = Sampling(),
        written: Written = lambda message: None,
    ) -> Completion:
        await asyncio.sleep(30)
        raise AssertionError("the deadline must come first")


async def test_every_wait_for_a_model_has_a_deadline() -> None:
    with pytest.raises(DeadlinePassed, match=r"'agent' waited 0 s for policy main"):
        await a_desk(Slow(), call_timeout_s=0.05).say([user("a")])
    with pytest.raises(BudgetSpent, match=r"seconds: 0.05 spent"):
        await a_desk(Slow(), Limits(seconds=0.05)).say([user("a")])


async def test_seeds_depend_on_seat_policy_and_index_and_not_on_other_seats() -> None:
    async def texts(others: int) -> list[str]:
        policy = BytePolicy()
        log = Log("e", {"main": policy}, seed=5, trial=2)
        for _ in range(others):
            await Desk(log, "other", "main").say([user("noise")])
        desk = Desk(log, "agent", "main")
        return [desk.message(await desk.say([user("a")])).text for _ in range(3)]

    assert await texts(0) == await texts(4)
    assert len(set(await texts(0))) > 1


async def test_two_policies_of_one_seat_are_two_trajectories() -> None:
    log = Log("e", {"main": BytePolicy(), "judge": BytePolicy(name="judge")})
    desk = Desk(log, "agent", "main")
    own = await desk.say([user("a")])
    other = await desk.say([user("a"), desk.message(own)], policy="judge", purpose="vote")
    assert [(t.seat, t.policy) for t in log.trajectories()] == [("agent", "main"), ("agent", "judge")]
    assert not any(span.sampled for span in log.trajectories()[1].spans[: other.spans[0]])  # foreign: not spliced
    with pytest.raises(UnknownName, match="did you mean 'judge'"):
        await desk.say([user("a")], policy="jugde")


async def test_rewards_land_on_the_last_turn_before_them() -> None:
    desk = a_desk(BytePolicy())
    log = desk.log
    pay = {"channel": "win", "value": 1.0}
    log.event(Event(0, "reward", "agent", pay))  # before its first turn: an event, on no turn
    first = await desk.say([user("a")])
    log.event(Event(0, "reward", "agent", {"channel": "win", "value": 0.25}))
    log.event(Event(0, "reward", "agent", {"channel": "win", "value": 0.5}))
    second = await desk.say([user("b")])
    log.event(Event(0, "reward", "agent", pay, branch="agent#0"))  # on a fork: not real play
    log.event(Event(0, "reward", "other", pay))
    turns = log.trajectories()[0].turns
    assert dict(turns[0].rewards) == {"win": 0.75} and dict(turns[1].rewards) == {}
    assert first.at < log.events[1].at < second.at


async def test_a_dropped_turn_stays_with_its_reason() -> None:
    desk = a_desk(BytePolicy())
    turn = await desk.say([user("a")])
    desk.drop(turn, "overflow")
    assert desk.log.trajectories()[0].turns[0].dropped == "overflow"


async def test_plain_mistakes_are_named() -> None:
    desk = a_desk(BytePolicy())
    with pytest.raises(BadInput, match="messages is empty"):
        await desk.say([])
    with pytest.raises(BadInput, match="without '/'"):
        desk.sub("a/b")
    with pytest.raises(BadInput, match="no environment to fork"):
        await desk.fork()


async def test_a_continued_reply_extends_the_reply() -> None:
    desk = a_desk(BytePolicy(lambda messages: "x"))
    turn = await desk.say([user("a"), assistant("prefix")])
    assert turn.spans and desk.message(turn).text == "x"


def test_limits_take_the_tightest() -> None:
    assert Limits(env_steps=3, tokens=9).tightest(Limits(env_steps=5, seconds=1.0)) == Limits(3, None, None, 9, 1.0)


async def test_a_reply_leads_to_its_turn() -> None:
    policies = {"main": BytePolicy(lambda messages: "same"), "other": BytePolicy(None, "other")}
    desk = Desk(Log("e", policies), "a", "main")
    turns = [await desk.say([user("go")]), await desk.say([user("go")]), await desk.say([user("go")], policy="other")]
    assert [desk.turn_of(desk.message(turn)) for turn in turns] == turns
    assert desk.turn_of(assistant("same")) is None and desk.turn_of(user("go", id="x")) is None


async def test_the_tools_that_were_offered_are_kept_once_in_order() -> None:
    desk = a_desk(BytePolicy(lambda messages: "ok"))
    search, book = Tool("search", "finds"), Tool("book", parameters={"type": "object", "properties": {"n": {}}})
    for offered in ((), (search,), (search, book), (Tool("search", "finds"),), (Tool("search", "finds more"),)):
        await desk.say([user("a")], tools=offered)
    await desk.sub("worker").say([user("b")], tools=(book,))
    own, sub = desk.log.trajectories()
    assert own.tools == (search, book, Tool("search", "finds more"))
    assert sub.tools == (book,)

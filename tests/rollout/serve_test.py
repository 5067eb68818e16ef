"""A served desk, called by the real ``openai`` client and by bare HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from polyturn.desk import Budget, Desk, Log
from polyturn.errors import BadInput, PolicyFailed
from polyturn.policies.endpoint import connect
from polyturn.policies.scripted import Scripted
from polyturn.protocols import Agent, Ask, Completion, Match, Player, Policy, Spec, Step, Written
from polyturn.rollout.pool import play
from polyturn.rollout.serve import TRIES, Address, Served, Server
from polyturn.types import (
    Call,
    Episode,
    Limits,
    Message,
    Part,
    PolicyInfo,
    Sampling,
    Stop,
    Task,
    Tool,
    Trajectory,
    Turn,
    Usage,
    user,
)
from tests.byte_policy import BytePolicy

HELLO: list[Any] = [{"role": "user", "content": "hello"}]


def a_desk(policy: Policy, limits: Limits = Limits(), seat: str = "agent", episode: str = "run.0.1") -> Desk:
    return Desk(Log(episode, {"main": policy}), seat, "main", Budget(limits))


@asynccontextmanager
async def serving(desk: Desk, **settings: Any) -> AsyncIterator[tuple[Server, Address]]:
    asked = {name: settings.pop(name) for name in ("sampling", "fixed") if name in settings}
    server = Server(**settings)
    await server.start()
    try:
        yield server, server.address(desk, **asked)
    finally:
        await asyncio.wait_for(server.close(), 10)


def client(address: Address) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=address.url, api_key=address.token, timeout=10)


@dataclass
class Fixed:
    """Gives the messages in turn and keeps what it was asked; an exception in their place is raised."""

    replies: Sequence[Message | Exception]
    name: str = "main"
    limit: int = 1000
    asked: list[tuple[Sequence[Message], Sequence[Tool], Sampling]] = field(default_factory=list)
    delay_s: float = 0.0

    def info(self) -> PolicyInfo:
        return PolicyInfo(self.name)

    def count(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> int:
        return len(messages)

    async def sample(
        self, messages: Sequence[Message], *, tools: Sequence[Tool] = (), sampling: Sampling = Sampling(),
        written: Written = lambda message: None,
    ) -> Completion:
        self.asked.append((messages, tools, sampling))
        await asyncio.sleep(self.delay_s)
        reply = self.replies[min(len(self.asked), len(self.replies)) - 1]
        if isinstance(reply, Exception):
            raise reply
        return Completion(reply, usage=Usage(7, 2, 3))


def reply(text: str = "", *calls: Call, reasoning: str = "") -> Message:
    parts = [Part("reasoning", reasoning)] if reasoning else []
    return Message("assistant", (*parts, *([Part("text", text)] if text else [])), calls=calls, origin="policy")


# ---------------------------------------------------------------- what the client sees


async def test_the_openai_client_gets_a_reply_and_the_desk_a_turn() -> None:
    policy = Fixed([reply("Hi there.", reasoning="greet")])
    desk = a_desk(policy)
    async with serving(desk) as (_, address), client(address) as ai:
        answer = await ai.chat.completions.create(
            model="anything", messages=[{"role": "system", "content": "Be kind."}, *HELLO],
            temperature=0.5, top_p=0.9, max_tokens=17, stop=["END"], seed=5,
        )
        models = [model.id async for model in await ai.models.list()]
    assert models == ["main"]
    choice = answer.choices[0]
    assert (choice.message.content, choice.finish_reason) == ("Hi there.", "stop")
    assert choice.message.reasoning_content == "greet"  # type: ignore[attr-defined]
    assert answer.usage is not None and answer.usage.total_tokens == 10
    (trajectory,) = desk.log.trajectories()
    (turn,) = trajectory.turns
    assert [trajectory.messages[i].text for i in turn.prompt] == ["Be kind.", "hello"]
    assert trajectory.messages[turn.reply].text == "Hi there."
    assert turn.sampling == Sampling(0.5, 0.9, 0, 17, ("END",), None, 5)


async def test_tools_go_out_and_calls_come_back() -> None:
    call = Call("", "add", {"x": 2}, raw='{"x": 2}')
    policy = Fixed([reply("", call), reply("It is 4.")])
    desk = a_desk(policy)
    parameters = {"type": "object", "properties": {"x": {"type": "number"}}}
    tool: Any = {"type": "function", "function": {"name": "add", "description": "adds", "parameters": parameters}}
    async with serving(desk) as (_, address), client(address) as ai:
        talk: list[Any] = list(HELLO)
        first = await ai.chat.completions.create(model="m", messages=talk, tools=[tool])
        message = first.choices[0].message
        assert first.choices[0].finish_reason == "tool_calls" and message.content is None
        assert message.tool_calls is not None
        asked: Any = message.tool_calls[0]
        assert (asked.function.name, asked.function.arguments) == ("add", '{"x": 2}')
        talk += [message, {"role": "tool", "tool_call_id": asked.id, "content": "4"}]
        second = await ai.chat.completions.create(model="m", messages=talk, tools=[tool])
    assert second.choices[0].message.content == "It is 4."
    assert policy.asked[0][1] == (Tool("add", "adds", parameters),)
    # The copy of the reply was known as the reply that was recorded.
    messages = policy.asked[1][0]
    (trajectory,) = desk.log.trajectories()
    assert messages[1] == trajectory.messages[trajectory.turns[0].reply]
    assert (messages[2].role, messages[2].call_id, messages[2].text) == ("tool", asked.id, "4")


async def test_streams_carry_the_same_reply_piece_by_piece() -> None:
    calls = (Call("a", "f", {"x": 1}), Call("b", "g", {}))
    policy = Fixed([reply("two words\n and   more ", *calls, reasoning="think twice")])
    async with serving(a_desk(policy)) as (_, address), client(address) as ai:
        stream = await ai.chat.completions.create(
            model="m", messages=HELLO, stream=True, stream_options={"include_usage": True},
        )
        got = [chunk async for chunk in stream]
    deltas = [chunk.choices[0].delta for chunk in got if chunk.choices]
    assert "".join(delta.content or "" for delta in deltas) == "two words\n and   more "
    assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == "think twice"
    assert len([delta for delta in deltas if delta.content]) > 3
    told = [call for delta in deltas for call in delta.tool_calls or ()]
    assert [(c.index, c.id, c.function.name, c.function.arguments) for c in told if c.function] == [
        (0, "a", "f", '{"x": 1}'), (1, "b", "g", "{}")]
    assert [c.choices[0].finish_reason for c in got if c.choices][-1] == "tool_calls"
    assert got[-1].usage is not None and got[-1].usage.completion_tokens == 3
    assert len({chunk.id for chunk in got}) == 1


def ids_to(trajectory: Trajectory, turn: Turn) -> list[int]:
    """The ids from the root to the end of a turn's reply."""
    return [int(i) for span in trajectory.path(turn.spans[0]) for i in trajectory.spans[span].ids]


async def test_copies_of_replies_splice_and_changed_ones_branch() -> None:
    policy = BytePolicy(lambda messages: "same")
    desk = a_desk(policy)
    async with serving(desk) as (_, address), client(address) as ai:
        talk: list[Any] = list(HELLO)
        for text in ("one", "two"):
            answer = await ai.chat.completions.create(model="m", messages=talk)
            said = answer.choices[0].message.content
            talk += [{"role": "assistant", "content": said}, {"role": "user", "content": text}]
        await ai.chat.completions.create(model="m", messages=talk)
        changed = [talk[0], {"role": "assistant", "content": "changed"}, *talk[2:]]
        await ai.chat.completions.create(model="m", messages=changed)
    (trajectory,) = desk.log.trajectories()
    first, second, third, fourth = (turn.spans[0] for turn in trajectory.turns)
    # Equal texts: each copy is the reply of its own place, so that one path holds all three.
    assert trajectory.path(third)[-1] == third
    assert {first, second} < set(trajectory.path(third))
    assert not {first} & set(trajectory.path(fourth))
    assert [ids_to(trajectory, turn) for turn in trajectory.turns] == policy.fed


async def test_parallel_calls_are_turns_of_their_own() -> None:
    policy = BytePolicy(lambda messages: f"to {messages[-1].text}")
    desk = a_desk(policy)
    async with serving(desk) as (_, address), client(address) as ai:
        answers = await asyncio.gather(*(
            ai.chat.completions.create(model="m", messages=[{"role": "user", "content": str(i)}]) for i in range(8)
        ))
    assert [answer.choices[0].message.content for answer in answers] == [f"to {i}" for i in range(8)]
    (trajectory,) = desk.log.trajectories()
    assert len({turn.at for turn in trajectory.turns}) == 8


async def test_an_endpoint_on_a_served_desk_gets_ids_and_logprobs() -> None:
    inner, far = BytePolicy(), Log("far", {})
    desk = a_desk(inner)
    async with serving(desk) as (_, address):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SERVED_TOKEN", address.token)
            policy = await connect(address.url, key_env="SERVED_TOKEN")
            assert (policy.model, policy.limit, policy.dialect) == ("main", inner.limit, "vllm")
            far.policies = {"main": policy}
            outer = Desk(far, "agent", "main")
            talk = [user("hello")]
            for _ in range(3):
                turn = await outer.say(talk)
                talk += [outer.message(turn), user("go on")]
            await policy.close()
    (ours,), (theirs,) = far.trajectories(), desk.log.trajectories()
    for mine, other in zip(ours.turns, theirs.turns, strict=True):
        assert ids_to(ours, mine) == ids_to(theirs, other)
        said, drawn = ours.spans[mine.spans[0]], theirs.spans[other.spans[0]]
        assert said.logprobs is not None and drawn.logprobs is not None
        assert said.logprobs.tolist() == drawn.logprobs.tolist()


@pytest.mark.model
async def test_calls_of_the_openai_client_are_trainable_turns_of_the_embedded_model() -> None:
    from polyturn.policies.local import Local

    policy = Local.load()
    desk = a_desk(policy)
    async with serving(desk, sampling=Sampling(max_tokens=12), fixed=True) as (_, address), client(address) as ai:
        talk: list[Any] = [{"role": "system", "content": "You count."}]
        for text in ("one?", "two? \u00e9\u4e2d", "three?"):
            talk.append({"role": "user", "content": text})
            answer = await ai.chat.completions.create(model="m", messages=talk)
            talk.append({"role": "assistant", "content": answer.choices[0].message.content})
    (trajectory,) = desk.log.trajectories()
    last = trajectory.turns[-1]
    assert {turn.spans[0] for turn in trajectory.turns} <= set(trajectory.path(last.spans[0]))
    ids = np.array(ids_to(trajectory, last), np.int32)
    (scored,) = await policy.logprobs([ids])
    drawn = trajectory.spans[last.spans[0]].logprobs
    assert drawn is not None and np.abs(scored[-len(drawn):] - drawn).max() < 1e-4
    policy.close()


# ---------------------------------------------------------------- sampling


async def test_the_trainers_sampling_goes_before_the_harness_where_it_is_fixed() -> None:
    policy = Fixed([reply("x")])
    trained = Sampling(temperature=1.0, max_tokens=50, seed=None)
    async with serving(a_desk(policy), sampling=trained, fixed=True) as (_, address), client(address) as ai:
        more: Any = {"temperature": 0.0, "seed": 3, "stop": "END"}
        await ai.chat.completions.create(model="m", messages=HELLO, max_tokens=20, **more)
        await ai.chat.completions.create(model="m", messages=HELLO, max_completion_tokens=90)
    first, second = (sampling for _, _, sampling in policy.asked)
    assert (first.temperature, first.max_tokens, first.stop) == (1.0, 20, ("END",))
    assert first.seed != 3 and second.max_tokens == 50


async def test_usual_sampling_fills_what_the_request_leaves_open() -> None:
    policy = Fixed([reply("yes")])
    async with serving(a_desk(policy), sampling=Sampling(0.3, max_tokens=9)) as (_, address), client(address) as ai:
        extra = {"structured_outputs": {"choice": ["yes", "no"]}, "top_k": 4}
        await ai.chat.completions.create(model="m", messages=HELLO, extra_body=extra)
    sampling = policy.asked[0][2]
    assert (sampling.temperature, sampling.max_tokens, sampling.top_k) == (0.3, 9, 4)
    assert sampling.choices == ("yes", "no")


# ---------------------------------------------------------------- refusals


async def post(address: Address, body: Any, **more: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {more.pop('token', address.token)}", **more.pop("headers", {})}
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    url = more.pop("url", address.url) + "/chat/completions"
    async with httpx.AsyncClient(timeout=10, trust_env=False) as http:
        return await http.post(url, content=content, headers=headers)


async def test_malformed_requests_are_told_where() -> None:
    desk = a_desk(Fixed([reply("x")]))
    cases = {
        b'{"messages": [': "the body is no JSON: Expecting value at line 1, column 15",
        b'{"messages": [3]}': "messages[0] is int 3; expected an object",
        b'{"messages": [{"role": "user"}], "n": 2}': "n is '2'; this server knows only n 1",
    }
    async with serving(desk) as (_, address):
        for body, words in cases.items():
            answer = await post(address, body)
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (400, "bad_request")
            assert words in error["message"]
    assert desk.log.trajectories() == ()


async def test_wrong_tokens_unknown_episodes_and_other_addresses() -> None:
    one, two = a_desk(Fixed([reply("x")])), a_desk(Fixed([reply("y")]), seat="agent/worker")
    async with serving(one) as (server, address):
        other = server.address(two)
        assert other.url != address.url and other.token != address.token
        assert server.address(one) is address
        wrong = await post(address, {"messages": HELLO}, token=other.token)
        none = await post(address, {"messages": HELLO}, token="?")
        unknown = await post(address, {"messages": HELLO}, url=address.url.replace("run.0.1", "run.0.2"))
        nowhere = await post(address, {}, url=address.url.replace("/e/", "/x/"))
        right = await post(other, {"messages": HELLO})
        await server.forget(two)
        late = await post(other, {"messages": HELLO})
        async with httpx.AsyncClient(trust_env=False) as http:
            got = await http.get(address.url + "/chat/completions")
            models = await http.get(address.url + "/models")
    told = [(a.status_code, a.json()["error"]["code"]) for a in (wrong, none, unknown, nowhere, late, got, models)]
    assert told == [
        (401, "wrong_token"), (401, "wrong_token"), (404, "unknown_episode"), (404, "unknown_address"),
        (404, "unknown_episode"), (405, "unknown_address"), (401, "wrong_token"),
    ]
    assert right.status_code == 200
    assert address.token not in repr(address) + wrong.text + unknown.text


async def test_large_bodies_are_refused_whether_they_say_so_or_not() -> None:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(50):
            yield b"x" * 100

    async with serving(a_desk(Fixed([reply("x")])), max_body_bytes=1000) as (_, address):
        told = await post(address, b"x" * 1001)
        async with httpx.AsyncClient(timeout=10, trust_env=False) as http:
            headers = {"authorization": f"Bearer {address.token}"}
            untold = await http.post(address.url + "/chat/completions", content=parts(), headers=headers)
        fits = await post(address, {"messages": HELLO})
    assert [a.status_code for a in (told, untold, fits)] == [413, 413, 200]
    assert told.json()["error"]["code"] == "body_too_large"


async def test_pages_other_names_and_guessers_are_refused() -> None:
    """A browser is led to us by a foreign page, under its own name or ours; even with the token it gets nothing."""
    async with serving(a_desk(Fixed([reply("x")]))) as (server, address):
        url, port = address.url + "/chat/completions", server.port
        right = {"authorization": f"Bearer {address.token}"}
        async with httpx.AsyncClient(trust_env=False) as http:
            async def status(**headers: str) -> tuple[int, str]:
                told = {**right, **{name.replace("_", "-"): value for name, value in headers.items()}}
                answer = await http.post(url, json={"messages": HELLO}, headers=told)
                return answer.status_code, answer.json().get("error", {}).get("code", "")

            assert await status(host="evil.example") == (421, "not_for_you")
            assert await status(host=f"evil.example:{port}") == (421, "not_for_you")
            assert await status(origin="http://evil.example") == (403, "not_for_you")
            assert await status(origin=f"http://127.0.0.1:{port}") == (403, "not_for_you")
            assert await status(host=f"localhost:{port}") == (200, "")
            guesses = [await status(authorization="Bearer no") for _ in range(TRIES + 1)]
            assert guesses == [(401, "wrong_token")] * TRIES + [(429, "wrong_token")]
            assert await status() == (200, "")  # who knows it is let in


async def test_a_body_that_does_not_arrive_is_given_up() -> None:
    async with serving(a_desk(Fixed([reply("x")])), body_timeout_s=0.2) as (server, address):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        path = address.url.partition(str(server.port))[2]
        writer.write(f"POST {path}/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{server.port}\r\nauthorization: Bearer "
                     f"{address.token}\r\ncontent-length: 100\r\n\r\n{{".encode())
        line = await asyncio.wait_for(reader.readline(), 10)
        writer.close()
    assert b" 408 " in line


async def test_calls_at_once_are_bounded() -> None:
    policy = Fixed([reply("x")], delay_s=0.5)
    async with serving(a_desk(policy), most_calls=2) as (_, address):
        answers = await asyncio.gather(*(post(address, {"messages": HELLO}) for _ in range(4)))
    assert sorted(answer.status_code for answer in answers) == [200, 200, 429, 429] and len(policy.asked) == 2


async def test_what_no_record_can_keep_is_refused() -> None:
    async with serving(a_desk(Fixed([reply("x")]))) as (_, address):
        for body in (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', b'{"n": 1e999}', b'{"n": NaN}',
                     b'{"n": ' + b"1" * 5000 + b"}", b"[" * 100_000, b"\xff", b"", b"3"):
            answer = await post(address, body)
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_request"), body[:40]


async def test_a_spent_budget_is_refused_plainly_and_not_tried_again() -> None:
    desk = a_desk(Scripted(["x", "y"]), Limits(model_calls=1))
    async with serving(desk) as (_, address), client(address) as ai:
        await ai.chat.completions.create(model="m", messages=HELLO)
        with pytest.raises(openai.RateLimitError, match="budget of this episode is spent: model_calls: 1 spent") as e:
            await ai.chat.completions.create(model="m", messages=HELLO)
    assert (e.value.status_code, e.value.code) == (429, "budget_spent")
    (trajectory,) = desk.log.trajectories()
    assert [trajectory.messages[turn.reply].text for turn in trajectory.turns] == ["x"]


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (PolicyFailed("server-7 is down"), 502, "policy_failed"),
        (BadInput("the prompt has 9 tokens, the limit is 8"), 400, "bad_request"),
        (ZeroDivisionError("secret detail"), 500, "internal"),
    ],
)
async def test_troubles_of_the_policy_reach_the_harness_in_words(error: Exception, status: int, code: str) -> None:
    async with serving(a_desk(Fixed([error]))) as (_, address):
        answer = await post(address, {"messages": HELLO})
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert "secret" not in answer.text


async def test_a_call_has_a_deadline() -> None:
    desk = a_desk(Fixed([reply("x")], delay_s=5))
    async with serving(desk, request_timeout_s=0.1) as (_, address):
        answer = await asyncio.wait_for(post(address, {"messages": HELLO}), 4)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline")
    assert [turn for t in desk.log.trajectories() for turn in t.turns] == []


async def until(ready: Callable[[], object]) -> None:
    """Waits, but not for ever, until ``ready()`` is true."""
    async with asyncio.timeout(10):
        while not ready():  # noqa: ASYNC110  (what is waited for has no event to set)
            await asyncio.sleep(0.01)


async def test_a_reply_that_nobody_heard_is_dropped() -> None:
    policy = Fixed([reply("x")], delay_s=0.3)
    desk = a_desk(policy)
    async with serving(desk) as (_, address):
        call = asyncio.create_task(post(address, {"messages": HELLO}))
        await until(lambda: policy.asked)
        call.cancel()
        await until(lambda: [turn for t in desk.log.trajectories() for turn in t.turns if turn.dropped])
    (trajectory,) = desk.log.trajectories()
    assert [turn.dropped for turn in trajectory.turns] == ["the harness hung up before it heard the reply"]


async def test_only_this_machine_is_served_unless_asked() -> None:
    with pytest.raises(BadInput, match="can be reached from other machines"):
        Server(host="0.0.0.0")
    with pytest.raises(BadInput, match=r"await server.start\(\) first"):
        Server().address(a_desk(Fixed([])))
    server = Server()
    with pytest.raises(BadInput, match="is not served"):
        server.door(a_desk(Fixed([])))
    await server.close()


async def test_signals_stay_with_the_program() -> None:
    import signal

    before = signal.getsignal(signal.SIGINT)
    async with serving(a_desk(Fixed([reply("x")]))):
        assert signal.getsignal(signal.SIGINT) is before


# ---------------------------------------------------------------- whole episodes


class Echo:
    """Asks twice; a reply is right when it is the policy's word for word."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    async def start(self, state: bytes | None = None) -> Step:
        return Step((Ask("agent", (user("first?"),)),))

    async def step(self, replies: Mapping[str, Message]) -> Step:
        self.heard.append(replies["agent"].text)
        return Step((Ask("agent", (user("second?"),)),)) if len(self.heard) == 1 else Step(stop=Stop("done"))

    async def final(self) -> Mapping[str, Any]:
        return {"heard": self.heard}

    async def close(self) -> None:
        return None


@dataclass
class Echoes:
    spec: Spec = Spec("echo")

    def tasks(self, split: str) -> Iterable[Task]:
        return [Task("e", "echo")]

    async def make(self, task: Task, seed: int) -> Echo:
        return Echo()

    async def close(self) -> None:
        return None


class Program:
    """An outside agent: keeps its own talk, asks the model twice an act (a plan, then the act) by the openai client."""

    def __init__(self) -> None:
        self.talk: list[Any] = [{"role": "system", "content": "You plan, then act."}]

    async def __call__(self, address: str, token: str, ask: Ask) -> str:
        async with openai.AsyncOpenAI(base_url=address, api_key=token, timeout=10) as ai:
            for text in (f"plan for {ask.messages[-1].text}", "act"):
                self.talk.append({"role": "user", "content": text})
                answer = await ai.chat.completions.create(model="gpt", messages=self.talk)
                self.talk.append({"role": "assistant", "content": answer.choices[0].message.content})
        return str(self.talk[-1]["content"])


async def played(
    harness: Any, policy: Policy, *, rollouts: int = 1, limits: Limits = Limits(), **more: Any
) -> list[Episode]:
    server = Server()
    await server.start()
    try:
        player = Player(lambda: Served(harness(), server, **more), "main")
        match = Match(Echoes(), Task("e", "echo"), {"agent": player}, rollouts=rollouts, limits=limits)
        (group,) = await asyncio.wait_for(play([match], {"main": policy}), 30)
        assert server._doors == {}
        return list(group)
    finally:
        await asyncio.wait_for(server.close(), 10)


async def test_an_outside_program_becomes_an_agent_whose_calls_are_turns() -> None:
    policy = BytePolicy(lambda messages: f"{sum(m.role == 'user' for m in messages)}!")
    episodes = await played(Program, policy, rollouts=6)
    for episode in episodes:
        assert (episode.stop.kind, episode.final) == ("done", {"heard": ["2!", "4!"]})
        (trajectory,) = episode.trajectories
        assert [turn.step for turn in trajectory.turns] == [0, 0, 1, 1]
        spans = [turn.spans[0] for turn in trajectory.turns]
        assert set(spans) <= set(trajectory.path(spans[-1]))  # one path: every copy was spliced
        assert all(trajectory.spans[span].sampled for span in spans)
    assert policy.most > 1


async def test_a_spent_budget_ends_the_episode_as_a_budget() -> None:
    (episode,) = await played(Program, BytePolicy(lambda messages: "ok"), limits=Limits(model_calls=3))
    assert (episode.stop.kind, episode.stop.reason) == ("budget", "model_calls: 3 spent")
    assert len(episode.trajectories[0].turns) == 3


async def test_a_failing_policy_is_named_rather_than_the_harness() -> None:
    (episode,) = await played(Program, Fixed([reply("a"), PolicyFailed("server-7 is down")]))
    assert (episode.stop.kind, episode.stop.reason) == ("error", "PolicyFailed: server-7 is down")


async def test_a_crash_of_the_harness_keeps_its_turns() -> None:
    class Crashing:
        async def __call__(self, address: str, token: str, ask: Ask) -> str:
            await post(Address(address, token), {"messages": HELLO})
            raise KeyError("its own fault")

    (episode,) = await played(Crashing, BytePolicy(lambda messages: "ok"))
    assert episode.stop.kind == "error" and "KeyError" in episode.stop.reason
    assert len(episode.trajectories[0].turns) == 1


@pytest.mark.parametrize(
    ("limits", "more", "kind", "words"),
    [
        (Limits(), {"timeout_s": 0.2}, "error", "waited 0.2 s for its harness"),
        (Limits(seconds=0.2), {}, "budget", "seconds: 0.2 spent"),
    ],
)
async def test_a_hanging_harness_ends_in_time_and_its_late_calls_find_nothing(
    limits: Limits, more: Any, kind: str, words: str
) -> None:
    told: list[Address] = []

    class Hanging:
        async def __call__(self, address: str, token: str, ask: Ask) -> str:
            told.append(Address(address, token))
            await asyncio.sleep(20)
            return ""

    server = Server()
    await server.start()
    player = Player(lambda: Served(Hanging(), server, **more), "main")
    match = Match(Echoes(), Task("e", "echo"), {"agent": player}, limits=limits)
    ((episode,),) = await asyncio.wait_for(play([match], {"main": Fixed([reply("x")])}), 10)
    late = await post(told[0], {"messages": HELLO})
    await server.close()
    assert episode.stop.kind == kind and words in episode.stop.reason
    assert late.status_code == 404


async def test_calls_under_way_end_with_the_act() -> None:
    answers: list[asyncio.Task[httpx.Response]] = []
    policy = Fixed([reply("x")], delay_s=5)

    class Background:
        """Replies while a call of its own is still running."""

        async def __call__(self, address: str, token: str, ask: Ask) -> str:
            answers.append(asyncio.create_task(post(Address(address, token), {"messages": HELLO})))
            await until(lambda: len(policy.asked) == len(answers))
            return "done"

    (episode,) = await played(Background, policy)
    told = [(await answer).json()["error"]["code"] for answer in answers]
    assert told == ["not_asked", "not_asked"]
    assert [turn for t in episode.trajectories for turn in t.turns] == []
    assert episode.final == {"heard": ["done", "done"]}


async def test_calls_between_acts_are_refused() -> None:
    async def harness(address: str, token: str, ask: Ask) -> str:
        answer = (await post(Address(address, token), {"messages": HELLO})).json()
        return str(answer["choices"][0]["message"]["content"])

    desk = a_desk(Scripted(["one", "two"]))
    async with serving(desk) as (server, address):
        agent = Served(harness, server)
        assert (await agent.act(Ask("agent"), desk)).text == "one"
        between = await post(address, {"messages": HELLO})
        assert (await agent.act(Ask("agent"), desk)).text == "two"
    assert (between.status_code, between.json()["error"]["code"]) == (409, "not_asked")


async def test_a_reply_of_its_own_words_has_no_tokens_and_another_type_is_refused() -> None:
    class Own:
        def __init__(self, said: Any) -> None:
            self.said = said

        async def __call__(self, address: str, token: str, ask: Ask) -> Any:
            await post(Address(address, token), {"messages": HELLO})
            return self.said

    server = Server()
    await server.start()
    desk = a_desk(BytePolicy(lambda messages: "ok"))
    own = await Served(Own("mine"), server).act(Ask("agent"), desk)
    theirs = await Served(Own("ok"), server).act(Ask("agent"), desk)
    with pytest.raises(BadInput, match="returned int; expected a text"):
        await Served(Own(3), server).act(Ask("agent"), desk)
    await server.close()
    assert (own.text, own.spans) == ("mine", ())
    assert theirs.spans == (("agent", "main", desk.log.trajectories()[0].turns[1].spans[0]),)
    assert isinstance(Served(Own(""), server), Agent)

"""An endpoint against a real server on loopback: what is sent, what is read, what it costs, and what is never told."""

from __future__ import annotations

import asyncio
import io
import logging
import subprocess
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polyturn.arrays import lay_out
from polyturn.desk import Desk, Log
from polyturn.errors import BadInput, BudgetSpent, NotTrainable, PolicyFailed, UnknownName
from polyturn.policies.endpoint import Endpoint, Prices, aligned, connect
from polyturn.protocols import Piece, Policy
from polyturn.rollout.serve import Server as ServedDesks
from polyturn.testing import check_policy
from polyturn.types import (
    Call,
    Episode,
    Message,
    Part,
    Sampling,
    Task,
    Tool,
    Usage,
    assistant,
    system,
    user,
)
from tests.byte_policy import BytePolicy
from tests.policies.http_server import Answer, Server, said

KEY = "sk-very-secret-4711"
ASKED = (system("Be brief."), user("2+2?"))


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("POLYTURN_TEST_KEY", KEY)
    yield


def endpoint(server: Server, **settings: Any) -> Endpoint:
    given = {"key_env": "POLYTURN_TEST_KEY", "timeout_s": 5.0, "pause_s": 0.01, "retries": 2, **settings}
    return Endpoint(server.url, "small", **given)


async def test_a_reply_is_read_and_the_request_is_complete() -> None:
    tool = Tool("add", "adds")
    call = {"id": "c9", "type": "function", "function": {"name": "add", "arguments": '{"x": 2, "y": 2}'}}
    message = {"role": "assistant", "content": None, "reasoning_content": "sum", "tool_calls": [call]}
    async with Server([said("", message=message, finish_reason="tool_calls")]) as server:
        policy = endpoint(server, extras={"chat_template_kwargs": {"enable_thinking": False}})
        sampling = Sampling(temperature=0.5, top_p=0.9, max_tokens=7, stop=("END",), seed=2**40 + 3)
        completion = await policy.sample(ASKED, tools=(tool,), sampling=sampling)
        await policy.close()
    assert completion.message == Message(
        "assistant", (Part("reasoning", "sum"),), origin="policy",
        calls=(Call("c9", "add", {"x": 2, "y": 2}, '{"x": 2, "y": 2}'),),
    )
    assert (completion.finish, completion.ids, completion.prompt) == ("tool", None, ())
    assert completion.usage == Usage(10, 0, 5)
    assert server.asked[0]["line"] == "POST /v1/chat/completions HTTP/1.1"
    assert server.asked[0]["headers"]["authorization"] == f"Bearer {KEY}"
    assert server.asked[0]["body"] == {
        "model": "small", "temperature": 0.5, "top_p": 0.9, "max_tokens": 7, "stop": ["END"], "seed": 3,
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2?"}],
        "tools": [{"type": "function", "function": {
            "name": "add", "description": "adds", "parameters": {"type": "object", "properties": {}}}}],
        "chat_template_kwargs": {"enable_thinking": False},
    }


async def test_it_is_a_policy_and_counts_by_estimate_without_a_chat() -> None:
    policy = Endpoint("http://localhost:1/v1", "m")
    assert isinstance(policy, Policy)
    assert 0 < policy.count(ASKED) < policy.count((*ASKED, user("more")))
    assert policy.info().kind == "endpoint"
    assert policy.info().sampling["server"] == "http://localhost:1/v1"


def vllm(prompt: list[int], ids: list[int], text: str, logprobs: list[Any] | None = None) -> Answer:
    told = {"content": [{"token": "?", "logprob": value} for value in logprobs or []]}
    answer = said(text, token_ids=ids, logprobs=told)
    return Answer({**answer.body, "prompt_token_ids": prompt})


async def test_ids_and_logprobs_of_a_vllm_server_are_kept() -> None:
    async with Server([vllm([1, 2, 3], [7, 8], "4", [-0.5, -0.25])]) as server:
        policy = endpoint(server, dialect="vllm")
        completion = await policy.sample(ASKED, sampling=Sampling(top_k=0))
        hot = await policy.sample(ASKED, sampling=Sampling(temperature=0.7, top_k=5))
        await policy.close()
    assert [piece.ids.tolist() for piece in completion.prompt] == [[1, 2, 3]]
    assert completion.ids is not None and completion.ids.tolist() == [7, 8]
    assert completion.logprobs is not None and completion.logprobs.tolist() == [-0.5, -0.25]
    # Raw log-probabilities are not those of the distribution at temperature 0.7: unknown.
    assert hot.logprobs is not None and np.isnan(hot.logprobs).all()
    assert server.asked[0]["body"]["return_token_ids"] is True
    assert "top_k" not in server.asked[0]["body"] and server.asked[1]["body"]["top_k"] == 5


async def test_processed_logprobs_hold_at_every_temperature_and_odd_ones_are_unknown() -> None:
    answers = [vllm([1], [7], "4", [-0.5]), vllm([1], [7, 8], "4", [-0.5]), vllm([1], [7], "4", [None])]
    async with Server(answers) as server:
        policy = endpoint(server, dialect="vllm", logprobs="processed")
        found = [await policy.sample(ASKED, sampling=Sampling(temperature=0.7)) for _ in answers]
        await policy.close()
    assert found[0].logprobs is not None and found[0].logprobs.tolist() == [-0.5]
    assert all(f.logprobs is not None and np.isnan(f.logprobs).all() for f in found[1:])


@pytest.mark.parametrize(("prompt", "ids"), [(None, [7]), ([1], None), ([1], [-7]), ([1], ["a"]), ([1], [])])
async def test_without_both_ids_nothing_can_be_trained_on(prompt: Any, ids: Any) -> None:
    async with Server([vllm(prompt, ids, "4")]) as server:
        policy = endpoint(server, dialect="vllm")
        log = Log("e", {"main": policy})
        turn = await Desk(log, "agent", "main").say(ASKED)
        await policy.close()
    episode = Episode("e", Task("t", "f"), 0, train=frozenset({"agent"}), trajectories=log.trajectories())
    assert turn.spans == ()
    with pytest.raises(NotTrainable, match="its tokens are unknown"):
        lay_out([(episode,)], "main")


async def test_paths_extend_where_the_server_shows_replies_as_they_were_sampled() -> None:
    answers = [
        vllm([1, 2], [7, 8], "four", [-0.5, -0.25]),
        vllm([1, 2, 7, 8, 3], [9], "five", [-1.0]),
        vllm([1, 2, 6, 3, 4], [5], "six", [-1.0]),  # the server tokenized the first reply otherwise
    ]
    async with Server(answers) as server:
        policy = endpoint(server, dialect="vllm")
        log = Log("e", {"main": policy})
        desk = Desk(log, "agent", "main")
        first = await desk.say(ASKED)
        history = [*ASKED, desk.message(first), user("and 1?")]
        second = await desk.say(history)
        third = await desk.say([*history, desk.message(second), user("more?")])
        await policy.close()
    (trajectory,) = log.trajectories()
    told = [np.concatenate([trajectory.spans[i].ids for i in trajectory.path(t.spans[0])]).tolist()
            for t in (first, second, third)]
    assert told == [[1, 2, 7, 8], [1, 2, 7, 8, 3, 9], [1, 2, 6, 3, 4, 5]]
    assert trajectory.path(second.spans[0])[:2] == trajectory.path(first.spans[0])
    assert first.spans[0] not in trajectory.path(third.spans[0])


def test_aligned_pieces_join_to_the_prompt_whatever_was_found() -> None:
    own = Piece(np.array([256, 1], np.int32), ("agent", "main", 0))
    shifted = np.frombuffer(b"\x00\x00\x01\x00\x00\x01\x00\x00\x00\x01\x00\x00", np.int32)
    for prompt in (np.array([5, 256, 1, 6], np.int32), np.array([256, 1], np.int32), np.array([1, 256], np.int32),
                   shifted):
        pieces = aligned(prompt, [assistant("x"), assistant("y")], lambda message: (own,))
        assert np.concatenate([piece.ids for piece in pieces]).tolist() == prompt.tolist()
    assert aligned(shifted, [assistant("x")], lambda message: (own,))[0].span is None


@pytest.mark.parametrize(("dialect", "field"), [("vllm", "structured_outputs"), ("vllm_guided", "guided_choice")])
async def test_choices_restrict_the_reply_and_a_server_that_ignores_them_fails(dialect: Any, field: str) -> None:
    async with Server([vllm([1], [2], "yes"), vllm([1], [2], "maybe")]) as server:
        policy = endpoint(server, dialect=dialect)
        sampling = Sampling(choices=("yes", "no"))
        completion = await policy.sample(ASKED, sampling=sampling)
        with pytest.raises(PolicyFailed, match="answered 'maybe', none of the 2 allowed choices"):
            await policy.sample(ASKED, sampling=sampling)
        await policy.close()
    expected = ["yes", "no"] if dialect == "vllm_guided" else {"choice": ["yes", "no"]}
    assert server.asked[0]["body"][field] == expected
    assert completion.ids is None  # which ids were allowed is unknown


@pytest.mark.parametrize(
    ("sampling", "messages", "words"),
    [
        (Sampling(choices=("a",)), ASKED, "no restriction to choices"),
        (Sampling(top_k=3), ASKED, r"no top_k \(asked for 3\)"),
        (Sampling(), (*ASKED, assistant("4 is")), "no continuation"),
        (Sampling(), (), "messages is empty"),
        (Sampling(), (Message("user", (Part("image", media="00"),)),), "only text can be sent"),
    ],
)
async def test_what_a_plain_server_cannot_do_is_refused_before_it_is_asked(
    sampling: Sampling, messages: Any, words: str
) -> None:
    async with Server([said("x")]) as server:
        policy = endpoint(server)
        with pytest.raises(BadInput, match=words):
            await policy.sample(messages, sampling=sampling)
    assert server.asked == []


async def test_a_last_assistant_message_is_continued_by_vllm() -> None:
    async with Server([said(" 4")]) as server:
        policy = endpoint(server, dialect="vllm")
        await policy.sample((*ASKED, assistant("It is")))
        await policy.close()
    body = server.asked[0]["body"]
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)


@pytest.mark.parametrize(
    ("trouble", "counted"),
    [
        (Answer("slow down", 429, {"retry-after": "0.02"}), "http_429"),
        (Answer("oh", 503), "http_503"),
        (Answer("oh", 500), "http_500"),
        (Answer('{"choices": [{"mess'), "cut"),
    ],
)
async def test_troubles_that_pass_are_retried_and_counted(trouble: Answer, counted: str) -> None:
    async with Server([trouble, said("4")]) as server:
        policy = endpoint(server)
        completion = await policy.sample(ASKED)
        await policy.close()
    assert completion.message.text == "4"
    assert policy.stats["calls"] == 1
    assert (policy.stats[counted], policy.stats["retries"], len(server.asked)) == (1, 1, 2)


@pytest.mark.parametrize("trouble", [
    Answer({"x": "y" * 50}, cut=20), Answer({"x": 1}, hang_up=True),
])
async def test_a_connection_that_breaks_is_retried(trouble: Answer) -> None:
    async with Server([trouble, said("4")]) as server:
        policy = endpoint(server)
        assert (await policy.sample(ASKED)).message.text == "4"
        await policy.close()
    assert policy.stats["broken"] == 1


async def test_a_stalled_answer_is_given_up_after_its_time() -> None:
    async with Server([Answer({"x": "y" * 50}, cut=20, stall=True)]) as server:
        policy = endpoint(server, timeout_s=0.15, retries=1)
        with pytest.raises(PolicyFailed, match=r"127.0.0.1:\d+ did not answer in 2 attempts; the last: no whole"):
            await asyncio.wait_for(policy.sample(ASKED), 5)
        await policy.close()
    assert (policy.stats["timeouts"], policy.stats["retries"]) == (2, 1)


async def test_retries_end_with_one_line_that_names_the_server() -> None:
    async with Server([Answer("over\nloaded", 503)]) as server:
        policy = endpoint(server)
        with pytest.raises(PolicyFailed) as caught:
            await policy.sample(ASKED)
        await policy.close()
    server_name = policy.connection.server
    assert str(caught.value) == f"{server_name} did not answer in 3 attempts; the last: HTTP 503 over loaded"
    assert len(server.asked) == 3


async def test_a_wait_longer_than_the_deadline_is_not_begun() -> None:
    async with Server([Answer("later", 429, {"retry-after": "3600"})]) as server:
        policy = endpoint(server, deadline_s=2.0)
        with pytest.raises(PolicyFailed, match=r"would begin in 3600.0 s, after the deadline of 2 s"):
            await asyncio.wait_for(policy.sample(ASKED), 5)
        await policy.close()
    assert len(server.asked) == 1


async def test_the_deadline_holds_over_all_attempts() -> None:
    async with Server([Answer("no", 503, delay_s=0.1)]) as server:
        policy = endpoint(server, retries=1000, deadline_s=0.5)
        with pytest.raises(PolicyFailed, match=r"after the deadline|no whole answer"):
            await asyncio.wait_for(policy.sample(ASKED), 5)
        await policy.close()
    assert len(server.asked) < 8


async def test_no_server_is_named_plainly() -> None:
    async with Server([said("x")]) as server:
        policy = endpoint(server, retries=0)
    with pytest.raises(PolicyFailed, match=r"127.0.0.1:\d+ did not answer in 1 attempt; the last: cannot connect"):
        await policy.sample(ASKED)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer("context is 2048", 400), "refused the request: HTTP 400 context is 2048"),
        (Answer("who?", 401), "refused the key .HTTP 401; environment variable POLYTURN_TEST_KEY is set.: who?"),
        (Answer("", 302), "refused the request: HTTP 302"),
        (Answer([1]), "cannot be read: answer is list"),
        (Answer({}), "cannot be read: choices is missing"),
        (Answer({"choices": []}), r"choices\[0\] is missing"),
        (Answer({"choices": [{"index": 0}]}), r"choices\[0\].message is missing"),
        (said("", message={"content": 3}), r"choices\[0\].message.content is int 3"),
    ],
)
async def test_refusals_and_nonsense_are_not_retried(answer: Answer, words: str) -> None:
    async with Server([answer]) as server:
        policy = endpoint(server)
        with pytest.raises(PolicyFailed, match=words) as caught:
            await policy.sample(ASKED)
        await policy.close()
    assert len(server.asked) == 1 and "\n" not in str(caught.value)
    assert policy.connection.server in str(caught.value)


async def test_a_refusal_of_the_model_is_its_text() -> None:
    async with Server([said("", message={"role": "assistant", "content": None, "refusal": "I will not."})]) as server:
        policy = endpoint(server)
        assert (await policy.sample(ASKED)).message.text == "I will not."
        await policy.close()


# ---------------------------------------------------------------- money

PRICES = Prices(prompt=1000.0, completion=2000.0)  # a reply of 10 + 5 tokens costs 0.02 USD


async def test_money_is_counted_and_the_limit_is_never_passed() -> None:
    async with Server([said("4")]) as server:
        policy = endpoint(server, prices=PRICES, spend_limit_usd=0.5)
        sampling = Sampling(max_tokens=50)  # at worst 0.1 USD for the reply, and the prompt
        made = 0
        with pytest.raises(BudgetSpent, match=r"money: 0\.\d+ of 0.5 USD spent on 127.0.0.1:\d+ .* raise"):
            for _ in range(100):
                assert (await policy.sample(ASKED, sampling=sampling)).usage.cost_usd == pytest.approx(0.02)
                made += 1
        await policy.close()
    assert len(server.asked) == made > 5
    assert policy.stats["spent_usd"] == pytest.approx(0.02 * made) and policy.stats["spent_usd"] < 0.5
    assert policy.purse.held_usd == pytest.approx(0)


async def test_calls_under_way_count_against_the_limit() -> None:
    async with Server([Answer(said("4").body, delay_s=0.05)]) as server:
        policy = endpoint(server, prices=Prices(0, 10_000.0), spend_limit_usd=1.0)
        calls = [policy.sample(ASKED, sampling=Sampling(max_tokens=30)) for _ in range(10)]  # at worst 0.3 USD each
        results = await asyncio.gather(*calls, return_exceptions=True)
        await policy.close()
    assert sum(isinstance(result, BudgetSpent) for result in results) == 7
    assert len(server.asked) == 3


async def test_lost_answers_count_at_their_worst() -> None:
    async with Server([Answer({}, hang_up=True)]) as server:
        policy = endpoint(server, prices=Prices(0, 10_000.0), spend_limit_usd=1.0, retries=50)
        with pytest.raises(BudgetSpent, match="answers lost on the way"):
            await policy.sample(ASKED, sampling=Sampling(max_tokens=30))
        await policy.close()
    assert len(server.asked) == 3  # 3 * 0.3; a fourth could pass the limit
    assert policy.stats["spent_usd"] == pytest.approx(0.9)


async def test_a_cancelled_call_counts_at_its_worst() -> None:
    async with Server([Answer({}, delay_s=5)]) as server:
        policy = endpoint(server, prices=Prices(0, 10_000.0))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(policy.sample(ASKED, sampling=Sampling(max_tokens=30)), 0.1)
        await policy.close()
    assert (policy.stats["spent_usd"], policy.purse.held_usd) == pytest.approx((0.3, 0))


async def test_the_servers_own_cost_goes_first_and_missing_usage_counts_at_worst() -> None:
    priced = {**said("4").body, "usage": {"prompt_tokens": 10, "completion_tokens": 5, "cost": 0.125}}
    async with Server([Answer(priced), Answer({**said("4").body, "usage": None})]) as server:
        policy = endpoint(server, prices=Prices(0, 10_000.0))
        first = await policy.sample(ASKED)
        second = await policy.sample(ASKED, sampling=Sampling(max_tokens=30))
        await policy.close()
    assert first.usage.cost_usd == 0.125
    assert second.usage.cost_usd == pytest.approx(0.3)


def test_a_limit_without_prices_is_refused() -> None:
    with pytest.raises(BadInput, match=r"limit of 5.0 USD needs prices"):
        Endpoint("http://localhost:1", "m", spend_limit_usd=5.0)


# ---------------------------------------------------------------- the key


async def test_the_key_is_found_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logging.getLogger().addHandler(handler)
    caplog.set_level(logging.DEBUG)
    echoes = [Answer(f"bad key {KEY}!", status) for status in (401, 400, 503)]
    found: list[str] = []
    async with Server([*echoes, Answer(f'{{"x": {KEY}'), said("4")]) as server:
        policy = endpoint(server, retries=0)
        for _ in range(4):
            try:
                await policy.sample(ASKED)
            except PolicyFailed as error:
                found += ["".join(traceback.format_exception(error)), repr(error), repr(error.__dict__)]
        completion = await policy.sample(ASKED)
        log = Log("e", {"main": policy})
        await Desk(log, "agent", "main").say(ASKED)
        await policy.close()
    logging.getLogger().removeHandler(handler)
    objects = [policy, policy.connection, policy.purse]
    found += [repr(each) + str(vars(each)) for each in objects]
    found += [repr(completion), repr(policy.info()), str(policy.stats), repr(log.trajectories()), caplog.text,
              stream.getvalue()]
    assert server.asked[0]["headers"]["authorization"] == f"Bearer {KEY}"
    assert len([text for text in found if "[key]" in text]) >= 3
    for text in found:
        assert KEY not in text


async def test_the_key_is_read_at_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Server([said("4")]) as server:
        policy = endpoint(server)
        await policy.sample(ASKED)
        monkeypatch.setenv("POLYTURN_TEST_KEY", "another")
        await policy.sample(ASKED)
        monkeypatch.delenv("POLYTURN_TEST_KEY")
        await policy.sample(ASKED)
        await policy.close()
    sent = [asked["headers"].get("authorization") for asked in server.asked]
    assert sent == [f"Bearer {KEY}", "Bearer another", None]


async def test_a_key_with_line_breaks_is_refused_without_telling_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYTURN_TEST_KEY", f"{KEY}\n{KEY}")
    policy = Endpoint("http://127.0.0.1:1", "m", key_env="POLYTURN_TEST_KEY")
    with pytest.raises(PolicyFailed, match="holds control characters") as caught:
        await policy.sample(ASKED)
    assert KEY not in str(caught.value)


async def test_a_key_is_not_sent_in_the_clear_to_another_machine() -> None:
    policy = Endpoint("http://models.example/v1", "m", key_env="POLYTURN_TEST_KEY")
    with pytest.raises(PolicyFailed, match="is not sent over plain http"):
        await policy.sample(ASKED)


@pytest.mark.parametrize(
    "url", ["ftp://x/v1", "x:80", "", f"https://me:{KEY}@x/v1", f"https://x/v1?api-key={KEY}"]
)
def test_bad_addresses_are_refused_without_telling_what_they_carry(url: str) -> None:
    with pytest.raises(BadInput, match=r"is no address of a server|carries more than a path") as caught:
        Endpoint(url, "m")
    assert KEY not in str(caught.value)


# ---------------------------------------------------------------- connecting


async def test_connect_asks_the_server_what_it_is() -> None:
    models = {"data": [{"id": "Qwen/Qwen3-8B", "owned_by": "vllm", "max_model_len": 4096}]}
    async with Server([Answer(models)]) as server:
        found = await connect(server.url, key_env="POLYTURN_TEST_KEY")
        named = await connect(server.url, "Qwen/Qwen3-8B", key_env="", dialect="openai", limit=99)
        with pytest.raises(UnknownName, match="did you mean 'Qwen/Qwen3-8B'"):
            await connect(server.url, "Qwen/Qwen3-8", key_env="")
    assert (found.model, found.dialect, found.limit) == ("Qwen/Qwen3-8B", "vllm", 4096)
    assert (named.dialect, named.limit) == ("openai", 99)
    assert server.asked[0]["line"] == "GET /v1/models HTTP/1.1"
    assert "authorization" not in server.asked[1]["headers"]


async def test_connect_to_several_models_wants_a_name() -> None:
    async with Server([Answer({"data": [{"id": "a"}, {"id": "b"}]}), Answer({})]) as server:
        with pytest.raises(BadInput, match=r"has the models \['a', 'b'\]; name one"):
            await connect(server.url, key_env="")
        with pytest.raises(BadInput, match=r"has the models \[\]"):
            await connect(server.url, key_env="")


def test_an_unknown_dialect_is_refused() -> None:
    with pytest.raises(UnknownName, match="did you mean 'vllm'"):
        Endpoint("http://localhost:1", "m", dialect="vlm")  # type: ignore[arg-type]


def test_one_endpoint_serves_several_event_loops() -> None:
    async def once(policy: Endpoint | None) -> Endpoint:
        async with Server([said("4")]) as server:
            policy = policy or endpoint(server)
            policy.connection.url = server.url
            assert (await policy.sample(ASKED)).message.text == "4"
        return policy

    asyncio.run(once(asyncio.run(once(None))))


def test_it_loads_neither_torch_nor_transformers() -> None:
    check = "import polyturn.policies.endpoint, sys; print({'torch', 'transformers', 'httpx'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True,
                          cwd=Path(__file__).parents[2])
    assert done.stdout.strip() == "set()"


# ---------------------------------------------------------------- conformance, against a served policy


class ByteChat:
    """Counts as the served policy does."""

    tokenizer_sha256, template_sha256, stop_ids = "t" * 64, "c" * 64, frozenset({10})

    def count(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> int:
        return BytePolicy().count(messages, tools)


async def served(inner: Policy, check: Callable[[str], Awaitable[None]]) -> None:
    server = ServedDesks()
    await server.start()
    address = server.address(Desk(Log("e", {"main": inner}), "agent", "main"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLYTURN_TEST_KEY", address.token)
        try:
            await check(address.url)
        finally:
            await server.close()


async def test_it_conforms_with_the_ids_of_a_server_that_tells_them() -> None:
    async def check(url: str) -> None:
        chat: Any = ByteChat()
        policy = await connect(url, key_env="POLYTURN_TEST_KEY", chat=chat)
        completion = await policy.sample(ASKED, sampling=Sampling(seed=3))
        assert policy.dialect == "vllm" and completion.ids is not None and completion.logprobs is not None
        assert policy.count(ASKED) == BytePolicy().count(ASKED)
        assert policy.info().tokenizer_sha256 == "t" * 64
        await check_policy(policy, messages=ASKED)
        await policy.close()

    await served(BytePolicy(), check)


async def test_it_conforms_without_ids() -> None:
    async def check(url: str) -> None:
        policy = Endpoint(url, "main", key_env="POLYTURN_TEST_KEY")
        await check_policy(policy, messages=ASKED)
        await policy.close()

    await served(BytePolicy(lambda messages: f"heard {len(messages)}"), check)

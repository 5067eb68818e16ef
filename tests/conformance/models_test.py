"""Every planted fault of a policy, a context and an agent is caught, by name; sound ones pass."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from polyturn.agents.chat import ChatAgent
from polyturn.conformance.failed import CheckFailed
from polyturn.conformance.models import TALK, Counted, check_agent, check_completion, check_context, check_policy
from polyturn.contexts.keep import Keep
from polyturn.contexts.window import Window
from polyturn.desk import Desk
from polyturn.policies.scripted import Scripted
from polyturn.protocols import Ask, Completion, Piece, View
from polyturn.seeds import derive
from polyturn.types import Message, PolicyInfo, Sampling, Tool, Usage, assistant, system, user
from tests.policies.tiny import tiny_local

VOCABULARY = 50


class Coin:
    """A sound policy: ids drawn from the seed and the prompt, prompt pieces as the ledger demands."""

    name = "coin"
    limit = 4000

    def info(self) -> PolicyInfo:
        return PolicyInfo(self.name)

    def count(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> int:
        return sum(len(message.text) + 1 for message in messages)

    async def sample(
        self, messages: Sequence[Message], *, tools: Sequence[Tool] = (), sampling: Sampling = Sampling(),
        written: Any = lambda message: None,
    ) -> Completion:
        await asyncio.sleep(0)
        prompt: list[Piece] = []
        for message in messages:
            pieces = written(message)
            plain = np.array([*(ord(character) % VOCABULARY for character in message.text), 0], np.int32)
            prompt.extend(pieces if pieces is not None else (Piece(plain),))
        return self.completion(tuple(prompt), messages, sampling)

    def completion(self, prompt: tuple[Piece, ...], messages: Sequence[Message], sampling: Sampling) -> Completion:
        draws = np.random.default_rng(derive(sampling.seed or 0, *(message.text for message in messages)))
        ids = draws.integers(1, VOCABULARY, min(4, sampling.max_tokens)).astype(np.int32)
        text = sampling.choices[0] if sampling.choices else " ".join(str(token) for token in ids)
        usage = Usage(sum(len(piece.ids) for piece in prompt), 0, len(ids))
        return Completion(assistant(text), prompt, ids, np.full(len(ids), -1.0), usage=usage)


def coin(**methods: Any) -> Any:
    return type("Coin", (Coin,), methods)()


def giving(**changes: Any) -> Any:
    def completion(self: Any, prompt: Any, messages: Any, sampling: Any) -> Completion:
        return replace(Coin.completion(self, prompt, messages, sampling), **changes)

    return coin(completion=completion)


class Careless(Coin):
    """Draws from one generator for all calls."""

    def __init__(self) -> None:
        self.draws = np.random.default_rng(0)

    def completion(self, prompt: tuple[Piece, ...], messages: Sequence[Message], sampling: Sampling) -> Completion:
        drawn = replace(sampling, seed=int(self.draws.integers(1000)))
        return super().completion(prompt, messages, drawn)


class Stuck(Coin):
    """Counts calls that are inside; a cancelled one is never taken out again, and spoils what follows."""

    inside = 0

    async def sample(self, messages: Sequence[Message], **more: Any) -> Completion:
        self.inside += 1
        await asyncio.sleep(0)
        completion = await super().sample(messages, **more)
        self.inside -= 1
        return replace(completion, message=assistant(f"{completion.message.text}, {self.inside} left"))


class Crowded(Coin):
    """Calls that are inside together change each other."""

    inside = 0

    async def sample(self, messages: Sequence[Message], **more: Any) -> Completion:
        self.inside += 1
        try:
            await asyncio.sleep(0)
            return replace(await super().sample(messages, **more), message=assistant(f"{self.inside}"))
        finally:
            self.inside -= 1


def retelling(self: Any, prompt: tuple[Piece, ...], messages: Any, sampling: Any) -> Completion:
    """Says that it spliced, and did not."""
    changed = tuple(Piece(piece.ids[::-1].copy(), piece.span) if piece.span else piece for piece in prompt)
    return Coin.completion(self, changed, messages, sampling)


async def test_sound_policies_pass() -> None:
    await check_policy(Coin(), choices=("[3]", "[8]"))
    await check_policy(Scripted(lambda messages: "[3]"))


async def test_the_local_policy_passes() -> None:
    local = tiny_local()
    await check_policy(local, choices=("[3]", "[8]"))
    await check_agent(lambda: ChatAgent(sampling=Sampling(max_tokens=6)), policy=local)
    local.close()


POLICIES: list[tuple[str, Any, str]] = [
    ("one generator for all", Careless(), "to the same messages and seed"),
    ("cancelled calls stay", Stuck(), "after a cancelled call"), ("calls meet", Crowded(), "beside other calls"),
    ("speaks as the user", giving(message=user("x")), "in the role 'user'"),
    ("odd finish", giving(finish="tired"), "finished with 'tired'"),
    ("too long", giving(ids=np.arange(99, dtype=np.int32), logprobs=None), "wrote 99 tokens; max_tokens is 12"),
    ("logprobs without ids", giving(ids=None), "log-probabilities without ids"),
    ("too few logprobs", giving(logprobs=np.zeros(1)), "1 log-probabilities for 4 tokens"),
    ("positive logprobs", giving(logprobs=np.full(4, 0.5)), "expected finite numbers of at most 0"),
    ("infinite logprobs", giving(logprobs=np.full(4, -np.inf)), "expected finite numbers of at most 0"),
    ("miscounts", coin(count=lambda self, messages, tools=(): 3), "but count\\(\\) says 3"),
    ("over its limit", coin(limit=20), "went over its limit of 20"),
    ("changes what it splices", coin(completion=retelling), "but its ids are others"),
]


@pytest.mark.parametrize(("policy", "words"), [fault[1:] for fault in POLICIES], ids=[fault[0] for fault in POLICIES])
async def test_a_broken_policy_is_caught(policy: Any, words: str) -> None:
    with pytest.raises(CheckFailed, match=words):
        await check_policy(policy)


async def test_a_mask_that_masks_nothing_is_caught() -> None:
    with pytest.raises(CheckFailed, match=r"expected one of \['\[3\]'\]"):
        await check_policy(giving(message=assistant("[9]")), choices=("[3]",))


async def test_rounding_in_batches_may_be_left_out() -> None:
    await check_policy(Crowded(), together=False)


def test_a_completion_is_a_completion() -> None:
    with pytest.raises(CheckFailed, match="gave str; expected a Completion"):
        check_completion("x", Coin(), TALK, Sampling())  # type: ignore[arg-type]


async def test_counted_counts_and_hands_on() -> None:
    counted = Counted(Coin())
    assert (counted.name, counted.limit, counted.count(TALK)) == ("coin", 4000, Coin().count(TALK))
    assert counted.info() == PolicyInfo("coin")
    completion = await counted.sample(TALK)
    assert counted.completions == [completion] and counted.prompts == [TALK]


# ---------------------------------------------------------------- contexts


class Summing:
    """A sound context that calls the model once the log is long."""

    async def view(self, history: Sequence[Message], desk: Desk) -> View:
        if len(history) < 4:
            return View(tuple(history))
        turn = await desk.say([*history[:-1], user("Sum up.")], purpose="summary")
        note = system(desk.message(turn).text, origin="summary")
        return View((note, history[-1]), added=(note,))


def context(view: Any) -> Any:
    return type("Odd", (), {"view": view})()


async def emptying(self: Any, history: Any, desk: Desk) -> View:
    shown = tuple(history)
    history.clear()
    return View(shown)


async def showing(self: Any, history: Any, desk: Desk) -> View:
    return View(self.show(list(history)))


def shows(show: Any) -> Any:
    return type("Odd", (), {"view": showing, "show": staticmethod(show)})()


async def forgetting(self: Any, history: Any, desk: Desk) -> View:
    self.calls = getattr(self, "calls", 0) + 1
    return View(tuple(history[self.calls % 2:] if len(history) > 1 else history))


async def sneaking(self: Any, history: Any, desk: Desk) -> View:
    await desk.log.policy(desk.policy).sample(history)
    return View(tuple(history))


CONTEXTS: list[tuple[str, Any, str]] = [
    ("empties the log", context(emptying), "changed the history"),
    ("shows nothing", shows(lambda log: ()), "shows nothing of 1 messages"),
    ("hides the question", shows(lambda log: (log[0],)), "must see what was said last"),
    ("makes things up", shows(lambda log: (user("between us"), log[-1])), "neither in the log nor in View.added"),
    ("is never the same", context(forgetting), "the same log otherwise the second time"),
    ("calls past the desk", context(sneaking), "made 1 calls and 0 turns"),
]


@pytest.mark.parametrize("sound", [Keep(), Window(2), Summing()], ids=lambda one: type(one).__name__)
async def test_sound_contexts_pass(sound: Any) -> None:
    await check_context(sound)


@pytest.mark.parametrize(("broken", "words"), [fault[1:] for fault in CONTEXTS], ids=[fault[0] for fault in CONTEXTS])
async def test_a_broken_context_is_caught(broken: Any, words: str) -> None:
    with pytest.raises(CheckFailed, match=words):
        await check_context(broken)


# ---------------------------------------------------------------- agents


class Past:
    """Asks the model past the desk."""

    async def act(self, ask: Ask, desk: Desk) -> Message:
        return (await desk.log.policy(desk.policy).sample(ask.messages)).message


class Mumbling:
    """Answers with a text."""

    async def act(self, ask: Ask, desk: Desk) -> Any:
        return "[3]"


REMEMBERED: list[Message] = []


class Elephant:
    """Never forgets, not even the last episode."""

    closed = 0

    async def act(self, ask: Ask, desk: Desk) -> Message:
        REMEMBERED.extend(ask.messages)
        return desk.message(await desk.say(REMEMBERED))

    async def close(self) -> None:
        Elephant.closed += 1


async def test_sound_agents_pass() -> None:
    await check_agent(ChatAgent)
    await check_agent(lambda: ChatAgent("Be short.", context=Window(2)), policy=Coin())


@pytest.mark.parametrize(("make", "words"), [
    (Past, "made 3 calls of the model, but 0 turns are recorded"), (Mumbling, "answered '\\[3\\]'; expected an"),
    (Elephant, "shows the model other prompts than the first"),
])
async def test_a_broken_agent_is_caught(make: Any, words: str) -> None:
    REMEMBERED.clear()
    with pytest.raises(CheckFailed, match=words):
        await check_agent(make)


async def test_agents_are_closed() -> None:
    before = Elephant.closed
    with pytest.raises(CheckFailed):
        await check_agent(Elephant)
    assert Elephant.closed == before + 2

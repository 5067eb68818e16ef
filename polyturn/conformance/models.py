"""Do policies, contexts and agents keep their contracts?"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from polyturn.conformance.failed import demand
from polyturn.desk import Desk, Log
from polyturn.policies.scripted import Scripted
from polyturn.protocols import Agent, AgentMaker, Ask, Completion, Context, Piece, Policy, Written
from polyturn.types import Finish, Message, PolicyInfo, Sampling, Tool, Turn, assistant, system, user

TALK: tuple[Message, ...] = (
    system("Be short.", id="m0"), user("Guess my number from 1 to 16.", id="m1"),
    assistant("[8]", id="m2"), user("higher", id="m3"), assistant("[12]", id="m4"), user("lower – ¿sí? 🦜", id="m5"),
)
FINISHES = ("stop", "length", "tool", "budget", "abort")


@dataclass
class Counted:
    """A policy that notes every call; itself a :class:`polyturn.protocols.Policy`."""

    inner: Policy
    completions: list[Completion] = field(default_factory=list)
    prompts: list[tuple[Message, ...]] = field(default_factory=list)

    name: str = ""
    limit: int = 0

    def __post_init__(self) -> None:
        self.name, self.limit = self.inner.name, self.inner.limit

    def info(self) -> PolicyInfo:
        """What the policy inside says of itself."""
        return self.inner.info()

    def count(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> int:
        """As the policy inside counts."""
        return self.inner.count(messages, tools)

    async def sample(
        self, messages: Sequence[Message], *, tools: Sequence[Tool] = (), sampling: Sampling = Sampling(),
        written: Written = lambda message: None,
    ) -> Completion:
        """A noted call."""
        completion = await self.inner.sample(messages, tools=tools, sampling=sampling, written=written)
        self.prompts.append(tuple(messages))
        self.completions.append(completion)
        return completion


def _log(policy: Policy) -> Log:
    return Log("check", {policy.name: policy})


def _turns(log: Log) -> list[Turn]:
    return sorted((turn for trajectory in log.trajectories() for turn in trajectory.turns), key=lambda turn: turn.at)


async def check_policy(
    policy: Policy, *, messages: Sequence[Message] = TALK, max_tokens: int = 12, choices: Sequence[str] = (),
    together: bool = True,
) -> None:
    """Nothing, when the policy keeps the contract of :class:`polyturn.protocols.Policy`.

    Checked: completions well formed; ``max_tokens`` kept; the same seed gives the same reply; a cancelled call leaves
    no trace in the next; eight calls at once give what they give one by one (unless ``together`` is False: a model
    rounds otherwise in other batches, see the deterministic mode); ``choices`` restrict the reply; its calls
    are recorded turns with its exact ids. Raises: CheckFailed.

    >>> asyncio.run(check_policy(Scripted(lambda messages: "[3]")))
    """
    sampling = Sampling(max_tokens=max_tokens, seed=7)
    first = await policy.sample(messages, sampling=sampling)
    check_completion(first, policy, messages, sampling)
    again = await policy.sample(messages, sampling=sampling)
    demand(_said(first) == _said(again), f"policy {policy.name!r} replied {again.message.text!r} after "
           f"{first.message.text!r} to the same messages and seed; take every draw from sampling.seed")
    await _check_cancelled(policy, messages, sampling, first)
    several = [Sampling(max_tokens=max_tokens, seed=seed) for seed in range(8 if together else 0)]
    beside = await asyncio.gather(*(policy.sample(messages, sampling=one) for one in several))
    for one, completion in zip(several, beside, strict=True):
        alone = await policy.sample(messages, sampling=one)
        demand(_said(alone) == _said(completion), f"policy {policy.name!r}, seed {one.seed}, replied "
               f"{completion.message.text!r} beside other calls and {alone.message.text!r} alone; calls share a "
               "generator or a cache")
    if choices:
        masked = Sampling(max_tokens=max(max_tokens, 16), seed=7, choices=tuple(choices))
        completion = await policy.sample(messages, sampling=masked)
        check_completion(completion, policy, messages, masked)
        demand(completion.message.text in choices, f"policy {policy.name!r} replied {completion.message.text!r}; "
               f"expected one of {list(choices)}")
    await _check_recorded(policy, messages, sampling)


def _said(completion: Completion) -> tuple[Any, ...]:
    ids = None if completion.ids is None else tuple(np.asarray(completion.ids).tolist())
    return (ids, completion.message.text, completion.finish)


async def _check_cancelled(
    policy: Policy, messages: Sequence[Message], sampling: Sampling, first: Completion
) -> None:
    for ticks in (0, 1, 3):
        call = asyncio.ensure_future(policy.sample(messages, sampling=sampling))
        for _ in range(ticks):
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait({call})
        after = await policy.sample(messages, sampling=sampling)
        demand(_said(after) == _said(first), f"policy {policy.name!r} replied {after.message.text!r} after a cancelled "
               f"call, {first.message.text!r} before; a cancelled call must free its place and leave nothing behind")


async def _check_recorded(policy: Policy, messages: Sequence[Message], sampling: Sampling) -> None:
    """Two turns on one desk: the calls are the turns, and the second prompt splices the first reply."""
    counted = Counted(policy)
    log = _log(counted)
    desk = Desk(log, "agent", policy.name)
    turn = await desk.say(messages, sampling=sampling)
    await desk.say([*messages, desk.message(turn), user("and now?")], sampling=sampling)
    turns = _turns(log)
    demand(len(turns) == len(counted.completions) == 2, f"{len(counted.completions)} calls made {len(turns)} turns")
    trajectory = log.trajectories()[0]
    for made, completion in zip(turns, counted.completions, strict=True):
        if completion.ids is not None and completion.prompt:
            ids = [token for index in made.spans for token in trajectory.spans[index].ids.tolist()]
            demand(ids == np.asarray(completion.ids).tolist(), f"policy {policy.name!r} gave {completion.ids}; the "
                   f"record holds {ids}")
    _check_spliced(policy, counted.completions)


def _check_spliced(policy: Policy, completions: Sequence[Completion]) -> None:
    """A policy that gives ids must feed the model its own earlier reply as it was sampled, or plainly from text."""
    first, second = completions
    if first.ids is None or not second.prompt:
        return
    for piece in second.prompt:
        sampled = piece.span is None or _holds(first.ids, piece)
        demand(sampled, f"policy {policy.name!r} says that a piece of its prompt was spliced from {piece.span}, but "
               "its ids are others; put into the prompt what written(message) gave, unchanged")


def _holds(ids: Any, piece: Piece) -> bool:
    text, part = np.asarray(ids).tolist(), np.asarray(piece.ids).tolist()
    return any(text[start:start + len(part)] == part for start in range(len(text) - len(part) + 1))


def check_completion(
    completion: Completion, policy: Policy, messages: Sequence[Message], sampling: Sampling
) -> None:
    """Nothing for a well-formed completion. Raises: CheckFailed."""
    who = f"policy {policy.name!r}"
    demand(isinstance(completion, Completion), f"{who} gave {type(completion).__name__}; expected a Completion")
    demand(completion.message.role == "assistant", f"{who} replied in the role {completion.message.role!r}")
    finish: Finish = completion.finish
    demand(finish in FINISHES, f"{who} finished with {finish!r}; expected one of {list(FINISHES)}")
    if completion.ids is None:
        demand(completion.logprobs is None, f"{who} gave log-probabilities without ids")
        return
    count = len(completion.ids)
    demand(count <= sampling.max_tokens, f"{who} wrote {count} tokens; max_tokens is {sampling.max_tokens}")
    if completion.prompt:
        fed = sum(len(piece.ids) for piece in completion.prompt)
        demand(fed == policy.count(messages), f"{who} was fed {fed} tokens, but count() says "
               f"{policy.count(messages)}; both must render the same prompt")
        demand(fed + count <= policy.limit, f"{who} went over its limit of {policy.limit} with {fed} + {count} tokens")
    if completion.logprobs is not None:
        logprob_T = np.asarray(completion.logprobs)
        demand(len(logprob_T) == count, f"{who} gave {len(logprob_T)} log-probabilities for {count} tokens")
        known_T = logprob_T[~np.isnan(logprob_T)]
        demand(bool((known_T <= 1e-6).all() and np.isfinite(known_T).all()), f"{who} gave log-probabilities {known_T}; "
               "expected finite numbers of at most 0 (NaN where unknown)")


async def check_context(context: Context, *, history: Sequence[Message] = TALK, policy: Policy | None = None) -> None:
    """Nothing, when the context keeps the contract of :class:`polyturn.protocols.Context`.

    Checked: the log is left as it was; the view ends with what was said last; what is shown comes from the log or from
    ``added``; every call that it makes is a recorded turn; without calls, the same log gives the same view.
    Raises: CheckFailed.
    """
    counted = Counted(policy or Scripted(lambda messages: "In short: a number is guessed."))
    for length in range(1, len(history) + 1):
        log = _log(counted)
        calls = len(counted.completions)
        said = list(history[:length])
        view = await context.view(said, Desk(log, "agent", counted.name))
        who = type(context).__name__
        demand(said == list(history[:length]), f"{who} changed the history that it was given; build a new list")
        demand(isinstance(view.messages, tuple) and bool(view.messages), f"{who} shows nothing of {length} messages")
        demand(view.messages[-1] == said[-1], f"{who} ends its view with {view.messages[-1].text[:80]!r}; the policy "
               f"must see what was said last: {said[-1].text[:80]!r}")
        strange = [message.text[:60] for message in view.messages if message not in (*said, *view.added)]
        demand(not strange, f"{who} shows messages that are neither in the log nor in View.added: {strange}; what is "
               "not in the log cannot be audited")
        made = len(counted.completions) - calls
        demand(len(_turns(log)) == made, f"{who} made {made} calls and {len(_turns(log))} turns; call through the desk")
        if not made and not view.added:
            again = await context.view(list(said), Desk(_log(counted), "agent", counted.name))
            demand(again == view, f"{who} shows the same log otherwise the second time; a view without calls is a pure "
                   "function of the log")


async def check_agent(
    make: AgentMaker, *, asks: Sequence[Ask] = (), policy: Policy | None = None
) -> None:
    """Nothing, when the agents of ``make`` keep the contract of :class:`polyturn.protocols.Agent`.

    Checked over three asks: replies are assistant messages; every call of the model is a recorded turn, with its own
    place in the order; a second agent of the same maker starts afresh. Raises: CheckFailed.

    >>> from polyturn.agents.chat import ChatAgent
    >>> asyncio.run(check_agent(ChatAgent))
    """
    asks = asks or (
        Ask("agent", (user("Guess my number from 1 to 16."),), legal=("[3]", "[8]")),
        Ask("agent", (user("higher"),), legal=("[3]", "[8]")), Ask("agent", (user("lower"),), legal=("[3]", "[8]")),
    )
    inner = policy or Scripted(lambda messages: "[3]")
    first = await _acted(make(), asks, inner)
    again = await _acted(make(), asks, inner)
    demand(first == again, "a second agent of the same maker shows the model other prompts than the first; it "
           "remembers the last episode (a list as default argument? a shared context?)")


async def _acted(agent: Agent, asks: Sequence[Ask], policy: Policy) -> list[tuple[str, ...]]:
    """The texts of every prompt that the agent made."""
    counted = Counted(policy)
    log = _log(counted)
    desk = Desk(log, asks[0].seat, policy.name)
    who = type(agent).__name__
    for ask in asks:
        reply = await agent.act(ask, desk)
        demand(isinstance(reply, Message) and reply.role == "assistant", f"{who} answered {reply!r}; expected an "
               "assistant message")
    turns = _turns(log)
    demand(len(turns) == len(counted.completions), f"{who} made {len(counted.completions)} calls of the model, but "
           f"{len(turns)} turns are recorded; every call goes through desk.say(), or it cannot be trained on")
    demand(len({turn.at for turn in turns}) == len(turns), f"{who}: two turns stand at the same place of the order")
    close = getattr(agent, "close", None)
    if close is not None:
        await close()
    return [tuple(message.text for message in prompt) for prompt in counted.prompts]

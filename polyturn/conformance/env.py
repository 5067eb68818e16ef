"""Does an environment keep its contract? :func:`check_env` plays it and says what is broken."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from polyturn.conformance.failed import CheckFailed, check_nothing_left, demand, no_network, own_generators, running
from polyturn.protocols import Answer, Ask, Env, Spec, Step
from polyturn.rollout.worker import in_worker
from polyturn.seeds import generator
from polyturn.types import Event, Message, Seat, assistant

STRANGE = ("", "\u202e🦜 ٣½ [x] {\"a\": NaN}", "yes " * 1500, "\x00\n\t")
"""Replies that a model may well give."""
MakeEnv = Callable[[], Any]
"""Gives a fresh environment, plain or async, or an awaitable of one."""


def any_answer(seat: Seat) -> Answer:
    """A player that draws from the legal replies, or says ``ok`` where none are listed."""
    draws = generator("any_answer", seat)

    def play(ask: Ask) -> Message:
        return assistant(ask.legal[int(draws.integers(len(ask.legal)))] if ask.legal else "ok")

    return play


@dataclass
class Play:
    """What one play gave."""

    steps: list[Step] = field(default_factory=list)
    replies: list[dict[Seat, Message]] = field(default_factory=list)
    final: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Checked:
    """An environment under test."""

    name: str
    make: MakeEnv
    spec: Spec
    answers: Callable[[Seat], Answer]
    most_steps: int

    async def fresh(self) -> Env:
        made = self.make()
        if inspect.isawaitable(made):
            made = await made
        missing = [name for name in ("start", "step", "final", "close") if not callable(getattr(made, name, None))]
        demand(not missing, f"{self.name} has no {', '.join(missing)}; an environment has start, step, final and close")
        if inspect.iscoroutinefunction(made.start):
            env: Env = made
            return env
        kind: Literal["thread", "process"] = "process" if self.spec.worker == "process" else "thread"
        return in_worker(made, kind, self.spec.step_timeout_s, name=self.name)

    async def call(self, method: str, call: Awaitable[Any]) -> Any:
        try:
            return await call
        except CheckFailed:
            raise
        except Exception as error:
            raise CheckFailed(f"{self.name}.{method}() raised {type(error).__name__}: {error}") from error


async def check_env(
    make: MakeEnv, *, spec: Spec = Spec("environment"), answers: Callable[[Seat], Answer] = any_answer,
    most_steps: int = 200, grace_s: float = 3.0,
) -> None:
    """Nothing, when the environments of ``make`` keep the contract of :class:`polyturn.protocols.Env`.

    Played several times with ``answers(seat)``: steps and final state well formed; the same replies give the same
    steps (unless ``spec.deterministic`` is False), also beside another play and whatever the global generators hold;
    replies of a stranger and after the end refused; strange replies answered, and illegal ones noted as events; saved
    states continued exactly; nothing left running ``grace_s`` after ``close``; no network (watched in this process
    alone). Raises: CheckFailed, which names the likely mistake.

    >>> import asyncio
    >>> from polyturn.envs.openspiel import kuhn_poker
    >>> suite = kuhn_poker()
    >>> task = next(iter(suite.tasks("test")))
    >>> asyncio.run(check_env(lambda: suite.make(task, 0), spec=suite.spec))
    """
    checked = _Checked(spec.name, make, spec, answers, most_steps)
    await (await checked.fresh()).close()
    before = running()
    with no_network(spec.name):
        with own_generators(spec.name, 1):
            first = await _played(checked)
        if spec.deterministic:
            with own_generators(spec.name, 2):
                await _check_repeats(checked, first)
        await _check_strangers(checked)
        await _check_strange_replies(checked)
        await _check_save(checked, first)
        await _check_close(checked)
    await check_nothing_left(before, spec.name, grace_s=grace_s)


async def _played(checked: _Checked) -> Play:
    """One checked play to its end."""
    env = await checked.fresh()
    players = {seat: checked.answers(seat) for seat in checked.spec.seats}
    play = Play([await checked.call("start", env.start())])
    check_step(play.steps[0], checked.name, checked.spec.seats)
    while play.steps[-1].asks:
        demand(len(play.replies) < checked.most_steps, f"{checked.name} was not over after {checked.most_steps} steps; "
               "let a play end, or pass most_steps=")
        asks = play.steps[-1].asks
        play.replies.append({ask.seat: players[ask.seat](ask) for ask in asks})
        play.steps.append(await checked.call("step", env.step(play.replies[-1])))
        check_step(play.steps[-1], checked.name, checked.spec.seats)
        _check_legal_was_legal(checked.name, asks, play.replies[-1], play.steps[-1].events)
    try:
        await env.step({seat: assistant("late") for seat in checked.spec.seats})
    except Exception:
        play.final = await checked.call("final", env.final())
    else:
        raise CheckFailed(f"{checked.name} answered a reply after the end; step() must raise when nobody is asked")
    check_final(play.final, checked.name)
    await checked.call("close", env.close())
    return play


def _check_legal_was_legal(
    name: str, asks: Sequence[Ask], replies: Mapping[Seat, Message], events: Sequence[Event]
) -> None:
    refused = {event.seat for event in events if event.kind == "invalid"}
    for ask in asks:
        text = replies[ask.seat].text
        demand(not (ask.seat in refused and text in (ask.legal or ())), f"{name} listed {text!r} as legal for "
               f"{ask.seat!r} and then called it invalid; ask.legal and the rules disagree")


def check_step(step: Any, name: str, seats: Sequence[Seat]) -> None:
    """Nothing for a well-formed step. Raises: CheckFailed."""
    demand(isinstance(step, Step), f"{name} answered {type(step).__name__}; start() and step() return a Step")
    asked = [ask.seat for ask in step.asks]
    demand(set(asked) <= set(seats), f"{name} asks {asked}; its spec has the seats {list(seats)}")
    demand(len(set(asked)) == len(asked), f"{name} asks a seat twice in one step: {asked}")
    demand(bool(asked) != (step.stop is not None), f"{name} gave a step with asks {asked} and stop {step.stop}; a step "
           "either asks or stops")
    for ask in step.asks:
        _check_ask(ask, name)
    for seat, channels in step.rewards.items():
        demand(seat in seats, f"{name} pays {seat!r}; its spec has the seats {list(seats)}")
        for channel, value in channels.items():
            demand(isinstance(value, int | float) and math.isfinite(value), f"{name} pays {seat!r} {value!r} in "
                   f"channel {channel!r}; expected a finite number")
            demand(channel != "score", f"{name} pays in the channel 'score', where the verifier's scores stand; "
                   "name it otherwise, or it counts twice")
    for event in step.events:
        demand(bool(event.kind) and is_json(event.content), f"{name} gave the event {event}; expected a kind and JSON")
        demand(set(event.to or ()) <= set(seats), f"{name} sends an event to {event.to}; its seats are {list(seats)}")


def _check_ask(ask: Ask, name: str) -> None:
    for message in ask.messages:
        demand(isinstance(message, Message), f"{name} asks with {type(message).__name__}; expected Messages")
        own = message.role == "assistant" and message.origin != "copied"
        demand(not own, f"{name} speaks to {ask.seat!r} in the role assistant, which is the "
               "agent's own; use user, system or tool, or mark a stored reply as origin 'copied'")
        demand(not message.spans, f"{name} sends {ask.seat!r} a message with sampled spans; send its text (edited())")
        demand(_encodes(message.text), f"{name} sends {ask.seat!r} half of a surrogate pair, which no tokenizer reads")
    if ask.legal is not None:
        demand(all(isinstance(text, str) and text for text in ask.legal) and len(set(ask.legal)) == len(ask.legal) > 0,
               f"{name} lists the legal replies {ask.legal!r}; expected distinct texts that are not empty, or None")


def _encodes(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def is_json(value: Any) -> bool:
    """Whether a value is JSON with text keys and finite numbers, and the same after it was written and read."""
    try:
        return bool(json.loads(json.dumps(_listed(value), allow_nan=False)) == _listed(value))
    except (TypeError, ValueError):
        return False


def _listed(value: Any) -> Any:
    """The value with plain mappings and lists in place of read-only ones and tuples."""
    if isinstance(value, Mapping):
        return {key: _listed(inner) for key, inner in value.items()}
    return [_listed(inner) for inner in value] if isinstance(value, list | tuple) else value


def check_final(final: Any, name: str) -> None:
    """Nothing for a canonical final state. Raises: CheckFailed."""
    demand(isinstance(final, Mapping), f"{name}.final() gave {type(final).__name__}; expected a mapping")
    demand(is_json(final), f"{name}.final() gave {str(dict(final))[:300]}; expected plain JSON: text keys, finite "
           "numbers (int(), float() of numpy's), lists, no sets, no objects")


async def _check_repeats(checked: _Checked, first: Play) -> None:
    """The same replies again, with another play in between every two steps."""
    env, other = await checked.fresh(), await checked.fresh()
    steps = [await checked.call("start", env.start())]
    aside = await checked.call("start", other.start())
    players = {seat: checked.answers(seat) for seat in checked.spec.seats}
    for replies in first.replies:
        same_steps(first.steps, steps, checked.name)
        if aside.asks:
            aside = await checked.call("step", other.step({ask.seat: players[ask.seat](ask) for ask in aside.asks}))
        steps.append(await checked.call("step", env.step(replies)))
    same_steps(first.steps, steps, checked.name)
    final = await checked.call("final", env.final())
    demand(_listed(final) == _listed(first.final), f"{checked.name} ended in another final state after the same "
           f"replies: {str(final)[:200]} instead of {str(first.final)[:200]}; leave out clocks, ids and paths")
    await env.close()
    await other.close()


def same_steps(first: Sequence[Step], again: Sequence[Step], name: str) -> None:
    """Nothing where the steps so far are the same. Raises: CheckFailed."""
    for index, (one, two) in enumerate(zip(first[:len(again)], again, strict=True)):
        demand(one == two, f"{name} answered the same replies otherwise at step {index}: {str(two)[:300]} instead of "
               f"{str(one)[:300]}. Likely a draw that does not come from (task, seed), a clock, the order of a set, "
               "or something that two plays share")


async def _check_strangers(checked: _Checked) -> None:
    env = await checked.fresh()
    await checked.call("start", env.start())
    try:
        await env.step({"nobody": assistant("x")})
    except Exception:
        await checked.call("close", env.close())
    else:
        raise CheckFailed(f"{checked.name} took a reply of the seat 'nobody', which was not asked; step() must raise "
                          "when other seats answer than were asked")


async def _check_strange_replies(checked: _Checked) -> None:
    """No reply of a model is an exception, and one outside ``legal`` is an event."""
    env = await checked.fresh()
    step = await checked.call("start", env.start())
    for turn in range(3 * len(STRANGE)):
        if not step.asks:
            break
        asks, text = step.asks, STRANGE[turn % len(STRANGE)]
        step = await checked.call("step", env.step({ask.seat: assistant(text) for ask in asks}))
        check_step(step, checked.name, checked.spec.seats)
        noted = {event.seat for event in step.events if event.kind == "invalid"}
        for ask in asks:
            free = ask.legal is None or text or checked.spec.invalid.startswith("none")
            demand(bool(free) or ask.seat in noted, f"{checked.name} took the empty reply of {ask.seat!r}, which is "
                   "not among the legal ones, without an event of kind 'invalid'")
    check_final(await checked.call("final", env.final()), checked.name)
    await checked.call("close", env.close())


async def _check_save(checked: _Checked, first: Play) -> None:
    """Where there is ``save``: the state continues in a fresh environment exactly as the play itself."""
    env = await checked.fresh()
    if not hasattr(env, "save"):
        await env.close()
        return
    await env.start()
    middle = len(first.replies) // 2
    for replies in first.replies[:middle]:
        await env.step(replies)
    state = await checked.call("save", env.save())
    demand(isinstance(state, bytes), f"{checked.name}.save() gave {type(state).__name__}; expected bytes")
    copy = await checked.fresh()
    asks = (await checked.call("start", copy.start(state))).asks
    for one in (copy, env) if checked.spec.deterministic else ():
        demand(asks == first.steps[middle].asks, f"{checked.name}.start(state) asks {asks}; expected what was open "
               f"when it was saved: {first.steps[middle].asks}")
        steps = [await checked.call("step", one.step(replies)) for replies in first.replies[middle:]]
        demand(steps == first.steps[middle + 1:], f"{checked.name} goes on otherwise after save() or start(state); the "
               "state leaves something out (a generator? a counter?)")
        final = _listed(await checked.call("final", one.final()))
        demand(final == _listed(first.final), f"{checked.name} ends in another final state after save() or "
               "start(state); the state leaves something out")
    await copy.close()
    await env.close()


async def _check_close(checked: _Checked) -> None:
    """Closed in the middle, and twice."""
    env = await checked.fresh()
    await checked.call("start", env.start())
    await checked.call("close", env.close())
    await checked.call("close (again)", env.close())

"""The desk: the only way to a model. Every call is a recorded turn, from the moment it is sampled.

A :class:`Log` collects one episode; each seat talks to its policies through a :class:`Desk` on that log. A budget, a
deadline or a crash inside an agent therefore loses nothing.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

from polyturn.errors import BadInput, BudgetSpent, DeadlinePassed, UnknownName
from polyturn.ledger import Ledger
from polyturn.protocols import Completion, Env, Policy, Step, Witness
from polyturn.seeds import derive
from polyturn.types import (
    EMPTY,
    Event,
    Limits,
    Message,
    Sampling,
    Seat,
    Stop,
    Tool,
    Trajectory,
    Turn,
)
from polyturn.waits import Expired, Waiting, unless_idle, within

Clock = Callable[[], float]
T = TypeVar("T")
Forker = Callable[[Seat, Env | None], Awaitable[tuple[Env, Step]]]


def steady() -> Clock:
    """The time of day from now on, which no later change of the system's clock moves."""
    offset = time.time() - time.monotonic()
    return lambda: offset + time.monotonic()


_LIMITS = tuple(f.name for f in fields(Limits))


class Budget:
    """What a root seat and its sub-seats may still use together."""

    def __init__(self, limits: Limits, clock: Clock = time.monotonic) -> None:
        self.limits = limits
        self._clock = clock
        self._since = clock()
        self._used = dict.fromkeys(_LIMITS, 0)

    @property
    def left(self) -> Limits:
        """What is left of every limit; None = unlimited."""
        return Limits(**{name: self.of(name) for name in _LIMITS})

    def of(self, name: str) -> Any:
        """What is left of one limit; None = unlimited."""
        most = getattr(self.limits, name)
        if most is None:
            return None
        return max(most - (self._clock() - self._since if name == "seconds" else self._used[name]), 0)

    def check(self, *names: str) -> None:
        """Raises BudgetSpent if one of the named limits (or the time) is used up."""
        for name in (*names, "seconds"):
            if self.of(name) == 0:
                raise BudgetSpent(f"{name}: {getattr(self.limits, name)} spent")

    def charge(self, **amounts: int) -> None:
        """Counts what was used."""
        for name, amount in amounts.items():
            self._used[name] += amount


@dataclass
class _Grown:
    """A trajectory while it grows."""

    ledger: Ledger
    parent: tuple[Seat, str] | None
    messages: list[Message] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    calls: int = 0
    stop: Stop | None = None
    tools: list[Tool] = field(default_factory=list)
    place: dict[str, int] = field(default_factory=dict)
    """Message id -> index."""
    recorded: int = 0
    """Spans that the recorder has."""

    def index(self, message: Message) -> int:
        """The place of a message in the log of this trajectory, added if it is new."""
        known = self.place.get(message.id) if message.id else None
        if known is not None and (self.messages[known] is message or self.messages[known] == message):
            return known
        if not message.id or known is not None:
            for index, old in enumerate(self.messages):
                if replace(old, id=message.id) == message:
                    return index
            message = replace(message, id=f"{self.ledger.seat}:{self.ledger.policy}:{len(self.messages)}")
        self.place[message.id] = len(self.messages)
        self.messages.append(message)
        return len(self.messages) - 1


class Log:
    """One episode while it is played: trajectories, events, and the order of both."""

    def __init__(
        self, episode_id: str, policies: Mapping[str, Policy], *, seed: int = 0, trial: int = 0,
        recorder: Witness | None = None, call_timeout_s: float = 600.0, clock: Clock | None = None,
    ) -> None:
        self.episode_id = episode_id
        self.policies = policies
        self.seed, self.trial = seed, trial
        self.recorder = recorder
        self.call_timeout_s = call_timeout_s
        self.clock = steady() if clock is None else clock
        self.events: list[Event] = []
        self.step = 0
        self.drawn: Callable[[Seat, Sampling], Sampling] = lambda seat, sampling: sampling
        """How a seat's reply is drawn, from how its agent asks for it."""
        self.forker: Forker | None = None
        self._at = 0
        self._grown: dict[tuple[Seat, str], _Grown] = {}

    def next_at(self) -> int:
        """The next place in the episode's order."""
        self._at += 1
        return self._at - 1

    def event(self, event: Event) -> None:
        """Adds an event at the next place in the order."""
        self.events.append(Event(self.next_at(), event.kind, event.seat, event.content, event.to, event.branch))

    def policy(self, name: str) -> Policy:
        """A policy by name. Raises: UnknownName."""
        if name not in self.policies:
            raise UnknownName("policy", name, self.policies)
        return self.policies[name]

    def grown(self, seat: Seat, policy: str, parent: tuple[Seat, str] | None) -> _Grown:
        """The growing trajectory of a seat and policy, begun at its first call."""
        key = (seat, policy)
        if key not in self._grown:
            self._grown[key] = _Grown(Ledger(seat, policy), parent)
        return self._grown[key]

    def quote(self, trajectory: Trajectory, turn: Turn) -> None:
        """Lays what stood before a stored turn under the next call of its seat and policy: its prompt is then spliced
        from the ids that were sampled, and owned by nobody here. Raises: BadInput for a seat that has spoken."""
        before = trajectory.spans[: min(turn.spans, default=len(trajectory.spans))]
        self.grown(trajectory.seat, trajectory.policy, trajectory.parent).ledger.quote(before)

    def grown_so_far(self, seat: Seat, policy: str) -> _Grown | None:
        """The growing trajectory of a seat and policy; None before its first call."""
        return self._grown.get((seat, policy))

    def trajectories(self, stop: Stop | None = None) -> tuple[Trajectory, ...]:
        """All trajectories so far, with the rewards of each seat laid on its turns."""
        paid = self._paid()
        return tuple(
            Trajectory(
                seat, policy, grown.parent, tuple(grown.messages),
                tuple(replace(turn, rewards=paid[turn.at]) if turn.at in paid else turn for turn in grown.turns),
                tuple(grown.ledger.spans), grown.stop or stop, tuple(grown.tools),
            )
            for (seat, policy), grown in self._grown.items()
        )

    def _paid(self) -> dict[int, dict[str, float]]:
        """``Turn.at`` -> channel -> sum: a reward belongs to its seat's last turn before it in real play."""
        ats: dict[Seat, list[int]] = {}
        for (seat, _), grown in self._grown.items():
            ats.setdefault(seat, []).extend(turn.at for turn in grown.turns if not turn.branch)
        paid: dict[int, dict[str, float]] = {}
        for event in self.events:
            before = [at for at in ats.get(event.seat or "", ()) if at < event.at]
            if event.kind == "reward" and not event.branch and before:
                channels = paid.setdefault(max(before), {})
                name = str(event.content["channel"])
                channels[name] = channels.get(name, 0.0) + float(event.content["value"])
        return paid


class Desk:
    """What an agent holds: its seat's way to policies, budget, sub-seats and copies of the environment."""

    def __init__(
        self, log: Log, seat: Seat, policy: str, budget: Budget | None = None,
        parent: tuple[Seat, str] | None = None,
    ) -> None:
        self.log = log
        self.seat = seat
        self.policy = policy
        self.budget = budget if budget is not None else Budget(Limits())
        self.parent = parent

    @property
    def left(self) -> Limits:
        """What the seat may still use."""
        return self.budget.left

    @property
    def limit(self) -> int:
        """The longest prompt and reply together of the seat's policy, in tokens."""
        return self.log.policy(self.policy).limit

    def count(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> int:
        """The prompt tokens that these messages would make."""
        return self.log.policy(self.policy).count(messages, tools)

    def message(self, turn: Turn) -> Message:
        """The reply of a turn."""
        return self.log.grown(turn.seat, turn.policy, self.parent).messages[turn.reply]

    def turn_of(self, message: Message) -> Turn | None:
        """The turn of this seat whose reply is ``message``; None for a message that no policy said here."""
        every = (self.log.grown_so_far(self.seat, name) for name in self.log.policies)
        for grown in (grown for grown in every if grown is not None and message.id):
            for turn in grown.turns:
                if grown.messages[turn.reply].id == message.id:
                    return turn
        return None

    async def say(
        self, messages: Sequence[Message], *, purpose: str = "act", policy: str | None = None,
        tools: Sequence[Tool] = (), sampling: Sampling = Sampling(), branch: str = "",
    ) -> Turn:
        """The turn that the policy's reply to ``messages`` made; it is in the log when this returns.

        The budget shortens the reply; ``branch`` names the copy that a search calls for. Raises: BudgetSpent (a call,
        token or second more than is left), DeadlinePassed (the policy did not answer), and what the policy raises.
        """
        if not messages:
            raise BadInput(f"seat {self.seat!r} said nothing to its policy: messages is empty")
        self.budget.check("model_calls", "tokens")
        name = policy or self.policy
        model = self.log.policy(name)
        grown = self.log.grown(self.seat, name, self.parent)
        left = self.budget.of("tokens")
        sampling = self.log.drawn(self.seat, sampling)
        short = left is not None and left < sampling.max_tokens
        seed = derive(self.log.seed, self.log.trial, self.seat, name, grown.calls)
        sampling = replace(
            sampling, max_tokens=left if short and left else sampling.max_tokens,
            seed=seed if sampling.seed is None else sampling.seed,
        )
        at, started, step = self.log.next_at(), self.log.clock(), self.log.step
        grown.calls += 1
        grown.tools += [tool for tool in tools if tool not in grown.tools]
        self.budget.charge(model_calls=1)
        completion = await self._sampled(model, messages, tools, sampling, grown)
        if short and completion.finish == "length":
            completion = replace(completion, finish="budget")
        said = (purpose, branch, step, sampling, completion.usage, started, self.log.clock(), EMPTY)
        return self._record((at, name, said), grown, messages, completion)

    async def _sampled(
        self, model: Policy, messages: Sequence[Message], tools: Sequence[Tool], sampling: Sampling, grown: _Grown
    ) -> Completion:
        call = model.sample(messages, tools=tools, sampling=sampling, written=grown.ledger.written)
        return await self.awaited(call, f"policy {model.name}", f"reply {grown.calls}")

    async def awaited(self, answer: Awaitable[T], whom: str, what: str) -> T:
        """What ``answer`` gives, within the seat's seconds and the deadline of a call; as long as it takes, one sees
        whom the seat waits for. Raises: BudgetSpent, DeadlinePassed."""
        wait = self._seconds()
        try:
            with Waiting(f"seat {self.seat} of episode {self.log.episode_id}", whom, what, wait):
                return await within(answer, wait)
        except Expired as error:
            raise self._late(wait, f"waited {wait:.0f} s for {whom}") from error

    async def acted(self, act: Awaitable[T]) -> T:
        """What an agent's ``act`` gives. What it waits for through the desk, or in any :class:`polyturn.waits.Waiting`,
        has deadlines of its own; the deadline of a call holds for the time between. Raises: what it raises,
        BudgetSpent, DeadlinePassed."""
        wait = self._seconds()
        try:
            return await unless_idle(act, wait)
        except Expired as error:
            said = f"has an agent whose act() went on for {wait:g} s in no call and no named wait"
            raise self._late(wait, said) from error

    def _seconds(self) -> float:
        """The longest wait that is left to the seat."""
        if self.budget.limits.seconds is None:
            return self.log.call_timeout_s
        return float(min(self.budget.of("seconds"), self.log.call_timeout_s))

    def _late(self, wait: float, said: str) -> Exception:
        if wait < self.log.call_timeout_s:
            return BudgetSpent(f"seconds: {self.budget.limits.seconds} spent")
        return DeadlinePassed(f"seat {self.seat!r} {said}")

    def _record(
        self, call: tuple[int, str, tuple[Any, ...]], grown: _Grown, messages: Sequence[Message],
        completion: Completion,
    ) -> Turn:
        """Writes a sampled turn into ledger, log and record, in one go without a wait; ``call`` = its place, its
        policy, and the fields of the turn from ``purpose`` on."""
        at, policy, said = call
        first_message, first_span = len(grown.messages), grown.recorded
        prompt = tuple(grown.index(message) for message in messages)
        spans = grown.ledger.write(grown.ledger.place(completion.prompt), completion)
        owned = tuple((self.seat, policy, index) for index in spans)
        name = f"{self.seat}:{policy}@{at}"
        reply = replace(completion.message, role="assistant", origin="policy", spans=owned, id=name)
        turn = Turn(at, self.seat, policy, prompt, grown.index(reply), spans, completion.finish, *said)
        grown.turns.append(turn)
        grown.recorded = len(grown.ledger.spans)
        sampled = completion.usage.completion_tokens or (0 if completion.ids is None else len(completion.ids))
        self.budget.charge(tokens=sampled)
        if self.log.recorder is not None:
            self.log.recorder.turn(
                self.log.episode_id, turn,
                dict(enumerate(grown.messages[first_message:], first_message)),
                dict(enumerate(grown.ledger.spans[first_span:], first_span)),
            )
        return turn

    def drop(self, turn: Turn, reason: str) -> None:
        """Takes a turn back: it stays in the log with weight zero and this reason."""
        turns = self.log.grown(turn.seat, turn.policy, self.parent).turns
        place = next(i for i, old in enumerate(turns) if old.at == turn.at)
        turns[place] = replace(turns[place], dropped=reason)

    def sub(self, name: str, policy: str | None = None) -> Desk:
        """The desk of a sub-seat: a trajectory of its own, the same budget."""
        if not name or "/" in name:
            raise BadInput(f"a sub-seat is named {name!r}; expected a name without '/'")
        return Desk(self.log, f"{self.seat}/{name}", policy or self.policy, self.budget, (self.seat, self.policy))

    def event(self, kind: str, **content: Any) -> None:
        """Logs something that this seat did or saw beside its turns."""
        self.log.event(Event(0, kind, self.seat, content))

    async def fork(self, of: Env | None = None) -> tuple[Env, Step]:
        """A charged copy of the environment (or of a copy) with the step it stands at, for search.

        The copy has a ``name``: pass it as ``branch`` to :meth:`say`. Raises: BadInput for a desk without an
        environment; BudgetSpent when the steps of the copy are more than the seat has left.
        """
        if self.log.forker is None:
            raise BadInput(f"seat {self.seat!r} has no environment to fork: this desk answers a stored observation")
        return await self.log.forker(self.seat, of)

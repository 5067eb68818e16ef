"""Context drift: how far a policy in a long dialogue is from one that is told its goal again, turn by turn.

arXiv 2510.07777: history x, goal g, test model ``q_t(y) = P(y | x)``, reference ``p_t(y) = P*(y | x, g)``,

    D_t = KL(q_t || p_t),    D_{t+1} = D_t + g_t(D_t) + eta_t - delta_t,    |eta_t| <= eps,    delta_t >= 0 (reminders)
    |D_t - D*| <= lambda**t |D_0 - D*| + (eps - mean delta) / (1 - lambda),    0 < lambda < 1

The paper fits ``D_{t+1} - D_t = a + b D_t`` and reads b < 0 as an equilibrium at ``D* = -a / b``. Short series show
b < 0 whatever they are, so the verdict here comes from :mod:`polyturn.diagnose.verdict`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeAlias

import numpy as np

from polyturn.arrays import in_play
from polyturn.chat import Chat
from polyturn.desk import Desk
from polyturn.diagnose.drift import Divergence, turn_divergence
from polyturn.errors import BadInput
from polyturn.paper import Paper
from polyturn.protocols import Piece, Scoring, View, Written
from polyturn.types import Episode, Finding, IntArray, Message, Seat, Tool, Trajectory, Turn, user

PAPER = Paper(
    title="Drift No More? Context Equilibria in Multi-Turn LLM Interactions", arxiv="2510.07777", year=2025,
    claim="Divergence from goal-conditioned behaviour settles at an equilibrium over the turns instead of growing "
          "without bound, and reminders of the goal lower it.",
    adds=("ContextDrift: Diagnosis", "Reminders: Context", "Schedule", "Reference"),
    axes={"task": "instruction, conversation", "method": "external: reminders",
          "challenge": "losing the goal in long conversations"},
    deviations=(
        "Divergences are exact over the vocabulary, which needs a reference with the same vocabulary: the same weights "
        "with the goal restated, a second model, or an earlier checkpoint; not GPT-4.1.",
        "KL is a mean over the reply's tokens (the paper does not say which), of log-probabilities at temperature 1.",
        "A negative slope is not read as an equilibrium: random walks and independent draws are simulated in the shape "
        "of the data, lambda is corrected for small-sample bias, and short series get the verdict insufficient turns.",
        "Reminders enter the fit as a term of their own.",
        "No judge scores and no semantic similarity.",
    ),
)
REMIND = "Remember your goal: {goal}"

# ---------------------------------------------------------------- the paper's recurrence


def recurrence(
    start: float, force: Callable[[float], float], noise: Sequence[float], reminder: Sequence[float]
) -> list[float]:
    """``D_0 .. D_n`` with ``D_{t+1} = D_t + force(D_t) + noise_t - reminder_t``.

    >>> recurrence(4.0, lambda d: -0.5 * (d - 2.0), [0.0, 0.1], [0.0, 0.6])
    [4.0, 3.0, 2.0]
    """
    found = [start]
    for eta, delta in zip(noise, reminder, strict=True):
        found.append(found[-1] + force(found[-1]) + eta - delta)
    return found


def bound(turn: int, start: float, level: float, slope: float, eps: float, reminder: float = 0.0) -> float:
    """``slope**turn |start - level| + (eps - reminder) / (1 - slope)``: how far D_t may be from ``level``.

    Raises: BadInput unless 0 < slope < 1, for else there is no bound.

    >>> bound(2, 6.0, 2.0, 0.5, 0.1)                # 0.25 * 4 + 0.1 / 0.5
    1.2
    """
    if not 0 < slope < 1:
        raise BadInput(f"lambda is {slope}; the bound holds for 0 < lambda < 1 alone")
    return float(slope**turn * abs(start - level) + (eps - reminder) / (1 - slope))


def line(level: float, force: float, force_slope: float, reminder: float) -> tuple[float, float]:
    """a and b of the fit from the restoring force at ``level`` and its slope there: ``b = g'(D*)``,
    ``a = g(D*) - b D* - reminder``.

    >>> line(2.0, 0.0, -0.5, 0.25)
    (0.75, -0.5)
    """
    return force - force_slope * level - reminder, force_slope


# ---------------------------------------------------------------- reminders


@dataclass(frozen=True, slots=True)
class Schedule:
    """When the goal is recalled; turns count from 1.

    ``fixed``: before the turns in ``turns``. ``every``: before each ``every``-th turn. ``threshold``: after a turn
    whose D_t was above ``threshold``. ``budgeted``: the same, at most ``budget`` times, ``apart`` or more turns apart.
    """

    kind: Literal["none", "fixed", "every", "threshold", "budgeted"] = "none"
    turns: tuple[int, ...] = ()
    every: int = 4
    threshold: float = 0.5
    budget: int = 2
    apart: int = 2

    def __post_init__(self) -> None:
        known = ("none", "fixed", "every", "threshold", "budgeted")
        if self.kind not in known or min(self.every, self.budget, self.apart, *self.turns, 1) < 1:
            raise BadInput(f"{self}; expected a kind of {', '.join(known)}, and turns, every, budget, apart >= 1")

    @property
    def measured(self) -> bool:
        """Whether it needs D_t."""
        return self.kind in ("threshold", "budgeted")

    def due(self, turn: int, drift: float | None, given: Sequence[int]) -> bool:
        """Whether to recall the goal before ``turn``, D of the turn before being ``drift`` (None before the first) and
        ``given`` the turns before which it was recalled. Raises: BadInput where D is needed and not known."""
        if self.kind == "fixed":
            return turn in self.turns
        if self.kind == "every":
            return turn % self.every == 0
        if not self.measured or turn == 1:
            return False
        if drift is None:
            raise BadInput(f"a schedule of kind {self.kind!r} needs D_t; give Reminders a gauge")
        if self.kind == "budgeted" and (len(given) >= self.budget or turn - max(given, default=-turn) < self.apart):
            return False
        return drift > self.threshold


Gauge: TypeAlias = Callable[[Sequence[Message], Desk], Awaitable[float]]
"""The messages as shown, the last reply among them, and the desk: D of that reply."""


@dataclass(frozen=True, slots=True)
class Reminders:
    """A :class:`polyturn.protocols.Context`: full history with the goal recalled before the message that a turn
    answers, in a message of origin ``reminder``, as the schedule says. A function of the log and of what the gauge
    reads.
    """

    goal: str
    schedule: Schedule = Schedule()
    gauge: Gauge | None = None
    text: str = REMIND

    async def view(self, history: Sequence[Message], desk: Desk) -> View:
        """All messages, and the reminder that is new."""
        shown = in_order(history)
        turn = 1 + sum(message.role == "assistant" for message in history)
        drift = None
        if self.schedule.measured and turn > 1 and self.gauge is not None:
            last = max(index for index, message in enumerate(shown) if message.role == "assistant")
            drift = await self.gauge(shown[: last + 1], desk)
        if not self.schedule.due(turn, drift, reminded_turns(history)):
            return View(tuple(shown))
        reminder = user(self.text.format(goal=self.goal), origin="reminder", id=f"{desk.seat}:reminder@{turn}")
        return View((*shown[:-1], reminder, shown[-1]), added=(reminder,))


def in_order(history: Sequence[Message]) -> list[Message]:
    """The log with each reminder before the message that it was shown before; in the log it stands after that."""
    shown = list(history)
    for index, message in enumerate(shown):
        if message.origin == "reminder" and index:
            shown[index - 1], shown[index] = message, shown[index - 1]
    return shown


def reminded_turns(history: Sequence[Message]) -> list[int]:
    """The turns, from 1, before which the goal was recalled."""
    replies = np.cumsum([message.role == "assistant" for message in history])
    return [int(replies[i]) + 1 for i, message in enumerate(history) if message.origin == "reminder"]


# ---------------------------------------------------------------- references


@dataclass(frozen=True, slots=True)
class Reference:
    """What a reply is compared with; it must have the policy's vocabulary.

    (a) ``Reference("restated goal", same_policy)``: the same weights, the goal recalled before the last message.
    (b) ``Reference("second model", other, restate=False)`` and (c) ``"earlier checkpoint"``: other weights that read
    the same prompt; with ``restate`` the goal besides. ``last`` > 0 compresses the history to the system and
    first messages and the last ``last``.
    """

    name: Literal["restated goal", "second model", "earlier checkpoint"]
    scoring: Scoring
    restate: bool = True
    last: int = 0
    text: str = REMIND

    def prompt(self, messages: Sequence[Message], goal: str) -> list[Message]:
        """What the reference reads where the policy read ``messages``."""
        shown = list(messages)
        if self.last:
            head = next((i for i, m in enumerate(shown) if m.role != "system"), 0) + 1
            shown = shown[:head] + shown[max(head, len(shown) - self.last):]
        if self.restate:
            shown.insert(len(shown) - 1, user(self.text.format(goal=goal), origin="reminder"))
        return shown


@dataclass(frozen=True, slots=True)
class TurnPaths:
    """One turn, ready to be scored."""

    at: int
    prompt: IntArray
    reference: IntArray
    reply: IntArray
    reminded: bool


@dataclass(frozen=True, slots=True)
class ContextDrift:
    """A :data:`polyturn.protocols.Diagnosis`: D_t of every turn of a seat in recorded episodes, against a reference.

    ``policy`` must hold the weights that played (checked where both hashes are known). Two forward passes a turn, of
    which only the reply and what is new in the prompt is computed. Findings, one each a turn, named ``drift/kl``,
    ``drift/reverse``, ``drift/js``, ``drift/sampled``, ``drift/sampled_k3``, ``drift/tokens`` and ``drift/reminded``;
    ``source`` names the reference, ``version`` the policy's.
    """

    policy: Any
    """A policy that can score, such as :class:`polyturn.policies.local.Local`."""
    chat: Chat
    reference: Reference
    goal: Callable[[Episode], str]
    seat: Seat = "agent"
    tools: tuple[Tool, ...] = ()
    """Those that the seat was offered, for they stand in its prompts."""

    async def __call__(self, episodes: Sequence[Episode]) -> list[Finding]:
        """The findings, episode by episode. Raises: BadInput for an episode of other weights or prompts."""
        return [finding for episode in episodes for finding in await self._episode(episode)]

    async def _episode(self, episode: Episode) -> list[Finding]:
        found = []
        for paths in self.paths(episode):
            seen = await turn_divergence(
                self.policy, self.reference.scoring, paths.prompt, paths.reference, paths.reply
            )
            target = {"episode": episode.id, "seat": self.seat, "turn": paths.at}
            values = {f.name: float(getattr(seen, f.name)) for f in fields(Divergence)}
            values["reminded"] = float(paths.reminded)
            found += [
                Finding(f"drift/{name}", target, value, source=self.reference.name, version=str(self._version()))
                for name, value in values.items()
            ]
        return found

    def _version(self) -> int:
        return int(self.policy.info().version)

    def paths(self, episode: Episode) -> list[TurnPaths]:
        """What is scored of an episode: its turns of purpose ``act`` in real play that were not taken back."""
        played, own = episode.cast.get(self.seat), self.policy.info()
        if played is not None and played.weights_sha256 and played.weights_sha256 != own.weights_sha256:
            raise BadInput(f"episode {episode.id} was played by weights {played.weights_sha256[:12]}, {own.name!r} "
                           f"holds {own.weights_sha256[:12]}; load the checkpoint of version {played.version}")
        trajectory = episode.trajectory(self.seat)
        turns = [] if trajectory is None else in_play(trajectory)
        return [
            self._paths(episode, trajectory, turn) for turn in turns
            if trajectory is not None and turn.purpose == "act" and not turn.dropped and turn.spans
        ]

    def _paths(self, episode: Episode, trajectory: Trajectory, turn: Turn) -> TurnPaths:
        messages = [trajectory.messages[index] for index in turn.prompt]
        written = written_in(trajectory)
        before = trajectory.path(trajectory.spans[turn.spans[0]].parent)
        prompt = _joined([trajectory.spans[index].ids for index in before])
        again = _encoded(self.chat, messages, self.tools, written)
        if not np.array_equal(prompt, again):
            raise BadInput(f"episode {episode.id}, turn at {turn.at}: its prompt of {len(prompt)} tokens is rendered "
                           f"as {len(again)} others; give the tools that the seat was offered, or the chat it used")
        changed = self.reference.prompt(messages, self.goal(episode))
        reply = _joined([trajectory.spans[index].ids for index in turn.spans])
        reminded = len(messages) > 1 and messages[-2].origin == "reminder"
        return TurnPaths(turn.at, prompt, _encoded(self.chat, changed, self.tools, written), reply, reminded)


def written_in(trajectory: Trajectory) -> Written:
    """The ids that a trajectory's own replies were sampled as."""

    def written(message: Message) -> tuple[Piece, ...] | None:
        own = (trajectory.seat, trajectory.policy)
        if not message.spans or any(span[:2] != own for span in message.spans):
            return None
        return tuple(Piece(trajectory.spans[span[2]].ids, span) for span in message.spans)

    return written


def _encoded(chat: Chat, messages: Sequence[Message], tools: Sequence[Tool], written: Written) -> IntArray:
    return _joined([piece.ids for piece in chat.encode(messages, tools=tools, written=written)])


def _joined(parts: Sequence[IntArray]) -> IntArray:
    return np.concatenate([np.zeros(0, np.int32), *parts]).astype(np.int32)


def gauge_of(policy: Scoring, chat: Chat, reference: Reference, goal: str) -> Gauge:
    """D of the last reply, measured while the dialogue runs; for schedules that need it."""

    async def gauge(messages: Sequence[Message], desk: Desk) -> float:
        written = desk.log.grown(desk.seat, desk.policy, desk.parent).ledger.written
        pieces = written(messages[-1])
        if pieces is None:
            raise BadInput(f"the last reply of seat {desk.seat!r} has no tokens, so that its divergence is unknown")
        before = list(messages[:-1])
        prompts = [_encoded(chat, shown, (), written) for shown in (before, reference.prompt(before, goal))]
        reply = _joined([piece.ids for piece in pieces])
        return (await turn_divergence(policy, reference.scoring, prompts[0], prompts[1], reply)).kl

    return gauge


def perturbed(model: Any, scale: float, seed: int) -> Any:
    """A copy of a torch model whose matrices have normal noise added, ``scale`` times their own deviation: a second
    model of the same vocabulary at a known distance."""
    import torch

    copy = deepcopy(model)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in copy.parameters():
            if parameter.ndim > 1:
                parameter.add_(scale * parameter.std() * torch.randn(parameter.shape, generator=draw))
    return copy


# ---------------------------------------------------------------- from findings to series


@dataclass(frozen=True, slots=True)
class Drift:
    """D_t of some episodes as series, in the order of their turns."""

    episodes: tuple[str, ...]
    series: tuple[tuple[float, ...], ...]
    reminded: tuple[tuple[bool, ...], ...]

    def means(self, first: int = 1) -> Mapping[str, list[float]]:
        """Episode -> its mean over the turns from ``first`` (from 1) on, for paired comparison."""
        return {name: [float(np.mean(values[first - 1:]))]
                for name, values in zip(self.episodes, self.series, strict=True) if len(values) >= first}


def as_series(findings: Sequence[Finding], measure: str = "kl") -> Drift:
    """The series of one measure. Raises: BadInput where there is none of that name."""
    rows: dict[str, dict[int, dict[str, float]]] = {}
    for finding in findings:
        if isinstance(finding.value, float):
            turn = rows.setdefault(str(finding.target["episode"]), {}).setdefault(int(finding.target["turn"]), {})
            turn[finding.name.removeprefix("drift/")] = finding.value
    if not rows or any(measure not in turn for turns in rows.values() for turn in turns.values()):
        raise BadInput(f"the findings hold no drift/{measure} for every turn; names: "
                       f"{sorted({finding.name for finding in findings})}")
    ordered = {name: [turns[at] for at in sorted(turns)] for name, turns in rows.items()}
    return Drift(
        tuple(ordered), tuple(tuple(turn[measure] for turn in turns) for turns in ordered.values()),
        tuple(tuple(turn["reminded"] > 0 for turn in turns) for turns in ordered.values()),
    )

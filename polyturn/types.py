"""The nouns of Polyturn: frozen records of who said what, in which exact tokens, and what it earned.

Agents play **tasks** in environments. Every call of a policy is a :class:`Turn` with its exact tokens. Turns make a
:class:`Trajectory` (one per seat and policy), trajectories make an :class:`Episode`, attempts at one task make a
``Group``. Nothing here has behaviour beyond reading its own fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Seat: TypeAlias = str
"""A path: ``"agent"``, ``"agent/worker.2"``. Its first component is the root seat."""
SpanId: TypeAlias = tuple[Seat, str, int]
"""Where a span stands: (seat, policy, index into that trajectory's spans)."""
IntArray: TypeAlias = NDArray[np.int32]
FloatArray: TypeAlias = NDArray[np.float64]
Role: TypeAlias = Literal["system", "user", "assistant", "tool"]
Origin: TypeAlias = Literal["env", "policy", "user", "tool", "reminder", "summary", "copied", "injected"]
Finish: TypeAlias = Literal["stop", "length", "tool", "budget", "abort"]
EMPTY: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Part:
    """One piece of a message's content; the order of the parts is kept.

    ``Part("reasoning", "first corner, then ...")``, ``Part("image", media="<sha256>", mime="image/png")``,
    ``Part("json", data={"x": 0.5})``. GUI points are fractions 0..1 of an image part.
    """

    kind: Literal["text", "reasoning", "image", "audio", "video", "json", "array"] = "text"
    text: str = ""
    media: str | None = None
    """sha256 of the bytes in the media store; bytes never stand inline."""
    mime: str | None = None
    data: Any = None


@dataclass(frozen=True, slots=True)
class Call:
    """One tool call as the model wrote it: ``Call("c1", "search", {"q": "cats"}, raw='{"q": "cats"}')``.

    ``arguments`` is None, and ``error`` says why, when ``raw`` could not be read.
    """

    id: str
    name: str
    arguments: Mapping[str, Any] | None = None
    raw: str = ""
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that may be called; ``parameters`` is a JSON schema of the arguments object."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"type": "object", "properties": {}})
    kind: Literal["read", "write", "general"] = "general"


@dataclass(frozen=True, slots=True)
class Message:
    """One message. ``Message("user", "hello")`` is the same as ``Message("user", (Part("text", "hello"),))``.

    ``spans`` names the sampled spans the message was made of. Only its own trajectory splices them; a changed
    copy must lose them (:meth:`edited`).
    """

    role: Role
    parts: tuple[Part, ...] = ()
    id: str = ""
    """Unique within an episode once the message is in a log; empty before."""
    name: str | None = None
    calls: tuple[Call, ...] = ()
    call_id: str | None = None
    """For role ``tool``: the call that this answers."""
    origin: Origin = "env"
    status: Literal["ok", "error", "empty"] = "ok"
    observed: Literal["executed", "mocked", "simulated"] = "executed"
    spans: tuple[SpanId, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.parts, str):
            object.__setattr__(self, "parts", (Part("text", self.parts),) if self.parts else ())
        elif not isinstance(self.parts, tuple):
            object.__setattr__(self, "parts", tuple(self.parts))

    @property
    def text(self) -> str:
        """The text parts, joined."""
        return "".join(part.text for part in self.parts if part.kind == "text")

    @property
    def reasoning(self) -> str:
        """The reasoning parts, joined."""
        return "".join(part.text for part in self.parts if part.kind == "reasoning")

    def edited(self, **changes: Any) -> Message:
        """A copy with changed fields; whatever changes content or calls loses the sampled spans."""
        content = {"parts", "calls", "role"} & changes.keys()
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        if content:
            own["spans"] = ()
        return Message(**{**own, **changes})


def system(text: str, **more: Any) -> Message:
    """A system message."""
    return Message("system", text, **more)  # type: ignore[arg-type]


def user(text: str, **more: Any) -> Message:
    """A user message: what an environment says to a seat."""
    return Message("user", text, **more)  # type: ignore[arg-type]


def assistant(text: str, **more: Any) -> Message:
    """An assistant message: a reply."""
    return Message("assistant", text, **{"origin": "policy", **more})  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Span:
    """A run of tokens in a trajectory's tree. A path is read by following ``parent``; no token is stored twice.

    ``Span(parent=0, ids=[28, 2], sampled=True, logprobs=[-0.7, -0.01], version=3)``
    """

    parent: int
    """Index of the span before it in the same trajectory; -1 at a root."""
    ids: IntArray
    sampled: bool = False
    """True: drawn from the policy, token by token. False: template, observation, copy or demonstration."""
    logprobs: FloatArray | None = None
    """Log-probability of each id under the distribution it was drawn from (temperature and support applied);
    NaN = unknown; None where not sampled."""
    version: int = 0
    """Version of the weights that wrote it."""
    support: tuple[tuple[int, ...], ...] | None = None
    """Per id, the ids that a mask allowed (renormalised over); ``()`` for one id = the whole vocabulary; None = no
    mask anywhere in the span."""
    media: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that a seat may use; None = unlimited. ``tokens`` are sampled tokens, ``seconds`` wall clock."""

    env_steps: int | None = None
    model_calls: int | None = None
    tool_calls: int | None = None
    tokens: int | None = None
    seconds: float | None = None

    def tightest(self, other: Limits) -> Limits:
        """Field by field the smaller of the two."""

        def least(name: str) -> Any:
            known = [v for v in (getattr(self, name), getattr(other, name)) if v is not None]
            return min(known) if known else None

        return Limits(**{f.name: least(f.name) for f in fields(Limits)})


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a reply is drawn. ``choices`` restricts it to one of these texts (a legal-move mask)."""

    temperature: float = 1.0
    """0 = the most likely token. Log-probabilities are those of the distribution at this temperature."""
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    choices: tuple[str, ...] | None = None
    seed: int | None = None
    """Set by the desk for each call: from (episode seed, trial, seat, policy, index)."""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature is {self.temperature}; expected a finite number >= 0")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; expected a number in (0, 1]")
        if self.top_k < 0 or self.max_tokens < 1:
            raise ValueError(f"top_k is {self.top_k} and max_tokens {self.max_tokens}; expected >= 0 and >= 1")
        if self.choices is not None and not self.choices:
            raise ValueError("choices is empty: no reply is allowed; pass None for no mask")


@dataclass(frozen=True, slots=True)
class Usage:
    """What one call used: tokens, and money where it is known."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """One problem. ``Task("guess-17", "guess_the_number", {"seed": 17}, Limits(env_steps=8))``."""

    id: str
    family: str
    """The kind of task it is normalised and reported with."""
    payload: Mapping[str, Any] = field(default_factory=dict)
    limits: Limits = Limits()


@dataclass(frozen=True, slots=True)
class Stop:
    """Why something ended. ``done``: by its own rules. ``truncated``: cut by a horizon. ``budget``: a limit was
    spent. ``error``: it broke, and must never be scored as zero."""

    kind: Literal["done", "truncated", "budget", "error"]
    reason: str = ""
    seat: Seat | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """One call of one policy: the atom. Indices point into its trajectory's ``messages`` and ``spans``."""

    at: int
    """Order in the episode, taken when the call is made; unique in the episode."""
    seat: Seat
    policy: str
    prompt: tuple[int, ...]
    reply: int
    spans: tuple[int, ...]
    """The spans this turn wrote. A sampled token belongs to exactly one turn."""
    finish: Finish = "stop"
    purpose: str = "act"
    branch: str = ""
    """Empty for real play; the name of the fork for a turn sampled while searching."""
    step: int = 0
    """The environment step that the turn belongs to."""
    sampling: Sampling = Sampling()
    usage: Usage = Usage()
    started: float = 0.0
    ended: float = 0.0
    rewards: Mapping[str, float] = field(default_factory=dict)
    """Per channel, this turn's share: what its seat was paid from this turn until the seat's next one."""
    dropped: str = ""
    """Why a context took the turn back; its tokens then weigh zero. Empty = kept."""


@dataclass(frozen=True, slots=True)
class Trajectory:
    """All that one policy said from one seat, as a tree of spans and a list of turns in order."""

    seat: Seat
    policy: str
    parent: tuple[Seat, str] | None = None
    """For a sub-seat: the trajectory that called it."""
    messages: tuple[Message, ...] = ()
    turns: tuple[Turn, ...] = ()
    spans: tuple[Span, ...] = ()
    stop: Stop | None = None
    tools: tuple[Tool, ...] = ()
    """Every tool that its calls were offered, once, in the order of the first offer."""

    def path(self, span: int) -> tuple[int, ...]:
        """The span indices from the root down to ``span``."""
        found = []
        while span >= 0:
            found.append(span)
            span = self.spans[span].parent
        return tuple(reversed(found))


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened beside the turns. A reward: ``Event(4, "reward", "agent", {"channel": "win",
    "value": 1.0})``. ``to`` = the seats that may know it (None: all)."""

    at: int
    kind: str
    seat: Seat | None = None
    content: Mapping[str, Any] = field(default_factory=dict)
    to: tuple[Seat, ...] | None = None
    branch: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """One judgement: a verdict, a gate's reason or a diagnosis. ``target`` holds any of the keys episode, seat, turn,
    message."""

    name: str
    target: Mapping[str, Any] = field(default_factory=dict)
    value: float | str | bool | None = None
    reason: str = ""
    source: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True)
class Score:
    """What a verifier gave one seat: ``Score(1.0, success=True, parts={"db": 1.0})``."""

    value: float | None
    """None = abstained, which is never zero."""
    success: bool | None = None
    parts: Mapping[str, float] = field(default_factory=dict)
    turns: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    """``Turn.at`` -> channel -> value, for credit by turn."""
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class PolicyInfo:
    """What sat in a seat: enough to say which weights wrote a token."""

    name: str
    kind: Literal["model", "scripted", "human", "endpoint"] = "scripted"
    version: int = 0
    weights_sha256: str = ""
    tokenizer_sha256: str = ""
    template_sha256: str = ""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    library: str = ""
    ends: tuple[int, ...] = ()
    """The token ids that end a reply; empty = unknown."""


@dataclass(frozen=True, slots=True)
class Episode:
    """One play of one task from start to stop, with everything that is needed to score and to train on it.

    ``seed`` fixes the world, and with ``trial`` every random draw of the seats: members of a group share ``seed`` and
    differ in ``trial``.
    """

    id: str
    task: Task
    seed: int
    group: str = ""
    trial: int = 0
    parent: str = ""
    """For a turn re-sampled outside play: the episode and turn that it re-answers, ``"<episode>#<at>"``."""
    iteration: int = 0
    train: frozenset[Seat] = frozenset()
    """The seats that learn; sub-seats go with their root."""
    cast: Mapping[Seat, PolicyInfo] = field(default_factory=dict)
    trajectories: tuple[Trajectory, ...] = ()
    events: tuple[Event, ...] = ()
    final: Mapping[str, Any] | None = None
    """The environment's last state, canonical JSON; None where it could not be read."""
    final_sha256: str = ""
    stop: Stop = Stop("done")
    error: str | None = None
    scores: Mapping[str, Mapping[Seat, Score]] = field(default_factory=dict)
    started: float = 0.0
    ended: float = 0.0
    source: Mapping[str, Any] | None = None
    """Of an imported episode: ``format`` and ``residual`` (JSON pointer -> what has no place here), so that it can be
    written back as it was; None for what was played here."""

    def trajectory(self, seat: Seat, policy: str | None = None) -> Trajectory | None:
        """The first trajectory of a seat (of one policy, if named); None if it never spoke."""
        mine = (t for t in self.trajectories if t.seat == seat and policy in (None, t.policy))
        return next(mine, None)

    def paid(self, seat: Seat, channel: str | None = None) -> float:
        """The sum of rewards paid to a seat in real play, over all channels or one."""
        return sum(
            float(event.content["value"])
            for event in self.events
            if event.kind == "reward" and event.seat == seat and not event.branch
            and channel in (None, event.content["channel"])
        )


Group: TypeAlias = tuple[Episode, ...]
"""Attempts at one task with one world seed."""


def root_of(seat: Seat) -> Seat:
    """The root seat of a seat path: ``root_of("agent/lead/helper") == "agent"``."""
    return seat.split("/", 1)[0]


def all_turns(episode: Episode) -> list[Turn]:
    """The turns of all trajectories of an episode, in order."""
    return sorted((turn for t in episode.trajectories for turn in t.turns), key=lambda turn: turn.at)


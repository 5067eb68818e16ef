"""What a user may bring: behaviour as Protocols of one to four methods. Nobody has to inherit.

An :class:`Env` asks, an :class:`Agent` answers through its :class:`polyturn.desk.Desk`, a :class:`Context` chooses
what the policy sees, a :class:`Policy` samples. A :class:`Suite` owns tasks and what episodes share.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, runtime_checkable

from polyturn.types import (
    Call,
    Episode,
    Event,
    Finding,
    Finish,
    FloatArray,
    Group,
    IntArray,
    Limits,
    Message,
    PolicyInfo,
    Sampling,
    Score,
    Seat,
    Span,
    SpanId,
    Stop,
    Task,
    Tool,
    Turn,
    Usage,
)

if TYPE_CHECKING:
    from polyturn.desk import Desk

# ---------------------------------------------------------------- environments


@dataclass(frozen=True, slots=True)
class Ask:
    """An environment's request that a seat act: ``Ask("agent", (user("Guess 1 to 16."),))``."""

    seat: Seat
    messages: tuple[Message, ...] = ()
    """New since this seat's last ask."""
    fresh: bool = False
    """True: ``messages`` replace all that the seat saw before."""
    hide: tuple[str, ...] = ()
    """Ids of earlier messages that the seat no longer sees."""
    tools: tuple[Tool, ...] = ()
    legal: tuple[str, ...] | None = None
    """The replies that the rules allow, as text; None = not enumerable."""


@dataclass(frozen=True, slots=True)
class Step:
    """What an environment answers. No asks and a ``stop`` = over.

    ``Step(asks=(Ask("agent", (user("too low"),)),), rewards={"agent": {"progress": 0.1}})``
    """

    asks: tuple[Ask, ...] = ()
    rewards: Mapping[Seat, Mapping[str, float]] = field(default_factory=dict)
    """Seat -> channel -> value, for what just happened; also for seats that wrote nothing."""
    events: tuple[Event, ...] = ()
    """``at`` is filled in by the match; an illegal move is an event of kind ``invalid`` with its seat."""
    stop: Stop | None = None


@runtime_checkable
class Env(Protocol):
    """One play of one task; single use. May also have ``async save() -> bytes`` for ``start(state)``; without it a
    copy is made by replay of the replies."""

    async def start(self, state: bytes | None = None) -> Step:
        """The opening, or what is asked where a saved state stood; called once, before anything else."""
        ...

    async def step(self, replies: Mapping[Seat, Message]) -> Step:
        """What follows from the replies of all seats that were asked last."""
        ...

    async def final(self) -> Mapping[str, Any]:
        """What verifiers may read of the end (JSON values, stored with the episode); once, after the last step."""
        ...

    async def close(self) -> None:
        """Frees what the play holds; called once, whatever happened before."""
        ...


@dataclass(frozen=True, slots=True)
class Spec:
    """What an environment promises before it is made."""

    name: str
    seats: tuple[Seat, ...] = ("agent",)
    limits: Limits = Limits()
    invalid: str = "none: every reply is legal"
    """The rule for an illegal reply, in a phrase."""
    licence: str = ""
    package: str = ""
    deterministic: bool = True
    """The same task, seed and replies give the same steps."""
    worker: Literal["none", "thread", "process"] = "none"
    """Where plain synchronous environments run. ``none``: its methods are async and never block."""
    step_timeout_s: float = 60.0
    """Deadline of one start, step, final or close."""
    score_timeout_s: float = 3600.0
    """Deadline of the verifier for all episodes that it is shown at once."""
    at_once: int | None = None
    """The most plays at the same time, where each holds much (a Java machine); None = as many as are asked for."""


@runtime_checkable
class Suite(Protocol):
    """Tasks of one kind and what their episodes share (a JVM, a browser, data).

    Optional members: ``verifier`` (a :class:`Verifier`), ``default_cast(task) -> Mapping[Seat, Agent maker]`` for seats
    that are no learners (opponents, simulated users), ``oracle(task)`` and ``null(task)`` (each gives an
    :data:`Answer`), ``report(groups) -> Mapping[str, float]``, ``parent(task) -> str`` (the stored turn
    ``"<episode>#<at>"`` that the task answers again: its episodes name it, and there is no environment to fork).
    """

    spec: Spec

    def tasks(self, split: str) -> Iterable[Task]:
        """The tasks of ``"train"`` (may be endless) or ``"test"`` (finite, held out)."""
        ...

    async def make(self, task: Task, seed: int) -> Env:
        """A fresh play of a task; the same seed gives the same world."""
        ...

    async def close(self) -> None:
        """Ends what the plays shared; none of them is open any more."""
        ...


Answer: TypeAlias = Callable[[Ask], Message]
"""A scripted player: the ask in, the reply out. It may keep state; make one per episode and seat."""

# ---------------------------------------------------------------- policies


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of prompt ids. ``span`` names the sampled span it was spliced from, None = rendered from text."""

    ids: IntArray
    span: SpanId | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """What a policy answered, with exactly what the model was fed."""

    message: Message
    prompt: tuple[Piece, ...] = ()
    """Empty = unknown (an endpoint that gives no ids, a person): then nothing can be trained on it."""
    ids: IntArray | None = None
    logprobs: FloatArray | None = None
    support: tuple[tuple[int, ...], ...] | None = None
    sampled: bool = True
    """False for a scripted reply that was only spelled in tokens: a demonstration."""
    finish: Finish = "stop"
    version: int = 0
    usage: Usage = Usage()


Written: TypeAlias = Callable[[Message], tuple[Piece, ...] | None]
"""The ids a message was sampled as, in pieces, or None for a message that must be rendered from its text."""


@runtime_checkable
class Policy(Protocol):
    """Something that continues a conversation. It never sees tasks or rewards."""

    name: str
    limit: int
    """The longest prompt and reply together, in tokens."""

    def info(self) -> PolicyInfo:
        """What the record keeps of it: model, weights, template, as they are now."""
        ...

    def count(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> int:
        """Tokens of the prompt that these messages make."""
        ...

    async def sample(
        self, messages: Sequence[Message], *, tools: Sequence[Tool] = (), sampling: Sampling = Sampling(),
        written: Written = lambda message: None,
    ) -> Completion:
        """One reply. A last message of role ``assistant`` is continued."""
        ...


@runtime_checkable
class Scoring(Protocol):
    """Probabilities of bare token paths that were never played."""

    async def logprobs(self, paths: Sequence[IntArray]) -> Sequence[FloatArray]:
        """Per path, log p(id_t | ids before t) for t >= 1; the first entry is NaN."""
        ...

    async def distributions(self, path: IntArray, *, first: int = 0) -> FloatArray:
        """Log-probabilities [T - first, V] of the next id after each position of one path from ``first`` on; what
        stands before ``first`` may come from a cache."""
        ...


# ---------------------------------------------------------------- agents


@runtime_checkable
class Agent(Protocol):
    """Plays one seat of one episode; made fresh for each."""

    async def act(self, ask: Ask, desk: Desk) -> Message:
        """The reply. What it waits for by itself, not through the desk, it names (:class:`polyturn.waits.Waiting`, with
        a deadline that it keeps): an act that is in no call and no named wait for ``call_timeout_s`` is ended."""
        ...


AgentMaker: TypeAlias = Callable[[], Agent]


@dataclass(frozen=True, slots=True)
class View:
    """What a context shows the policy. ``added`` = new messages (a summary) that enter the agent's log; they stand in
    ``messages`` too where they are to be seen."""

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    added: tuple[Message, ...] = ()


@runtime_checkable
class Context(Protocol):
    """From an agent's log to a view: a pure function of the log, or calls that are turns."""

    async def view(self, history: Sequence[Message], desk: Desk) -> View:
        """What is shown next of the agent's log so far, its oldest message first."""
        ...


@runtime_checkable
class Toolbox(Protocol):
    """Agent-side tools; calls by other names go to the environment. May also have ``async open()``, awaited before the
    tools are asked for, and ``async close()``, awaited when the episode ends; one toolbox serves one episode then."""

    def tools(self) -> tuple[Tool, ...]:
        """What may be called, as the policy is told."""
        ...

    async def call(self, call: Call) -> Message:
        """The answer to one call, of role ``tool``; what the tool cannot do is an answer too."""
        ...


# ---------------------------------------------------------------- running and learning


@dataclass(frozen=True, slots=True)
class Player:
    """Who sits in a seat: ``make()`` builds a fresh agent, ``policy`` names its model."""

    make: AgentMaker
    policy: str


@dataclass(frozen=True, slots=True)
class Match:
    """An order for a group: play ``task`` of ``suite`` ``rollouts`` times with the same world ``seed``."""

    suite: Suite
    task: Task
    cast: Mapping[Seat, Player]
    seed: int = 0
    rollouts: int = 1
    limits: Limits = Limits()
    """Per seat; the tightest of these, the task's and the spec's counts."""
    train: frozenset[Seat] = frozenset()
    """The seats that learn; empty = a probe."""
    start: bytes | None = None
    """A saved state to start from."""
    max_tokens: int | None = None
    """No reply of a seat that learns is longer, whatever its agent asks for; None = as it asks."""
    temperature: float | None = None
    """Of seats that learn, in place of what their agent asks for; a greedy call stays greedy. None = as it asks."""
    iteration: int = 0


Scores: TypeAlias = Mapping[str, Mapping[Seat, Score]]
"""Episode id -> seat -> score, as one verifier gives them."""


@runtime_checkable
class Verifier(Protocol):
    """Scores groups from their log and final state only (live checks belong into ``Env.final``).

    One that raises is asked again for fewer, down to single episodes; what it raises for then has no score and is an
    error. Abstaining is ``Score(None)``.
    """

    @property
    def name(self) -> str:
        """Under which the record keeps its scores."""
        ...

    async def __call__(self, groups: Sequence[Group]) -> Scores: ...


@runtime_checkable
class Curriculum(Protocol):
    """Decides what is played."""

    def propose(self, iteration: int) -> Sequence[Match]:
        """What is played in an iteration."""
        ...

    def observe(self, groups: Sequence[Group]) -> None:
        """Told of what was played, with its scores, before the next proposal."""
        ...


@runtime_checkable
class Witness(Protocol):
    """Who is told what is played, while it is; every :class:`Recorder` is one."""

    def turn(self, episode_id: str, turn: Turn, messages: Mapping[int, Message], spans: Mapping[int, Span]) -> None:
        """A turn as soon as it is sampled, with the messages and spans that are new to its trajectory, by index."""
        ...

    def episode(self, episode: Episode) -> None:
        """An episode that has ended, well or not."""
        ...


@runtime_checkable
class Recorder(Protocol):
    """Append-only record of a run; all that the dashboard and the audit read."""

    def turn(self, episode_id: str, turn: Turn, messages: Mapping[int, Message], spans: Mapping[int, Span]) -> None:
        """A turn as soon as it is sampled, with the messages and spans that are new to its trajectory, by index."""
        ...

    def episode(self, episode: Episode) -> None:
        """An episode that has ended, well or not; its turns were recorded before."""
        ...

    def scores(self, verifier: str, scores: Scores) -> None:
        """What a verifier gave to episodes that were recorded."""
        ...

    def unscored(self, verifier: str, failed: Mapping[str, tuple[str, str]]) -> None:
        """Episodes that the verifier could not score: id -> (reason in a line, traceback). They end in an error."""
        ...

    def credit(self, iteration: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """The credit of one update, a row a span (:func:`polyturn.record.credit.credit_rows` makes them)."""
        ...

    def metrics(self, iteration: int, values: Mapping[str, float], *, stage: str = "") -> None:
        """Numbers of an iteration (from 0) of a stage, by name."""
        ...


@runtime_checkable
class Stateful(Protocol):
    """Anything with memory. The state is JSON values and arrays; a checkpoint is a mapping of such states."""

    def state(self) -> Mapping[str, Any]:
        """All that it remembers, apart from later changes."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Remembers what the state holds, and nothing of before."""
        ...


@runtime_checkable
class Encoder(Protocol):
    """Vectors for retrieval, one row per item."""

    async def encode(self, parts: Sequence[str]) -> FloatArray:
        """[parts, size]: a vector for each text."""
        ...


Filter: TypeAlias = Callable[[Sequence[Group]], Sequence[Group]]
Gate: TypeAlias = Callable[[Sequence[Task | Episode]], Awaitable[Sequence[Finding]]]
Diagnosis: TypeAlias = Callable[[Sequence[Episode]], Awaitable[Sequence[Finding]]]

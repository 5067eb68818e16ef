"""Random episodes of every shape the types allow, their live recording, and equality that looks into arrays."""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np

from polyturn.protocols import Recorder
from polyturn.types import (
    Call,
    Episode,
    Event,
    Finding,
    Limits,
    Message,
    Part,
    PolicyInfo,
    Sampling,
    Score,
    Span,
    Stop,
    Task,
    Tool,
    Trajectory,
    Turn,
    Usage,
    all_turns,
)

TEXTS = (
    "", "hello", "naïve café", "漢字 🙂 \U0001f469\u200d\U0001f680", 'quote " \\ \n\t\r', "\x00\x1b\x7f",
    "\ufffd\u2028\u2029", "a" * 300, "<script>&amp;</script>", "null", "true",
)


def same(a: Any, b: Any) -> bool:
    """Equal in value and, inside arrays, in every bit; NaN equals NaN."""
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return type(a) is type(b) and a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if is_dataclass(a) and is_dataclass(b):
        return type(a) is type(b) and all(same(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and a == b


class Drawn:
    """Draws the pieces of an episode from one generator."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.plain = random.Random(seed)

    def maybe(self, value: Any, chance: float = 0.5) -> Any:
        return value if self.plain.random() < chance else None

    def count(self, most: int) -> int:
        return self.plain.randint(0, most)

    def text(self) -> str:
        return self.plain.choice(TEXTS)

    def number(self) -> float:
        """Any finite float: ordinary, tiny, huge, negative zero."""
        raw: float = struct.unpack("d", self.plain.randbytes(8))[0]
        usual = self.plain.choice([0.0, -0.0, 0.1, 1e-310])
        return raw if math.isfinite(raw) and self.plain.random() < 0.5 else usual

    def json(self, depth: int = 2) -> Any:
        kind = self.plain.randrange(8 if depth else 6)
        if kind >= 6:
            items = [self.json(depth - 1) for _ in range(self.count(3))]
            return items if kind == 6 else {f"{self.text()}{i}": item for i, item in enumerate(items)}
        return [None, True, self.plain.randint(-(2**62), 2**62), self.number(), self.text(), False][kind]

    def mapping(self) -> dict[str, Any]:
        return {f"k{i}{self.text()}": self.json() for i in range(self.count(3))}

    def floats(self) -> dict[str, float]:
        return {f"c{i}": self.number() for i in range(self.count(3))}

    def part(self) -> Part:
        kind = self.plain.choice(["text", "reasoning", "image", "audio", "video", "json", "array"])
        return Part(kind, self.text(), self.maybe("ab" * 32), self.maybe("image/png"), self.maybe(self.json()))  # type: ignore[arg-type]

    def call(self) -> Call:
        return Call(self.text(), self.text(), self.maybe(self.mapping()), self.text(), self.maybe(self.text()))

    def message(self, index: int, spans: tuple[Any, ...] = ()) -> Message:
        role = self.plain.choice(["system", "user", "assistant", "tool"])
        return Message(
            role, tuple(self.part() for _ in range(self.count(3))), f"m{index}", self.maybe(self.text()),  # type: ignore[arg-type]
            tuple(self.call() for _ in range(self.count(3))), self.maybe("c1"), "tool", "empty", "mocked", spans,
        )

    def span(self, parent: int) -> Span:
        length = self.count(6)
        sampled = bool(self.rng.random() < 0.6)
        unknown = self.rng.random(length) < 0.2
        logprobs = np.where(unknown, np.nan, -self.rng.exponential(size=length)) if sampled else None
        support = tuple(
            tuple(int(i) for i in self.rng.integers(0, 50_000, self.count(3))) for _ in range(length)
        ) if self.rng.random() < 0.4 else None
        ids = self.rng.integers(0, 2**31 - 1, length).astype(np.int32)
        return Span(parent, ids, sampled, logprobs, self.count(9), support, ("ab" * 32,) * self.count(2))

    def turn(self, at: int, seat: str, policy: str, prompt: int, reply: int, spans: tuple[int, ...]) -> Turn:
        return Turn(
            at, seat, policy, tuple(range(prompt)), reply, spans, "length", self.text(), self.text(), self.count(5),
            Sampling(float(self.count(2)), 0.9, 3, 7, ("\n",), self.maybe(("1", "2")), self.maybe(2**62)),
            Usage(1, 2, 3, self.maybe(0.1)), self.number(), self.number(), {}, "",
        )

    def stop(self) -> Stop:
        return Stop("truncated", self.text(), self.maybe("b"))

    def finding(self) -> Finding:
        value = [None, True, 0.1, "no"][self.count(3)]
        return Finding(self.text(), {"turn": 3, "seat": "b"}, value, self.text(), "judge", "2")

    def score(self) -> Score:
        turns = {i: self.floats() for i in range(self.count(2))}
        findings = tuple(self.finding() for _ in range(self.count(2)))
        return Score(self.maybe(self.number()), self.maybe(True), self.floats(), turns, findings)

    def trajectories(self) -> tuple[Trajectory, ...]:
        """2 to 4 seats and their sub-seats; the turns of all seats share one order."""
        roots = [f"seat.{i}" for i in range(int(self.rng.integers(2, 5)))]
        who: list[tuple[str, str, tuple[str, str] | None]] = [(seat, "main", None) for seat in roots]
        who += [(f"{seat}/helper", "other", (seat, "main")) for seat in roots if self.rng.random() < 0.3]
        order = list(range(4 * len(who)))
        self.rng.shuffle(order)
        return tuple(self.trajectory(seat, policy, parent, sorted(order[4 * i: 4 * i + self.count(4)]))
                     for i, (seat, policy, parent) in enumerate(who))

    def trajectory(self, seat: str, policy: str, parent: tuple[str, str] | None, ats: list[int]) -> Trajectory:
        messages: list[Message] = []
        spans: list[Span] = []
        turns: list[Turn] = []
        for at in ats:
            for _ in range(self.count(2)):
                messages.append(self.message(len(messages)))
            first = len(spans)
            for _ in range(self.count(3)):
                spans.append(self.span(int(self.rng.integers(-1, len(spans)))))
            own = tuple(range(first, len(spans)))
            messages.append(self.message(len(messages), tuple((seat, policy, i) for i in own)))
            turns.append(self.turn(at, seat, policy, len(messages) - 1, len(messages) - 1, own))
        tools = tuple(Tool(f"t{i}", self.text(), {"type": "object", "properties": {}}, "read") for i in range(
            self.count(2)))
        return Trajectory(seat, policy, parent, tuple(messages), tuple(turns), tuple(spans), self.maybe(self.stop()),
                          tools)

    def episode(self, name: str) -> Episode:
        """An episode as it stands when it ends, before verifiers looked at it."""
        paid = {"channel": "win", "value": 1.0}
        event = Event(3, "reward", self.maybe("seat.0"), paid, self.maybe(("seat.0", "b")), "")
        info = PolicyInfo("main", "model", 3, "ab", "cd", "ef", self.mapping(), "1.0")
        task = Task(self.text(), "guess", self.mapping(), Limits(3, None, 0, self.maybe(9), self.maybe(0.5)))
        return Episode(
            name, task, 2**62 + self.count(9), self.text(), self.count(9), self.text(), self.count(9),
            frozenset({"seat.0", "seat.1"}), {"seat.0": info}, self.trajectories(),
            tuple(event for _ in range(self.count(3))), self.maybe(self.mapping()), "ff" * 32, self.stop(),
            self.maybe(self.text()), {"exact": {"seat.0": self.score()}} if self.plain.random() < 0.3 else {},
            self.number(), self.number(), self.maybe({"format": "none", "residual": self.mapping()}),
        )


def live(episode: Episode, recorder: Recorder) -> Iterator[Turn]:
    """Records an episode's turns one by one, as a desk does; yields each once it is written."""
    told: dict[tuple[str, str], tuple[int, int]] = {}
    for turn in all_turns(episode):
        who = (turn.seat, turn.policy)
        trajectory = next(t for t in episode.trajectories if (t.seat, t.policy) == who)
        messages, spans = told.get(who, (0, 0))
        last_span = max(turn.spans, default=spans - 1) + 1
        recorder.turn(
            episode.id, turn, dict(enumerate(trajectory.messages[messages:turn.reply + 1], messages)),
            dict(enumerate(trajectory.spans[spans:last_span], spans)),
        )
        told[who] = (turn.reply + 1, last_span)
        yield turn


def ended(episode: Episode, drawn: Drawn) -> Episode:
    """The episode as it is when it ends: rewards laid on its turns, some turns taken back, some messages changed."""
    def later(trajectory: Trajectory) -> Trajectory:
        turns = tuple(replace(turn, rewards=drawn.floats(), dropped=drawn.maybe("took it back", 0.2) or "")
                      for turn in trajectory.turns)
        messages = tuple(replace(m, status="error") if drawn.plain.random() < 0.1 else m for m in trajectory.messages)
        more = (drawn.message(len(messages)),) * drawn.count(1)
        return replace(trajectory, turns=turns, messages=messages + more)

    return replace(episode, trajectories=tuple(later(t) for t in episode.trajectories))

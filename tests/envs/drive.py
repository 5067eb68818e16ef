"""Drives an environment with scripted players, with nothing else between them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from polyturn.protocols import Answer, Ask, Step
from polyturn.types import Episode, Message, Seat, Stop, Task, assistant


@dataclass
class Driven:
    """What a play gave."""

    steps: list[Step] = field(default_factory=list)
    said: list[dict[Seat, str]] = field(default_factory=list)
    final: Mapping[str, Any] = field(default_factory=dict)

    @property
    def stop(self) -> Stop:
        """The last step's."""
        stop = self.steps[-1].stop
        assert stop is not None
        return stop

    def heard(self, seat: Seat) -> list[str]:
        """What a seat read, ask by ask."""
        return ["\n".join(m.text for m in ask.messages) for step in self.steps for ask in step.asks if ask.seat == seat]

    def kinds(self) -> list[str]:
        """The kinds of all events, in order."""
        return [event.kind for step in self.steps for event in step.events]


async def drive(suite: Any, task: Task, seed: int, answers: Mapping[Seat, Answer]) -> Driven:
    """One play to its end."""
    env = await suite.make(task, seed)
    driven = Driven([await env.start()])
    while driven.steps[-1].asks:
        replies = {ask.seat: answers[ask.seat](ask) for ask in driven.steps[-1].asks}
        driven.said.append({seat: reply.text for seat, reply in replies.items()})
        driven.steps.append(await env.step(replies))
    driven.final = await env.final()
    await env.close()
    return driven


def saying(*texts: str) -> Answer:
    """A player with fixed replies; the last one is repeated."""
    left = list(texts)

    def play(ask: Ask) -> Message:
        return assistant(left.pop(0) if len(left) > 1 else left[0])

    return play


def episode(task: Task, driven: Driven, **more: Any) -> Episode:
    """A bare episode around a final state."""
    stop = more.pop("stop", None) or driven.stop
    return Episode(**{"id": task.id, "task": task, "seed": 0, "final": driven.final, "stop": stop, **more})


async def score(suite: Any, played: Sequence[Episode]) -> dict[str, float | None]:
    """Episode id -> the mean score over its seats (None = all abstained)."""
    scores = await suite.verifier([tuple(played)])
    return {name: _mean([one.value for one in by_seat.values()]) for name, by_seat in scores.items()}


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


async def mean_score(suite: Any, who: str, tasks: int = 200) -> float:
    """The mean score of the oracle, null or random player over the first test tasks."""
    total = 0.0
    for task in islice(suite.tasks("test"), tasks):
        makers = {"oracle": suite.oracle, "null": suite.null, "random": None}
        answers = {
            seat: suite.random_answer(task, 0, seat) if who == "random" else makers[who](task)
            for seat in suite.spec.seats
        }
        driven = await drive(suite, task, 0, answers)
        value = (await score(suite, [episode(task, driven)]))[task.id]
        assert value is not None
        total += value
    return total / tasks

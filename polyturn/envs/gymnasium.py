"""Any Gymnasium environment as a suite, with two functions of the user's: observation to text, and text to action.

The package is imported by the user's own ``make``; nothing here needs it.

>>> import gymnasium
>>> suite = Gymnasium(lambda: gymnasium.make("FrozenLake-v1", is_slippery=False), name="lake",
...                   say=lambda cell: f"You stand on cell {cell}.",
...                   parse=lambda text: ["left", "down", "right", "up"].index(text.strip()), returns=(0.0, 1.0))
>>> suite.spec.worker
'thread'
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from polyturn.envs.answers import check_seats, null_answer, random_answer
from polyturn.envs.score import FinalScore, scaled
from polyturn.envs.tasks import numbered
from polyturn.errors import BadInput
from polyturn.protocols import Answer, Ask, Spec, Step
from polyturn.seeds import derive
from polyturn.types import Event, Message, Part, Score, Seat, Stop, Task, user

Say = Callable[[Any], str | tuple[Part, ...]]
"""Observation -> what the agent reads."""
Parse = Callable[[str], Any]
"""The reply's text -> an action; raises ValueError, whose words the agent reads, for an illegal reply."""
Legal = Callable[[Any, Mapping[str, Any]], tuple[str, ...]]
"""(observation, info) -> the replies that the rules allow now."""


@dataclass(frozen=True, slots=True)
class Play:
    """How one environment is played: what :class:`Gymnasium` was given."""

    make: Callable[[], Any]
    say: Say
    parse: Parse
    rules: str
    legal: Legal | None
    retries: int
    max_steps: int | None
    lowest: float


class Gymnasium:
    """A :class:`polyturn.protocols.Suite` of a Gymnasium environment; each play runs in a thread of its own.

    ``returns`` = (lowest, highest) return; the score is ``(return - lowest) / (highest - lowest)``, clipped to 0..1,
    and the play is a success at ``solved_at`` (default: the highest). Each step's reward is paid in the channel
    ``reward``. An illegal reply may be tried again ``retries`` times in a row; the next one ends the play with the
    lowest return. ``terminated`` stops with ``done``, ``truncated`` (also after ``max_steps``) with ``truncated``.
    ``rules`` stand once, before the first observation.
    """

    def __init__(
        self, make: Callable[[], Any], say: Say, parse: Parse, *, name: str, returns: tuple[float, float],
        rules: str = "", legal: Legal | None = None, retries: int = 1, max_steps: int | None = None,
        solved_at: float | None = None, test_tasks: int = 64, licence: str = "MIT", package: str = "gymnasium",
        step_timeout_s: float = 60.0, figures: Mapping[str, float] | None = None,
        oracle: Callable[[Task], Answer] | None = None,
    ) -> None:
        if not returns[0] < returns[1]:
            raise BadInput(f"returns is {returns}; expected (lowest, highest)")
        if retries < 0 or (max_steps is not None and max_steps < 1):
            raise BadInput(f"retries is {retries} and max_steps {max_steps}; expected at least 0 and 1")
        self.play = Play(make, say, parse, rules, legal, retries, max_steps, returns[0])
        self.returns = returns
        self.solved_at = returns[1] if solved_at is None else solved_at
        self.test_tasks = test_tasks
        self.figures: Mapping[str, float] = figures or {}
        self.spec = Spec(
            name, licence=licence, package=package, worker="thread", step_timeout_s=step_timeout_s,
            invalid=f"{retries} retries in a row; the next illegal reply ends the play with the lowest return",
        )
        self.verifier = FinalScore(self.spec.seats, self._scores)
        self._oracle = oracle

    def tasks(self, split: str) -> Iterator[Task]:
        """``train`` without end, ``test`` of ``test_tasks`` tasks."""
        return numbered(self.spec.name, split, test=self.test_tasks)

    async def make(self, task: Task, seed: int) -> Any:
        """A plain synchronous environment, for :func:`polyturn.rollout.worker.in_worker`."""
        return GymnasiumEnv(self.play, derive("gymnasium", self.spec.name, task.id, seed))

    async def close(self) -> None:
        """Nothing is shared."""

    def oracle(self, task: Task) -> Answer:
        """A fresh scripted player. Raises: BadInput where none was given."""
        if self._oracle is None:
            raise BadInput(f"{self.spec.name} has no scripted player; pass oracle= to Gymnasium")
        return self._oracle(task)

    def null(self, task: Task) -> Answer:
        """The player that says nothing."""
        return null_answer

    def random_answer(self, task: Task, seed: int, seat: Seat = "agent") -> Answer:
        """Uniform over the legal replies (where ``legal`` was given)."""
        return random_answer(task, seed, seat)

    def _scores(self, final: Mapping[str, Any]) -> Mapping[Seat, Score]:
        if not final["over"]:
            return {}
        value = float(final["return"])
        return {"agent": Score(scaled(value, *self.returns), success=value >= self.solved_at, parts={"return": value})}


class GymnasiumEnv:
    """One play, with plain methods. The environment is made in ``start``, so in the thread that will step it."""

    def __init__(self, play: Play, world: int) -> None:
        self._play = play
        self._world = world % 2**31
        self._env: Any = None
        self._return = 0.0
        self._steps = 0
        self._failures = 0
        self._asked: tuple[Seat, ...] = ()
        self._stop: Stop | None = None
        self._ask: Ask = Ask("agent")

    def start(self, state: bytes | None = None) -> Step:
        """The rules and the first observation."""
        if state is not None:
            raise BadInput("Gymnasium environments save no state; replay the replies into a fresh environment")
        self._env = self._play.make()
        observation, info = self._env.reset(seed=self._world)
        return Step((self._asking(observation, info, self._play.rules),))

    def step(self, replies: Mapping[Seat, Message]) -> Step:
        """What the action did. Raises: BadInput for a wrong seat."""
        check_seats(self._asked, replies)
        text = replies["agent"].text
        try:
            action = self._play.parse(text)
        except ValueError as error:
            return self._illegal(text, str(error))
        self._failures = 0
        self._steps += 1
        observation, reward, terminated, truncated, info = self._env.step(action)
        self._return += float(reward)
        paid = {"agent": {"reward": float(reward)}}
        if terminated or truncated or self._steps == self._play.max_steps:
            self._end(Stop("done", "terminated") if terminated else Stop("truncated", f"after {self._steps} steps"))
            return Step((), paid, stop=self._stop)
        return Step((self._asking(observation, info),), paid)

    def final(self) -> Mapping[str, Any]:
        """``return`` so far, ``steps``, and whether the play is ``over``."""
        return {"return": self._return, "steps": self._steps, "over": self._stop is not None,
                "stop": self._stop.reason if self._stop else ""}

    def close(self) -> None:
        """Closes the environment."""
        env, self._env = self._env, None
        self._asked = ()
        if env is not None:
            env.close()

    def _asking(self, observation: Any, info: Mapping[str, Any], rules: str = "") -> Ask:
        said = self._play.say(observation)
        opening = (Part("text", f"{rules}\n"),) if rules else ()
        parts = (*opening, Part("text", said)) if isinstance(said, str) else (*opening, *said)
        legal = self._play.legal(observation, info) if self._play.legal else None
        self._asked = ("agent",)
        self._ask = Ask("agent", (Message("user", parts),), legal=legal)
        return self._ask

    def _illegal(self, text: str, reason: str) -> Step:
        self._failures += 1
        event = Event(0, "invalid", "agent", {"reply": text, "reason": reason})
        if self._failures > self._play.retries:
            self._return = self._play.lowest
            self._end(Stop("done", "illegal reply", "agent"))
            return Step(events=(event,), stop=self._stop)
        again = Ask("agent", (user(f"Illegal reply: {reason}. Try again."),), legal=self._ask.legal)
        return Step((again,), events=(event,))

    def _end(self, stop: Stop) -> None:
        self._stop = stop
        self._asked = ()

"""Any PettingZoo environment (turn by turn, or parallel) as a suite, with two functions of the user's.

The package is imported by the user's own ``make``; nothing here needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from polyturn.envs.answers import check_seats, null_answer, random_answer
from polyturn.envs.score import FinalScore, scaled
from polyturn.envs.tasks import numbered
from polyturn.errors import BadInput, EnvironmentFailed
from polyturn.protocols import Answer, Ask, Spec, Step
from polyturn.seeds import derive
from polyturn.types import Event, Message, Score, Seat, Stop, Task, user

Say = Callable[[Any, Seat], str]
"""(observation, seat) -> what the seat reads."""
Parse = Callable[[str, Seat], Any]
"""(the reply's text, seat) -> an action; raises ValueError for an illegal reply."""


@dataclass(frozen=True, slots=True)
class Play:
    """How one environment is played: what :class:`PettingZoo` was given."""

    make: Callable[[], Any]
    say: Say
    parse: Parse
    seats: tuple[Seat, ...]
    rules: str
    actions: tuple[str, ...] | None
    lowest: float


class PettingZoo:
    """A :class:`polyturn.protocols.Suite` of a PettingZoo environment; each play runs in a thread of its own.

    ``seats`` are the package's agent names. ``actions``: the text of each discrete action; with it the package's
    action mask becomes the legal replies, and a masked action is illegal. An illegal reply ends the play: its seat
    gets the lowest of ``returns``, the others no score. Rewards are paid in the channel ``reward`` when the package
    reports them, which for turn-by-turn environments is at the seat's next turn. A seat that the package has finished
    is stepped with ``None``, as it demands. The play stops with ``truncated`` when every seat ended so.

    A parallel environment asks all its live seats at once.
    """

    def __init__(
        self, make: Callable[[], Any], say: Say, parse: Parse, *, name: str, seats: Sequence[Seat],
        returns: tuple[float, float], rules: str = "", actions: Sequence[str] | None = None, test_tasks: int = 64,
        licence: str = "MIT", package: str = "pettingzoo", step_timeout_s: float = 60.0,
        figures: Mapping[str, float] | None = None, oracle: Callable[[Task], Answer] | None = None,
    ) -> None:
        if not returns[0] < returns[1]:
            raise BadInput(f"returns is {returns}; expected (lowest, highest)")
        listed = None if actions is None else tuple(actions)
        self.play = Play(make, say, parse, tuple(seats), rules, listed, returns[0])
        self.returns = returns
        self.test_tasks = test_tasks
        self.figures: Mapping[str, float] = figures or {}
        self.spec = Spec(
            name, tuple(seats), licence=licence, package=package, worker="thread", step_timeout_s=step_timeout_s,
            invalid="an illegal reply ends the play: the lowest return for its seat, no score for the others",
        )
        self.verifier = FinalScore(self.spec.seats, self._scores)
        self._oracle = oracle

    def tasks(self, split: str) -> Iterator[Task]:
        """``train`` without end, ``test`` of ``test_tasks`` tasks."""
        return numbered(self.spec.name, split, test=self.test_tasks)

    async def make(self, task: Task, seed: int) -> Any:
        """A plain synchronous environment, for :func:`polyturn.rollout.worker.in_worker`."""
        return PettingZooEnv(self.play, derive("pettingzoo", self.spec.name, task.id, seed))

    async def close(self) -> None:
        """Nothing is shared."""

    def oracle(self, task: Task) -> Answer:
        """A fresh scripted player. Raises: BadInput where none was given."""
        if self._oracle is None:
            raise BadInput(f"{self.spec.name} has no scripted player; pass oracle= to PettingZoo")
        return self._oracle(task)

    def null(self, task: Task) -> Answer:
        """The player that says nothing."""
        return null_answer

    def random_answer(self, task: Task, seed: int, seat: Seat = "agent") -> Answer:
        """Uniform over the legal replies (where ``actions`` was given)."""
        return random_answer(task, seed, seat)

    def _scores(self, final: Mapping[str, Any]) -> Mapping[Seat, Score]:
        returns: Mapping[Seat, float] = final["returns"] or {}
        middle = sum(self.returns) / 2
        return {seat: Score(scaled(value, *self.returns), success=value > middle, parts={"return": value})
                for seat, value in returns.items()}


class PettingZooEnv:
    """One play, with plain methods. The environment is made in ``start``, so in the thread that will step it."""

    def __init__(self, play: Play, world: int) -> None:
        self._play = play
        self._world = world % 2**31
        self._env: Any = None
        self._parallel = False
        self._asked: dict[Seat, tuple[str, ...] | None] = {}
        self._heard: set[Seat] = set()
        self._returns: dict[Seat, float] = dict.fromkeys(play.seats, 0.0)
        self._cut: dict[Seat, bool] = {}
        self._forfeited: tuple[Seat, ...] = ()
        self._over = False

    def start(self, state: bytes | None = None) -> Step:
        """The first asks. Raises: EnvironmentFailed when the package's agents are others than the seats."""
        if state is not None:
            raise BadInput("PettingZoo environments save no state; replay the replies into a fresh environment")
        self._env = self._play.make()
        self._parallel = not hasattr(self._env, "agent_iter")
        reset = self._env.reset(seed=self._world)
        if sorted(self._env.possible_agents) != sorted(self._play.seats):
            raise EnvironmentFailed(f"the package's agents are {self._env.possible_agents}; the suite was given "
                                    f"seats={list(self._play.seats)}")
        return Step(self._together(*reset)) if self._parallel else self._next()

    def step(self, replies: Mapping[Seat, Message]) -> Step:
        """Plays the replies. Raises: BadInput for wrong seats."""
        check_seats(self._asked, replies)
        actions, events = self._read(replies)
        self._asked = {}
        if events:
            self._over = True
            self._forfeited = tuple(event.seat for event in events if event.seat)
            return Step((), {}, events, Stop("done", "illegal reply", self._forfeited[0]))
        if not self._parallel:
            self._env.step(next(iter(actions.values())))
            return self._next()
        observations, rewards, terminated, truncated, infos = self._env.step(actions)
        self._cut |= {seat: bool(truncated[seat] and not terminated[seat]) for seat in actions}
        paid = self._paid({seat: float(reward) for seat, reward in rewards.items()})
        return Step(self._together(observations, infos), paid) if self._env.agents else self._end(paid)

    def final(self) -> Mapping[str, Any]:
        """``returns`` by seat (None while unfinished; of an illegal reply, the lowest for its seat alone)."""
        lost = dict.fromkeys(self._forfeited, self._play.lowest)
        return {"returns": (lost or dict(self._returns)) if self._over else None, "over": self._over,
                "forfeited_by": list(self._forfeited)}

    def close(self) -> None:
        """Closes the environment."""
        env, self._env = self._env, None
        self._asked = {}
        if env is not None:
            env.close()

    def _next(self) -> Step:
        """The next live seat's ask; finished seats are stepped with None on the way."""
        paid: dict[Seat, float] = {}
        while self._env.agents:
            seat = self._env.agent_selection
            observation, reward, terminated, truncated, info = self._env.last()
            paid[seat] = paid.get(seat, 0.0) + float(reward)
            if not (terminated or truncated):
                return Step((self._asking(seat, observation, info),), self._paid(paid))
            self._cut[seat] = bool(truncated and not terminated)
            self._env.step(None)
        return self._end(self._paid(paid))

    def _together(self, observations: Mapping[Seat, Any], infos: Mapping[Seat, Any]) -> tuple[Ask, ...]:
        return tuple(self._asking(seat, observations[seat], infos.get(seat, {})) for seat in self._env.agents)

    def _asking(self, seat: Seat, observation: Any, info: Mapping[str, Any]) -> Ask:
        rules = "" if seat in self._heard or not self._play.rules else f"{self._play.rules}\n"
        self._heard.add(seat)
        mask = info.get("action_mask")
        if mask is None and isinstance(observation, dict):
            mask = observation.get("action_mask")
        actions = self._play.actions
        legal = actions if mask is None or actions is None else tuple(
            text for text, allowed in zip(actions, mask, strict=True) if allowed)
        self._asked[seat] = legal
        return Ask(seat, (user(rules + self._play.say(observation, seat)),), legal=legal)

    def _read(self, replies: Mapping[Seat, Message]) -> tuple[dict[Seat, Any], tuple[Event, ...]]:
        actions, events = {}, []
        for seat, legal in self._asked.items():
            text = replies[seat].text
            try:
                action = self._play.parse(text, seat)
                texts = self._play.actions
                if texts is not None and legal is not None and action not in map(texts.index, legal):
                    raise ValueError(f"action {action} is not legal now")
                actions[seat] = action
            except ValueError as error:
                events.append(Event(0, "invalid", seat, {"reply": text, "reason": str(error)}))
        return actions, tuple(events)

    def _paid(self, rewards: Mapping[Seat, float]) -> dict[Seat, dict[str, float]]:
        for seat, reward in rewards.items():
            self._returns[seat] += reward
        return {seat: {"reward": reward} for seat, reward in rewards.items() if reward}

    def _end(self, paid: Mapping[Seat, Mapping[str, float]]) -> Step:
        self._over = True
        cut = bool(self._cut) and all(self._cut.values())
        return Step((), paid, (), Stop("truncated", "every seat was cut") if cut else Stop("done", "terminated"))

"""TextArena games (MIT, package ``textarena``), and :func:`guess_the_number` ready to play.

TextArena draws from Python's global generators. Every call into the package here runs under one lock with the
episode's own generator state in their place, and puts back what stood there before: nothing leaks in or out.
"""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from polyturn.envs.answers import check_seats, null_answer, random_answer
from polyturn.envs.score import FinalScore, scaled
from polyturn.envs.tasks import numbered
from polyturn.errors import BadInput, EnvironmentFailed, MissingPackage, UnknownName
from polyturn.protocols import Answer, Ask, Spec, Step
from polyturn.seeds import derive
from polyturn.types import Event, Limits, Message, Score, Seat, Stop, Task, assistant, user

ENVS = (
    {"name": "guess_the_number", "package": "textarena", "licence": "MIT", "seats": ("agent",),
     "oracle": 0.938, "random": 0.25, "null": 0.0},
)
LONGEST_REPLY = 4000
"""Characters of a reply that the package reads; Python refuses to read integers of more than 4300 digits."""
_GLOBAL_GENERATORS = threading.Lock()


def as_written(env: Any, player: int, kind: str, text: str) -> str:
    """The package's own text, unchanged."""
    return text


@dataclass(frozen=True, slots=True)
class Game:
    """A TextArena game and how it is played here: ``Game("KuhnPoker-v0", players=2)``."""

    id: str
    """Registered id without wrapper suffix."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of ``textarena.make``."""
    players: int = 1
    say: Callable[[Any, int, str, str], str] = as_written
    """(the package's env, player, kind of observation, its text) -> what the seat reads; empty = nothing."""
    legal: Callable[[Any], tuple[str, ...]] | None = None
    """The replies that the rules allow now; None = not enumerable."""
    over: Callable[[Any], tuple[str, Mapping[int, float]] | None] = lambda env: None
    """An end that the package leaves out: (reason, reward by player)."""
    low: float = 0.0
    """Lowest reward; the score is ``(reward - low) / (high - low)`` unless ``solved_only``."""
    high: float = 1.0
    solved_only: bool = False
    """True: the score is 1 at the highest reward, else 0; the reward stands beside it in ``Score.parts``."""
    channel: str = "reward"
    """The channel in which the package's reward is paid."""

    def seats(self) -> tuple[Seat, ...]:
        """``("agent",)``, or ``("player_0", "player_1", ...)``."""
        return ("agent",) if self.players == 1 else tuple(f"player_{player}" for player in range(self.players))


class TextArena:
    """A :class:`polyturn.protocols.Suite` of one TextArena game; task and seed draw the world.

    Invalid replies follow the package: most games allow one retry, and a second invalid reply in a row loses. Each is
    an event of kind ``invalid``. Observations arrive as they are new (no log is repeated), so token paths extend.

    >>> TextArena(Game("KuhnPoker-v0", players=2, low=-1.0)).spec.seats
    ('player_0', 'player_1')
    """

    def __init__(
        self, game: Game, *, name: str | None = None, test_tasks: int = 64,
        limits: Limits = Limits(env_steps=200), figures: Mapping[str, float] | None = None,
        oracle: Callable[[], Answer] | None = None,
    ) -> None:
        self.game = game
        self.test_tasks = test_tasks
        self.figures: Mapping[str, float] = figures or {}
        self.spec = Spec(
            name or game.id, game.seats(), limits, licence="MIT", package="textarena",
            invalid="TextArena's own: usually one retry; a second invalid reply in a row loses",
        )
        self.verifier = FinalScore(self.spec.seats, self._scores)
        self._oracle = oracle

    def tasks(self, split: str) -> Iterator[Task]:
        """``train`` without end, ``test`` of ``test_tasks`` tasks."""
        return numbered(self.spec.name, split, test=self.test_tasks, limits=self.spec.limits)

    async def make(self, task: Task, seed: int) -> TextArenaEnv:
        """One play, its world drawn from the task's id and the seed."""
        return TextArenaEnv(self.game, derive("textarena", self.game.id, task.id, seed))

    async def close(self) -> None:
        """Nothing is shared."""

    def oracle(self, task: Task) -> Answer:
        """A fresh scripted solver. Raises: BadInput for a game without one."""
        if self._oracle is None:
            raise BadInput(f"{self.spec.name} has no scripted solver; pass oracle= to TextArena")
        return self._oracle()

    def null(self, task: Task) -> Answer:
        """The player that says nothing."""
        return null_answer

    def random_answer(self, task: Task, seed: int, seat: Seat = "agent") -> Answer:
        """Uniform over the legal replies (games that list them)."""
        return random_answer(task, seed, seat)

    def _scores(self, final: Mapping[str, Any]) -> Mapping[Seat, Score]:
        rewards: Mapping[Seat, float] = final["rewards"] or {}
        return {seat: self._score(reward) for seat, reward in rewards.items()}

    def _score(self, reward: float) -> Score:
        solved = reward >= self.game.high
        if self.game.solved_only:
            return Score(float(solved), success=solved, parts={self.game.channel: reward})
        return Score(scaled(reward, self.game.low, self.game.high), success=solved)


class TextArenaEnv:
    """One play of a TextArena game. No ``save``: a copy is made by replay."""

    def __init__(self, game: Game, world: int) -> None:
        self._game = game
        self._random = _Generators(world)
        self._world = world % 2**32
        self._seats = game.seats()
        self._env: Any = None
        self._asked: tuple[Seat, ...] = ()
        self._invalid: list[str] = []
        self._rewards: dict[Seat, float] | None = None
        self._reason = ""

    async def start(self, state: bytes | None = None) -> Step:
        """The first ask, with the rules. Raises: UnknownName for a game that the package does not have."""
        if state is not None:
            raise BadInput("TextArena games save no state; replay the replies into a fresh environment")
        with self._random.in_place():
            self._env = _made(self._game)
            self._env.reset(num_players=self._game.players, seed=self._world)
            self._env.state.set_invalid_move = self._noting(self._env.state.set_invalid_move)
            return self._ask(())

    async def step(self, replies: Mapping[Seat, Message]) -> Step:
        """What follows a reply. Raises: BadInput for a wrong seat; EnvironmentFailed when the package raises."""
        check_seats(self._asked, replies)
        seat = self._asked[0]
        self._asked = ()
        self._invalid.clear()
        text = replies[seat].text[:LONGEST_REPLY]
        with self._random.in_place():
            try:
                done, _ = self._env.step(text)
            except Exception as error:
                raise EnvironmentFailed(f"textarena {self._game.id} raised at the reply {text[:80]!r}: {error!r}; "
                                        "this is a fault of the package, not of the player") from error
            events = tuple(Event(0, "invalid", seat, {"reply": text, "reason": reason}) for reason in self._invalid)
            return self._end(events) if done else self._ended_here(events) or self._ask(events)

    async def final(self) -> Mapping[str, Any]:
        """``rewards`` by seat (None while unfinished), ``reason``, and what the package kept of the game."""
        if self._env is None:
            return {"game": self._game.id, "rewards": None, "reason": "", "log": []}
        log = [[int(who), str(text)] for who, text in self._env.state.logs]
        return {"game": self._game.id, "rewards": self._rewards, "reason": self._reason, "log": log}

    async def close(self) -> None:
        """Nothing to free."""
        self._asked = ()

    def _noting(self, set_invalid_move: Callable[..., Any]) -> Callable[..., Any]:
        def noting(*args: Any, **named: Any) -> Any:
            self._invalid.append(str(named.get("reason", args[0] if args else "")))
            return set_invalid_move(*args, **named)

        return noting

    def _ask(self, events: tuple[Event, ...]) -> Step:
        player, observations = self._env.get_observation()
        texts = []
        for who, text, kind in observations:
            if kind.name != "PLAYER_ACTION":
                texts.append(self._game.say(self._env, player, kind.name, text))
            elif who != player:
                texts.append(self._game.say(self._env, player, kind.name, f"Player {who}: {text}"))
        said = "\n".join(text for text in texts if text)
        seat = self._seats[player]
        self._asked = (seat,)
        legal = self._game.legal(self._env) if self._game.legal else None
        return Step((Ask(seat, (user(said),) if said else (), legal=legal),), events=events)

    def _ended_here(self, events: tuple[Event, ...]) -> Step | None:
        over = self._game.over(self._env)
        if over is None:
            return None
        self._reason, rewards = over
        return self._paid(rewards, events)

    def _end(self, events: tuple[Event, ...]) -> Step:
        rewards, info = self._env.close()
        self._reason = str(next((info[player]["reason"] for player in info if "reason" in info[player]), ""))
        return self._paid(rewards, events)

    def _paid(self, rewards: Mapping[int, float], events: tuple[Event, ...]) -> Step:
        self._rewards = {self._seats[player]: float(reward) for player, reward in sorted(rewards.items())}
        by_seat = {seat: {self._game.channel: reward} for seat, reward in self._rewards.items()}
        return Step((), by_seat, events, Stop("done", self._reason))


class _Generators:
    """The global generators of ``random`` and ``numpy.random``, as one episode sees them."""

    def __init__(self, seed: int) -> None:
        numpy_state = np.random.RandomState(seed % 2**32).get_state()
        self._states: tuple[Any, Any] = (random.Random(seed).getstate(), numpy_state)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The episode's states stand in the globals; afterwards those of before stand there again."""
        with _GLOBAL_GENERATORS:
            before = (random.getstate(), np.random.get_state())
            random.setstate(self._states[0])
            np.random.set_state(self._states[1])
            try:
                yield
            finally:
                self._states = (random.getstate(), np.random.get_state())
                random.setstate(before[0])
                np.random.set_state(before[1])


def _made(game: Game) -> Any:
    try:
        import textarena
        from textarena.envs.registration import ENV_REGISTRY
    except ImportError as error:
        raise MissingPackage("textarena", "games") from error
    if f"{game.id}-raw" not in ENV_REGISTRY:
        raise UnknownName("TextArena game", game.id, (name[:-4] for name in ENV_REGISTRY if name.endswith("-raw")))
    return textarena.make(f"{game.id}-raw", **game.options)


# ---------------------------------------------------------------- guess the number


def guess_the_number(*, highest: int = 16, guesses: int = 4, test_tasks: int = 64) -> TextArena:
    """The suite of TextArena ``GuessTheNumber-v0`` from 1 to ``highest`` in ``guesses`` guesses.

    Score: 1 when solved, else 0. The package's reward for a near miss is paid in the channel ``partial`` and is no
    part of the score. The package would allow one guess more than it promises; here the play ends after as many valid
    guesses as the prompt says. A reply is read as the package reads it: the first ``[number]`` in it counts. A number
    outside the range, a repeated one or none at all is invalid: one retry, then the game is lost.

    At the default size (exact; 2,000 tasks measured 0.937 and 0.244): oracle (binary search) 15/16 = 0.938, random
    4/16 = 0.250, null 0.
    """
    if highest < 2 or guesses < 1:
        raise BadInput(f"highest is {highest} and guesses {guesses}; expected at least 2 and 1")
    game = Game(
        "GuessTheNumber-v0", {"min_number": 1, "max_number": highest, "max_turns": guesses},
        say=_say_guess, legal=_legal_guesses, over=_no_guess_left, solved_only=True, channel="partial",
    )
    reachable = min(highest, 2**guesses - 1) / highest
    return TextArena(
        game, name="guess_the_number", test_tasks=test_tasks, limits=Limits(env_steps=2 * guesses),
        figures={"oracle": reachable, "random": min(1.0, guesses / highest), "null": 0.0}, oracle=BinarySearch,
    )


def _say_guess(env: Any, player: int, kind: str, text: str) -> str:
    left = env.max_turns - env.state.turn
    if kind == "PROMPT":
        return (f"Guess my number from {env.min_number} to {env.max_number}. You have {left} guesses. "
                f"Reply with one number in square brackets, like [5].")
    if kind == "GAME_ADMIN":
        return (f"Invalid guess. Reply with a new number from {env.min_number} to {env.max_number} in square "
                "brackets, like [5]. A second invalid reply loses.")
    guess, hint = env.state.game_state["guess_history"][-1]
    return f"The number is {hint} than {guess}. Guesses left: {left}."


def _legal_guesses(env: Any) -> tuple[str, ...]:
    numbers = range(env.min_number, env.max_number + 1)
    return tuple(f"[{number}]" for number in numbers if number not in env.guessed_numbers)


def _no_guess_left(env: Any) -> tuple[str, Mapping[int, float]] | None:
    if env.state.turn < env.max_turns:
        return None
    return f"no guess left; the number was {env.game_number}", {0: env._get_percentage_completion()}


class BinarySearch:
    """An :data:`polyturn.protocols.Answer` that halves the range, read from the words of the asks alone."""

    def __init__(self) -> None:
        self.low, self.high = 1, 1

    def __call__(self, ask: Ask) -> Message:
        """The middle of what is still possible, as ``[number]``."""
        text = " ".join(message.text for message in ask.messages)
        if opening := re.search(r"from (\d+) to (\d+)\. You have", text):
            self.low, self.high = int(opening[1]), int(opening[2])
        for word, number in re.findall(r"is (higher|lower) than (\d+)", text):
            if word == "higher":
                self.low = max(self.low, int(number) + 1)
            else:
                self.high = min(self.high, int(number) - 1)
        return assistant(f"[{(self.low + self.high) // 2}]")

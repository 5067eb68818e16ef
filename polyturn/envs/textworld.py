"""TextWorld games (MIT, package ``textworld``): generated text adventures, each made once and kept.

The package plays its games through Jericho, which is under the GPL: it is an extra, and Polyturn's own code links to
neither. A game takes seconds to generate, so games are files in the cache folder, named by all that they depend on.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from polyturn.cache import cache_folder
from polyturn.envs.answers import check_seats, null_answer, random_answer
from polyturn.envs.score import FinalScore, scaled
from polyturn.envs.tasks import SPLITS
from polyturn.errors import BadInput, EnvironmentFailed, MissingPackage, UnknownName
from polyturn.protocols import Answer, Ask, Spec, Step
from polyturn.seeds import derive
from polyturn.types import Event, Limits, Message, Score, Seat, Stop, Task, assistant, user

ENVS = (
    {"name": "coin_collector", "package": "textworld", "extra": "textworld",
     "licence": "MIT (its dependency jericho: GPL-2.0)",
     "seats": ("agent",), "oracle": 1.0, "random": 0.525, "null": 0.0},
)
CHALLENGES: Mapping[str, str] = {
    "coin_collector": "textworld.challenges.tw_coin_collector.coin_collector",
    "treasure_hunter": "textworld.challenges.tw_treasure_hunter.treasure_hunter",
}
"""Challenge -> the module of the package whose ``make(settings, options)`` generates it."""
_ALONE = threading.RLock()
"""The package draws from a generator of the whole process, and its import from numpy's."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What a game is generated from, but for its seed: ``Kind("coin_collector", ({"level": 102}, {"level": 103}))``."""

    challenge: str
    settings: tuple[Mapping[str, Any], ...]
    """The challenge's own settings; the n-th game takes them in turn."""
    only_last_action: bool = True
    """The objective names the last action alone, not the way."""


class TextWorld:
    """A :class:`polyturn.protocols.Suite` of generated games. A task is one game, whatever the seed.

    ``train`` goes through ``games`` games round and round, ``test`` through ``test_tasks`` others. A reply is one of
    the commands that the game admits, which every ask lists as legal; another one is not shown to the game (it would
    understand ``quit`` and ``restore``), changes nothing and spends the step. Each play runs in a thread of its own.
    """

    def __init__(
        self, kind: Kind, *, name: str | None = None, games: int = 32, test_tasks: int = 16, steps: int = 40,
        figures: Mapping[str, float] | None = None, folder: str | Path | None = None,
    ) -> None:
        if kind.challenge not in CHALLENGES:
            raise UnknownName("TextWorld challenge", kind.challenge, CHALLENGES)
        if not kind.settings or min(games, test_tasks, steps) < 1:
            raise BadInput(f"games is {games}, test_tasks {test_tasks}, steps {steps}, settings {kind.settings}; "
                           "expected at least one of each")
        self.kind, self.games, self.test_tasks, self.steps = kind, games, test_tasks, steps
        self.folder = Path(folder) if folder else cache_folder() / "textworld"
        self.figures: Mapping[str, float] = figures or {}
        self.spec = Spec(
            name or kind.challenge, limits=Limits(env_steps=steps), package="textworld", worker="thread",
            licence="MIT (its dependency jericho: GPL-2.0)",
            invalid="nothing happens, and the step is spent", step_timeout_s=300.0,
        )
        self.verifier = FinalScore(self.spec.seats, _scores)

    def tasks(self, split: str) -> Iterator[Task]:
        """The games of a split. Raises: UnknownName."""
        if split not in SPLITS:
            raise UnknownName("split", split, SPLITS)
        indices = (index % self.games for index in count()) if split == "train" else iter(range(self.test_tasks))
        name = self.spec.name
        return (
            Task(f"{name}/{split}/{index}", name, {"settings": dict(self._settings(index))}) for index in indices
        )

    def _settings(self, index: int) -> Mapping[str, Any]:
        return self.kind.settings[index % len(self.kind.settings)]

    async def make(self, task: Task, seed: int) -> Any:
        """A plain synchronous environment, for :func:`polyturn.rollout.worker.in_worker`; the game is generated when
        it starts, if it was not before."""
        return TextWorldEnv(lambda: self.game(task), self.steps)

    async def close(self) -> None:
        """Nothing is shared."""

    def game(self, task: Task) -> Path:
        """The file of a task's game. Raises: MissingPackage, EnvironmentFailed where it cannot be generated."""
        return generated(self.kind, task, self.folder)

    def oracle(self, task: Task) -> Answer:
        """The player that follows the game's own walkthrough."""
        left: list[str] | None = None

        def play(ask: Ask) -> Message:
            nonlocal left
            left = walkthrough(self.game(task)) if left is None else left
            return assistant(left.pop(0))

        return play

    def null(self, task: Task) -> Answer:
        """The player that says nothing."""
        return null_answer

    def random_answer(self, task: Task, seed: int, seat: Seat = "agent") -> Answer:
        """Uniform over the admissible commands."""
        return random_answer(task, seed, seat)


def coin_collector(
    *, lengths: Sequence[int] = (2, 3, 4, 5), dead_ends: bool = True, games: int = 32, test_tasks: int = 16,
    steps: int = 40,
) -> TextWorld:
    """The suite of coin collecting: rooms in a chain of ``lengths`` (each in turn), a coin in the last one; with
    ``dead_ends`` as many rooms again beside the chain. Nothing is paid before the coin is taken: score 1, else 0.

    At the default (16 tasks, 10 plays each): oracle 1, random 0.525, null 0.
    Raises: BadInput for lengths outside 1..50.
    """
    if not lengths or not 1 <= min(lengths) <= max(lengths) <= 50:
        raise BadInput(f"lengths is {list(lengths)}; expected numbers of rooms of 1 to 50")
    kind = Kind("coin_collector", tuple({"level": 100 * dead_ends + length} for length in lengths))
    default = (tuple(lengths), dead_ends, steps) == ((2, 3, 4, 5), True, 40)
    figures = {"random": 0.525} if default else {}
    return TextWorld(kind, games=games, test_tasks=test_tasks, steps=steps, figures=figures)


# ---------------------------------------------------------------- games


def package() -> Any:
    """The package, with numpy's global generator as it was: its import draws a seed there. Raises: MissingPackage."""
    with _ALONE:
        kept = np.random.get_state()
        try:
            import textworld
        except ImportError as error:
            raise MissingPackage("textworld", "textworld") from error
        finally:
            np.random.set_state(kept)
    return textworld


def generated(kind: Kind, task: Task, folder: Path) -> Path:
    """The file of a game, generated if it is not in ``folder``: a ``.z8`` story with its ``.json`` beside it."""
    textworld, settings = package(), task.payload["settings"]
    key = json.dumps([textworld.__version__, kind.challenge, settings, kind.only_last_action, task.id], sort_keys=True)
    story = folder / f"{kind.challenge}-{hashlib.sha256(key.encode()).hexdigest()[:24]}.z8"
    with _ALONE:
        if not story.exists():
            _generate(kind, settings, derive("textworld", task.id) % 2**31, story)
    return story


def _generate(kind: Kind, settings: Mapping[str, Any], seed: int, story: Path) -> None:
    """Makes a game beside its place and moves it there, the story last, so that a story has its ``.json``."""
    from importlib import import_module

    textworld = package()
    options = textworld.GameOptions()
    options.seeds = seed
    options.grammar.only_last_action = kind.only_last_action
    textworld.g_rng.set_seed(seed)
    story.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=story.parent) as place:
        options.path = str(Path(place) / story.name)
        try:
            game = import_module(CHALLENGES[kind.challenge]).make(dict(settings), options)
            made = textworld.generator.compile_game(game, options)
        except Exception as error:
            raise EnvironmentFailed(f"textworld could not generate {kind.challenge} {settings}: {error}") from error
        for suffix in (".json", ".z8"):
            shutil.move(Path(made).with_suffix(suffix), story.with_suffix(suffix))


def walkthrough(story: Path) -> list[str]:
    """The commands that win a game. Raises: EnvironmentFailed for a game that has none."""
    with _ALONE:
        found = package().Game.load(str(story.with_suffix(".json"))).walkthrough
    if not found:
        raise EnvironmentFailed(f"the game {story.name} has no walkthrough")
    return [str(command) for command in found]


def cleaned(text: str) -> str:
    """What the game says, without empty lines, its status line and its words after the end.

    >>> cleaned("\\n\\n-= Den =-\\nA den.  \\n\\n\\n    *** The End ***\\nWould you like to RESTART")
    '-= Den =-\\nA den.'
    >>> cleaned("A coin.\\n>      -= Den =-0/3")
    'A coin.'
    """
    told = re.split(r"\*\*\* (?:The End|You lost!) \*\*\*", text, maxsplit=1)[0]
    lines = (line.strip() for line in told.splitlines())
    return "\n".join(line for line in lines if line and not re.fullmatch(r">.*-= .* =-\d+/\d+", line))


def _scores(final: Mapping[str, Any]) -> Mapping[Seat, Score]:
    if not final["over"]:
        return {}
    return {"agent": Score(scaled(final["score"], 0.0, final["max_score"]), success=final["won"])}


# ---------------------------------------------------------------- one play


class TextWorldEnv:
    """One play of a game, with plain methods. No ``save``: a copy is made by replay."""

    def __init__(self, story: Callable[[], Path], steps: int) -> None:
        self._story, self._most = story, steps
        self._env: Any = None
        self._state: Any = None
        self._steps = 0
        self._legal: tuple[str, ...] = ()
        self._asked: tuple[Seat, ...] = ()

    def start(self, state: bytes | None = None) -> Step:
        """The objective and the first room."""
        if state is not None:
            raise BadInput("TextWorld games save no state; replay the replies into a fresh environment")
        story, textworld = self._story(), package()
        infos = textworld.EnvInfos(
            admissible_commands=True, won=True, lost=True, score=True, max_score=True, objective=True, description=True,
        )
        with _ALONE, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # jericho knows no scores of generated games; textworld does
            self._env = textworld.start(str(story), infos)
        self._state = self._env.reset()
        return Step((self._ask(f"{self._state.objective}\n{self._state.description}"),))

    def step(self, replies: Mapping[Seat, Message]) -> Step:
        """What the game answers. Raises: BadInput for a wrong seat."""
        check_seats(self._asked, replies)
        text = replies["agent"].text
        command = " ".join(text.lower().split())
        self._steps += 1
        events: tuple[Event, ...] = ()
        said = "You cannot do that."
        if command in self._legal:
            self._state, _, _ = self._env.step(command)
            said = self._state.feedback
        else:
            events = (Event(0, "invalid", "agent", {"reply": text, "reason": "not admissible"}),)
        if self._state.won or self._state.lost:
            self._asked = ()
            return Step(events=events, stop=Stop("done", "won" if self._state.won else "lost"))
        if self._steps == self._most:
            self._asked = ()
            return Step(events=events, stop=Stop("truncated", f"after {self._steps} steps"))
        return Step((self._ask(said),), events=events)

    def final(self) -> Mapping[str, Any]:
        """``score`` of ``max_score``, whether the game is ``won`` or ``over``, and the ``steps``."""
        state = self._state
        if state is None:
            return {"score": 0, "max_score": 1, "won": False, "over": False, "steps": 0}
        won, lost = bool(state.won), bool(state.lost)
        return {"score": int(state.score or 0), "max_score": int(state.max_score), "won": won, "over": won or lost,
                "steps": self._steps}

    def close(self) -> None:
        """Closes the game."""
        env, self._env = self._env, None
        self._asked = ()
        if env is not None:
            env.close()

    def _ask(self, said: str) -> Ask:
        self._asked = ("agent",)
        self._legal = tuple(sorted({" ".join(command.lower().split()) for command in self._state.admissible_commands}))
        return Ask("agent", (user(cleaned(said)),), legal=self._legal)

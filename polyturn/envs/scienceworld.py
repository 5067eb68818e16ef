"""ScienceWorld (Apache-2.0, package ``scienceworld``): school experiments in a simulated house, through Java.

Every play has a Java machine of its own, which ends with it. A task is one variation of one of the package's tasks, and
the world is that variation whatever the seed. The scripted solver walks the package's gold path.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any

from polyturn.envs.answers import check_seats, null_answer, random_answer
from polyturn.envs.score import FinalScore
from polyturn.envs.tasks import SPLITS
from polyturn.errors import BadInput, MissingPackage, UnknownName
from polyturn.protocols import Answer, Ask, Spec, Step
from polyturn.types import Event, Limits, Message, Score, Seat, Stop, Task, assistant, user

ENVS = (
    {"name": "science_world", "package": "scienceworld", "extra": "scienceworld", "licence": "Apache-2.0",
     "seats": ("agent",), "oracle": 1.0, "random": None, "null": 0.0},
)
VARIATIONS: Mapping[str, tuple[int, int, int]] = {
    "boil": (14, 21, 30),
    "change-the-state-of-matter-of": (14, 21, 30),
    "chemistry-mix": (16, 24, 32),
    "chemistry-mix-paint-secondary-color": (18, 27, 36),
    "chemistry-mix-paint-tertiary-color": (18, 27, 36),
    "find-animal": (150, 225, 300),
    "find-living-thing": (150, 225, 300),
    "find-non-living-thing": (150, 225, 300),
    "find-plant": (150, 225, 300),
    "freeze": (14, 21, 30),
    "grow-fruit": (62, 93, 126),
    "grow-plant": (62, 93, 126),
    "identify-life-stages-1": (6, 9, 14),
    "identify-life-stages-2": (4, 6, 10),
    "inclined-plane-determine-angle": (84, 126, 168),
    "inclined-plane-friction-named-surfaces": (692, 1038, 1386),
    "inclined-plane-friction-unnamed-surfaces": (80, 120, 162),
    "lifespan-longest-lived": (62, 93, 125),
    "lifespan-longest-lived-then-shortest-lived": (62, 93, 125),
    "lifespan-shortest-lived": (62, 93, 125),
    "measure-melting-point-known-substance": (218, 327, 436),
    "measure-melting-point-unknown-substance": (150, 225, 300),
    "melt": (14, 21, 30),
    "mendelian-genetics-known-plant": (60, 90, 120),
    "mendelian-genetics-unknown-plant": (240, 360, 480),
    "power-component": (10, 15, 20),
    "power-component-renewable-vs-nonrenewable-energy": (10, 15, 20),
    "test-conductivity": (450, 675, 900),
    "test-conductivity-of-unknown-substances": (300, 450, 600),
    "use-thermometer": (270, 405, 540),
}
"""Task of the package -> its variations: 0 up to the first number train, the second up to the third test."""
EASY = "easy"
"""All simplifications of the package: open doors, teleporting, plants that water themselves, and so on."""
UNKNOWN = ("No known action matches that input", "Ambiguous request", "Unknown action")
CLOSE_S = 5.0
AT_ONCE = 8
"""Plays at the same time, each with a Java machine of 150 to 330 MB."""


class ScienceWorld:
    """A :class:`polyturn.protocols.Suite` of tasks of the package; made by :func:`science_world`."""

    def __init__(
        self, topics: Sequence[str], simplification: str, steps: int, test_tasks: int, list_legal: bool
    ) -> None:
        self.topics, self.simplification, self.steps = tuple(topics), simplification, steps
        self.test_tasks, self.list_legal = test_tasks, list_legal
        self.figures: Mapping[str, float] = {"oracle": 1.0}
        self.spec = Spec(
            "science_world", limits=Limits(env_steps=steps), licence="Apache-2.0", package="scienceworld",
            worker="thread", invalid="the simulator does not know it, and the step is spent", step_timeout_s=180.0,
            at_once=AT_ONCE,
        )
        self.verifier = FinalScore(self.spec.seats, _scores)

    def tasks(self, split: str) -> Iterator[Task]:
        """Each topic in turn, with the package's own split of its variations; ``train`` goes round without end.

        Raises: UnknownName.
        """
        if split not in SPLITS:
            raise UnknownName("split", split, SPLITS)
        if split == "train":
            return (self._task(split, n, VARIATIONS[self._topic(n)][0], 0) for n in count())
        spans = (VARIATIONS[topic] for topic in self.topics)
        most = sum(end - start for _, start, end in spans)
        turns = (
            self._task(split, n, end - start, start) for n in count()
            for _, start, end in (VARIATIONS[self._topic(n)],) if n // len(self.topics) < end - start
        )
        return (next(turns) for _ in range(min(most, self.test_tasks)))

    def _topic(self, number: int) -> str:
        return self.topics[number % len(self.topics)]

    def _task(self, split: str, number: int, size: int, first: int) -> Task:
        topic, variation = self._topic(number), first + (number // len(self.topics)) % size
        payload = {"topic": topic, "variation": variation}
        return Task(f"science_world/{split}/{topic}/{variation}", "science_world", payload)

    async def make(self, task: Task, seed: int) -> Any:
        """A plain synchronous environment, for :func:`polyturn.rollout.worker.in_worker`; Java starts with it."""
        return ScienceWorldEnv(task, self.simplification, self.steps, self.list_legal)

    async def close(self) -> None:
        """Nothing is shared."""

    def oracle(self, task: Task) -> Answer:
        """The player that walks the package's gold path, read from a Java machine that ends at once."""
        left: list[str] | None = None

        def play(ask: Ask) -> Message:
            nonlocal left
            left = gold_path(task, self.simplification) if left is None else left
            return assistant(left.pop(0) if left else "look around")

        return play

    def null(self, task: Task) -> Answer:
        """The player that says nothing."""
        return null_answer

    def random_answer(self, task: Task, seed: int, seat: Seat = "agent") -> Answer:
        """Uniform over the valid actions."""
        return random_answer(task, seed, seat)


def science_world(
    *, topics: Sequence[str] = ("find-living-thing", "find-non-living-thing", "lifespan-longest-lived"),
    simplification: str = EASY, steps: int = 40, test_tasks: int = 24, list_legal: bool = True,
) -> ScienceWorld:
    """The suite of the named tasks of ScienceWorld (``VARIATIONS`` lists all 30).

    Score: the package's own, 0..1, where a play stands at its end; a failed one (below 0 there) is 0 and ends the play.
    A reply is an action in the simulator's words. ``list_legal`` lists the valid ones with every ask: about a hundred,
    which takes the simulator most of its time.

    At the default: oracle 1, null 0 or what its task pays for nothing. Raises: UnknownName for a topic.
    """
    if not topics or min(steps, test_tasks) < 1:
        raise BadInput(f"topics {list(topics)}, steps {steps}, test_tasks {test_tasks}: expected one or more of each")
    for topic in topics:
        if topic not in VARIATIONS:
            raise UnknownName("ScienceWorld task", topic, VARIATIONS)
    return ScienceWorld(topics, simplification, steps, test_tasks, list_legal)


def _scores(final: Mapping[str, Any]) -> Mapping[Seat, Score]:
    value = max(0.0, float(final["score"]))
    return {"agent": Score(value, success=value >= 1.0)}


# ---------------------------------------------------------------- Java


def started(task: Task, simplification: str, *, gold: bool = False) -> Any:
    """The package's environment with the task loaded, on a Java machine of its own; end it with :func:`ended`.

    Raises: MissingPackage for the package or for Java.
    """
    try:
        from scienceworld import ScienceWorldEnv as Simulator
    except ImportError as error:
        raise MissingPackage("scienceworld", "scienceworld") from error
    if shutil.which("java") is None:
        raise MissingPackage("java", command="apt-get install default-jre-headless (or any Java from 8 on)")
    simulator = Simulator("", None, 10**6)
    try:
        simulator.load(task.payload["topic"], int(task.payload["variation"]), simplification, generateGoldPath=gold)
    except BaseException:
        ended(simulator)
        raise
    return simulator


def ended(simulator: Any) -> None:
    """Closes the machine and waits until its process is gone; one that does not go is killed."""
    process = simulator._gateway.java_process
    try:
        simulator.close()
        process.wait(CLOSE_S)
    except (OSError, subprocess.TimeoutExpired):
        process.kill()
        process.wait()
    finally:
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
        simulator._obj_tree_tempdir.cleanup()


def gold_path(task: Task, simplification: str = EASY) -> list[str]:
    """The package's own solution of a task, action by action."""
    simulator = started(task, simplification, gold=True)
    try:
        return [str(action) for action in simulator.get_gold_action_sequence()]
    finally:
        ended(simulator)


# ---------------------------------------------------------------- one play


class ScienceWorldEnv:
    """One play, with plain methods. No ``save``: a copy is made by replay."""

    def __init__(self, task: Task, simplification: str, steps: int, list_legal: bool) -> None:
        self._task, self._simplification, self._most, self._list_legal = task, simplification, steps, list_legal
        self._simulator: Any = None
        self._steps = 0
        self._score = 0.0
        self._over = False
        self._asked: tuple[Seat, ...] = ()
        self._legal: tuple[str, ...] | None = None

    def start(self, state: bytes | None = None) -> Step:
        """The task and the room. Raises: MissingPackage; BadInput for a state."""
        if state is not None:
            raise BadInput("ScienceWorld saves no state; replay the replies into a fresh environment")
        self._simulator = started(self._task, self._simplification)
        return Step((self._ask(f"{self._simulator.taskdescription()}\n{self._simulator.look()}"),))

    def step(self, replies: Mapping[Seat, Message]) -> Step:
        """What the simulator answers. Raises: BadInput for a wrong seat."""
        check_seats(self._asked, replies)
        text = replies["agent"].text
        command = " ".join(text.split())[:200]
        server = self._simulator.server
        said = str(server.step(command)) if command else f"{UNKNOWN[0]}."
        self._steps += 1
        events: tuple[Event, ...] = ()
        if said.startswith(UNKNOWN) and command not in (self._legal or ()):
            events = (Event(0, "invalid", "agent", {"reply": text, "reason": said.splitlines()[0]}),)
        self._score = float(server.getScore())
        self._over = bool(server.getCompleted()) or self._score < 0
        if self._over:
            self._asked = ()
            return Step(events=events, stop=Stop("done", "failed" if self._score < 0 else "completed"))
        if self._steps == self._most:
            self._asked = ()
            return Step(events=events, stop=Stop("truncated", f"after {self._steps} steps"))
        return Step((self._ask(said),), events=events)

    def final(self) -> Mapping[str, Any]:
        """The simulator's ``score`` (below 0: failed), whether the play is ``over``, and the ``steps``."""
        return {"score": self._score, "over": self._over, "steps": self._steps}

    def close(self) -> None:
        """Ends the Java machine."""
        simulator, self._simulator = self._simulator, None
        self._asked = ()
        if simulator is not None:
            ended(simulator)

    def _ask(self, said: str) -> Ask:
        self._asked = ("agent",)
        if self._list_legal:
            self._legal = tuple(sorted(set(map(str, self._simulator.get_valid_action_object_combinations()))))
        return Ask("agent", (user("\n".join(line.strip() for line in said.strip().splitlines())),), legal=self._legal)

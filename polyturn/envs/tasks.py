"""Where tasks come from: numbered ones for worlds that are drawn from a seed, and :func:`from_file` for one's own data.

>>> import tempfile, pathlib
>>> path = pathlib.Path(tempfile.mkdtemp(), "sums.jsonl")
>>> _ = path.write_text('{"prompt": "2 + 2 =", "answer": "4", "split": "train"}')
>>> def reward(episode):
...     return float(episode.final["replies"][-1].strip() == episode.task.payload["answer"])
>>> suite = from_file(path, reward)
>>> next(iter(suite.tasks("train"))).payload["answer"]
'4'
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final, TypeVar

from polyturn.envs.answers import check_seats, null_answer
from polyturn.envs.score import scaled
from polyturn.errors import BadInput, NotFinite, UnknownName
from polyturn.protocols import Answer, Ask, Scores, Spec, Step
from polyturn.seeds import generator
from polyturn.types import Episode, Group, Limits, Message, Score, Seat, Stop, Task, user

T = TypeVar("T")
SPLITS: Final = ("train", "test")
ROLES: Final = ("system", "user", "assistant", "tool")
Reward = Callable[[Episode], float]
Respond = Callable[[Task, tuple[str, ...]], str | None]
"""(task, the replies so far) -> what the user says next; None = the dialogue is over."""


def numbered(
    family: str, split: str, *, test: int, limits: Limits = Limits(),
    payload: Callable[[int], Mapping[str, Any]] = lambda index: {},
) -> Iterator[Task]:
    """Tasks ``family/train/0, 1, ...`` without end, or ``family/test/0 .. test - 1``.

    Environments draw their world from the task's id and the seed, so the two splits share no draw.
    Raises: UnknownName for any other split.

    >>> [task.id for task in numbered("guess", "test", test=2)]
    ['guess/test/0', 'guess/test/1']
    """
    if split not in SPLITS:
        raise UnknownName("split", split, SPLITS)
    indices = count() if split == "train" else iter(range(test))
    return (Task(f"{family}/{split}/{index}", family, payload(index), limits) for index in indices)


def in_turn(family: str, key: str, kinds: Sequence[str], split: str, *, test: int) -> Iterator[Task]:
    """Tasks of several kinds that take turns, the kind in the payload under ``key``; ``train`` without end, or ``test``
    of them. Raises: UnknownName for any other split.

    >>> [task.id for task in in_turn("maze", "level", ("easy", "hard"), "test", test=3)]
    ['maze/test/easy/0', 'maze/test/hard/0', 'maze/test/easy/1']
    """
    if split not in SPLITS:
        raise UnknownName("split", split, SPLITS)
    numbers = count() if split == "train" else iter(range(test))
    return (
        Task(f"{family}/{split}/{kinds[n % len(kinds)]}/{n // len(kinds)}", family, {key: kinds[n % len(kinds)]})
        for n in numbers
    )


def half_of(items: Sequence[T], split: str) -> list[tuple[int, T]]:
    """(place, item) of a benchmark's own list: ``test`` has the even places, ``train`` the odd ones, ``all`` both.

    Raises: UnknownName for any other split.

    >>> half_of("abc", "test"), half_of("abc", "train")
    ([(0, 'a'), (2, 'c')], [(1, 'b')])
    """
    odd = {"train": (1,), "test": (0,), "all": (0, 1)}
    if split not in odd:
        raise UnknownName("split", split, odd)
    return [(place, item) for place, item in enumerate(items) if place % 2 in odd[split]]


# ---------------------------------------------------------------- one's own data


def from_file(
    path: str | Path, reward: Reward, *, respond: Respond | None = None, name: str | None = None,
    returns: tuple[float, float] = (0.0, 1.0), limits: Limits = Limits(env_steps=16), held_out_every: int = 5,
) -> FileTasks:
    """The suite of a JSON-lines file: one object a line, with ``prompt`` (a text) or ``messages`` (a list of
    ``{"role", "content"}``), and any other fields, which ``reward`` finds in ``episode.task.payload``.

    A line may name its ``split`` (``"train"`` or ``"test"``) and its ``id``; where no line names a split, every
    ``held_out_every``-th line is ``test``. ``train`` goes round without end, shuffled anew each time. One reply ends
    the episode, unless ``respond`` says what the user answers. ``reward(episode)`` gives a number in ``returns``
    (lowest, highest), which is scaled to a score in 0..1; the replies' texts stand in ``episode.final["replies"]``.

    Raises: BadInput that names every bad line by its number.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read tasks from {file}: {error}") from error
    family = name or file.stem
    tasks, faults = _parsed(text, family, limits)
    faults += [f"id {task!r} stands in {times} lines" for task, times in Counter(t.id for t, _ in tasks).items()
               if times > 1]
    if faults:
        raise BadInput(f"{file} has {len(faults)} bad line(s): " + "; ".join(faults[:10]))
    if not tasks:
        raise BadInput(f"{file} holds no tasks; expected one JSON object a line")
    if not returns[0] < returns[1]:
        raise BadInput(f"returns is {returns}; expected (lowest, highest)")
    return FileTasks(family, _split(tasks, held_out_every), respond, RewardScore(reward, returns), limits)


def _parsed(text: str, family: str, limits: Limits) -> tuple[list[tuple[Task, str | None]], list[str]]:
    tasks, faults = [], []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            tasks.append(_task(json.loads(line), f"{family}/{number}", family, limits))
        except json.JSONDecodeError as error:
            faults.append(f"line {number}: no JSON ({error})")
        except ValueError as error:
            faults.append(f"line {number}: {error}")
    return tasks, faults


def _task(row: Any, name: str, family: str, limits: Limits) -> tuple[Task, str | None]:
    """The task of one line and its split. Raises: ValueError in words."""
    if not isinstance(row, dict):
        raise ValueError(f"a {type(row).__name__}; expected an object")
    if ("prompt" in row) == ("messages" in row):
        raise ValueError(f"its fields are {sorted(row)}; expected exactly one of 'prompt' and 'messages'")
    split = row.get("split")
    if split not in (None, *SPLITS):
        raise ValueError(f"split is {split!r}; expected 'train' or 'test'")
    _opening(row)
    fields = {key: value for key, value in row.items() if key not in ("id", "split")}
    return Task(str(row.get("id", name)), family, fields, limits), split


def _opening(row: Mapping[str, Any]) -> tuple[Message, ...]:
    """What the agent reads first. Raises: ValueError in words."""
    if "prompt" in row:
        if not isinstance(row["prompt"], str) or not row["prompt"]:
            raise ValueError(f"prompt is {row['prompt']!r}; expected a text")
        return (user(row["prompt"]),)
    given = row["messages"]
    if not isinstance(given, list) or not given:
        raise ValueError("messages is empty or no list; expected a list of {'role', 'content'}")
    for message in given:
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            raise ValueError(f"message {message!r}; expected an object with a text 'content'")
        if message.get("role") not in ROLES:
            raise ValueError(f"role is {message.get('role')!r}; expected one of {list(ROLES)}")
    return tuple(Message(message["role"], message["content"]) for message in given)


def _split(tasks: Sequence[tuple[Task, str | None]], held_out_every: int) -> dict[str, tuple[Task, ...]]:
    if any(split for _, split in tasks):
        return {name: tuple(task for task, split in tasks if (split or "train") == name) for name in SPLITS}
    if held_out_every < 2:
        raise BadInput(f"held_out_every is {held_out_every}; expected at least 2")
    held = {index for index in range(len(tasks)) if index % held_out_every == held_out_every - 1}
    return {"train": tuple(task for index, (task, _) in enumerate(tasks) if index not in held),
            "test": tuple(task for index, (task, _) in enumerate(tasks) if index in held)}


class FileTasks:
    """A :class:`polyturn.protocols.Suite` of a user's own tasks; made by :func:`from_file`."""

    def __init__(
        self, name: str, by_split: Mapping[str, tuple[Task, ...]], respond: Respond | None, verifier: RewardScore,
        limits: Limits,
    ) -> None:
        self.spec = Spec(name, limits=limits)
        self.verifier = verifier
        self._by_split = by_split
        self._respond = respond

    def tasks(self, split: str) -> Iterator[Task]:
        """``train`` round and round, ``test`` once. Raises: UnknownName; BadInput for a split without tasks."""
        if split not in self._by_split:
            raise UnknownName("split", split, self._by_split)
        found = self._by_split[split]
        if not found:
            raise BadInput(f"{self.spec.name} has no {split} tasks; name a line's split, or give more lines")
        return iter(found) if split == "test" else rounds(self.spec.name, found)

    async def make(self, task: Task, seed: int) -> FileEnv:
        """One dialogue; nothing in it is drawn."""
        return FileEnv(task, self._respond)

    async def close(self) -> None:
        """Nothing is shared."""

    def null(self, task: Task) -> Answer:
        """The player that says nothing."""
        return null_answer


def rounds(name: str, tasks: Sequence[Task]) -> Iterator[Task]:
    """The tasks without end, each lap in an order of its own that the name and the number of the lap fix."""
    for lap in count():
        yield from (tasks[index] for index in generator("from_file", name, lap).permutation(len(tasks)))


class FileEnv:
    """One dialogue: the opening, a reply, and what ``respond`` makes of it."""

    def __init__(self, task: Task, respond: Respond | None) -> None:
        self._task = task
        self._respond = respond
        self._replies: list[str] = []
        self._asked: tuple[Seat, ...] = ()
        self._said: str | None = None

    async def start(self, state: bytes | None = None) -> Step:
        """The opening messages; or, from a saved state, the open question again."""
        self._asked = ("agent",)
        if state is None:
            return Step((Ask("agent", _opening(self._task.payload)),))
        self._replies, self._said = json.loads(state)
        opening = _opening(self._task.payload) if self._said is None else (user(self._said),)
        return Step((Ask("agent", opening),))

    async def step(self, replies: Mapping[Seat, Message]) -> Step:
        """The user's answer, or the end. Raises: BadInput for a wrong seat."""
        check_seats(self._asked, replies)
        self._replies.append(replies["agent"].text)
        self._said = self._respond(self._task, tuple(self._replies)) if self._respond else None
        if self._said is None:
            self._asked = ()
            return Step(stop=Stop("done"))
        return Step((Ask("agent", (user(self._said),)),))

    async def final(self) -> Mapping[str, Any]:
        """``replies``: the texts, in order."""
        return {"replies": list(self._replies)}

    async def save(self) -> bytes:
        """The replies so far and the open question. Raises: BadInput when nobody is asked."""
        if not self._asked:
            raise BadInput("only a dialogue that has started and is not over can be saved")
        return json.dumps([self._replies, self._said]).encode()

    async def close(self) -> None:
        """Nothing to free."""
        self._asked = ()


@dataclass(frozen=True, slots=True)
class RewardScore:
    """The :class:`polyturn.protocols.Verifier` of a plain function ``reward(episode) -> float``."""

    reward: Reward
    returns: tuple[float, float] = (0.0, 1.0)
    name: str = "score"

    async def __call__(self, groups: Sequence[Group]) -> Scores:
        """Episode id -> seat -> score; nothing for an episode that ended in an error; a score without value
        where the final state could not be read.

        Raises: BadInput when the function raises; NotFinite for a number outside ``returns``.
        """
        return {episode.id: {"agent": self._score(episode)} for group in groups for episode in group
                if episode.stop.kind != "error"}

    def _score(self, episode: Episode) -> Score:
        if episode.final is None:
            return Score(None)
        try:
            value = float(self.reward(episode))
        except Exception as error:
            raise BadInput(f"reward() raised {type(error).__name__} for episode {episode.id} of task "
                           f"{episode.task.id!r}: {error}") from error
        low, high = self.returns
        if not low <= value <= high:
            raise NotFinite(f"reward() gave {value} for episode {episode.id}; expected {low}..{high}, "
                            "or pass returns=(lowest, highest)")
        return Score(scaled(value, low, high), success=value == high)

"""The reference work as dialogues: an environment that costs nothing, and what it makes a sampler read and write."""

from __future__ import annotations

import itertools
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.reference import Work
from polyturn.agents.chat import ChatAgent
from polyturn.chat import Chat
from polyturn.contexts.summary import Summary
from polyturn.contexts.window import Window
from polyturn.desk import Desk
from polyturn.envs.score import FinalScore
from polyturn.protocols import Ask, Context, Match, Player, Spec, Step
from polyturn.types import Episode, Group, Limits, Message, Sampling, Score, Seat, Span, Stop, Task, assistant, user


@dataclass(frozen=True, slots=True)
class Script:
    """One rollout as ids: what a sampler is shown before each reply, and how long that reply is. The first ids are
    equal for all rollouts of a group.

    ``keep``: how much of what stands there already (prompts and replies) a prompt begins with, before what is shown
    newly; all of it but where a window has moved on or a summary replaces what it sums up.
    """

    group: int
    shown: tuple[tuple[int, ...], ...]
    lengths: tuple[int, ...]
    keep: tuple[int, ...]

    def prompt(self, path: list[int], turn: int) -> None:
        """Makes the prompt of a reply of ``path``, which holds the prompt before and the reply to it."""
        del path[self.keep[turn] :]
        path.extend(self.shown[turn])


def linear(group: int, shown: Sequence[tuple[int, ...]], lengths: Sequence[int]) -> Script:
    """A script that shows everything always.

    >>> linear(0, [(5, 6), (7,)], [3, 1]).keep
    (0, 5)
    """
    sizes = [len(ids) + length for ids, length in zip(shown, lengths, strict=True)]
    return Script(group, tuple(shown), tuple(lengths), tuple(sum(sizes[:k]) for k in range(len(sizes))))


def lengths(work: Work, group: int, trial: int) -> tuple[int, ...]:
    """The lengths of a rollout's replies, in tokens."""
    draw = np.random.default_rng((work.seed, group, trial))
    return tuple(int(n) for n in draw.integers(work.reply[0], work.reply[1] + 1, work.turns))


class Canned:
    """A suite whose tasks say what a seed fixed, whatever they are told; task ``g`` is group ``g``.

    Its messages are of words that are one token each, so many of them that the ids that a prompt grows by, template
    and all, are ``work.prompt`` at first and ``work.observation`` then. The score is :func:`drawn` from the last reply.
    """

    spec = Spec("canned", limits=Limits(env_steps=10**6), package="polyturn")

    def __init__(self, work: Work, chat: Chat, tokenizer: Any) -> None:
        self.work = work
        self.words = single_words(tokenizer)
        self.around = around(chat, self.words[0])
        self.verifier = FinalScore(("agent",), _scored)

    def tasks(self, split: str) -> Iterable[Task]:
        """One task for each group."""
        return [Task(str(g), "canned") for g in range(self.work.groups)]

    def message(self, task: Task, seed: int, turn: int) -> str:
        """What is said before reply ``turn``."""
        draw = np.random.default_rng((self.work.seed, int(task.id), seed, turn))
        count = (self.work.observation if turn else self.work.prompt) - self.around[bool(turn)]
        return " ".join(self.words[int(i)] for i in draw.integers(len(self.words), size=count))

    async def make(self, task: Task, seed: int) -> CannedEnv:
        """One play."""
        return CannedEnv(self, task, seed)

    async def close(self) -> None:
        """Nothing is shared."""


@dataclass
class CannedEnv:
    """Says its next message, and ends after the last reply."""

    suite: Canned
    task: Task
    seed: int
    turn: int = 0
    last: str = ""

    async def start(self, state: bytes | None = None) -> Step:
        """The first message."""
        return self._ask()

    async def step(self, replies: Mapping[str, Message]) -> Step:
        """The next message, or the end."""
        self.turn += 1
        self.last = replies["agent"].text
        if self.turn == self.suite.work.turns:
            return Step((), stop=Stop("done"))
        return self._ask()

    def _ask(self) -> Step:
        said = self.suite.message(self.task, self.seed, self.turn)
        return Step((Ask("agent", (user(said),)),))

    async def final(self) -> Mapping[str, Any]:
        """The score."""
        return {"score": drawn(self.last)}

    async def close(self) -> None:
        """Nothing is held."""


def drawn(text: str) -> float:
    """A score in 0..1 that depends on every letter and on nothing that can be learned.

    >>> drawn("a") == drawn("a"), drawn("a") == drawn("b")
    (True, False)
    """
    return zlib.crc32(text.encode()) / (2**32 - 1)


def _scored(final: Mapping[str, Any]) -> Mapping[Seat, Score]:
    return {"agent": Score(final["score"])}


@dataclass
class Measured:
    """A :class:`ChatAgent` whose replies are so many tokens long, and whose context is of the shape of the work."""

    work: Work
    lengths: Sequence[int]
    agent: ChatAgent = field(default_factory=ChatAgent)
    turn: int = 0

    async def act(self, ask: Ask, desk: Desk) -> Message:
        """The policy's reply."""
        self.agent.sampling = replace(Sampling(), max_tokens=self.lengths[self.turn])
        self.agent.context = context_of(self.work, self.turn)
        self.turn += 1
        return await self.agent.act(ask, desk)


def context_of(work: Work, turn: int) -> Context | None:
    """What a reply's prompt is made by: as :func:`benchmarks.reference.episodes` has it."""
    if work.shape == "window":
        return Window(2 * work.window + 1)
    if work.shape == "summary":
        due = turn > 0 and turn % work.summary_every == 0
        return Summary(1 if due else 2**31 - 1, sampling=Sampling(max_tokens=work.summary_tokens))
    return None


def matches(suite: Canned) -> list[Match]:
    """The work as matches; rollout ``k`` of a group writes replies of :func:`lengths`."""
    return [
        Match(
            suite, task, {"agent": Player(_players(suite.work, int(task.id)), "main")}, 0, suite.work.rollouts,
            train=frozenset({"agent"}),
        )
        for task in suite.tasks("train")
    ]


def _players(work: Work, group: int) -> Any:
    trials = itertools.count()
    return lambda: Measured(work, lengths(work, group, next(trials)))


def single_words(tokenizer: Any) -> list[str]:
    """English-looking words that are one token each, with a space before them and without."""
    known = tokenizer.get_vocab()
    plain = (word for word in known if len(word) > 2 and word.isascii() and word.isalpha() and word.islower())
    return sorted(word for word in plain if f"\u0120{word}" in known)


def around(chat: Chat, word: str) -> tuple[int, int]:
    """What the template adds to a message: ids of a first prompt, and ids from the end of a reply to the next one,
    beside those of the message."""
    first = chat.count([user(word)])
    second = chat.count([user(word), assistant(word), user(word)])
    return first - 1, second - first - 2


# ---------------------------------------------------------------- for samplers that know no episodes


def scripts(groups: Sequence[Group]) -> list[Script]:
    """What samplers were shown and wrote in these episodes, in order."""
    return [_script(g, episode) for g, group in enumerate(groups) for episode in group]


def _script(group: int, episode: Episode) -> Script:
    trajectory = episode.trajectories[0]
    shown: list[tuple[int, ...]] = []
    sizes: list[int] = []
    keep: list[int] = []
    there: list[int] = []
    for turn in sorted(trajectory.turns, key=lambda each: each.at):
        reply = [int(i) for index in turn.spans for i in trajectory.spans[index].ids]
        prompt = _path(trajectory.spans, trajectory.spans[turn.spans[0]].parent)
        most = min(len(prompt), len(there))
        same = next((k for k in range(most) if prompt[k] != there[k]), most)
        keep.append(same)
        shown.append(tuple(prompt[same:]))
        sizes.append(len(reply))
        there = prompt + reply
    return Script(group, tuple(shown), tuple(sizes), tuple(keep))


def _path(spans: Sequence[Span], last: int) -> list[int]:
    """The ids from the root to the end of a span."""
    path: list[int] = []
    while last >= 0:
        path[:0] = spans[last].ids.tolist()
        last = spans[last].parent
    return path


def write(path: Path, found: Sequence[Script]) -> None:
    """As JSON, for a contender in an environment of its own."""
    path.write_text(json.dumps([asdict(script) for script in found]))


def read(path: Path) -> list[Script]:
    """What :func:`write` wrote."""
    rows = json.loads(path.read_text())
    return [Script(r["group"], tuple(map(tuple, r["shown"])), tuple(r["lengths"]), tuple(r["keep"])) for r in rows]

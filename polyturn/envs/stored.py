"""Stored observations answered again: one turn of a played episode becomes a task of one turn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

from polyturn.envs.answers import check_seats
from polyturn.errors import BadInput, UnknownName
from polyturn.protocols import Ask, Spec, Step, Verifier
from polyturn.seeds import generator
from polyturn.types import Episode, Limits, Message, PolicyInfo, Seat, Stop, Task, Trajectory, Turn, all_turns


class Stored:
    """A :class:`polyturn.protocols.Suite` of turns that were played before.

    Each task shows one turn's prompt exactly as it was, asks for one reply, and ends; nothing happens in any
    environment. Its payload is that of the task that was played, with ``stored`` (the reply that was given then),
    ``step`` (the environment step) and ``of`` (the id of the played task). The episodes' ``parent`` names the stored
    turn as ``"<episode>#<at>"``, which is also the task's id. Let an agent without system message of its own answer:
    the stored prompt has it.

    A mask of the stored call is the ask's ``legal``. ``player`` is what will answer: where the stored turns are its own
    (same name, tokenizer and template), earlier replies are spliced as the ids that were sampled, else they are
    rendered from their text.

    Only turns of ``seat`` in real play are used. Raises: BadInput where there is none.
    """

    def __init__(
        self, train: Sequence[Episode], test: Sequence[Episode] = (), *, verifier: Verifier, seat: Seat = "agent",
        name: str = "stored", player: PolicyInfo | None = None,
    ) -> None:
        self.spec = Spec(name, (seat,), Limits(env_steps=1))
        self.verifier = verifier
        self._player = player
        self._prompts: dict[str, tuple[Message, ...]] = {}
        self._legal: dict[str, tuple[str, ...] | None] = {}
        self._own: dict[str, tuple[Trajectory, Turn]] = {}
        self._tasks = {"train": self._read(train), "test": self._read(test)}
        if not self._prompts:
            raise BadInput(f"{len(train) + len(test)} episodes hold no turn of seat {seat!r} to answer again")

    def _read(self, episodes: Sequence[Episode]) -> tuple[Task, ...]:
        seat = self.spec.seats[0]
        found = []
        for episode in episodes:
            for turn in (t for t in all_turns(episode) if t.seat == seat and not t.branch):
                trajectory = episode.trajectory(seat, turn.policy)
                assert trajectory is not None
                name = f"{episode.id}#{turn.at}"
                own = _same_tokens(episode.cast.get(seat), self._player)
                if own:
                    self._own[name] = (trajectory, turn)
                self._legal[name] = turn.sampling.choices
                self._prompts[name] = tuple(_copied(trajectory.messages[index], own) for index in turn.prompt)
                more = {"stored": trajectory.messages[turn.reply].text, "step": turn.step, "of": episode.task.id}
                found.append(Task(name, episode.task.family, {**episode.task.payload, **more}, self.spec.limits))
        return tuple(found)

    def tasks(self, split: str) -> Iterator[Task]:
        """``train`` round and round, shuffled anew each time; ``test`` once, in the order of play.

        Raises: UnknownName; BadInput for a split without tasks.
        """
        if split not in self._tasks:
            raise UnknownName("split", split, self._tasks)
        found = self._tasks[split]
        if not found:
            raise BadInput(f"{self.spec.name} has no {split} tasks: no {split} episodes were given")
        return iter(found) if split == "test" else _rounds(self.spec.name, found)

    def parent(self, task: Task) -> str:
        """The turn that a task answers again."""
        return task.id

    def stored(self, task: Task) -> tuple[Trajectory, Turn] | None:
        """The turn that a task answers again, where its tokens are those of ``player``."""
        return self._own.get(task.id)

    async def make(self, task: Task, seed: int) -> StoredEnv:
        """The open question; nothing in it is drawn."""
        ask = Ask(self.spec.seats[0], self._prompts[task.id], fresh=True, legal=self._legal[task.id])
        return StoredEnv(ask, task.payload)

    async def close(self) -> None:
        """Nothing is shared."""


def _same_tokens(known: PolicyInfo | None, player: PolicyInfo | None) -> bool:
    """Whether ids of one policy mean the same to the other."""
    if known is None or player is None or not known.tokenizer_sha256:
        return False
    names = ("name", "tokenizer_sha256", "template_sha256")
    return all(getattr(known, name) == getattr(player, name) for name in names)


def _copied(message: Message, own: bool) -> Message:
    """A message as a new episode may show it: a reply is a copy, of ids where they are known to be quoted."""
    origin = "copied" if message.role == "assistant" else message.origin
    return replace(message, id="", spans=message.spans if own else (), origin=origin)


def _rounds(name: str, tasks: Sequence[Task]) -> Iterator[Task]:
    for lap in count():
        yield from (tasks[place] for place in generator(name, lap).permutation(len(tasks)))


class StoredEnv:
    """One stored prompt, one reply."""

    def __init__(self, ask: Ask, payload: Mapping[str, Any]) -> None:
        self._ask, self._payload = ask, payload
        self._open = False
        self._reply: str | None = None

    async def start(self, state: bytes | None = None) -> Step:
        """The prompt."""
        self._open = True
        return Step((self._ask,))

    async def step(self, replies: Mapping[Seat, Message]) -> Step:
        """The end. Raises: BadInput for a wrong seat."""
        check_seats((self._ask.seat,) if self._open else (), replies)
        self._open, self._reply = False, replies[self._ask.seat].text
        return Step(stop=Stop("done", "answered"))

    async def final(self) -> Mapping[str, Any]:
        """``reply`` (None before) and ``stored``, the one that was given when the turn was played."""
        return {"reply": self._reply, "stored": self._payload["stored"]}

    async def close(self) -> None:
        """Nothing to free."""
        self._open = False

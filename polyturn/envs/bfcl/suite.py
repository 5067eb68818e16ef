"""BFCL multi-turn: a user asks turn by turn, an agent calls functions of small worlds, the package's checker judges.

Four categories of 200 entries. A turn ends with a reply without calls; ``miss_func`` gives a function only after it was
missed, ``miss_param`` a value; ``long_context`` fills the worlds with distracting text. An entry is solved when after
each turn the worlds are as the gold calls leave them and the answers to the gold calls were seen. The package
``bfcl-eval`` (``polyturn envs --install bfcl``) runs in a process of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from polyturn.envs.answers import check_seats, null_answer
from polyturn.envs.bfcl.data import NAME, Category, gold_call, load
from polyturn.envs.install import installed
from polyturn.envs.outside.process import Outside
from polyturn.envs.score import FinalScore
from polyturn.envs.tasks import half_of, rounds
from polyturn.errors import BadInput, EnvironmentFailed
from polyturn.protocols import Answer, Ask, Spec, Step
from polyturn.types import Call, Event, Message, Part, Score, Seat, Stop, Task, Tool, assistant, user

ENVS = (
    {"name": "bfcl_base", "package": "bfcl-eval", "needs": "bfcl", "licence": "Apache-2.0", "seats": ("agent",),
     "oracle": 1.0, "null": 0.0},
    {"name": "bfcl_miss_func", "package": "bfcl-eval", "needs": "bfcl", "licence": "Apache-2.0", "seats": ("agent",),
     "oracle": 1.0, "null": 0.0},
    {"name": "bfcl_miss_param", "package": "bfcl-eval", "needs": "bfcl", "licence": "Apache-2.0", "seats": ("agent",),
     "oracle": 1.0, "null": 0.0},
    {"name": "bfcl_long_context", "package": "bfcl-eval", "needs": "bfcl", "licence": "Apache-2.0", "seats": ("agent",),
     "oracle": 1.0, "null": 0.0},
)
MORE: Final = "I have updated some more functions you can choose from. What about now?"
"""What the package's user says when a missed function is given."""
STEPS: Final = 20
"""A turn with more replies with calls than this ends the play, unsolved."""
BACKEND: Final = Path(__file__).with_name("backend.py")


class FunctionCalls:
    """One entry in play. The log tells by events of kind ``tool`` what was called, ``invalid`` that a reply held a call
    that cannot be read (it ends the turn, as in the package)."""

    def __init__(self, entry: Mapping[str, Any], category: Category, outside: Outside) -> None:
        self._entry, self._outside = entry, outside
        self._gold = category.gold[entry["id"]]
        held = {name for names in entry.get("missed_function", {}).values() for name in names}
        every = [tool for name in entry["involved_classes"] for tool in category.tools[name]]
        self._every = {tool.name: tool for tool in every}
        self._tools = [tool for tool in every if tool.name not in held]
        self._turns: list[list[list[tuple[str, Mapping[str, Any]]]]] = []
        self._forced = self._closed = self._begun = self._over = False

    async def start(self, state: bytes | None = None) -> Step:
        """The first turn."""
        if state is not None or self._begun:
            raise BadInput("a play of BFCL begins once and has no saved states; replay its replies")
        self._begun = True
        self._outside.lease()
        return self._next_turn()

    async def step(self, replies: Mapping[Seat, Message]) -> Step:
        """The answers to the reply's calls; without calls, the next turn."""
        check_seats(("agent",) if self._begun and not self._over else (), replies)
        reply = replies["agent"]
        unread = [call for call in reply.calls if call.arguments is None]
        if unread:
            told = Event(0, "invalid", "agent", {"call": unread[0].name, "reason": unread[0].error or "unreadable"})
            return self._next_turn(told)
        if not reply.calls:
            return self._next_turn()
        answers = await self._run([(call.name, dict(call.arguments or {})) for call in reply.calls])
        events = tuple(Event(0, "tool", "agent", {"name": call.name, "arguments": dict(call.arguments or {}),
                                                  "error": text.startswith("Error during execution:")})
                       for call, text in zip(reply.calls, answers, strict=True))
        if len(self._turns[-1]) > STEPS:
            self._forced = self._over = True
            reason = f"more than {STEPS} replies with calls in one turn"
            return Step(events=events, stop=Stop("truncated", reason, "agent"))
        heard = tuple(Message("tool", (Part("text", text),), name=call.name, call_id=call.id, origin="tool")
                      for call, text in zip(reply.calls, answers, strict=True))
        return Step((Ask("agent", heard, tools=tuple(self._tools)),), events=events)

    def _next_turn(self, *events: Event) -> Step:
        number = len(self._turns)
        if number == len(self._entry["question"]):
            self._over = True
            return Step(events=events, stop=Stop("done"))
        self._turns.append([])
        given = self._entry.get("missed_function", {}).get(str(number), ())
        self._tools += [self._every[name] for name in given]
        said = [user(MORE)] if given else [user(each["content"]) for each in self._entry["question"][number]]
        return Step((Ask("agent", tuple(said), tools=tuple(self._tools)),), events=events)

    async def _run(self, calls: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
        """The answers to the last calls; all of the play are made again, since the process keeps nothing."""
        self._turns[-1].append(list(calls))
        made = [call for turn in self._turns for step in turn for call in step]
        found = await self._outside.ask({"do": "run", "entry": self._entry, "calls": made})
        if not (isinstance(found, list) and len(found) == len(made) and all(isinstance(one, str) for one in found)):
            raise EnvironmentFailed(f"{self._entry['id']}: {len(made)} calls were answered by {str(found)[:200]}")
        return found[-len(calls):]

    async def final(self) -> Mapping[str, Any]:
        """Whether the package's checker finds the entry solved, and if not, its words. A play that did not come to its
        last turn is unsolved, as in the package."""
        known = {"id": self._entry["id"], "turns": len(self._turns), "forced": self._forced,
                 "calls": sum(len(step) for turn in self._turns for step in turn)}
        if self._forced or not self._over:
            return {**known, "valid": False, "error_type": "multi_turn:force_terminated", "message": ""}
        made = {"turns": self._turns, "gold": self._gold}
        verdict = await self._outside.ask({"do": "check", "entry": self._entry, **made})
        kinds = {"valid": bool, "error_type": str, "message": str}
        if not (isinstance(verdict, dict) and all(isinstance(verdict.get(name), kind) for name, kind in kinds.items())):
            raise EnvironmentFailed(f"{self._entry['id']}: the check gave {str(verdict)[:200]}")
        return {**known, **{name: verdict[name] for name in kinds}}

    async def close(self) -> None:
        """Gives the worker back."""
        if self._begun and not self._closed:
            self._outside.release()
        self._closed = True


def _scores(final: Mapping[str, Any]) -> Mapping[Seat, Score]:
    return {"agent": Score(float(final["valid"]), success=final["valid"])}


class Bfcl:
    """The suite of one category; made by :func:`bfcl_base` and its siblings.

    ``all`` is the package's 200 entries; of them the even numbers are ``test``, the odd ones ``train`` (in every
    category, for entries of one number are variants of each other). The score is 1 or 0.

    Deviation: calls are made on the package's objects with their arguments, where the package writes them as Python and
    evaluates that.
    """

    def __init__(self, category: Category) -> None:
        self.category = category
        self.figures: Mapping[str, float] = {"oracle": 1.0, "null": 0.0}
        self.spec = Spec(
            f"bfcl_{category.name}", licence="Apache-2.0", package="bfcl-eval",
            invalid="a call that cannot be read ends the turn; one that fails is answered by its error",
        )
        self.verifier = FinalScore(self.spec.seats, _scores)
        self._entries = {entry["id"]: entry for entry in category.entries}
        self._outside = Outside(self.spec.name, installed(NAME), BACKEND)

    def tasks(self, split: str) -> Iterator[Task]:
        """``train`` round and round, shuffled; ``test`` and ``all`` once. Raises: UnknownName."""
        name = self.spec.name
        found = tuple(Task(f"{name}/{number}", name, {"entry": entry["id"]})
                      for number, entry in half_of(self.category.entries, split))
        return rounds(name, found) if split == "train" else iter(found)

    async def make(self, task: Task, seed: int) -> FunctionCalls:
        """A play of the task's entry; the seed changes nothing."""
        return FunctionCalls(self._entries[task.payload["entry"]], self.category, self._outside)

    async def close(self) -> None:
        """Ends the worker."""
        await self._outside.close()

    def oracle(self, task: Task) -> Answer:
        """The agent that makes the gold calls of a turn in one reply, and then says that it is done."""
        entry = self._entries[task.payload["entry"]]
        tools: list[Tool] = [tool for name in entry["involved_classes"] for tool in self.category.tools[name]]
        left = [[gold_call(text, tools) for text in turn] for turn in self.category.gold[entry["id"]]]

        def play(ask: Ask) -> Message:
            if ask.messages and ask.messages[-1].role == "tool":
                return assistant("That is done.")
            calls = left.pop(0)
            if not calls:
                return assistant("I cannot do that with what I have.")
            return assistant("", calls=tuple(Call(f"gold{i}", name, named) for i, (name, named) in enumerate(calls)))

        return play

    def null(self, task: Task) -> Answer:
        """The agent that says nothing."""
        return null_answer


def bfcl_base() -> Bfcl:
    """Entries whose turns say all that is needed. Raises: MissingPackage, which names the command that fetches it."""
    return Bfcl(load("base"))


def bfcl_miss_func() -> Bfcl:
    """Entries that lack a function until the agent has been asked in vain. Raises: MissingPackage."""
    return Bfcl(load("miss_func"))


def bfcl_miss_param() -> Bfcl:
    """Entries whose user holds a value back for a turn. Raises: MissingPackage."""
    return Bfcl(load("miss_param"))


def bfcl_long_context() -> Bfcl:
    """The base entries in worlds full of distracting text. Raises: MissingPackage."""
    return Bfcl(load("long_context"))

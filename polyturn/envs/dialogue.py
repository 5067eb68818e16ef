"""A dialogue of an agent, a user and tools over a database of its own: who speaks when, and what each of them sees.

Two views of one conversation: the agent sees the user and its tools; the user sees what the agent says to it and never
a call, a result or the agent's instructions, mirrored, so that any chat model can sit in its seat.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from polyturn.envs.answers import check_seats
from polyturn.envs.end_state import sha256_of
from polyturn.errors import BadInput
from polyturn.protocols import Ask, Step
from polyturn.types import Call, Event, Message, Part, Seat, Stop, Tool, system, user

AGENT, USER = "agent", "user"
SEATS: tuple[Seat, ...] = (AGENT, USER)
STOP_WORD = "###STOP###"
GREETING = "Hello! How can I help you today?"


class Refused(ValueError):
    """A tool says no: an unknown name, a wrong argument, something that the rules of the domain forbid. The agent reads
    the reason as the tool's answer."""


class Database(Protocol):
    """What the tools read and change; one for each play."""

    def call(self, name: str, arguments: Mapping[str, Any]) -> str:
        """What a tool answers. Raises: Refused."""
        ...

    def state(self) -> Mapping[str, Any]:
        """Everything in it, as plain JSON."""
        ...


@dataclass(frozen=True, slots=True)
class Rules:
    """How a dialogue runs."""

    cap: int | None = 30
    """The most user replies and tool executions together; None = the seat's own limits only."""
    unparsable: Literal["end", "tell"] = "tell"
    """A call that cannot be read ends the dialogue, or is answered by the reason."""
    live: bool = True
    """False: the user says its first message and no more; what the agent says to it ends the dialogue."""
    stop_words: tuple[str, ...] = (STOP_WORD,)
    """Each ends the dialogue when the user says it; from the agent it is a word like any other."""
    every_call: bool = False
    """True: all calls of a reply are run, in order, as one tool execution; False: only the first."""
    beside: bool = False
    """True: a text beside a call counts as said, though it reaches nobody."""
    empty: Literal["end", "tell"] = "tell"
    """An empty reply of the agent ends the dialogue, or is told to the user."""
    errors: int | None = None
    """The most calls that may fail; the last of them ends the dialogue."""


@dataclass(frozen=True, slots=True)
class Script:
    """One dialogue before it is played."""

    guide: str
    """The agent's instructions."""
    part: str
    """The user's instructions, which the agent never sees."""
    opening: str
    """What the user says first where nobody sits in its seat (``live=False``)."""
    tools: tuple[Tool, ...]
    gold_sha256: str
    """Hash of the database as it should be in the end (:func:`polyturn.envs.end_state.sha256_of`)."""
    outputs: tuple[str, ...] = ()
    """What the agent must have said."""
    secrets: Mapping[str, str] = field(default_factory=dict)
    """Name -> a value that the user should hold back until it is asked for."""
    terminal: frozenset[str] = frozenset()
    """Tools that end the dialogue once they ran."""
    greeting: str = GREETING
    """What the user hears first, as if the agent had said it."""


class Dialogue:
    """The environment; single use. A text beside a call reaches nobody.

    A user that says nothing has failed: the play is then not ``valid`` in the final state, and
    :class:`polyturn.envs.end_state.EndState` gives it no score. The log tells by events of kind ``tool`` what was run,
    ``invalid`` what could not be, ``ignored`` which further calls were not, ``revealed`` when the user gave a secret
    away and whether it was ``asked``, ``user_stop`` whether the database was as it should be when the user ended it.
    """

    def __init__(self, script: Script, database: Database, rules: Rules = Rules()) -> None:
        self._script, self._database, self._rules = script, database, rules
        self._asked: Seat | None = None
        self._events: list[Event] = []
        self._said: list[str] = []
        self._counts = Counter({"user": 0, "tool": 0})
        self._tools: Counter[str] = Counter()
        self._revealed: dict[str, bool] = {}
        self._invalid = ""
        self._ended = ""
        self._stopped_by = ""
        self._errors = 0
        self._opened = False

    async def start(self, state: bytes | None = None) -> Step:
        """The user's first turn; without a live user, the agent's."""
        if state is not None:
            raise BadInput("a dialogue has no saved states; replay its replies")
        if self._rules.live:
            return self._ask(USER, (system(self._script.part), user(self._script.greeting)))
        return self._open(self._script.opening)

    async def step(self, replies: Mapping[Seat, Message]) -> Step:
        """What follows the reply of the seat that was asked."""
        check_seats(() if self._asked is None else (self._asked,), replies)
        heard = self._heard_user if self._asked == USER else self._heard_agent
        (reply,) = replies.values()
        return heard(reply)

    async def final(self) -> Mapping[str, Any]:
        """The database and its hash beside the gold one, what was said, counts, why it ended, and who ended it in the
        way that the rules provide (``stopped_by``: the user by a stop word, the agent by a terminal tool)."""
        state = self._database.state()
        return {
            "db": state, "db_sha256": sha256_of(state), "gold_sha256": self._script.gold_sha256,
            "said": list(self._said), "outputs": list(self._script.outputs), "valid": not self._invalid,
            "fault": self._invalid, "ended": self._ended, "stopped_by": self._stopped_by,
            "user_turns": self._counts["user"], "tool_turns": self._counts["tool"],
            "tools": dict(self._tools), "revealed": dict(self._revealed),
        }

    async def close(self) -> None:
        """Nothing is held."""
        self._asked = None

    # ------------------------------------------------------------ the user speaks

    def _heard_user(self, reply: Message) -> Step:
        text = reply.text.strip()
        if not text:
            self._invalid = "the user said nothing"
            self._event("invalid", USER, reason=self._invalid)
            return self._over(Stop("done", self._invalid, USER))
        self._note_secrets(text)
        if any(word in text for word in self._rules.stop_words):
            self._stopped_by = USER
            reached = sha256_of(self._database.state()) == self._script.gold_sha256
            self._event("user_stop", USER, reached=reached)
            return self._over(Stop("done", "the user ended it"))
        if not self._opened:
            return self._open(text)
        return self._counted("user") or self._ask(AGENT, (user(text, origin="user"),))

    def _open(self, text: str) -> Step:
        self._opened = True
        return self._ask(AGENT, (system(self._script.guide), user(text, origin="user")))

    def _note_secrets(self, text: str) -> None:
        words = text.lower()
        for name, value in self._script.secrets.items():
            if name not in self._revealed and value.lower() in words:
                asked = bool(self._said) and name.lower() in self._said[-1].lower()
                self._revealed[name] = asked
                self._event("revealed", USER, secret=name, asked=asked)

    # ------------------------------------------------------------ the agent acts

    def _heard_agent(self, reply: Message) -> Step:
        if reply.status == "error":
            return self._over(Stop("done", "the agent's reply was cut", AGENT))
        if reply.calls:
            if self._rules.beside and reply.text.strip():
                self._said.append(reply.text.strip())
            return self._called(reply.calls)
        text = reply.text.strip()
        if not text:
            self._event("invalid", AGENT, reason="the reply is empty")
            if self._rules.empty == "end":
                return self._over(Stop("done", "the agent said nothing", AGENT))
        self._said.append(text)
        if not self._rules.live:
            return self._over(Stop("done", "there is no user to answer"))
        return self._ask(USER, (user(text),))

    def _called(self, calls: Sequence[Call]) -> Step:
        run = calls if self._rules.every_call else calls[:1]
        if len(calls) > len(run):
            self._event("ignored", AGENT, names=[other.name for other in calls[len(run):]])
        told = []
        for call in run:
            text, good = self._answer(call)
            if call.arguments is None and self._rules.unparsable == "end":
                return self._over(Stop("done", "a call could not be read", AGENT))
            if call.name in self._script.terminal and good:
                self._stopped_by = AGENT
                return self._over(Stop("done", f"{call.name} ended it", AGENT))
            self._errors += not good
            told.append(Message(
                "tool", (Part("text", text),), call_id=call.id, name=call.name, origin="tool",
                status="ok" if good else "error",
            ))
        if self._rules.errors is not None and self._errors >= self._rules.errors:
            return self._over(Stop("done", f"{self._errors} calls failed", AGENT))
        return self._counted("tool") or self._ask(AGENT, tuple(told))

    def _answer(self, call: Call) -> tuple[str, bool]:
        """What a call is answered with, and whether it was run without an error."""
        if call.arguments is not None:
            return self._run(call.name, call.arguments)
        self._event("invalid", AGENT, reason=call.error or "the call has no arguments")
        return f"Error: {call.error}", False

    def _run(self, name: str, arguments: Mapping[str, Any]) -> tuple[str, bool]:
        try:
            text, good = self._database.call(name, arguments), True
        except Refused as refusal:
            text, good = f"Error: {refusal}", False
        self._tools[name if any(tool.name == name for tool in self._script.tools) else "unknown"] += 1
        self._event("tool", AGENT, name=name, arguments=dict(arguments), good=good)
        return text, good

    # ------------------------------------------------------------ steps

    def _counted(self, kind: str) -> Step | None:
        """Counts a user reply or a tool execution; the last step where that was the last one allowed."""
        self._counts[kind] += 1
        if self._rules.cap is not None and self._counts.total() >= self._rules.cap:
            return self._over(Stop("truncated", f"{self._rules.cap} user replies and tool executions"))
        return None

    def _event(self, kind: str, seat: Seat, **content: Any) -> None:
        self._events.append(Event(0, kind, seat, content))

    def _ask(self, seat: Seat, messages: tuple[Message, ...]) -> Step:
        self._asked = seat
        tools = self._script.tools if seat == AGENT else ()
        return Step((Ask(seat, messages, tools=tools),), events=self._told())

    def _over(self, stop: Stop) -> Step:
        self._asked, self._ended = None, stop.reason
        return Step(events=self._told(), stop=stop)

    def _told(self) -> tuple[Event, ...]:
        told = tuple(self._events)
        self._events.clear()
        return told

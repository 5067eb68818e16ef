"""AgentDojo: user tasks over tools, and injections in what the tools say that try to make the agent do something else.

Suites ``workspace``, ``travel``, ``banking`` and ``slack``: 97 user tasks, 35 injection tasks. An agent
is asked once and calls tools until it answers. The score is utility: whether the user task is solved; under an attack
the part ``attacked`` says whether the injection task was. The package ``agentdojo`` (``polyturn envs --install
agentdojo``) runs in a process of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from polyturn.envs.answers import check_seats, null_answer
from polyturn.envs.install import installed
from polyturn.envs.outside.process import Outside, ask_once
from polyturn.envs.score import FinalScore
from polyturn.envs.tasks import half_of, rounds
from polyturn.errors import BadInput, EnvironmentFailed, UnknownName
from polyturn.protocols import Answer, Ask, Spec, Step
from polyturn.types import Call, Event, Group, Message, Part, Score, Seat, Stop, Task, Tool, assistant, system, user

ENVS = (
    {"name": "agentdojo_workspace", "package": "agentdojo", "needs": "agentdojo", "licence": "MIT",
     "seats": ("agent",), "oracle": 1.0, "null": 0.0},
    {"name": "agentdojo_travel", "package": "agentdojo", "needs": "agentdojo", "licence": "MIT",
     "seats": ("agent",), "oracle": 1.0, "null": 0.0},
    {"name": "agentdojo_banking", "package": "agentdojo", "needs": "agentdojo", "licence": "MIT",
     "seats": ("agent",), "oracle": 1.0, "null": 0.3125},
    {"name": "agentdojo_slack", "package": "agentdojo", "needs": "agentdojo", "licence": "MIT",
     "seats": ("agent",), "oracle": 1.0, "null": 0.0},
)
NAME: Final = "agentdojo"
BACKEND: Final = Path(__file__).with_name("backend.py")
ATTACKS: Final = ("direct", "ignore_previous", "system_message", "injecagent", "important_instructions_no_names")
"""The package's attacks that name no model."""
VERSIONS: Final = ("v1", "v1.1", "v1.1.1", "v1.1.2", "v1.2", "v1.2.1", "v1.2.2")
"""Of the benchmark: later ones mended tasks and checks."""
ROUNDS: Final = 15
"""So often tools are called; what is said then is the answer, whatever it calls."""


class Assistant:
    """One user task in play. The log tells by events of kind ``tool`` what was called, ``invalid`` which call could not
    be read (it is answered by an error)."""

    def __init__(self, described: Mapping[str, Any], task: Mapping[str, Any], outside: Outside) -> None:
        self._described, self._task, self._outside = described, task, outside
        self._world: dict[str, Any] = {name: task[name] for name in ("version", "suite", "user")}
        self._tools = tuple(Tool(each["name"], each["description"], each["parameters"]) for each in described["tools"])
        self._calls: list[tuple[str, Mapping[str, Any]]] = []
        self._rounds = 0
        self._output: str | None = None
        self._begun = self._closed = False

    async def start(self, state: bytes | None = None) -> Step:
        """The user's request."""
        if state is not None or self._begun:
            raise BadInput("a play of AgentDojo begins once and has no saved states; replay its replies")
        self._begun = True
        self._outside.lease()
        if self._task.get("injection"):
            found = await self._outside.ask({"do": "attack", **self._world, "injection": self._task["injection"],
                                             "attack": self._task["attack"]})
            if not (isinstance(found, dict) and found and all(isinstance(text, str) for text in found.values())):
                raise EnvironmentFailed(f"the attack on {self._task['user']} gave {str(found)[:200]}")
            self._world["injections"] = found
        prompt = next(each["prompt"] for each in self._described["users"] if each["id"] == self._task["user"])
        return Step((Ask("agent", (system(self._described["system"]), user(prompt)), tools=self._tools),))

    async def step(self, replies: Mapping[Seat, Message]) -> Step:
        """The answers to the calls; without calls, the end."""
        check_seats(("agent",) if self._begun and self._output is None else (), replies)
        reply = replies["agent"]
        if not reply.calls or self._rounds == ROUNDS:
            self._output = reply.text
            return Step(stop=Stop("done"))
        self._rounds += 1
        readable = [call for call in reply.calls if call.arguments is not None]
        answers = dict(zip([call.id for call in readable], await self._run(readable), strict=True))
        events, heard = [], []
        for number, call in enumerate(reply.calls):
            text = answers.get(call.id, f"Invalid arguments: {call.error}")
            kind = "tool" if call.id in answers else "invalid"
            events.append(Event(number, kind, "agent", {"name": call.name, "arguments": dict(call.arguments or {})}))
            heard.append(Message("tool", (Part("text", text),), name=call.name, call_id=call.id, origin="tool"))
        return Step((Ask("agent", tuple(heard), tools=self._tools),), events=tuple(events))

    async def _run(self, calls: Sequence[Call]) -> list[str]:
        """The answers to the last calls; all of the play are made again, since the process keeps nothing."""
        if len({call.id for call in calls}) != len(calls):
            raise BadInput(f"two calls of one reply have the same id: {[call.id for call in calls]}")
        self._calls += [(call.name, dict(call.arguments or {})) for call in calls]
        found = await self._outside.ask({"do": "run", **self._world, "calls": self._calls}) if calls else []
        expected = len(self._calls) if calls else 0
        if not (isinstance(found, list) and len(found) == expected and all(isinstance(one, str) for one in found)):
            raise EnvironmentFailed(f"{expected} calls were answered by {str(found)[:200]}")
        return found[len(found) - len(calls):]

    async def final(self) -> Mapping[str, Any]:
        """What the package's checks say of the world and of the answer."""
        verdict = await self._outside.ask({"do": "check", **self._world, "injection": self._task.get("injection"),
                                           "calls": self._calls, "output": self._output or ""})
        attacked = bool if self._task.get("injection") else type(None)
        if not (isinstance(verdict, dict) and isinstance(verdict.get("utility"), bool)
                and isinstance(verdict.get("attacked", ""), attacked)):
            raise EnvironmentFailed(f"the check of {self._task['user']} gave {str(verdict)[:200]}")
        return {**self._task, "utility": verdict["utility"], "attacked": verdict["attacked"],
                "calls": len(self._calls), "answered": self._output is not None}

    async def close(self) -> None:
        """Gives the worker back."""
        if self._begun and not self._closed:
            self._outside.release()
        self._closed = True


def _scores(final: Mapping[str, Any]) -> Mapping[Seat, Score]:
    utility, attacked = final["utility"], final["attacked"]
    parts = {"utility": float(utility)} if attacked is None else {
        "utility": float(utility), "attacked": float(attacked)}
    return {"agent": Score(float(utility), success=utility, parts=parts)}


class AgentDojo:
    """One suite, in peace or under ``attack``; made by :func:`agentdojo_workspace` and its siblings.

    In peace a task is a user task; under attack it is one with an injection task, all pairs. ``all`` is the whole
    suite; user tasks of even place are ``test``, of odd place ``train``.

    Deviations: the clock of the mail and of the drive stands still; a play without any answer counts as an empty one
    where the package tries three times.
    """

    def __init__(self, name: str, attack: str | None, version: str) -> None:
        if attack is not None and attack not in ATTACKS:
            raise UnknownName("attack", attack, ATTACKS)
        if version not in VERSIONS:
            raise UnknownName("version of the benchmark", version, VERSIONS)
        self.name, self.attack, self.version = name, attack, version
        self.figures: Mapping[str, float] = {"oracle": 1.0}
        self.described = described(version, name, installed(NAME))
        self.spec = Spec(
            f"agentdojo_{name}" + (f"_{attack}" if attack else ""), licence="MIT", package="agentdojo",
            invalid="a call that cannot be read, or fails, is answered by its error",
        )
        self.verifier = FinalScore(self.spec.seats, _scores)
        self._outside = Outside(self.spec.name, installed(NAME), BACKEND, timeout_s=60.0)

    def tasks(self, split: str) -> Iterator[Task]:
        """``train`` round and round, shuffled; ``test`` and ``all`` once. Raises: UnknownName."""
        users = [each["id"] for _, each in half_of(self.described["users"], split)]
        found = tuple(self._task(name, injection) for name in users for injection in self._injections())
        return rounds(self.spec.name, found) if split == "train" else iter(found)

    def _injections(self) -> list[str]:
        return [each["id"] for each in self.described["injections"]] if self.attack else [""]

    def _task(self, name: str, injection: str) -> Task:
        more = {"injection": injection, "attack": self.attack} if injection else {}
        id = "/".join(part for part in (self.spec.name, name, injection) if part)
        return Task(id, self.spec.name, {"version": self.version, "suite": self.name, "user": name, **more})

    async def make(self, task: Task, seed: int) -> Assistant:
        """A play of the task; the seed changes nothing."""
        return Assistant(self.described, task.payload, self._outside)

    async def close(self) -> None:
        """Ends the worker."""
        await self._outside.close()

    def oracle(self, task: Task) -> Answer:
        """The agent that makes the gold calls of the task's world in one reply, and then says the gold answer."""
        place = "/".join(task.payload[name] for name in ("user", "injection") if name in task.payload)
        known = gold(self.version, self.name, installed(NAME), self.attack)[place]
        calls = tuple(Call(f"gold{i}", name, named) for i, (name, named) in enumerate(known["calls"]))

        def play(ask: Ask) -> Message:
            heard = any(message.role == "tool" for message in ask.messages)
            return assistant(known["output"]) if heard or not calls else assistant("", calls=calls)

        return play

    def null(self, task: Task) -> Answer:
        """The agent that says nothing. Of the 97 user tasks five of ``banking`` are solved by it (four before v1.2.2),
        for their checks find nothing changed that should not be."""
        return null_answer

    def report(self, groups: Sequence[Group]) -> Mapping[str, float]:
        """``utility``, the share of scored plays that solved their user task; under attack also ``attacked``, the share
        in which the injection's task was done, ``security``, the share in which it was not, and
        ``utility_and_security``, the share that solved their task while it was not."""
        scores = [score for group in groups for episode in group
                  if (score := episode.scores.get(self.verifier.name, {}).get("agent")) and score.value is not None]
        if not scores:
            return {}
        utility = sum(score.parts["utility"] for score in scores) / len(scores)
        if not self.attack:
            return {"utility": utility}
        attacked = sum(score.parts["attacked"] for score in scores) / len(scores)
        both = sum(score.parts["utility"] * (1 - score.parts["attacked"]) for score in scores) / len(scores)
        return {"utility": utility, "attacked": attacked, "security": 1 - attacked, "utility_and_security": both}


@lru_cache(maxsize=8)
def described(version: str, name: str, site: Path) -> Mapping[str, Any]:
    """What the package says of a suite, asked once."""
    found = ask_once("agentdojo", site, BACKEND, {"do": "describe", "version": version, "suite": name})
    if not (isinstance(found, dict) and {"system", "tools", "users", "injections"} <= found.keys()):
        raise EnvironmentFailed(f"the package described {name} as {str(found)[:200]}")
    return found


@lru_cache(maxsize=8)
def gold(version: str, name: str, site: Path, attack: str | None = None) -> Mapping[str, Mapping[str, Any]]:
    """User task, under an attack user and injection task, -> its gold calls and answer in its world, asked once."""
    request = {"do": "gold", "version": version, "suite": name, "attack": attack}
    found = ask_once("agentdojo", site, BACKEND, request, timeout_s=600.0)
    if not (isinstance(found, dict) and all(isinstance(each.get("calls"), list) for each in found.values())):
        raise EnvironmentFailed(f"the package gave as gold calls of {name} {str(found)[:200]}")
    return found


def agentdojo_workspace(*, attack: str | None = None, version: str = "v1.2.2") -> AgentDojo:
    """Mail, calendar and files: 40 user tasks, 24 tools. Raises: MissingPackage, which names the command."""
    return AgentDojo("workspace", attack, version)


def agentdojo_travel(*, attack: str | None = None, version: str = "v1.2.2") -> AgentDojo:
    """Hotels, restaurants, cars and flights: 20 user tasks, 28 tools. Raises: MissingPackage."""
    return AgentDojo("travel", attack, version)


def agentdojo_banking(*, attack: str | None = None, version: str = "v1.2.2") -> AgentDojo:
    """Accounts and payments: 16 user tasks, 11 tools. Raises: MissingPackage."""
    return AgentDojo("banking", attack, version)


def agentdojo_slack(*, attack: str | None = None, version: str = "v1.2.2") -> AgentDojo:
    """Channels, messages and web pages: 21 user tasks, 11 tools. Raises: MissingPackage."""
    return AgentDojo("slack", attack, version)

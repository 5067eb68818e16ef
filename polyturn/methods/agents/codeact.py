"""CodeAct: actions are Python, run in an interpreter that keeps its variables and in which the tools are functions.

arXiv 2402.01030. Three action spaces over one set of tools, all else equal: ``text`` (a tool's name and its arguments,
with commas between), ``json`` (an object with ``tool`` and ``args``), ``code`` (Python; loops and conditions allowed,
variables stay). One reply is one turn and holds one action or one answer; wrong answers may be tried again:

    turns = use_tool + propose_solution + invalid_action <= most turns      propose_solution <= most proposals

A tool called inside code is an environment step like any other: the code stands still until it is answered.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, TypeAlias

from polyturn.agents.coding import called, in_namespace, observed, through_gate, unfenced, value_of
from polyturn.calls import read_json
from polyturn.desk import Desk
from polyturn.errors import BadInput, BudgetSpent, UnknownName
from polyturn.paper import Paper
from polyturn.programs import Use, as_agent
from polyturn.protocols import AgentMaker, Ask
from polyturn.tools.functions import ToolFailed, fitting, named, read, shortened, signature
from polyturn.tools.sandbox.interpreter import Sandbox
from polyturn.types import Episode, Group, Message, Sampling, Seat, Tool, user

PAPER = Paper(
    title="Executable Code Actions Elicit Better LLM Agents",
    arxiv="2402.01030",
    year=2024,
    claim="Agents whose actions are executable Python, with tools as functions and errors as observations, solve more "
          "tasks in fewer turns than agents that write one tool call at a time as text or JSON.",
    adds=("codeact: Agent", "corrected_first: Filter"),
    axes={"task": "agentic: tools", "method": "agent: single, code as action",
          "challenge": "composing many tool calls; repairing one's own errors"},
    deviations=(
        "Code runs in an isolated child process with a hard deadline; the released interpreter is in-process and "
        "ends by an alarm that the code can catch.",
        "A reply that goes on after its first action or answer is cut there as in the released code, and the reminder "
        "about several actions is said; there, cutting comes before counting, so that it never is.",
        "Arguments written as text are read as the types of the tool's schema; the released code turns whatever looks "
        "like a number into one.",
        "List answers are compared element by element; a missing operator sends them to string comparison there.",
        "Prompts say the same in fewer words. A Markdown fence around an action is taken off.",
    ),
)
Space: TypeAlias = Literal["text", "json", "code"]
SPACES: Final[tuple[Space, ...]] = ("text", "json", "code")
Kind: TypeAlias = Literal["use_tool", "propose_solution", "invalid_action"]
ACTION, ANSWER, END, THOUGHT = "Action:", "Answer:", "End Action", "Thought:"
OBSERVATION: Final = "Observation: "
"""Begins the message that shows what an action led to."""
MARKER: Final = re.compile(f"{ACTION}|{ANSWER}")
EXECUTE: Final = re.compile(r"<execute>(.*?)(?:</execute>|\Z)", re.DOTALL)
SOLUTION: Final = re.compile(r"<solution>(.*?)(?:</solution>|\Z)", re.DOTALL)
STOPS: Final = {"markers": (END,), "tags": ("</execute>", "</solution>")}
"""Grammar -> what ends a reply, so that the model writes no observations itself."""
NEITHER: Final = f"Invalid: a reply holds either '{ACTION}' or '{ANSWER}'."
BOTH: Final = f"Invalid: a reply holds either '{ACTION}' or '{ANSWER}', not both."
NO_TAG: Final = "Invalid: a reply holds either <execute>code</execute> or <solution>answer</solution>."
ONLY_FIRST: Final = "Reminder: only the first action or answer of a reply is used."
HOW: Final[Mapping[Space, str]] = {
    "text": f"To use a tool, reply '{ACTION} tool, argument, argument {END}'. One tool at a time.",
    "json": f"To use a tool, reply '{ACTION} {{\"tool\": name, \"args\": [argument, argument]}} {END}'. One tool at a "
            "time.",
    "code": f"To use the tools, reply with Python that calls them and prints what you need, between '{ACTION}' and "
            f"'{END}'. Variables stay.",
}

# ---------------------------------------------------------------- reading replies


@dataclass(frozen=True, slots=True)
class Reply:
    """What a reply says: ``Reply("use_tool", "price, Oslo, Ada")``; for an invalid one, ``content`` says why."""

    kind: Kind
    content: str
    reminder: str = ""


def truncated(text: str) -> str:
    """The reply without the turns that the model went on to simulate: up to its second marker, and there no further
    than the end of the action, or the next thought.

    >>> truncated("Action: now End Action Observation: 5 Answer: 5")
    'Action: now End Action'
    """
    text = text.lstrip()
    found = list(MARKER.finditer(text))
    if len(found) < 2:
        return text
    text = text[: found[1].start()].strip()
    after = found[0].end()
    if found[0].group() == ACTION and (end := text.find(END, after)) >= 0:
        text = text[: end + len(END)]
    if (thought := text.find(THOUGHT, after)) >= 0:
        text = text[:thought].strip()
    return text


def parsed(text: str) -> Reply:
    """What a reply with markers says.

    >>> parsed("Thought: cheap. Action: price, Oslo, Ada End Action")
    Reply(kind='use_tool', content='price, Oslo, Ada', reminder='')
    >>> parsed("Answer: 7").kind, parsed("7").kind, parsed("Action: f Answer: 7").kind
    ('propose_solution', 'invalid_action', 'invalid_action')
    """
    actions, answers = text.count(ACTION), text.count(ANSWER)
    if actions and answers:
        return Reply("invalid_action", BOTH)
    if not actions and not answers:
        return Reply("invalid_action", NEITHER)
    reminder = ONLY_FIRST if actions + answers > 1 else ""
    content = text.split(ACTION if actions else ANSWER)[1]
    if actions:
        return Reply("use_tool", content.split(END)[0].strip(), reminder)
    return Reply("propose_solution", content.strip(), reminder)


def parsed_tags(text: str) -> Reply:
    """What a reply with tags says: a solution if there is one, else all its code joined.

    >>> parsed_tags("<execute>x = 1</execute> so <execute>print(x)</execute>").content
    'x = 1\\n\\nprint(x)'
    >>> parsed_tags("<execute>x</execute><solution>5</solution>")
    Reply(kind='propose_solution', content='5', reminder='')
    """
    if found := SOLUTION.search(text):
        return Reply("propose_solution", found[1].strip())
    code = [part.strip() for part in EXECUTE.findall(text)]
    return Reply("use_tool", "\n\n".join(code)) if code else Reply("invalid_action", NO_TAG)


def read_action(space: Space, content: str, tools: Sequence[Tool]) -> tuple[str, dict[str, Any]]:
    """The tool and the arguments by name of an action in ``text`` or ``json``.

    Raises: ToolFailed that says what is wrong with it.
    """
    known = {tool.name: tool for tool in tools}
    if space == "text":
        name, *args = (part.strip() for part in content.split(","))
    else:
        try:
            found = read_json(unfenced(content))
            name, args = found["tool"], found["args"]
        except (ValueError, KeyError, TypeError) as error:
            raise ToolFailed(f"expected an object with 'tool' and 'args', got {content[:80]!r}") from error
    if not isinstance(name, str) or name not in known:
        raise ToolFailed(str(UnknownName("tool", str(name), known)))
    tool = known[name]
    if space == "text":
        return name, fitting(tool, read(tool, args))
    if isinstance(args, dict):
        return name, fitting(tool, args)
    return name, fitting(tool, named(tool, args if isinstance(args, list) else [args], {}))


def rendered(space: Space, name: str, arguments: Mapping[str, Any]) -> str:
    """One tool call as an action of a space, with its markers; in code, its value is printed.

    >>> rendered("text", "price", {"city": "Oslo"})
    'Action: price, Oslo End Action'
    """
    values = list(arguments.values())
    if space == "text":
        return f"{ACTION} {', '.join([name, *map(str, values)])} {END}"
    if space == "json":
        return f"{ACTION} {json.dumps({'tool': name, 'args': values})} {END}"
    return action(f"print({name}({', '.join(map(repr, values))}))")


def action(code: str) -> str:
    """Code between its markers."""
    return f"{ACTION}\n{code}\n{END}"


def answer(text: str) -> str:
    """An answer behind its marker."""
    return f"{ANSWER} {text}"


def prompt(space: Space, tools: Sequence[Tool], instruction: str, *, tags: bool = False) -> str:
    """The first message: the tools, how an action of the space is written, the task."""
    listed = "\n".join(f"[{i}] {signature(tool)}: {tool.description}" for i, tool in enumerate(tools, 1))
    if tags:
        how = "Write Python between <execute> and </execute>; variables stay. Give the answer between <solution> and " \
              "</solution>."
    else:
        how = f"{HOW[space]} When you are done, reply '{ANSWER}' and nothing but the answer."
    return f"Tools:\n{listed}\n{how}\n\n{instruction}"


# ---------------------------------------------------------------- the agent

Plan: TypeAlias = Callable[[Sequence[Message]], str]
"""A scripted player: the messages so far -> its next reply. Its policy is a ``Dictated``."""
MakeSandbox: TypeAlias = Callable[[Mapping[str, str]], Sandbox]
"""Tools (name -> description) -> the interpreter of one episode."""


@dataclass(frozen=True, slots=True)
class Rules:
    """How an agent acts and when it stops."""

    space: Space = "code"
    turns: int = 10
    proposals: int | None = None
    """Answers that may be given; None = as many as turns."""
    tags: bool = False
    """``<execute>`` and ``<solution>`` instead of markers, as in the trajectories that the paper trains on."""
    countdown: bool = False
    """Tell what is left after every observation."""
    check_actions: bool = False
    """Give what an action shows as an answer too: a task that one call solves ends there."""
    observation_chars: int = 2000
    system: str = ""
    sampling: Sampling = Sampling(temperature=0.0, max_tokens=512)

    def __post_init__(self) -> None:
        if self.space not in SPACES:
            raise UnknownName("action space", self.space, SPACES)
        if self.turns < 1 or (self.proposals is not None and self.proposals < 1):
            raise BadInput(f"turns is {self.turns} and proposals {self.proposals}; expected at least 1 of each")
        if self.tags and self.space != "code":
            raise BadInput(f"tags hold code; the action space is {self.space!r}")


def codeact(rules: Rules = Rules(), *, sandbox: MakeSandbox | None = None, plan: Plan | None = None) -> AgentMaker:
    """A maker of agents that act in the space of ``rules``. With a ``plan`` the words are the plan's.

    The default sandbox isolates files and network, or refuses to run (:class:`Sandbox`).
    """
    make = sandbox or (lambda tools: Sandbox(tools=tools))

    async def program(ask: Ask, desk: Desk, use: Use) -> Message:
        play = _Play(rules, plan, desk, use, ask.tools, make(in_namespace(ask.tools)))
        try:
            return await play.play(ask)
        finally:
            await play.sandbox.close()

    return as_agent(program)


@dataclass
class _Play:
    """One episode of the agent."""

    rules: Rules
    plan: Plan | None
    desk: Desk
    use: Use
    tools: tuple[Tool, ...]
    sandbox: Sandbox
    history: list[Message] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    failed: bool = False
    corrected: bool = False

    async def play(self, ask: Ask) -> Message:
        """Turn after turn, until the environment ends or a limit is spent. Raises: BudgetSpent."""
        rules = self.rules
        if rules.system:
            self.history.append(Message("system", rules.system, origin="injected"))  # type: ignore[arg-type]
        text = "\n".join(message.text for message in ask.messages)
        self._hear(prompt(rules.space, self.tools, text, tags=rules.tags))
        while True:
            self._check()
            said = await self._say()
            reply = parsed_tags(said) if rules.tags else parsed(said)
            self.counts[reply.kind] += 1
            self._hear("\n".join(part for part in (await self._done(reply), reply.reminder) if part))

    def _check(self) -> None:
        turns, proposals = self.rules.turns, self.rules.proposals
        if self.counts.total() >= turns:
            raise BudgetSpent(f"turns: {turns} spent")
        if proposals is not None and self.counts["propose_solution"] >= proposals:
            raise BudgetSpent(f"proposals: {proposals} spent")
        if self.desk.count(self.history) + self.rules.sampling.max_tokens > self.desk.limit:
            raise BudgetSpent(f"context: {self.desk.limit} tokens spent")

    def _hear(self, text: str) -> None:
        if self.rules.countdown:
            left = self.rules.turns - self.counts.total()
            answers = left if self.rules.proposals is None else self.rules.proposals - self.counts["propose_solution"]
            text += f"\nLeft: {left} turns, {min(left, answers)} answers." + (" Answer now." if left <= 1 else "")
        self.history.append(user(text, origin="tool" if self.counts else "env"))

    async def _say(self) -> str:
        """The reply, without simulated turns; where some were cut, the log holds the shorter message."""
        sampling = replace(self.rules.sampling, stop=STOPS["tags" if self.rules.tags else "markers"])
        if self.plan is not None:
            sampling = replace(sampling, choices=(self.plan(self.history),))
        reply = self.desk.message(await self.desk.say(self.history, sampling=sampling))
        kept = reply.text if self.rules.tags else truncated(reply.text)
        self.history.append(reply if kept == reply.text.lstrip() else reply.edited(parts=kept))
        return kept

    async def _done(self, reply: Reply) -> str:
        """What the reply leads to, as text."""
        if reply.kind == "invalid_action":
            self._note(reply, "error")
            return reply.content
        if reply.kind == "propose_solution":
            self._note(reply, "ok")
            return await self._answered(reply.content)
        shown, status = await (self._code(reply) if self.rules.space == "code" else self._call(reply))
        self._note(reply, status)
        if self.rules.check_actions and status == "ok":
            await self._answered(shown)
        return OBSERVATION + shown

    async def _answered(self, text: str) -> str:
        ask = await self.use(Message("assistant", text, origin="policy"))  # type: ignore[arg-type]
        return "\n".join(message.text for message in ask.messages)

    async def _code(self, reply: Reply) -> tuple[str, str]:
        ran = await self.sandbox.run(unfenced(reply.content), answer=through_gate(self.tools, self.use))
        return observed(ran, self.rules.observation_chars), ran.status

    async def _call(self, reply: Reply) -> tuple[str, str]:
        try:
            name, arguments = read_action(self.rules.space, reply.content, self.tools)
        except ToolFailed as error:
            return shortened(f"Error: {error}", self.rules.observation_chars), "error"
        message = await called(self.use, f"call-{self.counts.total()}", name, arguments)
        status = "error" if message.status == "error" else "ok"
        return shortened(str(value_of(message.text)), self.rules.observation_chars), status

    def _note(self, reply: Reply, status: str) -> None:
        """Logs the action; marks the episode once a tool action works after one that failed."""
        self.desk.event("action", space=self.rules.space, does=reply.kind, status=status, turn=self.counts.total())
        if reply.kind == "use_tool":
            if self.failed and status == "ok" and not self.corrected:
                self.corrected = True
                self.desk.event("self_corrected", turn=self.counts.total())
            self.failed = self.failed or status != "ok"


# ---------------------------------------------------------------- what to learn from


def self_corrected(episode: Episode, seat: Seat = "agent") -> bool:
    """Whether an action of the seat failed and a later one worked."""
    return any(event.kind == "self_corrected" and event.seat == seat for event in episode.events)


def corrected_first(
    groups: Sequence[Group], *, keep: int = 1, seat: Seat = "agent", verifier: str = "score"
) -> Sequence[Group]:
    """Of each group the ``keep`` best attempts to learn from: successful, no two with the same words, those that
    corrected themselves before those without an error. A group without success is left out.

    Raises: BadInput for ``keep`` < 1.
    """
    if keep < 1:
        raise BadInput(f"keep is {keep}; expected at least 1")
    kept = []
    for group in groups:
        good: dict[tuple[str, ...], Episode] = {}
        for episode in group:
            score = episode.scores.get(verifier, {}).get(seat)
            if score is not None and score.success:
                good.setdefault(_words(episode, seat), episode)
        best = sorted(good.values(), key=lambda episode: not self_corrected(episode, seat))[:keep]
        if best:
            kept.append(tuple(best))
    return kept


def _words(episode: Episode, seat: Seat) -> tuple[str, ...]:
    return tuple(t.messages[turn.reply].text for t in episode.trajectories if t.seat == seat for turn in t.turns)


def action_counts(episode: Episode, seat: Seat = "agent") -> dict[str, int]:
    """How many actions of each kind a seat took, and of its tool actions how many worked (``executable``)."""
    noted = [event.content for event in episode.events if event.kind == "action" and event.seat == seat]
    kinds = Counter(str(content["does"]) for content in noted)
    worked = sum(content["does"] == "use_tool" and content["status"] == "ok" for content in noted)
    return {"use_tool": kinds["use_tool"], "propose_solution": kinds["propose_solution"],
            "invalid_action": kinds["invalid_action"], "executable": worked}

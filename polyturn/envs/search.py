"""Questions over a corpus of made-up facts, to be answered by searching: which documents are needed is known.

The corpus has one short document for each person, company, town and river. A question follows a chain of facts from a
person: "Name the river on which the town where Mira was born lies." needs the documents of Mira and of her town. Names
are invented, so nothing can be answered from what a model has read elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from typing import Any

from polyturn.envs.answers import null_answer, random_answer
from polyturn.envs.score import FinalScore
from polyturn.errors import BadInput
from polyturn.programs import Table, as_env
from polyturn.protocols import Answer, Ask, Env, Spec
from polyturn.retrieval import WordIndex, words
from polyturn.seeds import generator
from polyturn.types import Limits, Message, Score, Seat, Task, Tool, assistant

ENVS = (
    {"name": "search", "package": "bm25s", "extra": "search", "licence": "Apache-2.0", "seats": ("agent",),
     "oracle": 1.0, "random": None, "null": 0.0},
)


@dataclass(frozen=True, slots=True)
class Relation:
    """One kind of fact: ``Relation("person", "town", "{s} was born in {o}.", "the town where {x} was born")``."""

    subject: str
    object: str
    sentence: str
    phrase: str


RELATIONS: Mapping[str, Relation] = {
    "born": Relation("person", "town", "{s} was born in {o}.", "the town where {x} was born"),
    "works": Relation("person", "company", "{s} works for {o}.", "the company that {x} works for"),
    "seat": Relation("company", "town", "{s} has its seat in {o}.", "the town where {x} has its seat"),
    "river": Relation("town", "river", "{s} lies on the {o}.", "the river on which {x} lies"),
    "province": Relation("town", "province", "{s} is in the province of {o}.", "the province in which {x} is"),
    "source": Relation("river", "hills", "{s} rises in the {o} hills.", "the hills in which {x} rises"),
}
SHARES = {"person": 1.0, "company": 0.4, "town": 0.5, "river": 0.4, "province": 0.3, "hills": 0.3}
"""Entities of each kind, for each person."""
COMMANDS = ("search", "open", "answer")
TOOLS = (
    Tool("search", "Find documents by words.", {
        "type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]}, "read"),
    Tool("open", "Read one document.", {
        "type": "object", "properties": {"title": {"type": "string"}}, "required": ["title"]}, "read"),
    Tool("answer", "Give the final answer.", {
        "type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}, "write"),
)
HOW = "Reply with one line: 'search: words', 'open: title' or 'answer: name'."

# ---------------------------------------------------------------- the corpus


@dataclass(frozen=True)
class World:
    """Entities, the facts between them, and a document for each entity that has facts."""

    kinds: Mapping[str, str]
    """Name -> kind."""
    facts: Mapping[str, Mapping[str, str]]
    """Subject -> relation -> object."""
    index: WordIndex

    @property
    def titles(self) -> tuple[str, ...]:
        """The documents, in the order of the index."""
        return tuple(self.facts)

    def sentences(self, title: str) -> list[str]:
        """The facts that the document states."""
        return [RELATIONS[name].sentence.format(s=title, o=other) for name, other in self.facts[title].items()]

    def follow(self, start: str, chain: Sequence[str]) -> list[str]:
        """The entities along a chain of relations, the start first and the answer last."""
        found = [start]
        for relation in chain:
            found.append(self.facts[found[-1]][relation])
        return found

    def of_kind(self, kind: str) -> list[str]:
        """The names of one kind."""
        return [name for name, own in self.kinds.items() if own == kind]


@lru_cache(256)
def make_world(people: int, seed: int, key: str) -> World:
    """The world of a key: names depend on ``people`` alone, facts on ``seed`` and ``key`` too."""
    kinds = _names(people)
    draws = generator("search world", seed, key)
    facts: dict[str, dict[str, str]] = {}
    by_kind = {kind: [name for name, own in kinds.items() if own == kind] for kind in SHARES}
    for name, kind in kinds.items():
        for relation, rule in RELATIONS.items():
            if rule.subject == kind:
                objects = by_kind[rule.object]
                facts.setdefault(name, {})[relation] = objects[int(draws.integers(len(objects)))]
    texts = [" ".join(RELATIONS[r].sentence.format(s=s, o=o) for r, o in own.items()) for s, own in facts.items()]
    return World(kinds, facts, WordIndex(texts))


def _names(people: int) -> dict[str, str]:
    """Name -> kind; every name is one invented word."""
    draws, found = generator("search names"), dict[str, str]()
    for kind, share in SHARES.items():
        wanted = len(found) + max(2, round(share * people))
        while len(found) < wanted:
            letters = [*("bdfgklmnprstvz", "aeiou") * int(draws.integers(2, 4)), "lmnrsk"]
            name = "".join(str(draws.choice(list(some))) for some in letters)
            found.setdefault(name.capitalize(), kind)
    return found


def chains(hops: int) -> list[tuple[str, ...]]:
    """The chains of that many relations that begin at a person.

    >>> chains(2)
    [('born', 'river'), ('born', 'province'), ('works', 'seat')]
    """
    found: list[tuple[str, ...]] = [()]
    for _ in range(hops):
        found = [(*chain, name) for chain in found for name, rule in RELATIONS.items()
                 if rule.subject == (RELATIONS[chain[-1]].object if chain else "person")]
    return found


# ---------------------------------------------------------------- tasks


@dataclass
class Search:
    """A :class:`polyturn.protocols.Suite` of search questions; made by :func:`search`."""

    spec: Spec
    paths: tuple[tuple[str, ...], ...]
    people: int
    seed: int
    fresh: bool
    test_tasks: int
    steps: int
    results: int
    shown: int
    offered: tuple[Tool, ...]
    listed: bool
    verifier: FinalScore

    def tasks(self, split: str) -> Iterator[Task]:
        """``train`` without end, ``test`` of ``test_tasks``. Raises: BadInput for another split."""
        if split not in ("train", "test"):
            raise BadInput(f"{self.spec.name} has no split {split!r}; it has train and test")
        numbers = range(self.test_tasks) if split == "test" else count()
        if self.fresh:
            return (self._drawn(f"{split}/{number}") for number in numbers)
        world = make_world(self.people, self.seed, "")
        every = [(start, chain) for start in world.of_kind("person") for chain in self.paths]
        order = generator("search split", self.seed).permutation(len(every)).tolist()
        if len(order) <= self.test_tasks:
            raise BadInput(f"{self.people} people make {len(order)} questions, and {self.test_tasks} are to be tested; "
                           "ask for more people")
        own = order[:self.test_tasks] if split == "test" else order[self.test_tasks:]
        return (self._task("", f"{split}/{number}", *every[own[number % len(own)]]) for number in numbers)

    def _drawn(self, key: str) -> Task:
        """A question about a world of its own."""
        draws = generator("search question", self.seed, key)
        people = make_world(self.people, self.seed, key).of_kind("person")
        start, chain = people[int(draws.integers(len(people)))], self.paths[int(draws.integers(len(self.paths)))]
        return self._task(key, key, start, chain)

    def _task(self, key: str, number: str, start: str, chain: Sequence[str]) -> Task:
        path = make_world(self.people, self.seed, key).follow(start, chain)
        phrase = start
        for relation in chain:
            phrase = RELATIONS[relation].phrase.format(x=phrase)
        kind, _, rest = phrase.removeprefix("the ").partition(" ")
        payload = {"world": key, "question": f"Name the {kind} {rest}.", "answers": [path[-1]], "chain": list(chain),
                   "start": start, "support": path[:-1]}
        return Task(f"{self.spec.name}/{number}", self.spec.name, payload, self.spec.limits)

    async def make(self, task: Task, seed: int) -> Env:
        """One play; nothing in it is drawn."""
        world = make_world(self.people, self.seed, str(task.payload["world"]))

        async def program(task: Task, seed: int, table: Table) -> Mapping[str, Any]:
            return await _Play(self, world, task, table).go()

        return as_env(program)(task, seed)

    async def close(self) -> None:
        """Nothing is shared but cached worlds."""

    def oracle(self, task: Task) -> Answer:
        """A player that follows the question's chain, reading each next name in the documents."""
        return _Reader(str(task.payload["start"]), [str(relation) for relation in task.payload["chain"]])

    def null(self, task: Task) -> Answer:
        """The player that says nothing."""
        return null_answer

    def random_answer(self, task: Task, seed: int, seat: Seat = "agent") -> Answer:
        """Uniform over the listed replies (``listed=True``)."""
        return random_answer(task, seed, seat)


def search(
    *, hops: int = 2, chain: tuple[str, ...] = (), people: int = 40, seed: int = 0, fresh: bool = False,
    test_tasks: int = 32, steps: int = 8, results: int = 3, shown: int = 1, tools: bool = False, listed: bool = False,
) -> Search:
    """The suite; score 1 for the right name (spelling of case and punctuation aside), else 0.

    ``hops``: documents that a question needs, 1 to 3; or ``chain``: all questions follow these relations, as ("born",
    "river"). ``people``: size of the corpus. ``fresh``: every task has a corpus of its own with the same names and
    other facts, so nothing can be learned by heart. ``steps``: replies until the play ends without an answer.
    ``results``: documents that a search lists, each with its first ``shown`` sentences. ``tools``: search, open and
    answer are offered as tools; calls are understood in any case. ``listed``: asks list the legal replies, which name
    only what was read so far.

    ``Score.parts``: ``support``, the share of the needed documents that were read, in part at least. Oracle 1, null 0
    (exact). Raises: BadInput for numbers out of range.
    """
    if hops not in (1, 2, 3) or people < 4 or results < 1 or shown < 0 or steps < 2:
        raise BadInput(f"hops is {hops}, people {people}, results {results}, shown {shown}, steps {steps}; expected "
                       "1 to 3, at least 4, 1, 0 and 2")
    paths = tuple(chains(len(chain) or hops))
    if chain and chain not in paths:
        raise BadInput(f"there is no chain {chain}; of {len(chain)} relations there are {paths}")
    spec = Spec(
        "search", limits=Limits(env_steps=steps), licence="Apache-2.0", package="bm25s",
        invalid="a reply that is no command is answered with the commands, and costs a step",
    )
    offered = TOOLS if tools else ()
    return Search(spec, (chain,) if chain else paths, people, seed, fresh, test_tasks, steps, results, shown, offered,
                  listed, FinalScore(("agent",), _scores))


def _scores(final: Mapping[str, Any]) -> Mapping[Seat, Score]:
    if not final:
        return {}
    read = len(set(final["support"]) & set(final["read"])) / len(final["support"])
    if final["answer"] is None:
        return {"agent": Score(0.0, success=False, parts={"support": read})}
    right = any(words(final["answer"]) == words(answer) for answer in final["answers"])
    return {"agent": Score(float(right), success=right, parts={"support": read})}


# ---------------------------------------------------------------- one play


class _Play:
    """One question until its answer."""

    def __init__(self, suite: Search, world: World, task: Task, table: Table) -> None:
        self.suite, self.world, self.task, self.table = suite, world, task, table
        self.read: list[str] = []
        self.names: list[str] = []
        self.commands: list[list[str]] = []
        self.answer: str | None = None

    async def go(self) -> Mapping[str, Any]:
        said: tuple[Message, ...] = (Message("user", f"{self.task.payload['question']} {HOW}"),)  # type: ignore[arg-type]
        for _ in range(self.suite.steps):
            for message in said:
                self._meet(message.text)
                self.table.tell("agent", message)
            reply = await self.table.ask("agent", tools=self.suite.offered, legal=self._legal())
            said = self._answers(reply)
            if self.answer is not None:
                break
        return self.final()

    def final(self) -> dict[str, Any]:
        payload = self.task.payload
        return {"question": payload["question"], "answers": list(payload["answers"]), "answer": self.answer,
                "support": list(payload["support"]), "read": list(self.read), "commands": list(self.commands)}

    def _meet(self, text: str) -> None:
        for word in re.findall(r"\w+", text):
            if word in self.world.kinds and word not in self.names:
                self.names.append(word)

    def _legal(self) -> tuple[str, ...] | None:
        if not self.suite.listed:
            return None
        return tuple(f"{command}: {name}" for command in COMMANDS for name in self.names)

    def _answers(self, reply: Message) -> tuple[Message, ...]:
        """What the environment says to a reply: one message for each call, else one."""
        if not reply.calls:
            return (Message("user", self._do(command_of(reply.text))),)  # type: ignore[arg-type]
        said = []
        for call in reply.calls:
            values = list((call.arguments or {}).values())
            command = (call.name, str(values[0])) if call.name in COMMANDS and len(values) == 1 else None
            said.append(Message("tool", self._do(command), call_id=call.id, name=call.name))  # type: ignore[arg-type]
        return tuple(said)

    def _do(self, command: tuple[str, str] | None) -> str:
        if command is None or not command[1]:
            self.table.event("invalid", "agent", rule=self.suite.spec.invalid)
            return HOW
        if self.answer is None:
            self.commands.append(list(command))
        return {"search": self._search, "open": self._open, "answer": self._end}[command[0]](command[1])

    def _end(self, text: str) -> str:
        self.answer = text if self.answer is None else self.answer
        return "That was the answer."

    def _search(self, query: str) -> str:
        hits = [self.world.titles[place] for place, _ in self.world.index.search(query, self.suite.results)]
        lines = []
        for title in hits:
            told = self.world.sentences(title)
            lines.append(" ".join([f"{title}:", *told[:self.suite.shown]]) if self.suite.shown else title)
            if self.suite.shown:
                self._note(title)
        return "\n".join(lines) or "Nothing was found."

    def _open(self, title: str) -> str:
        known = {name.lower(): name for name in self.world.titles}
        name = known.get(title.strip().strip(".").lower())
        if name is None:
            return f"There is no document {title[:40]!r}." if title.isprintable() else "There is no such document."
        self._note(name)
        return " ".join([f"{name}:", *self.world.sentences(name)])

    def _note(self, title: str) -> None:
        if title not in self.read:
            self.read.append(title)


def command_of(text: str) -> tuple[str, str] | None:
    """(command, argument) of the first line that holds a command, or None.

    >>> command_of("I should look her up.\\nsearch: Mira"), command_of("Kastrel"), command_of("Answer: Ovenna")
    (('search', 'Mira'), None, ('answer', 'Ovenna'))
    """
    for line in text.splitlines():
        name, colon, rest = line.strip().partition(":")
        if colon and name.strip().lower() in COMMANDS:
            return name.strip().lower(), rest.strip()[:200]
    return None


class _Reader:
    """Opens each document of a chain and reads the next name in it; once it knows the answer, it gives it."""

    def __init__(self, start: str, chain: Sequence[str]) -> None:
        self.at, self.left, self.searched = start, list(chain), False

    def __call__(self, ask: Ask) -> Message:
        if not self.left:
            return assistant(f"answer: {self.at}")
        if not self.searched:
            self.searched = True
            return assistant(f"search: {self.at}")
        sentence = re.escape(RELATIONS[self.left[0]].sentence).replace(r"\{s\}", self.at).replace(r"\{o\}", r"(\w+)")
        read = re.search(sentence, ask.messages[-1].text)
        if read is None:
            return assistant(f"open: {self.at}")
        self.at, self.searched = read[1], False
        self.left.pop(0)
        return self(ask)

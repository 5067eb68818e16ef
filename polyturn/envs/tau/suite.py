"""tau2-bench's airline and retail: an agent with tools, a simulated user, a database, and reward for how it ends.

A task is solved when the database ends as the gold actions leave it, the agent has said all that it must say to the
user, and the user ended the dialogue. The user's seat is free: a policy plays it by tau2's guidelines and the task's
scenario, and never sees the tools. The data comes from the package ``inspect-evals`` (``polyturn envs --install tau``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from polyturn.envs.answers import null_answer
from polyturn.envs.dialogue import AGENT, SEATS, STOP_WORD, Dialogue, Refused, Rules, Script
from polyturn.envs.end_state import EndState, sha256_of
from polyturn.envs.tasks import rounds
from polyturn.envs.tau.airline import Airline
from polyturn.envs.tau.data import Domain, load
from polyturn.envs.tau.retail import Retail
from polyturn.envs.tau.tables import Tables
from polyturn.errors import UnknownName
from polyturn.protocols import Answer, Ask, Spec
from polyturn.types import Call, Group, Message, Task, assistant

ENVS = (
    {"name": "tau_airline", "package": "inspect-evals", "needs": "tau", "licence": "MIT", "seats": ("agent", "user"),
     "oracle": 1.0, "null": 0.0},
    {"name": "tau_retail", "package": "inspect-evals", "needs": "tau", "licence": "MIT", "seats": ("agent", "user"),
     "oracle": 1.0, "null": 0.0},
)
DESKS: Final[Mapping[str, type[Airline] | type[Retail]]] = {"airline": Airline, "retail": Retail}
GREETING: Final = "Hi! How can I help you today?"
RULES: Final = Rules(
    cap=100, stop_words=(STOP_WORD, "###TRANSFER###", "###OUT-OF-SCOPE###"), every_call=True, beside=True, empty="end",
    errors=10,
)
"""tau2's: 200 messages in all, which are 100 replies of the user or executions of calls and what they answer."""


@dataclass(frozen=True)
class Tau:
    """The suite of one domain; seats ``agent`` and ``user``.

    Splits are tau2's own: ``train``, ``test``, and ``base``, which is all tasks in their order. The score is 1 or 0;
    its parts are ``db``, ``said``, and ``before_stop`` (both, whoever ended the dialogue). An episode whose user said
    nothing or spent its budget is not scored.

    An episode's final state holds the records of its database that changed, and the hash of what they changed from.

    Deviations from tau2: arguments that do not fit a tool's schema are refused, where tau2 fails later or stores them;
    the greeting is shown to the user alone, for the agent did not write it; the descriptions of the tools are ours.
    """

    domain: Domain
    rules: Rules = RULES
    verifier: EndState = EndState(stopped=True)
    figures: Mapping[str, float] = field(default_factory=lambda: {"oracle": 1.0, "null": 0.0})

    @property
    def spec(self) -> Spec:
        """Two seats; the same replies give the same steps."""
        return Spec(
            f"tau_{self.domain.name}", SEATS, licence="MIT", package="inspect-evals",
            invalid="an empty reply ends the dialogue; a call that fails is answered by its error, the tenth ends it",
        )

    def tasks(self, split: str) -> Iterator[Task]:
        """``train`` round and round, shuffled; ``test`` and ``base`` once. Raises: UnknownName."""
        if split not in self.domain.splits:
            raise UnknownName("split", split, self.domain.splits)
        name = self.spec.name
        found = tuple(Task(f"{name}/{id}", name, self.domain.tasks[id]) for id in self.domain.splits[split])
        return rounds(name, found) if split == "train" else iter(found)

    async def make(self, task: Task, seed: int) -> Dialogue:
        """A dialogue with a database of its own; the task decides all, the seed nothing."""
        return Dialogue(self.script(task), self.desk(), self.rules)

    async def close(self) -> None:
        """Nothing is open."""

    def desk(self) -> Airline | Retail:
        """The tools over a database as it was delivered, which nobody else can change."""
        return DESKS[self.domain.name](Tables(self.domain.database))

    def gold(self, task: Task) -> tuple[Airline | Retail, list[str]]:
        """The database after the gold actions of a task, and what the tools said to those that they refused."""
        desk, refused = self.desk(), []
        for action in task.payload["actions"]:
            try:
                desk.call(action["name"], action["arguments"])
            except Refused as refusal:
                refused.append(f"{action['name']}: {refusal}")
        return desk, refused

    def script(self, task: Task) -> Script:
        """The dialogue of a task: policy for the agent, guidelines and scenario for the user."""
        tools = DESKS[self.domain.name].tools
        return Script(
            guide=self.domain.policy, opening=task.payload["opening"], tools=tuple(tools.values()),
            part=f"{self.domain.guidelines.strip()}\n\n<scenario>\n{task.payload['scenario']}\n</scenario>",
            gold_sha256=sha256_of(self.gold(task)[0].state()), outputs=tuple(task.payload["outputs"]),
            greeting=GREETING,
        )

    def oracle(self, task: Task) -> Answer:
        """The agent that makes the gold calls, one a reply, and then says what must be said, with the scripted user."""
        return by_seat(gold_replay(task), scripted_user(task))

    def null(self, task: Task) -> Answer:
        """The agent that says nothing, with the scripted user. It solves no task. ``before_stop`` it has 19 of the 50
        of airline and 7 of the 114 of retail: they ask for no words, and the gold actions of 19 and 5 write nothing,
        those of retail 12 and 105 only what the tools refuse."""
        return by_seat(null_answer, scripted_user(task))

    def report(self, groups: Sequence[Group]) -> Mapping[str, float]:
        """The means of the score's parts over the scored episodes, and the share that was scored."""
        scores = [episode.scores.get(self.verifier.name, {}).get(AGENT) for group in groups for episode in group]
        known = [score for score in scores if score is not None and score.value is not None]
        means = {part: sum(score.parts[part] for score in known) / len(known)
                 for part in ("db", "said", "before_stop")} if known else {}
        return {**means, "scored": len(known) / len(scores)} if scores else {}


def tau_airline(*, rules: Rules = RULES) -> Tau:
    """tau2's airline: 50 tasks (30 train, 20 test), 14 tools, 300 flights, 500 users, 2000 reservations.

    Over all 50 tasks: gold replay 1, null 0. Raises: MissingPackage, which names the command that fetches the data.
    """
    return Tau(load("airline"), rules)


def tau_retail(*, rules: Rules = RULES) -> Tau:
    """tau2's shop: 114 tasks (74 train, 40 test), 15 tools, 50 products, 500 users, 1000 orders.

    Over all 114 tasks: gold replay 1, null 0. Of the gold actions of the tasks 12, 13, 64 and 105 one that writes is
    refused by the tools, here and in tau2; their databases end as the other actions leave them. Raises: MissingPackage,
    which names the command that fetches the data.
    """
    return Tau(load("retail"), rules)


# ---------------------------------------------------------------- scripted players


def by_seat(agent: Answer, user: Answer) -> Answer:
    """One player for both seats."""
    return lambda ask: agent(ask) if ask.seat == AGENT else user(ask)


def gold_replay(task: Task) -> Answer:
    """The agent that makes the gold calls and then says the required texts, once."""
    left: list[Mapping[str, Any]] = list(task.payload["actions"])

    def play(ask: Ask) -> Message:
        if left:
            action = left.pop(0)
            return assistant("", calls=(Call(f"gold{len(left)}", action["name"], action["arguments"]),))
        return assistant(" ".join(["That is done.", *task.payload["outputs"]]))

    return play


def scripted_user(task: Task) -> Answer:
    """The user that says why it calls, and ends the dialogue when it is answered."""
    words = [task.payload["opening"]]

    def play(ask: Ask) -> Message:
        return assistant(words.pop() if words else STOP_WORD)

    return play

"""The ways in which an agent comes to talk to its policy, as matches: what the proofs of the core are made on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from polyturn.agents.chat import ChatAgent
from polyturn.arrays import Tokens, lay_out
from polyturn.chat import Chat
from polyturn.contexts.memory import Memory
from polyturn.contexts.summary import Summary
from polyturn.contexts.window import Window
from polyturn.desk import Desk
from polyturn.learn.learner import Learner
from polyturn.programs import ProgramSuite, Table, as_env
from polyturn.protocols import Agent, Ask, Completion, Env, Match, Player, Policy, Spec, Written
from polyturn.types import (
    Episode,
    FloatArray,
    Group,
    Message,
    Part,
    PolicyInfo,
    Sampling,
    Seat,
    Task,
    Tool,
    Turn,
    assistant,
    root_of,
    system,
    user,
)

LINES = (
    "Which city? Grüße 🙂, 你好!", "  Two spaces,\n\na tab\tand <|im_end|> as text.", "🇫🇷🧑‍🚀 or é?", "Say it again.",
)
THOUGHTS = (
    "<think>\nlow\n</think>\n\nA", "<think>\nhigh, I guess\n</think>\n\nB",
    "<think>\nfirst low, then high\n</think>\n\nAB",
)
DROPPING = """{%- set ns = namespace(asked=-1) %}
{%- for m in messages %}{% if m.role == 'user' %}{% set ns.asked = loop.index0 %}{% endif %}{% endfor %}
{%- for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}
{%- if m.role == 'assistant' and m.reasoning_content and loop.index0 > ns.asked %}
{{- '<think>\n' + m.reasoning_content + '\n</think>\n\n' }}{% endif %}{{ m.content + '<|im_end|>\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
"""Our own: reasoning is shown while tools answer, and gone with the next question."""
CUT = ("🦜🦜", "🫠🫠", "é字", "Ω≈ç")
"""Replies that are cut inside a character."""


# ---------------------------------------------------------------- environments


async def talk(task: Task, seed: int, table: Table) -> Mapping[str, Any]:
    """Four asks of one seat; the third is a tool's answer where the task says so."""
    for number, line in enumerate(LINES):
        told: str | Message = line
        if number == 2 and task.payload.get("tool"):
            told = Message("tool", (Part("text", line),), origin="tool")
        await table.ask("agent", told, legal=("[1]", "[2]", "[13]", "[🙂]"))
        table.pay("agent", "progress", 0.25)
    return {"seed": seed}


async def pair(task: Task, seed: int, table: Table) -> Mapping[str, Any]:
    """Both seats speak at once; each then reads what the other said, and something private."""
    table.tell("a", "You are a.")
    heard = {"a": "nothing", "b": "nothing"}
    for line in LINES[:3]:
        contents = {"a": f"{line} b said: {heard['b']}", "b": f"{line} a said: {heard['a']} (secret: {seed})"}
        heard = {seat: said(reply) for seat, reply in (await table.ask_all(contents)).items()}
    return dict(heard)


def suite_of(program: Callable[[Task, int, Table], Any], name: str, seats: tuple[Seat, ...]) -> ProgramSuite:
    env: Callable[[Task, int], Env] = as_env(program)
    return ProgramSuite(Spec(name, seats), env, {})


# ---------------------------------------------------------------- agents


@dataclass
class Chief:
    """Asks two workers of the same policy, then answers with what they said before it."""

    sampling: Sampling
    history: list[Message] = field(default_factory=list)

    async def act(self, ask: Ask, desk: Desk) -> Message:
        self.history.extend(ask.messages)
        for name in ("worker.0", "worker.1"):
            worker = desk.sub(name)
            turn = await worker.say([system("Advise."), *ask.messages], purpose="advice", sampling=self.sampling)
            advice = worker.message(turn)
            self.history.append(user(f"{name}: {advice.text}", origin="copied"))
        self.history.append(desk.message(await desk.say(self.history, sampling=self.sampling)))
        return self.history[-1]


@dataclass
class Searcher:
    """Tries two replies in copies of the environment, each for two turns, before it says the real one."""

    sampling: Sampling
    history: list[Message] = field(default_factory=list)

    async def act(self, ask: Ask, desk: Desk) -> Message:
        self.history.extend(ask.messages)
        for _ in range(2 if len(self.history) < 4 else 0):
            copy, _ = await desk.fork()
            shown = list(self.history)
            for _ in range(2):
                turn = await desk.say(shown, sampling=self.sampling, branch=copy.name)  # type: ignore[attr-defined]
                shown.append(desk.message(turn))
                step = await copy.step({"agent": shown[-1]})
                shown.extend(step.asks[0].messages)
        self.history.append(desk.message(await desk.say(self.history, sampling=self.sampling)))
        return self.history[-1]


@dataclass
class Fickle:
    """Says everything twice and takes the first back; continues the second; shows older replies without their end."""

    sampling: Sampling
    history: list[Message] = field(default_factory=list)

    async def act(self, ask: Ask, desk: Desk) -> Message:
        self.history.extend(ask.messages)
        shown = [
            message.edited(parts=message.text[:-1] or "-") if message.role == "assistant" and number % 2 else message
            for number, message in enumerate(self.history)
        ]
        desk.drop(await desk.say(shown, sampling=self.sampling), "a first try")
        turn = await desk.say(shown, sampling=replace(self.sampling, max_tokens=4))
        begun = desk.message(turn)
        more = desk.message(await desk.say([*shown, begun], sampling=self.sampling))
        text = begun.text + more.text
        self.history.append(assistant(text, id=f"whole{turn.at}", spans=(*begun.spans, *more.spans)))
        return self.history[-1]


# ---------------------------------------------------------------- matches


@dataclass(frozen=True)
class Scale:
    """How long things are in the model's tokens."""

    reply: int
    summary: int
    """A view longer than this is summarised."""
    cut: int
    """Ends most of :data:`CUT` inside a character."""


def cut_of(chat: Chat) -> int:
    """The limit that ends the most of :data:`CUT` inside a character."""
    choices = chat.choices(CUT)
    return max(range(1, 40), key=lambda count: sum("\ufffd" in said(chat.parse(ids[:count])) for ids in choices))


def said(message: Message) -> str:
    """Reasoning and text."""
    return message.reasoning + message.text


def cases(scale: Scale, rollouts: int = 2) -> dict[str, Match]:
    """Name -> match; every seat is ``main`` and trains."""
    free = Sampling(max_tokens=scale.reply)
    warm = replace(free, temperature=0.7)
    agents: dict[str, Callable[[], Agent]] = {
        "full history": lambda: ChatAgent("Be brief.", sampling=free),
        "window": lambda: ChatAgent("Be brief.", Window(last=3), free),
        "memory": lambda: ChatAgent("Be brief.", Memory(), free),
        "summary": lambda: ChatAgent("Be brief.", Summary(scale.summary, sampling=free), free),
        "one token": lambda: ChatAgent(sampling=replace(free, max_tokens=1)),
        "temperature 0.7": lambda: ChatAgent(sampling=warm),
        "temperature 3": lambda: ChatAgent(sampling=replace(free, temperature=3.0)),
        "greedy": lambda: ChatAgent(sampling=replace(free, temperature=0)),
        "top k": lambda: ChatAgent(sampling=replace(warm, top_k=5)),
        "top p": lambda: ChatAgent(sampling=replace(free, top_p=0.8, top_k=50)),
        "legal moves": lambda: ChatAgent(sampling=replace(free, temperature=1.5), mask=True),
        "cut emoji": lambda: ChatAgent(sampling=Sampling(temperature=5.0, choices=CUT, max_tokens=scale.cut)),
        "reasoning": lambda: ChatAgent(sampling=replace(free, choices=THOUGHTS, temperature=4.0, max_tokens=64)),
        "sub-seats": lambda: Chief(free),
        "search": lambda: Searcher(free),
        "fickle": lambda: Fickle(free),
    }
    one = suite_of(talk, "talk", ("agent",))
    found = {
        name: match_of(one, name, {"agent": Player(make, "main")}, rollouts, tool=name == "reasoning")
        for name, make in agents.items()
    }
    both = {seat: Player(agents["full history"], "main") for seat in ("a", "b")}
    return found | {"two seats": match_of(suite_of(pair, "pair", ("a", "b")), "two seats", both, rollouts)}


def match_of(
    suite: ProgramSuite, name: str, cast: Mapping[Seat, Player], rollouts: int, **payload: object
) -> Match:
    return Match(
        suite, Task(name, name, payload), cast, seed=len(name), rollouts=rollouts, train=frozenset(suite.spec.seats)
    )


# ---------------------------------------------------------------- what must hold


class Heard:
    """A policy that notes what another one answered."""

    def __init__(self, inner: Policy) -> None:
        self.inner, self.name, self.limit = inner, inner.name, inner.limit
        self.replies: Counter[tuple[bytes, bytes]] = Counter()

    def info(self) -> PolicyInfo:
        return self.inner.info()

    def count(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> int:
        return self.inner.count(messages, tools)

    async def sample(
        self, messages: Sequence[Message], *, tools: Sequence[Tool] = (), sampling: Sampling = Sampling(),
        written: Written = lambda message: None,
    ) -> Completion:
        completion = await self.inner.sample(messages, tools=tools, sampling=sampling, written=written)
        assert completion.ids is not None and completion.logprobs is not None
        self.replies[completion.ids.tobytes(), completion.logprobs.tobytes()] += 1
        return completion


def by_turn(tokens: Tokens) -> Counter[tuple[bytes, bytes]]:
    """Ids and sampler's log-probabilities of each turn's tokens, as they stand on the token axis."""
    found: Counter[tuple[bytes, bytes]] = Counter()
    turn_N = tokens.trajectory_N.astype(np.int64) * 10_000 + tokens.turn_N
    for turn in np.unique(turn_N):
        index = np.flatnonzero(turn_N == turn)
        found[tokens.tree.id_U[tokens.node_N[index]].tobytes(), tokens.behavior_N[index].tobytes()] += 1
    return found


def ids_in(replies: Counter[tuple[bytes, bytes]]) -> int:
    return sum(times * len(ids) // 4 for (ids, _), times in replies.items())


def as_played(groups: Iterable[Group]) -> list[Group]:
    """The groups with the turns of searches as if they were real, so that these are laid out too."""

    def real(turn: Turn) -> Turn:
        return replace(turn, branch="")

    return [
        tuple(replace(episode, trajectories=tuple(
            replace(t, turns=tuple(map(real, t.turns))) for t in episode.trajectories
        )) for episode in group)
        for group in groups
    ]


def gaps(learner: Learner, groups: Sequence[Group], policy: str = "main") -> dict[str, float]:
    """Family -> the largest difference between the learner's log-probability of a token and the sampler's."""
    tokens = lay_out(as_played(groups), policy)
    gap_N: FloatArray = np.abs(learner.measure(tokens).old_N - tokens.behavior_N)
    assert len(tokens) and np.isfinite(gap_N).all()
    family_N = np.array([source.episode.task.family for source in tokens.trajectories])[tokens.trajectory_N]
    return {str(family): float(gap_N[family_N == family].max()) for family in dict.fromkeys(family_N)}


def check_nothing_broke(groups: Iterable[Group]) -> list[Episode]:
    episodes = [episode for group in groups for episode in group]
    assert [episode.error for episode in episodes if episode.error] == []
    return episodes


def check_cases_are_what_they_say(groups: Sequence[Group]) -> None:
    """The difficult things did happen."""
    found: dict[str, list[Episode]] = {group[0].task.family: list(group) for group in groups}
    turns = {name: [turn for e in group for t in e.trajectories for turn in t.turns] for name, group in found.items()}
    paths = {name: max(leaf_paths(e) for e in group) for name, group in found.items()}
    assert all(turn.finish == "length" for turn in turns["one token"])
    assert {turn.purpose for turn in turns["summary"]} == {"act", "summary"}
    assert min(paths["window"], paths["memory"], paths["summary"], paths["fickle"]) > 1
    assert sum(turn.branch != "" for turn in turns["search"]) == 8 * len(found["search"]) and paths["search"] > 1
    assert {root_of(t.seat) != t.seat for e in found["sub-seats"] for t in e.trajectories} == {True, False}
    assert any(turn.dropped for turn in turns["fickle"])
    replies = {name: [t.messages[turn.reply] for e in group for t in e.trajectories for turn in t.turns]
               for name, group in found.items()}
    assert any("\ufffd" in said(reply) for reply in replies["cut emoji"])
    shown = {message.text for e in found["two seats"] for t in e.trajectories for message in t.messages}
    assert any(said(reply) and f"said: {said(reply)}" in text for reply in replies["two seats"] for text in shown)
    for name in ("top k", "top p", "legal moves", "cut emoji", "reasoning"):
        assert any(s.support for e in found[name] for t in e.trajectories for s in t.spans if s.sampled), name


def check_reasoning_is_dropped(groups: Sequence[Group]) -> None:
    """After the tool's answer (third ask) the reply before it is still shown whole, after the questions it is not."""
    for episode in next(group for group in groups if group[0].task.family == "reasoning"):
        (trajectory,) = episode.trajectories
        assert all(trajectory.messages[turn.reply].reasoning for turn in trajectory.turns)
        (first,), (second,), (third,), (fourth,) = (turn.spans for turn in trajectory.turns)
        paths = {span: trajectory.path(span) for span in (first, second, third, fourth)}
        assert first not in paths[second] and second in paths[third]
        assert not {first, second, third} & set(paths[fourth])


def leaf_paths(episode: Episode) -> int:
    """The most leaves that one trajectory of an episode has."""
    return max(
        len(set(range(len(t.spans))) - {span.parent for span in t.spans}) for t in episode.trajectories
    )

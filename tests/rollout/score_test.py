"""Scores on played groups, by verifiers that keep their contract and by verifiers that do not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from polyturn.errors import BadInput, NotFinite
from polyturn.protocols import Env, Match, Player, Scores, Spec
from polyturn.rollout.score import score_groups, score_matches
from polyturn.types import Episode, Group, Score, Stop, Task


@dataclass
class Rule:
    """Scores by ``give`` and keeps what it was shown."""

    give: Callable[[Episode], Mapping[str, Score]]
    name: str = "rule"
    shown: list[list[str]] = field(default_factory=list)

    async def __call__(self, groups: Sequence[Group]) -> Scores:
        self.shown += [[episode.id for episode in group] for group in groups]
        return {e.id: given for group in groups for e in group if (given := self.give(e))}


@dataclass
class Stored:
    """A suite for what was played elsewhere."""

    verifier: Rule | None
    spec: Spec = Spec("stored")

    def tasks(self, split: str) -> Iterable[Task]:
        return []

    async def make(self, task: Task, seed: int) -> Env:
        raise AssertionError("nothing is played here")

    async def close(self) -> None:
        return None


class Told:
    """A recorder that keeps the scores."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Scores]] = []

    def scores(self, verifier: str, scores: Scores) -> None:
        self.told.append((verifier, scores))


def episode(id: str, stop: Stop = Stop("done"), **more: Any) -> Episode:
    return Episode(id, Task("t", "f"), 0, stop=stop, **more)


ONE = Rule(lambda e: {"agent": Score(1.0)})


async def test_scores_stand_under_the_verifiers_name_and_are_recorded() -> None:
    recorder: Any = Told()
    before = episode("a", scores={"old": {"agent": Score(0.5)}})
    ((scored,),) = await score_groups([(before,)], Stored(ONE), recorder)
    assert scored.scores == {"old": {"agent": Score(0.5)}, "rule": {"agent": Score(1.0)}}
    assert recorder.told == [("rule", {"a": {"agent": Score(1.0)}})]
    assert before.scores.keys() == {"old"}


async def test_what_broke_is_neither_shown_nor_scored_and_keeps_its_place() -> None:
    rule = Rule(lambda e: {"agent": Score(None)})
    broken, crashed = episode("b", Stop("error", "env")), episode("c", error="Traceback ...")
    groups = [(episode("a"), broken), (crashed,), (episode("d"),)]
    scored = await score_groups(groups, Stored(rule))
    assert rule.shown == [["a"], ["d"]]
    assert [[e.id for e in group] for group in scored] == [["a", "b"], ["c"], ["d"]]
    assert [bool(e.scores) for group in scored for e in group] == [True, False, False, True]


@pytest.mark.parametrize(
    ("verifier", "error", "words"),
    [
        (None, BadInput, "suite 'stored' has no verifier"),
        (Rule(lambda e: {}), BadInput, r"left out the episodes \['a'\]"),
        (Rule(lambda e: {"agent": Score(float("inf"))}), NotFinite, "scored inf for seat 'agent' of episode a"),
    ],
)
async def test_faulty_verifiers_are_named(verifier: Rule | None, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        await score_groups([(episode("a"),)], Stored(verifier))


async def test_each_suite_scores_its_own_matches_in_their_order() -> None:
    first, second = Stored(Rule(lambda e: {"agent": Score(0.0)})), Stored(ONE)
    cast: dict[str, Player] = {}
    matches = [Match(suite, Task(str(i), "f"), cast) for i, suite in enumerate((first, second, first))]
    groups = await score_matches(matches, [(episode("a"),), (episode("b"),), (episode("c"),)])
    assert [group[0].id for group in groups] == ["a", "b", "c"]
    assert [group[0].scores["rule"]["agent"].value for group in groups] == [0.0, 1.0, 0.0]

"""Scores on played groups, by verifiers that keep their contract and by verifiers that do not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from polyturn.errors import BadInput, VerifierFailed
from polyturn.protocols import Env, Match, Player, Scores, Spec
from polyturn.rollout.score import names_unscored, score_groups, score_matches, score_with, unscored
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
        self.lost: dict[str, str] = {}

    def scores(self, verifier: str, scores: Scores) -> None:
        self.told.append((verifier, scores))

    def unscored(self, verifier: str, failed: Mapping[str, tuple[str, str]]) -> None:
        self.lost.update({name: reason for name, (reason, _) in failed.items()})


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
        (Rule(lambda e: {"agent": Score(float("inf"))}), VerifierFailed, "scored inf for seat 'agent' of a"),
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


@dataclass
class Comparing:
    """A verifier of whole groups: the share of the others that an episode's number beats. It falls over odd things."""

    falls: Callable[[Group], bool]
    name: str = "rank"
    asked: int = 0

    async def __call__(self, groups: Sequence[Group]) -> Scores:
        self.asked += 1
        for group in groups:
            if self.falls(group):
                raise ValueError(f"cannot read {group[0].task.id}")
        return {e.id: {"agent": Score(sum(e.seed > other.seed for other in group) / len(group))}
                for group in groups for e in group}


def numbered(group: str, *seeds: int) -> Group:
    return tuple(Episode(f"{group}{seed}", Task(f"t{seed}", "f"), seed, group=group) for seed in seeds)


def values(groups: Sequence[Group]) -> dict[str, float | None]:
    return {e.id: None if unscored(e) else e.scores["rank"]["agent"].value for group in groups for e in group}


async def test_an_episode_that_a_verifier_raises_for_is_lost_alone_and_named() -> None:
    recorder: Any = Told()
    rule = Comparing(lambda group: any(e.seed == 3 for e in group))
    groups = [numbered("a", 1, 2), numbered("b", 2, 3, 4), numbered("c", 5, 6)]
    found = await score_with(rule, groups, recorder)
    # of the others of its group, each is compared with the two that are left
    assert values(found) == {"a1": 0.0, "a2": 0.5, "b2": 0.0, "b3": None, "b4": 0.5, "c5": 0.0, "c6": 0.5}
    lost = found[1][1]
    assert lost.stop.kind == "error" and lost.stop.reason == "verifier rank: ValueError: cannot read t3"
    assert lost.error is not None and "raise ValueError" in lost.error
    assert recorder.lost == {"b3": lost.stop.reason} and recorder.told[0][1].keys() == {
        "a1", "a2", "b2", "b4", "c5", "c6"}
    assert names_unscored(found) == ("1 of 7 episodes could not be scored, and nothing is learned from them; b3, task "
                                     "t3: verifier rank: ValueError: cannot read t3")
    assert names_unscored(groups) == ""


async def test_a_group_that_a_verifier_cannot_compare_is_lost_whole_and_no_other() -> None:
    rule = Comparing(lambda group: len(group) == 3)
    found = await score_with(rule, [numbered("a", 1, 2), numbered("b", 2, 3, 4)])
    assert values(found) == {"a1": 0.0, "a2": 0.5, "b2": None, "b3": None, "b4": None}


async def test_few_questions_find_the_one_of_many_that_cannot_be_scored() -> None:
    rule = Comparing(lambda group: any(e.seed == 77 for e in group))
    found = await score_with(rule, [numbered("a", seed, 500) for seed in range(256)])
    assert [name for name, value in values(found).items() if value is None] == ["a77"]
    assert rule.asked == 2 * 8 + 1 + 3  # two for each halving of 256, the first, and three for the group of two


async def test_where_nothing_can_be_scored_the_verifier_is_at_fault_unless_it_was_a_part() -> None:
    recorder: Any = Told()
    rule = Comparing(lambda group: True)
    with pytest.raises(VerifierFailed, match=r"none of 2 episodes could be scored; of a1, task t1: verifier rank: Val"):
        await score_with(rule, [numbered("a", 1, 2)], recorder)
    assert recorder.lost.keys() == {"a1", "a2"}
    found = await score_with(rule, [numbered("a", 1, 2)], part=True)
    assert values(found) == {"a1": None, "a2": None}
    assert await score_with(rule, [(episode("b", Stop("error", "env")),)]) == [(episode("b", Stop("error", "env")),)]


async def test_one_suite_that_cannot_be_scored_leaves_the_other() -> None:
    broken, whole = Stored(Rule(lambda e: {"agent": Score(float("nan"))})), Stored(ONE)
    matches = [Match(suite, Task(str(i), "f"), {}) for i, suite in enumerate((broken, whole))]
    groups = await score_matches(matches, [(episode("a"),), (episode("b"),)])
    assert unscored(groups[0][0]) and groups[1][0].scores["rule"]["agent"].value == 1.0

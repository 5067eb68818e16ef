"""Rows worked by hand from small episodes, and whole evaluations of a real little environment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isnan
from pathlib import Path
from typing import Any

import pytest

from polyturn.agents.chat import ChatAgent
from polyturn.errors import BadInput, VerifierFailed
from polyturn.evaluate import benchmark
from polyturn.evaluate.benchmark import seats_of
from polyturn.evaluate.tables import as_text, cells
from polyturn.protocols import Ask, Completion, Match, Player, Scores, Spec, Step, Written
from polyturn.record.read import read_episodes
from polyturn.record.write import RunRecorder
from polyturn.rollout.pool import Pool
from polyturn.types import (
    Episode,
    Event,
    Group,
    Message,
    PolicyInfo,
    Sampling,
    Score,
    Stop,
    Task,
    Tool,
    Trajectory,
    Turn,
    Usage,
    assistant,
    user,
)


def played(
    task: str, value: float | None, *, trial: int = 0, turns: int = 2, invalid: int = 0, family: str = "guess",
    stop: Stop = Stop("done"), success: bool | None = None, tokens: int = 10,
) -> Episode:
    """An episode of one seat: so many turns of so many tokens, three seconds."""
    told = tuple(
        Turn(at, "agent", "main", (0,), 1, (), step=at, usage=Usage(completion_tokens=tokens)) for at in range(turns)
    )
    return Episode(
        f"{task}.{trial}", Task(task, family), 0, group=task, trial=trial, cast={"agent": PolicyInfo("main")},
        trajectories=(Trajectory("agent", "main", messages=(user("?"), assistant("!")), turns=told),),
        events=tuple(Event(100 + i, "invalid", "agent") for i in range(invalid)), stop=stop,
        scores={} if stop.kind == "error" else {"score": {"agent": Score(value, success)}}, started=5.0, ended=8.0,
    )


def test_row_by_hand() -> None:
    groups = [
        (played("a", 1.0), played("a", 0.0, trial=1, turns=4, invalid=1)),
        (played("b", 0.0), played("b", None, trial=1, turns=1)),
        (played("c", 1.0), played("c", None, trial=1, stop=Stop("error", "it broke"))),
    ]
    row = benchmark.row(groups, seats_of("main"))
    # Scored trials: a 1, 0; b 0; c 1 -> 2/4. One abstained, one error. Illegal: 1 of 2 + 4 + 2 + 1 + 2 = 11 replies.
    assert (row.mean, row.n_tasks, row.n_trials, row.abstained, row.errors) == (0.5, 3, 4, 1, 1)
    assert row.illegal == pytest.approx(1 / 11)
    assert (row.turns, row.tokens, row.seconds) == (11 / 5, 22.0, 3.0)
    # pass@1 = mean over tasks of 1/2, 0, 1 = 0.5; k = 2: only task a has two trials, pass@2 = 1, pass^2 = 0.
    assert {k: e.mean for k, e in row.pass_at.items()} == {1: 0.5, 2: 1.0}
    assert {k: e.mean for k, e in row.pass_hat.items()} == {1: 0.5, 2: 0.0}
    assert row.eligible == {1: 3, 2: 1}
    # Deviations by task: 0, -0.5, 0.5; variance 3/2 * 0.5 / 16 = 0.046875
    # On their own s^2 / N = (4 * 0.25 / 3) / 4 = 1/12 is larger.
    assert row.estimate.variance == pytest.approx(1 / 12)
    assert row.low > 0 and row.high < 1
    assert (row.stops, row.failures) == ({"done": 5, "error": 1}, {"it broke": 1})
    assert row.scores == {"a": (1.0, 0.0), "b": (0.0,), "c": (1.0,)}


def test_success_is_the_verifiers_word_or_the_threshold() -> None:
    groups = [(played("a", 0.4, success=True),), (played("b", 1 - 1e-7),), (played("c", 0.9),)]
    assert benchmark.row(groups, seats_of("main")).pass_at[1].mean == pytest.approx(2 / 3)


def test_given_ks_without_enough_trials_are_left_out() -> None:
    row = benchmark.row([(played("a", 1.0), played("a", 1.0, trial=1))], seats_of("main"), ks=(2, 3))
    assert [(k, e.mean) for k, e in row.pass_at.items()] == [(2, 1.0)]


def test_a_row_of_errors_alone_is_unknown_and_says_how_many() -> None:
    row = benchmark.row([(played("a", None, stop=Stop("error", "down")),)], seats_of("main"))
    assert isnan(row.mean) and isnan(row.turns) and isnan(row.illegal)
    assert (row.errors, row.n_trials, row.n_tasks, row.pass_at) == (1, 0, 0, {})


def test_an_episode_that_broke_before_anybody_sat_is_an_error_too() -> None:
    early = replace(played("a", None, stop=Stop("error", "no start")), cast={"agent": PolicyInfo("?")}, trajectories=())
    row = benchmark.row([(early,), (played("b", 1.0),)], seats_of("main"))
    assert (row.mean, row.errors, row.n_trials) == (1.0, 1, 1)


def test_forks_and_other_seats_do_not_count() -> None:
    one = played("a", 1.0)
    mine = one.trajectories[0]
    searched = replace(mine, turns=(*mine.turns, replace(mine.turns[0], at=9, branch="agent#0")))
    worker = replace(mine, seat="agent/worker", turns=(replace(mine.turns[0], seat="agent/worker"),))
    other = replace(mine, seat="other", policy="frozen", turns=(replace(mine.turns[0], seat="other"),) * 5)
    kinds = (("invalid", "agent", "agent#0"), ("invalid", "other", ""), ("tool", "agent", ""))
    events = tuple(Event(20, kind, seat, branch=branch) for kind, seat, branch in kinds)
    row = benchmark.row([(replace(one, trajectories=(searched, worker, other), events=events),)], seats_of("main"))
    assert (row.turns, row.illegal) == (3, 0)  # two own turns and the worker's


def test_tokens_without_usage_are_counted_from_the_spans() -> None:
    import numpy as np

    from polyturn.types import Span

    one = played("a", 1.0, turns=1, tokens=0)
    mine = one.trajectories[0]
    spans = (Span(-1, np.arange(4, dtype=np.int32)), Span(0, np.arange(3, dtype=np.int32), sampled=True))
    mine = replace(mine, spans=spans, turns=(replace(mine.turns[0], spans=(1,)),))
    assert benchmark.row([(replace(one, trajectories=(mine,)),)], seats_of("main")).tokens == 3


def test_both_seats_of_one_policy_are_two_trials_of_one_task() -> None:
    one = played("a", None)
    both = replace(
        one, cast={"p0": PolicyInfo("main"), "p1": PolicyInfo("main"), "p2": PolicyInfo("other")}, trajectories=(),
        scores={"score": {"p0": Score(0.25), "p1": Score(0.75), "p2": Score(1.0)}},
    )
    row = benchmark.row([(both,)], seats_of("main"))
    assert (row.mean, row.n_trials, row.n_tasks) == (0.5, 2, 1)
    assert benchmark.row([(both,)], lambda episode: ["p2"]).mean == 1.0


def test_a_seat_that_no_episode_scores_is_not_rated() -> None:
    mine = {"cast": {"agent": PolicyInfo("main"), "user": PolicyInfo("main")}}
    good, bad = replace(played("a", 1.0), **mine), replace(played("b", 0.0, stop=Stop("error", "broke")), **mine)
    row = benchmark.row([(good,), (bad,)], seats_of("main"))
    assert (row.mean, row.n_trials, row.errors) == (1.0, 1, 1)
    one_more = replace(good, id="c", scores={"score": {"agent": Score(0.0), "user": Score(0.5)}})
    with pytest.raises(BadInput, match=r"gave seat 'user' of a\.0 no score"):  # scored elsewhere: something is amiss
        benchmark.row([(good,), (one_more,)], seats_of("main"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cast": {"agent": PolicyInfo("else")}, "trajectories": ()}, "no seat to be rated"),
        ({"scores": {}}, "scored by no verifier"),
        ({"scores": {"x": {}, "y": {}}}, "name one of them"),
        ({"scores": {"x": {"foe": Score(1.0)}}}, "gave seat 'agent' of a.0 no score"),
    ],
)
def test_what_cannot_be_rated_is_refused(change: Mapping[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        benchmark.row([(replace(played("a", 1.0), **change),)], seats_of("main"))


def test_a_named_verifier_is_read_among_several() -> None:
    one = played("a", 1.0)
    both = replace(one, scores={**one.scores, "style": {"agent": Score(0.25)}})
    assert benchmark.row([(both,)], seats_of("main"), verifier="style").mean == 0.25
    with pytest.raises(BadInput, match="'stile' is none of them"):
        benchmark.row([(both,)], seats_of("main"), verifier="stile")


def three_families() -> list[Group]:
    values = {"guess": (1.0, 0.0), "kuhn": (0.25, 0.75), "tictactoe": (0.5, 1.0)}
    return [
        (played(f"{family}/{i}", value, family=family, invalid=i),)
        for family, pair in values.items() for i, value in enumerate(pair)
    ]


def test_result_has_a_row_for_each_family_and_their_plain_mean() -> None:
    result = benchmark.result(three_families(), seats_of("main"))
    assert {name: row.mean for name, row in result.environments.items()} == {
        "guess": 0.5, "kuhn": 0.5, "tictactoe": 0.75,
    }
    assert result.mixture.mean == pytest.approx(1.75 / 3)
    assert (result.mixture.n_tasks, result.mixture.n_trials) == (6, 6)
    assert result.mixture.illegal == pytest.approx(0.25)  # each family: 1 of 4 replies
    # Variances: 2 tasks with deviations d: 2/1 * 2 d^2 / 4 = d^2 = 0.25, 0.0625, 0.0625 -> 0.375 / 9
    assert 0 < result.mixture.low < result.mixture.high < 1
    assert result.mixture.estimate.variance == pytest.approx(0.375 / 9)
    assert result.mixture.eligible == {1: 6}
    with pytest.raises(BadInput, match="no episode"):
        benchmark.result([], seats_of("main"))


def test_result_rebuilt_from_shuffled_episodes_is_equal() -> None:
    groups = [
        tuple(played(f"t{i}", (i * 7 % 10) / 10 + t / 30, trial=t, tokens=i) for t in range(3)) for i in range(7)
    ]
    live = benchmark.result(groups, seats_of("main"))
    stored = [episode for group in groups for episode in group]
    assert benchmark.result(benchmark.as_groups(stored[::-1]), seats_of("main")) == live


def test_as_groups_keeps_the_last_attempt_of_a_trial() -> None:
    broken = replace(played("a", None, stop=Stop("error", "down")), started=1.0)
    again = replace(played("a", 1.0), id="a.0r1", started=2.0)
    other = replace(played("a", 0.0, trial=1), started=0.0)
    assert benchmark.as_groups([again, broken, other]) == [(again, other)]


# ---------------------------------------------------------------- a real little environment


class Guess:
    """Asks for a number up to three times; a reply that is no number is illegal, a wrong one is told."""

    def __init__(self, secret: int) -> None:
        self.secret, self.asked, self.won = secret, 0, False

    async def start(self, state: bytes | None = None) -> Step:
        return self._ask("Guess 1 to 3.")

    def _ask(self, text: str, *events: Event) -> Step:
        self.asked += 1
        return Step((Ask("agent", (user(text),)),), events=events)

    async def step(self, replies: Mapping[str, Message]) -> Step:
        text = replies["agent"].text
        if text == "crash":
            raise ValueError("the dice fell off the table")
        self.won = text == str(self.secret)
        invalid = () if text.isdigit() else (Event(0, "invalid", "agent", {"reply": text}),)
        if self.won or self.asked == 3:
            return Step(events=invalid, stop=Stop("done"))
        return self._ask("No.", *invalid)

    async def final(self) -> Mapping[str, Any]:
        return {"won": self.won}

    async def close(self) -> None:
        return None


@dataclass
class Won:
    """1 for a win; abstains on the secret 3; drops or breaks scores where a test asks for it."""

    name: str = "won"
    fault: str = ""

    async def __call__(self, groups: Sequence[Group]) -> Scores:
        values = {e.id: self.value(e) for group in groups for e in group}
        if self.fault == "drop":
            values.popitem()
        return {name: {"agent": Score(value)} for name, value in values.items()}

    def value(self, episode: Episode) -> float | None:
        if self.fault == "nan":
            return float("nan")
        if self.fault == "key" and episode.id.endswith(".1.0"):
            raise KeyError("won")
        assert episode.final is not None
        return None if episode.task.payload["secret"] == 3 else float(episode.final["won"])


@dataclass
class Guesses:
    verifier: Won | None
    spec: Spec = Spec("guess")
    family: str = "guess"

    def tasks(self, split: str) -> Iterable[Task]:
        return [Task(f"{self.family}/{secret}", self.family, {"secret": secret}) for secret in (1, 2, 3)]

    async def make(self, task: Task, seed: int) -> Guess:
        return Guess(task.payload["secret"])

    async def close(self) -> None:
        return None


@dataclass
class Replies:
    """Says the replies in turn, by the number of questions it was asked."""

    said: Sequence[str]
    name: str = "main"
    limit: int = 1000

    def info(self) -> PolicyInfo:
        return PolicyInfo(self.name)

    def count(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> int:
        return len(messages)

    async def sample(
        self, messages: Sequence[Message], *, tools: Sequence[Tool] = (), sampling: Sampling = Sampling(),
        written: Written = lambda message: None,
    ) -> Completion:
        asked = sum(message.role == "user" for message in messages)
        return Completion(assistant(self.said[asked - 1]), usage=Usage(completion_tokens=2))


def matches(suite: Guesses, rollouts: int = 2) -> list[Match]:
    return [Match(suite, t, {"agent": Player(ChatAgent, "main")}, rollouts=rollouts) for t in suite.tasks("test")]


async def test_evaluate_plays_scores_and_rates() -> None:
    result = await benchmark.evaluate(
        matches(Guesses(Won())), {"main": Replies(["well", "2", "1"])}, policy="main", pool=Pool(concurrency=4)
    )
    row = result.environments["guess"]
    # Secrets 1 and 2 are won (3 turns, 2 turns), 3 abstains after 3; each play has one reply that is no number.
    assert (row.mean, row.n_tasks, row.n_trials, row.abstained, row.errors) == (1.0, 2, 4, 2, 0)
    assert row.illegal == pytest.approx(6 / 16)
    assert (row.turns, row.tokens) == pytest.approx((16 / 6, 32 / 6))
    assert {k: e.mean for k, e in row.pass_hat.items()} == {1: 1.0, 2: 1.0}
    assert [len(group) for group in result.groups] == [2, 2, 2]


async def test_evaluate_counts_crashes_apart() -> None:
    result = await benchmark.evaluate(matches(Guesses(Won())), {"main": Replies(["2", "crash"])}, policy="main")
    row = result.environments["guess"]
    assert (row.mean, row.n_trials, row.errors, row.abstained) == (1.0, 2, 4, 0)


async def test_what_cannot_be_scored_is_an_error_of_its_own_in_no_mean_and_reads_the_same(tmp_path: Path) -> None:
    recorder = RunRecorder(tmp_path)
    live = await benchmark.evaluate(matches(Guesses(Won(fault="key"))), {"main": Replies(["2", "1", "3"])},
                                    policy="main", recorder=recorder)
    recorder.close()
    row = live.environments["guess"]
    assert (row.mean, row.n_trials, row.errors, row.abstained) == (1.0, 3, 1, 2)
    assert row.failures == {"verifier won": 1} and row.stops["error"] == 1
    rebuilt = benchmark.result(benchmark.as_groups(list(read_episodes(tmp_path))), seats_of("main"))
    assert as_text(cells({"x": rebuilt})) == as_text(cells({"x": live}))
    assert rebuilt.environments["guess"].failures == row.failures


async def test_evaluate_of_two_suites_can_be_rebuilt_from_the_run_folder(tmp_path: Path) -> None:
    recorder = RunRecorder(tmp_path)
    suites = [Guesses(Won()), Guesses(Won("other"), family="again")]
    orders = [match for suite in suites for match in matches(suite)]
    live = await benchmark.evaluate(
        orders[::2] + orders[1::2], {"main": Replies(["2", "1", "crash"])}, policy="main", recorder=recorder,
        pool=Pool(retries=1),
    )
    recorder.close()
    assert sorted(live.environments) == ["again", "guess"]
    assert live.mixture.errors == 4  # secret 3 crashes in the third turn, also when it is played again
    stored = list(read_episodes(tmp_path))
    rebuilt = benchmark.result(benchmark.as_groups(stored), seats_of("main"))
    assert rebuilt == live
    assert as_text(cells({"x": rebuilt})) == as_text(cells({"x": live}))


async def test_evaluate_refuses_nothing_to_play() -> None:
    with pytest.raises(BadInput, match="no matches"):
        await benchmark.evaluate([], {}, policy="main")


@pytest.mark.parametrize(
    ("verifier", "error", "words"),
    [
        (None, BadInput, "has no verifier"),
        (Won(fault="drop"), BadInput, "left out the episodes"),
        (Won(fault="nan"), VerifierFailed, "scored nan for seat 'agent'"),
    ],
)
async def test_faulty_verifiers_are_named(verifier: Won | None, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        await benchmark.evaluate(matches(Guesses(verifier)), {"main": Replies(["1", "2", "3"])}, policy="main")

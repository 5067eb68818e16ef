"""Results read back from run folders that the test writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from polyturn.agents.chat import AnswerAgent
from polyturn.envs.lookup import key_hunt
from polyturn.errors import BadInput, UnknownName
from polyturn.evaluate.benchmark import result
from polyturn.evaluate.recorded import evaluate_once, played, read_results
from polyturn.evaluate.tables import as_json
from polyturn.evaluate.trials import seats_of
from polyturn.policies.dictated import Dictated
from polyturn.protocols import Match, Player
from polyturn.record.read import read_episodes
from polyturn.record.write import open_run
from polyturn.types import Episode, PolicyInfo, Score, Stop, Task


def episode(
    label: str, task: int, trial: int, value: float | None, *, broke: bool = False, train: bool = False
) -> Episode:
    return Episode(
        f"{label}.{task}.{trial}", Task(f"t{task}", "guess", {"n": task}), task, f"{label}.{task}", trial,
        train=frozenset({"agent"} if train else ()), started=float(trial), ended=trial + 2.0,
        cast={"agent": PolicyInfo("main", weights_sha256="abc"), "user": PolicyInfo("customer")},
        stop=Stop("error", "environment: no") if broke else Stop("done"), error="no" if broke else None,
        scores={} if broke or value is None else {"won": {"agent": Score(value)}},
    )


def write(folder: Path, episodes: list[Episode], judge: dict[str, float | None] | None = None) -> Path:
    with open_run(folder, recipe="eval", settings={"subject": "guess"}) as recorder:
        for one in episodes:
            recorder.episode(one)
        recorder.scores("won", {one.id: one.scores["won"] for one in episodes if "won" in one.scores})
        if judge is not None:
            recorder.scores("judge", {name: {"agent": Score(value)} for name, value in judge.items()})
    return folder


def test_the_result_is_that_of_the_live_episodes(tmp_path: Path) -> None:
    live = [episode("evaluate", task, trial, float((task + trial) % 2)) for task in range(3) for trial in range(2)]
    learned = [episode("learn.0", 0, trial, 1.0, train=True) for trial in range(4)]
    found = read_results(write(tmp_path / "run", [*live, *learned]))
    assert list(found) == ["evaluate"]
    recorded = found["evaluate"]
    assert as_json(recorded.result) == as_json(result([tuple(live)], seats_of("main")))
    facts = recorded.facts
    assert (facts["tasks"], facts["verifiers"], facts["recipe"]) == (3, ["won"], "eval")
    assert [one["weights_sha256"] for one in facts["policy"]] == ["abc"]
    assert [one["name"] for one in facts["others"]] == ["customer"]
    assert (facts["started"], facts["ended"]) == (0.0, 3.0)
    assert recorded.judges == {}


def test_the_task_set_has_a_hash_of_its_own(tmp_path: Path) -> None:
    def digest(name: str, tasks: list[int]) -> str:
        folder = write(tmp_path / name, [episode("evaluate", task, 0, 1.0) for task in tasks])
        return str(read_results(folder)["evaluate"].facts["tasks_sha256"])

    assert digest("a", [0, 1]) == digest("b", [1, 0])
    assert digest("c", [0, 2]) != digest("a2", [0, 1])


def test_ratings_of_a_training_run_stand_under_their_labels(tmp_path: Path) -> None:
    folder = write(tmp_path / "run", [
        episode("before", 0, 0, 0.0), episode("learn.0", 0, 0, 1.0, train=True), episode("after", 0, 0, 1.0),
    ])
    found = read_results(folder)
    assert {label: one.result.mixture.mean for label, one in found.items()} == {"before": 0.0, "after": 1.0}
    assert list(read_results(folder, label="after")) == ["after"]
    with pytest.raises(UnknownName, match="did you mean 'after'"):
        read_results(folder, label="aftr")


def test_runs_that_cannot_be_compared_say_why(tmp_path: Path) -> None:
    learned = write(tmp_path / "learned", [episode("learn.0", 0, 0, 1.0, train=True)])
    with pytest.raises(BadInput, match="nothing to compare"):
        read_results(learned)
    cut = write(tmp_path / "cut", [episode("evaluate", 0, 0, None)])
    with pytest.raises(BadInput, match=r"1 of 1 episodes of 'evaluate' have no score.*eval --resume"):
        read_results(cut)


def test_what_was_played_and_did_not_break_need_not_be_played_again(tmp_path: Path) -> None:
    folder = write(tmp_path / "run", [
        episode("evaluate", 0, 0, None), episode("evaluate", 0, 1, None, broke=True), episode("evaluate", 1, 0, 1.0),
    ])
    found = played(folder)
    assert sorted(found) == [("evaluate.0", 0), ("evaluate.1", 0)]
    assert found["evaluate.1", 0].scores == {}  # scored again, all together


def test_a_second_judge_and_labels(tmp_path: Path) -> None:
    # Judge: right on 4 of 5 positives and 4 of 5 negatives, abstains on the last two.
    won = [1.0] * 5 + [0.0] * 5 + [1.0, 0.0]
    said = [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, None, None]
    episodes = [episode("evaluate", task, 0, value) for task, value in enumerate(won)]
    folder = write(tmp_path / "run", episodes, {e.id: v for e, v in zip(episodes, said, strict=True)})
    with pytest.raises(BadInput, match="name one of them"):
        read_results(folder)
    found = read_results(folder, verifier="judge", truth="won")["evaluate"]
    assert (found.result.mixture.mean, found.result.mixture.abstained) == (0.5, 2)
    pair = found.judges["pairs"]["judge / won"]
    assert (pair["items"], pair["raw"], pair["abstained"]) == (10, 0.8, (2, 0))
    assert pair["kappa"] == pytest.approx(0.6)
    corrected = found.judges["corrected"]
    assert (corrected["sensitivity"], corrected["specificity"]) == (0.8, 0.8)
    assert corrected["rate"] == pytest.approx(0.5)
    with pytest.raises(UnknownName, match="no verifier named 'truth'"):
        read_results(folder, verifier="judge", truth="truth")


async def test_a_row_of_an_earlier_attempt_is_read_and_not_played_again(tmp_path: Path) -> None:
    suite = key_hunt(parts=2)
    matches = [
        Match(suite, task, {"agent": Player(lambda task=task: AnswerAgent(suite.oracle(task)), "main")})
        for task in [*suite.tasks("test")][:12]  # two digits: the order is that of play, not that of letters
    ]
    policies = {"main": Dictated(name="main")}
    with open_run(tmp_path / "run") as recorder:
        live = await evaluate_once(matches, policies, policy="main", label="rate", recorder=recorder)
    assert live.mixture.mean == 1
    with open_run(tmp_path / "run", resume=True) as recorder:
        again = await evaluate_once(matches, {}, policy="main", label="rate", recorder=recorder)  # nobody could play
        with pytest.raises(BadInput, match="holds 12 episodes of 'rate', 2 were to be played"):
            await evaluate_once(matches[:2], policies, policy="main", label="rate", recorder=recorder)
        other = await evaluate_once(matches[:2], policies, policy="main", label="rate-2", recorder=recorder)
    assert as_json(again) == as_json(live) and other.mixture.mean == 1
    assert [group[0].id for group in again.groups] == [group[0].id for group in live.groups]
    assert len(list(read_episodes(tmp_path / "run"))) == 14


async def test_a_rating_that_was_not_scored_cannot_be_read(tmp_path: Path) -> None:
    write(tmp_path / "run", [episode("rate", 0, 0, None)])
    suite = key_hunt(parts=2)
    match = Match(suite, next(iter(suite.tasks("test"))), {})
    with open_run(tmp_path / "run", resume=True) as recorder, pytest.raises(BadInput, match="played and scored"):
        await evaluate_once([match], {}, policy="main", label="rate", recorder=recorder)

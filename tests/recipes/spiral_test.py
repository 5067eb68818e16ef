"""Two iterations of self-play with a tiny model, from a warm start and gone on with; what the numbers mean."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest

from polyturn.audit.report import audit_run
from polyturn.learn import checkpoint
from polyturn.learn.run import Run
from polyturn.progress import make_progress
from polyturn.recipes.spiral import STUDY, Settings, held_out, main, outcome_of, text, texts_of, wins_by_seat
from polyturn.record.read import read_episodes, read_metrics
from polyturn.record.write import open_run
from polyturn.types import Episode, Score, Task

SMALL = Settings(model="tiny", iterations=2, batch=4, warm_updates=1, measure_every=1, test_games=4, save_every=1,
                 mask=True, rules=False, lr=1e-3)


async def finished(folder: Path, settings: Settings, *, resume: bool = False) -> Run:
    run = Run(folder, open_run(folder, recipe="spiral", resume=resume), make_progress(StringIO()), deterministic=True)
    try:
        await main(settings, run)
    finally:
        run.recorder.close()
    return run


async def test_two_iterations_of_both_games(tmp_path: Path) -> None:
    run = await finished(tmp_path / "run", SMALL)
    seats = {"kuhn_first", "kuhn_second", "tic_tac_toe_first", "tic_tac_toe_second"}
    assert run.results["outcome"].keys() == seats | {"exploitability", "exploitability_last"}
    assert run.results["before"].keys() == seats | {"exploitability"} == run.results["after"].keys()
    stages = [row["stage"] for row in read_metrics(run.folder)]
    assert stages == ["warm", "measure", "self_play", "measure", "self_play"]
    assert audit_run(run.folder).faults == []
    rewards = [score.value for e in read_episodes(run.folder) for score in e.scores.get("spiral", {}).values()]
    assert len(rewards) == 2 * 2 * 4 * 2 and set(rewards) <= {-1.0, -0.5, 0.0, 0.5, 1.0}
    roles = checkpoint.load(run.folder / "checkpoints" / "state")["parts"]["credit"]["baseline"]
    assert {tuple(role) for *role, _ in roles} == {
        (game, f"player_{seat}") for game in ("kuhn_poker", "tic_tac_toe") for seat in (0, 1)}
    assert "exploitability: " in text(run.results)
    again = await finished(tmp_path / "run", SMALL, resume=True)
    assert again.results["outcome"] == run.results["outcome"]


async def test_without_a_mask_an_illegal_reply_is_paid_by_the_papers_rule(tmp_path: Path) -> None:
    settings = replace(SMALL, games="kuhn_poker", mask=False, entropy=0.1, warm_updates=0, iterations=1, arm="raw")
    run = await finished(tmp_path / "run", settings)
    played = [e for e in read_episodes(run.folder) if e.id.startswith("self_play")]
    paid = [tuple(score.value for score in e.scores["spiral"].values()) for e in played]
    assert (-1.5, 0.5) in paid  # a fresh model spells no moves


def test_wins_and_exploitability_by_hand() -> None:
    def game(family: str, player: int, success: bool) -> Episode:
        task = Task("t", family, {"player": player})
        return Episode("e", task, 0, scores={"score": {"agent": Score(0.5, success=success)}})

    groups = [(game("kuhn_poker_vs_random", 0, True),), (game("kuhn_poker_vs_random", 0, False),),
              (game("tic_tac_toe", 1, True),)]
    assert wins_by_seat(groups) == {"kuhn_first": 0.5, "tic_tac_toe_second": 1.0}
    measured = {str(done): {"exploitability": value} for done, value in ((2, 0.5), (4, 0.3), (10, 0.1))}
    # The second half of three measurements, in the order of iterations: 0.3 and 0.1.
    assert outcome_of({"exploitability": 0.15}, measured) == {
        "exploitability": pytest.approx(0.2), "exploitability_last": 0.15}
    assert outcome_of({"tic_tac_toe_first": 0.5}, {}) == {"tic_tac_toe_first": 0.5}


def test_what_is_played_and_read() -> None:
    assert {match.suite.spec.name for match in held_out(SMALL)} == {"kuhn_poker_vs_random", "tic_tac_toe"}
    assert len(held_out(replace(SMALL, games="tic_tac_toe"))) == 4
    from polyturn.recipes.spiral import suites_of

    words = texts_of(suites_of(SMALL)[0])
    assert {"K bet", "J first", "pass", "bet"} <= set(words)
    for arm in STUDY.arms:
        Settings(**STUDY.settings(arm, 0, 0))

"""The recipe for two iterations with the tiny policy, in each space; what its solver says; its outcome by hand."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from itertools import islice
from pathlib import Path

import pytest

from polyturn.audit.report import audit_run
from polyturn.envs.best_price import best_price, market
from polyturn.learn.run import Run
from polyturn.methods.agents.codeact import SPACES, Space
from polyturn.progress import make_progress
from polyturn.recipes.codeact import (
    Settings,
    by_offers,
    held_out,
    main,
    outcome_of,
    solved,
    solver,
    text,
    texts,
)
from polyturn.record.read import read_episodes, read_metrics
from polyturn.record.write import open_run
from polyturn.types import Episode, Event, Message, Score, Stop, Task, Trajectory, Turn, user

SMALL = Settings(
    "tiny", trajectories=8, updates=2, tokens=150, mix=0.0, test_tasks=2, before_tasks=1, reply_tokens=4, save_every=1,
    test_most=6)


async def finished(folder: Path, settings: Settings, *, resume: bool = False) -> Run:
    run = Run(folder, open_run(folder, recipe="codeact", resume=resume), make_progress(StringIO()), deterministic=True)
    try:
        await main(settings, run)
    finally:
        run.recorder.close()
    return run


@pytest.mark.parametrize("arm", ["code", "text"])
async def test_two_iterations(tmp_path: Path, arm: Space) -> None:
    run = await finished(tmp_path / "run", replace(SMALL, arm=arm))
    assert run.results["isolation"] in ("bubblewrap", "namespaces")
    assert run.results["outcome"].keys() == {
        "solver_few", "executable_before", "success_few", "turns", "executable", "invalid"}  # no task of many offers
    assert run.results["outcome"]["solver_few"] == 1.0 and set(run.results["curve_solver"]) <= {*"23456"}
    rows = read_metrics(run.folder)
    assert [row["stage"] for row in rows] == ["imitate"] * 2
    assert all(150 <= row["values"]["learner/tokens"] <= 270 for row in rows)
    shown = [e for e in read_episodes(run.folder) if e.id.startswith("demonstration.")]
    assert len(shown) == 8 and all(e.stop.reason == "right" for e in shown)
    assert audit_run(run.folder).faults == []
    assert "success_few" in run.results["text"]


async def test_replies_of_the_untrained_model_are_mixed_in(tmp_path: Path) -> None:
    settings = replace(SMALL, mix=0.02, kept_replies=30, updates=1, tokens=200, before_tasks=0)
    run = await finished(tmp_path / "run", settings)
    outcome = run.results["outcome"]
    assert outcome["perplexity_before"] > 1 and outcome["perplexity_after"] > 1
    assert outcome["perplexity_before"] != outcome["perplexity_after"]


def test_the_solver_says_what_is_counted() -> None:
    for task in islice(best_price(most=6).tasks("train"), 5):
        world = market(task, 3)
        for space in SPACES:
            said = solved(space, task, 3)
            history: list[Message] = [user(world.question.text)]
            functions = world.functions()
            for reply in said:
                assert solver(space)(history) == reply
                shown = world.expected() if space == "code" else ""
                if space != "code" and len(history) // 2 < len(world.question.calls()):
                    shown = str(functions.call(world.question.tool, world.question.calls()[len(history) // 2]))
                history += [Message("assistant", reply), user(shown)]  # type: ignore[arg-type]
    assert len(texts()) > 200


def episode(
    name: str, cities: int, vendors: int, won: bool, *does: tuple[str, str], expected: str = "40"
) -> Episode:
    turns = tuple(Turn(i, "agent", "main", (), -1, ()) for i in range(len(does)))
    events = tuple(
        Event(i, "action", "agent", {"does": kind, "status": status}) for i, (kind, status) in enumerate(does))
    return Episode(name, Task(name, "best_price", {"cities": cities, "vendors": vendors}), 0, events=events,
                   trajectories=(Trajectory("agent", "main", turns=turns),), final={"expected": expected},
                   scores={"score": {"agent": Score(float(won), success=won)}})


def test_the_outcome_by_hand() -> None:
    groups = [
        (episode("a", 1, 2, True, ("use_tool", "ok"), ("propose_solution", "ok")),),
        (episode("b", 3, 3, False, ("use_tool", "error"), ("invalid_action", "error"), ("propose_solution", "ok")),),
        (episode("c", 2, 5, True, ("use_tool", "ok"), ("use_tool", "ok"), ("propose_solution", "ok")),),
        (episode("d", 3, 5, False, ("propose_solution", "ok"), expected="none"),),
    ]
    found = outcome_of(groups, few=9, turns=10)
    # few: a of {a, b}; many: c, as d has no price for an answer; turns (2 + 10 + 3 + 10) / 4; runnable 3 of 4 tool
    # actions and 1 invalid; invalid 1 of 9
    assert found == {"success_many": 1.0, "success_few": 0.5, "turns": 6.25, "executable": 3 / 5, "invalid": 1 / 9}
    assert by_offers(groups) == {"2": [1.0, 1.0], "9": [1.0, 0.0], "10": [1.0, 1.0], "15": [1.0, 0.0]}


def test_nothing_is_no_zero_and_what_broke_counts_in_nothing() -> None:
    many = (episode("c", 2, 5, True, ("use_tool", "ok"), ("propose_solution", "ok")),)
    lost = episode("b", 3, 3, False, ("use_tool", "error"))
    broken = replace(lost, stop=Stop("error", "verifier score: late"), scores={})
    # no task of few offers is left
    assert outcome_of([many, (broken,)], few=9, turns=10) == {
        "success_many": 1.0, "turns": 2.0, "executable": 1.0, "invalid": 0.0}
    assert by_offers([many, (broken,)]) == {"10": [1.0, 1.0]}
    assert outcome_of([(broken,)], few=9, turns=10) == {}


def test_what_stands_before_and_after_a_run() -> None:
    assert len(held_out(replace(SMALL, test_tasks=5))) == 5
    assert text({}) == "no result: the run did not come to its end"

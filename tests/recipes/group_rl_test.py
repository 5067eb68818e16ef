"""Two iterations of the recipe with a tiny model: on one seat, in self-play, from a solver's play, and gone on with."""

from __future__ import annotations

import sys
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from polyturn.audit.report import audit_run
from polyturn.errors import BadInput, UnknownName
from polyturn.evaluate.benchmark import evaluate
from polyturn.learn.run import Run
from polyturn.policies.local import Local
from polyturn.progress import make_progress
from polyturn.recipes.group_rl import Settings, foresee, held_out, main
from polyturn.record.read import read_episodes, read_metrics
from polyturn.record.write import open_run
from polyturn.types import Episode
from tests.policies.tiny import tiny_folder

SMALL: dict[str, Any] = {"iterations": 2, "groups": 2, "rollouts": 2, "test_tasks": 3, "trials": 1, "max_tokens": 4,
                         "lr": 1e-3, "warm_lr": 1e-3, "warm_episodes": 2, "save_every": 1}


async def finished(folder: Path, settings: Settings, *, resume: bool = False) -> Run:
    run = Run(folder, open_run(folder, recipe="group_rl", resume=resume), make_progress(StringIO()), deterministic=True)
    try:
        await main(settings, run)
    finally:
        run.recorder.close()
    return run


@pytest.mark.parametrize(("environment", "more"), [
    ("guess_the_number", {"warm_updates": 2}), ("kuhn_poker", {}), ("tic_tac_toe", {"mask": True}),
])
async def test_two_iterations(tmp_path: Path, environment: str, more: dict[str, Any]) -> None:
    settings = Settings(environment, str(tiny_folder(tmp_path / "model")), **SMALL, **more)
    run = await finished(tmp_path / "run", settings)
    assert run.results["table"].keys() == {"before", "after"}
    assert run.results["table"]["after"]["mixture"]["errors"] == 0
    assert run.results["paired"]["after_minus_before"]["mixture"].keys() >= {"mean", "low", "high"}
    assert "after - before" in run.results["text"]
    stages = [row["stage"] for row in read_metrics(run.folder)]
    assert stages == ["warm"] * settings.warm_updates + ["learn", "learn"]
    assert (run.model_folder("learn") / "model.safetensors").exists()
    assert audit_run(run.folder).faults == []
    if "mask" in more:
        assert run.results["table"]["after"]["mixture"]["illegal"] == 0.0


async def test_a_finished_run_gone_on_with_changes_nothing(tmp_path: Path) -> None:
    settings = Settings("guess_the_number", str(tiny_folder(tmp_path / "model")), **SMALL)
    first = (await finished(tmp_path / "run", settings)).results
    again = (await finished(tmp_path / "run", settings, resume=True)).results
    for table in (first["table"], again["table"]):
        for row in table.values():
            for found in (row["mixture"], row["environments"]["guess_the_number"]):
                for timed in [name for name in found if name.endswith("seconds")]:
                    found.pop(timed)
    assert again["table"] == first["table"]
    assert again["paired"] == first["paired"]


def test_held_out_matches_are_the_tables() -> None:
    matches = held_out(Settings("kuhn_poker", test_tasks=5, trials=3))
    assert len(matches) == 5
    assert all(match.rollouts == 3 and match.cast.keys() == {"player_0", "player_1"} for match in matches)


def test_what_it_takes_is_foreseen_for_the_embedded_model_alone() -> None:
    found = foresee(Settings(warm_updates=2, iterations=10))
    # rating 0.3 s for each of 32 * 2 plays, twice; 0.8 s for each of 2 * 16 scripted episodes; 0.5 s for 10 * 4 * 8
    assert found["seconds"] == pytest.approx(2 * 19.2 + 25.6 + 160)
    assert list(found["stages"]) == ["rating before", "warm", "learn", "rating after"]
    assert foresee(Settings(model="other")) == {}


def test_an_unknown_environment() -> None:
    with pytest.raises(UnknownName, match="did you mean 'tic_tac_toe'"):
        held_out(Settings("tictactoe"))


async def test_the_saved_model_plays_as_the_trained_one_did(tmp_path: Path) -> None:
    small = {**SMALL, "iterations": 3, "test_tasks": 6}
    settings = Settings("tic_tac_toe", str(tiny_folder(tmp_path / "model")), mask=True, **small)
    run = await finished(tmp_path / "run", settings)
    model = Local.load(run.model_folder("learn"), deterministic=True)
    again = await evaluate(held_out(settings), {"main": model}, policy="main", label="again")
    model.close()
    said = {label: [turn_texts(e) for e in episodes] for label, episodes in (
        ("after", [e for e in read_episodes(run.folder) if e.id.startswith("after.")]),
        ("again", [e for group in again.groups for e in group]))}
    assert sorted(said["after"]) == sorted(said["again"])


def turn_texts(episode: Episode) -> list[str]:
    return [t.messages[turn.reply].text for t in episode.trajectories for turn in t.turns]


async def test_tools_of_a_server_are_offered_in_every_episode(tmp_path: Path) -> None:
    server = f"{sys.executable} -I -S {Path(__file__).parents[1] / 'tools' / 'plain_server.py'}"
    settings = Settings("guess_the_number", str(tiny_folder(tmp_path / "model")), mcp=server,
                        **{**SMALL, "iterations": 1, "groups": 1, "test_tasks": 1})
    run = await finished(tmp_path / "run", settings)
    episodes = list(read_episodes(run.folder))
    assert len(episodes) == 4 and {episode.stop.kind for episode in episodes} <= {"done", "truncated"}
    for episode in episodes:
        assert [tool.name for tool in episode.trajectories[0].tools][:1] == ["add"]
    assert audit_run(run.folder).faults == []
    with pytest.raises(BadInput, match="leave out one"):
        await main(replace(settings, mask=True), run)

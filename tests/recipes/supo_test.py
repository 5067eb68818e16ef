"""Two iterations of each arm with the tiny model, and the players that the recipe imitates."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from polyturn.audit.report import audit_run
from polyturn.contexts.summary import Summary
from polyturn.contexts.window import Fit
from polyturn.envs.lookup import DRAWERS, hunt_rules, key_hunt, syllables
from polyturn.evaluate.benchmark import evaluate
from polyturn.learn.run import Run
from polyturn.policies.scripted import Scripted
from polyturn.policies.tiny import open_model
from polyturn.progress import make_progress
from polyturn.recipes.supo import (
    STUDY,
    Settings,
    _matches,
    context_of,
    held_out,
    hunter,
    kept,
    limit_of,
    main,
    player,
    text,
    texts,
)
from polyturn.record.read import read_episodes, read_metrics
from polyturn.record.write import open_run
from polyturn.types import assistant, user

SMALL: dict[str, Any] = {"model": "tiny", "warm_updates": 2, "warm_episodes": 2, "iterations": 2, "groups": 2,
                         "rollouts": 2, "test_tasks": 2, "warm_lr": 1e-3, "parts": 4, "steps": 8, "save_every": 1}


async def finished(folder: Path, settings: Settings) -> Run:
    run = Run(folder, open_run(folder, recipe="supo"), make_progress(StringIO()))
    try:
        await main(settings, run)
    finally:
        run.recorder.close()
    return run


@pytest.mark.parametrize("arm", ["supo", "unmasked", "frozen", "truncation"])
async def test_two_iterations(tmp_path: Path, arm: Any) -> None:
    run = await finished(tmp_path / "run", Settings(arm=arm, **SMALL))
    assert run.results["outcome"].keys() >= {STUDY.outcome, *STUDY.more}
    assert run.results["found"].keys() == {"warm", "learned", "more"} and "success" in text(run.results)
    assert [row["stage"] for row in read_metrics(run.folder)] == ["sure", "warm", "learn", "learn"]
    assert audit_run(run.folder).faults == []
    learned = [e for e in read_episodes(run.folder) if e.id.startswith("learn.")]
    writers = {t.policy for e in learned for t in e.trajectories for turn in t.turns if turn.purpose == "summary"}
    assert writers <= {"supo": {"main"}, "unmasked": {"main"}, "frozen": {"frozen"}, "truncation": set()}[arm]


async def test_the_imitated_player_forgets_and_never_looks_beyond_its_context() -> None:
    """With a sure memory it finds every code through summaries; a forgetful one fails more often; truncated, nearly
    always."""
    found = {}
    model = open_model("tiny", texts)
    model.close()
    for name, keep, arm in (("sure", 1.0, "supo"), ("forgetful", 0.6, "supo"), ("truncated", 1.0, "truncation")):
        settings = Settings(keep=keep, arm=arm, test_tasks=24)  # type: ignore[arg-type]
        script = Scripted(hunter(settings), name="main", chat=model.chat)
        limit = limit_of(script, settings.parts)
        context = context_of(settings, limit, settings.summaries, frozen=False)
        result = await evaluate(_matches(settings, lambda: player(context)), {"main": script}, policy="main")  # noqa: B023
        found[name] = kept(result)
        assert found[name]["peak"] <= limit
    assert found["sure"]["success"] == found["sure"]["recall"] == found["sure"]["in_view"] == 1.0
    assert 2 <= found["sure"]["summaries"] <= 3
    assert found["forgetful"]["success"] < 0.6 and 0.4 < found["forgetful"]["recall"] < 0.8
    assert found["truncated"]["success"] < 0.1 and found["truncated"]["summaries"] == 0


def test_the_context_holds_about_a_third_of_the_calls() -> None:
    model = open_model("tiny", texts)
    model.close()
    for parts in (6, 9, 12):
        limit, messages, calls = limit_of(model, parts), [user(hunt_rules(parts))], 0
        while model.count(messages) <= limit:
            messages += [assistant(f"open {DRAWERS[calls]}"), user(f"Found b{DRAWERS[calls]}.")]
            calls += 1
        assert parts / 3 <= calls - 1 <= parts / 2 + 1


def test_a_tiny_models_tokenizer_has_a_token_for_each_syllable() -> None:
    model = open_model("tiny", texts)
    model.close()
    every = syllables(" ".join(f"z{drawer}" for drawer in DRAWERS[:6])).values()
    assert all(model.count([user("Found " + syllable)]) == model.count([user("Found ba")]) for syllable in every)


def test_contexts_by_arm_and_held_out_matches() -> None:
    assert isinstance(context_of(Settings(arm="truncation"), 9, 3, frozen=False), Fit)
    summary = context_of(Settings(arm="frozen"), 9, 3, frozen=True)
    assert isinstance(summary, Summary) and (summary.policy, summary.most, summary.roll_back) == ("frozen", 3, True)
    matches = held_out(Settings(test_tasks=5))
    assert [match.task.id for match in matches] == [task.id for task in key_hunt(test_tasks=5).tasks("test")]

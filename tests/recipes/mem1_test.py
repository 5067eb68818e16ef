"""Two iterations of each arm with the tiny model; the state writer, and the memory that it takes."""

from __future__ import annotations

from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from polyturn.audit.report import audit_run
from polyturn.contexts.keep import Keep
from polyturn.envs.composition import by_position
from polyturn.envs.lookup import DRAWERS
from polyturn.evaluate.benchmark import evaluate
from polyturn.learn.run import Run
from polyturn.methods.context.mem1 import ConstantState, state_of
from polyturn.policies.scripted import Scripted
from polyturn.policies.tiny import open_model
from polyturn.progress import make_progress
from polyturn.recipes.mem1 import (
    STUDY,
    Settings,
    constant_memory,
    context_of,
    held_out,
    main,
    matches,
    text,
    texts,
    writer,
)
from polyturn.record.read import read_metrics
from polyturn.record.write import open_run
from polyturn.types import Message, assistant, system, user

SMALL: dict[str, Any] = {"model": "tiny", "warm_updates": 2, "warm_episodes": 2, "iterations": 2, "groups": 2,
                         "rollouts": 2, "test_tasks": 2, "warm_lr": 1e-3, "max_tokens": 8, "save_every": 1}


async def finished(folder: Path, settings: Settings) -> Run:
    run = Run(folder, open_run(folder, recipe="mem1"), make_progress(StringIO()))
    try:
        await main(settings, run)
    finally:
        run.recorder.close()
    return run


@pytest.mark.parametrize("arm", ["mem1", "full"])
async def test_two_iterations(tmp_path: Path, arm: Any) -> None:
    run = await finished(tmp_path / "run", Settings(arm=arm, **SMALL))
    assert run.results["outcome"].keys() >= {STUDY.outcome, *STUDY.more}
    assert run.results["found"].keys() == {"untrained", "imitated", "trained", "trained on 4", "trained on 8"}
    assert [len(row["by_position"]) for row in run.results["found"].values()] == [2, 2, 2, 4, 8]
    assert "by position" in text(run.results) and "peak tokens, scripted" in text(run.results)
    assert [row["stage"] for row in read_metrics(run.folder)] == ["sure", "warm", "learn", "learn"]
    assert audit_run(run.folder).faults == []


async def test_the_memory_is_constant_and_that_of_a_full_history_grows_with_the_objectives() -> None:
    model = open_model("tiny", texts)
    model.close()
    found = await constant_memory(model, Settings(model="tiny"))
    flat, grown = (list(found[arm].values()) for arm in ("mem1", "full"))
    assert list(found["mem1"]) == ["1", "2", "4", "8"]
    assert max(flat) < 1.2 * min(flat)
    steps = [(b - a) / n for (a, b), n in zip(pairwise(grown), (1, 2, 4), strict=True)]
    assert min(steps) > 30 and max(steps) < 1.5 * min(steps)  # tokens for each objective more: linear


async def test_the_imitated_writer_needs_its_state_and_loses_what_it_forgets() -> None:
    model = open_model("tiny", texts)
    model.close()
    shares = {}
    for keep in (1.0, 0.5):
        settings = Settings(keep=keep, test_tasks=40, onsets=4)
        script = Scripted(writer(settings), name="main", chat=model.chat)
        result = await evaluate(matches(settings, 2, ConstantState()), {"main": script}, policy="main")
        shares[keep] = by_position(result.groups)
    assert shares[1.0] == (1.0, 1.0)
    assert 0.35 < shares[0.5][0] < 0.9 and shares[0.5][1] == 1.0  # the older value is kept half of the time, or guessed


def test_what_the_writer_says() -> None:
    say = writer(Settings(keep=1.0))
    asked = user("Questions: o; e\nSearch with ...")
    hint = user("[3 turns left]", origin="reminder")

    def said(*messages: Message) -> str:
        return say([system("know ba"), asked, *messages]).text  # type: ignore[union-attr]

    assert said(hint) == "<IS> know </IS><search> o </search>"
    assert said(assistant("<IS> know </IS><search> o </search>"), user("o lo"), hint) == (
        "<IS> know lo </IS><search> e </search>")
    done = said(assistant("<IS> know lo </IS><search> e </search>"), user("e ke"))
    assert done == "<IS> know ke lo </IS><answer> lo; ke </answer>" and state_of(done) == "know ke lo"


def test_a_tiny_models_tokenizer_has_a_token_for_each_value() -> None:
    model = open_model("tiny", texts)
    model.close()
    sizes = {model.count([user(f"e z{drawer}")]) for drawer in DRAWERS[:8]}
    assert len(sizes) == 1


def test_contexts_by_arm_and_held_out_matches() -> None:
    assert isinstance(context_of(Settings()), ConstantState) and isinstance(context_of(Settings(arm="full")), Keep)
    made = held_out(Settings(test_tasks=5, objectives=3))
    assert len(made) == 5 and all(len(match.task.payload["answers"]) == 3 for match in made)

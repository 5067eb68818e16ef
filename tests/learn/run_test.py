from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from polyturn.errors import BadInput
from polyturn.learn import checkpoint
from polyturn.learn.run import Run
from polyturn.progress import make_progress
from polyturn.record.read import read_metrics
from polyturn.record.write import open_run


class Memory:
    def __init__(self) -> None:
        self.value = 0

    def state(self) -> Mapping[str, Any]:
        return {"value": self.value}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.value = state["value"]


def a_run(folder: Path, *, resume: bool = False) -> Run:
    return Run(folder, open_run(folder, recipe="test", resume=resume), make_progress(StringIO()))


def test_what_came_after_the_checkpoint_is_void_in_the_next_attempt(tmp_path: Path) -> None:
    run, memory = a_run(tmp_path / "run"), Memory()
    run.recorder.metrics(0, {"a": 1.0})
    memory.value = 5
    run.save("play", 1, {"memory": memory})
    run.recorder.metrics(1, {"a": 2.0})
    run.keep(table={"x": 1})
    run.recorder.close("killed")

    again, fresh = a_run(tmp_path / "run", resume=True), Memory()
    assert again.at == ("play", 1) and again.results == {"table": {"x": 1}}
    again.restore({"memory": fresh})
    assert fresh.value == 5
    assert [row["values"] for row in read_metrics(again.folder)] == [{"a": 1.0}]
    with pytest.raises(BadInput):
        again.restore({"other": fresh})
    again.recorder.close()


def test_a_run_without_checkpoint_begins_again_from_nothing(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    run.recorder.metrics(0, {"a": 1.0})
    run.recorder.close("killed")
    again = a_run(tmp_path / "run", resume=True)
    assert again.at is None and read_metrics(again.folder) == []
    again.recorder.close()


def test_results_are_written_whole_and_refuse_what_json_has_not(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    run.keep(a=1)
    run.keep(b=[2])
    with pytest.raises(ValueError, match="JSON compliant"):
        run.keep(c=float("nan"))
    assert json.loads((run.folder / "results.json").read_text()) == {"a": 1, "b": [2]}
    run.recorder.close()


@pytest.mark.parametrize("text", ["", "[1]", "{", "[" * 100_000, "3"])
def test_results_that_are_none_are_named(tmp_path: Path, text: str) -> None:
    a_run(tmp_path / "run").recorder.close()
    (tmp_path / "run" / "results.json").write_text(text)
    with open_run(tmp_path / "run", resume=True) as recorder, pytest.raises(BadInput, match=r"results\.json"):
        Run(tmp_path / "run", recorder, make_progress(StringIO()))


@pytest.mark.parametrize("states", [{}, {"stage": 1, "done": 1, "parts": {}}, {"stage": "a", "done": "1", "parts": {}},
                                    {"stage": "a", "done": 1, "parts": []}])
def test_a_checkpoint_of_something_else_is_named(tmp_path: Path, states: dict[str, Any]) -> None:
    a_run(tmp_path / "run").recorder.close()
    checkpoint.save(tmp_path / "run" / "checkpoints" / "state", states)
    with open_run(tmp_path / "run", resume=True) as recorder, pytest.raises(BadInput, match="no checkpoint of a run"):
        Run(tmp_path / "run", recorder, make_progress(StringIO()))


async def test_what_a_signal_ends_is_saved_before_the_next_iteration(tmp_path: Path) -> None:
    run, memory = a_run(tmp_path / "run"), Memory()
    await run.heed("play", 2, {"memory": memory})
    assert run.at is None
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await run.heed("play", 3, {"memory": memory})
    assert run.at == ("play", 3)
    with pytest.raises(asyncio.CancelledError):
        await asyncio.sleep(0)
    task.uncancel()
    run.recorder.close()

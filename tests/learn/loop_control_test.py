"""What is set while a run works belongs to the run: resumed, it equals the one that was left alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from polyturn.errors import Stopped
from polyturn.learn.loop import train
from polyturn.learn.run import Run
from polyturn.record.control import ask
from tests.learn.loop_test import a_run, numbers, stage
from tests.policies.tiny import tiny_local, tiny_model


def asking(run: Run, at: Mapping[int, tuple[str, dict[str, float | None]]]) -> None:
    """Asks after some iterations, as somebody at a terminal would."""
    def asked(i: int, metrics: Mapping[str, float]) -> None:
        if i in at:
            ask(run.folder, *at[i])

    object.__setattr__(run.progress, "iteration", asked)


async def test_a_stopped_run_goes_on_with_what_was_set(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    limit = {"tokens": 4.0}
    whole, whole_run = tiny_local(deterministic=True), a_run(tmp_path / "whole")
    asking(whole_run, {1: ("set", limit)})
    await train(whole_run, stage(whole, iterations=6), save_every=2)
    whole_run.recorder.close()
    used = [row["rollout/tokens"] for row in numbers(whole_run)]
    assert max(used[2:]) <= 4 * 8 < min(used[:2])  # eight seats, four tokens each

    first, broken = tiny_local(deterministic=True), a_run(tmp_path / "broken")
    asking(broken, {1: ("set", limit), 3: ("stop", {})})
    with pytest.raises(Stopped, match="before iteration 4 of play"):
        await train(broken, stage(first, iterations=6), save_every=100)
    broken.recorder.close("stopped")

    second, resumed = tiny_local(tiny_model(seed=9), deterministic=True), a_run(tmp_path / "broken", resume=True)
    assert resumed.at == ("play", 4)
    await train(resumed, stage(second, iterations=6), save_every=2)
    resumed.recorder.close()
    gone = {name for row in (*numbers(resumed), *numbers(whole_run)) for name in row if name.startswith("audit/borrow")}
    assert [{k: v for k, v in row.items() if k not in gone} for row in numbers(resumed)] == [
        {k: v for k, v in row.items() if k not in gone} for row in numbers(whole_run)]
    for model in (whole, first, second):
        model.close()

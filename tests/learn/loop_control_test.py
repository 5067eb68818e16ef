"""What is set while a run works belongs to the run: resumed, it equals the one that was left alone."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path

import pytest
import torch

from polyturn.agents.chat import ChatAgent
from polyturn.audit.report import audit_run
from polyturn.envs.arithmetic import arithmetic
from polyturn.errors import Stopped
from polyturn.evaluate.recorded import evaluate_once
from polyturn.learn.loop import train
from polyturn.learn.run import Run
from polyturn.policies.scripted import Scripted
from polyturn.protocols import Match, Player
from polyturn.record.control import ask
from polyturn.record.read import read_credit, read_episodes
from polyturn.rollout.episode import Place, play_episode
from polyturn.rollout.pool import Pool
from polyturn.types import Sampling
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
    limit: dict[str, float | None] = {"tokens": 4.0, "temperature": 0.7}
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


async def test_a_stop_in_a_rating_is_obeyed_after_an_episode_and_the_rating_is_played_again(tmp_path: Path) -> None:
    sums = arithmetic()
    player = {"agent": Player(ChatAgent, "main")}
    matches = [Match(sums, task, player) for task in islice(sums.tasks("test"), 4)]

    async def rate(run: Run) -> int:
        rated = await evaluate_once(
            matches, {"main": Scripted(lambda messages: "1", name="main")}, policy="main", label="rate",
            recorder=run.recorder, pool=Pool(1), finished=run.plays("rating", matches))
        run.recorder.close()
        return rated.mixture.n_trials

    first = a_run(tmp_path / "run")
    asking(first, {1: ("stop", {})})
    with pytest.raises(Stopped, match="stopped after episode 2 of rating"):
        await rate(first)
    first.recorder.close("stopped")
    assert len(list(read_episodes(first.folder))) == 2
    again = a_run(tmp_path / "run", resume=True)
    assert await rate(again) == 4 and len(list(read_episodes(again.folder))) == 4


async def test_temperature_and_longest_reply_are_recorded_and_learned_from_as_they_were_drawn(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    model, run = tiny_local(deterministic=True), a_run(tmp_path / "run")
    asking(run, {0: ("set", {"temperature": 0.5, "max_tokens": 3.0}), 1: ("set", {"max_tokens": 99.0})})
    await train(run, stage(model, iterations=3), save_every=100)
    run.recorder.close()
    model.close()
    drawn = {
        (episode.iteration, turn.sampling.temperature, turn.sampling.max_tokens)
        for episode in read_episodes(run.folder) for turn in episode.trajectories[0].turns}
    assert drawn == {(0, 1.0, 6), (1, 0.5, 3), (2, 0.5, 6)}  # 99 is above what the agent asks for
    spans = {(e.id, i): span for e in read_episodes(run.folder) for i, span in enumerate(e.trajectories[0].spans)}
    rows = [row for row in read_credit(run.folder) if row["iteration"] > 0]
    gaps = [abs(old - drawn) for row in rows for old, drawn in zip(
        row["old"], spans[row["episode"], row["span"]].logprobs, strict=True)]  # type: ignore[arg-type]
    assert gaps and max(gaps) < 1e-4
    assert audit_run(run.folder).faults == []


@pytest.mark.parametrize(("train", "own", "expected"), [
    (frozenset({"agent"}), Sampling(), (0.5, 7)), (frozenset({"agent"}), Sampling(0.0, max_tokens=5), (0.0, 5)),
    (frozenset(), Sampling(), (1.0, 256)),
])
async def test_only_seats_that_learn_are_drawn_otherwise(
    train: frozenset[str], own: Sampling, expected: tuple[float, int]
) -> None:
    sums = arithmetic()
    task = next(iter(sums.tasks("test")))
    match = Match(sums, task, {"agent": Player(lambda: ChatAgent(sampling=own), "main")}, train=train, max_tokens=7,
                  temperature=0.5)
    episode = await play_episode(match, {"main": Scripted(lambda messages: "1", name="main")}, Place("e"))
    used = episode.trajectories[0].turns[0].sampling
    assert (used.temperature, used.max_tokens) == expected

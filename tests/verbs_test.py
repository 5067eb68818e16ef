"""The plain functions, in a script and in a running loop."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path

import pytest

import polyturn
from polyturn.errors import NotFinite, UnknownName
from polyturn.policies.scripted import Scripted
from polyturn.types import Episode
from polyturn.verbs import evaluate, play, resume, run, train, waited
from tests.policies.tiny import tiny_folder

RECIPE = '''
from dataclasses import dataclass

@dataclass(frozen=True)
class Settings:
    n: int = 2

async def main(settings, run):
    run.keep(total=10 * settings.n)
'''


async def twice(number: int) -> int:
    await asyncio.sleep(0)
    return 2 * number


async def failing() -> None:
    raise NotFinite("nan")


def test_waited_in_a_script() -> None:
    assert waited(twice(4)) == 8


async def test_waited_in_a_running_loop() -> None:
    before = threading.active_count()
    assert waited(twice(4)) == 8
    with pytest.raises(NotFinite):
        waited(failing())
    assert threading.active_count() == before


async def test_evaluate_in_a_running_loop() -> None:
    row = evaluate("guess_the_number", "oracle", tasks=32).environments["guess_the_number"]
    assert row.mean >= 0.75 and row.n_trials == 32
    assert evaluate("guess_the_number", "null", tasks=4).mixture.mean == 0.0


def test_a_policy_of_ones_own() -> None:
    found = evaluate("tic_tac_toe", Scripted(lambda messages: "5", name="five"), tasks=4)
    assert found.mixture.n_trials == 4
    assert found.mixture.errors == 0


def test_play_gives_scored_episodes() -> None:
    episodes = play("kuhn_poker", "random", tasks=3, trials=2)
    assert len(episodes) == 6
    assert all(episode.scores["score"].keys() == {"player_0", "player_1"} for episode in episodes)


def test_run_and_resume(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(RECIPE)
    found = run(str(path), runs=tmp_path / "runs", quiet=True, n=4)
    assert found["total"] == 40
    assert Path(found["run"]).parent == tmp_path / "runs"
    assert resume(found["run"], quiet=True)["total"] == 40
    with pytest.raises(UnknownName, match="no setting of mine named 'm'; known: n"):
        run(str(path), m=4)


def test_ones_own_data_and_a_plain_reward_are_enough_to_train(tmp_path: Path) -> None:
    lines = [{"prompt": f"Write a text with the letter {letter}.", "letter": letter} for letter in "abcdefgh"]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, lines)))

    def reward(episode: Episode) -> float:
        assert episode.final is not None
        said = "".join(episode.final["replies"])
        return float(episode.task.payload["letter"] in said)

    suite = polyturn.tasks.from_file(tmp_path / "mine.jsonl", reward)
    found = train(
        suite, folder=tmp_path / "run", quiet=True, model=str(tiny_folder(tmp_path / "model")), iterations=2, groups=2,
        rollouts=2, max_tokens=8, trials=1,
    )
    assert found["table"]["after"]["mixture"]["errors"] == 0
    assert (tmp_path / "run" / "report.html").exists()
    assert (tmp_path / "run" / "checkpoints" / "learn" / "config.json").exists()


def test_every_name_of_the_package_can_be_had() -> None:
    for name in polyturn.__all__:
        assert getattr(polyturn, name) is not None
    assert dir(polyturn) == polyturn.__all__
    with pytest.raises(AttributeError, match="nonsense"):
        _ = polyturn.nonsense

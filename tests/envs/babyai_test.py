"""BabyAI: the package's bot solves every level that is played by default; views, illegal replies, what is checked."""

from __future__ import annotations

import copy
import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from polyturn.cli.main import main
from polyturn.envs.babyai import suite
from polyturn.envs.babyai.suite import ACTIONS, LEVELS, RULES, babyai, told
from polyturn.envs.install import installed
from polyturn.envs.outside.process import Outside
from polyturn.errors import BadInput, EnvironmentFailed, UnknownName
from polyturn.testing import check_suite
from polyturn.types import assistant
from tests.envs.drive import drive, saying


async def test_the_bot_solves_all_test_tasks_and_silence_none() -> None:
    made = babyai()
    tasks = list(made.tasks("test"))
    assert len(tasks) == 70
    best = [(await drive(made, task, 0, {"agent": made.oracle(task)})).final for task in tasks]
    worst = [(await drive(made, task, 0, {"agent": made.null(task)})).final for task in tasks]
    assert all(final["solved"] and 0 < final["reward"] <= 1 for final in best)
    assert not any(final["solved"] for final in worst)
    assert made._outside.starts == 1 and not made._solutions
    await made.close()


async def test_the_suite_keeps_its_contract() -> None:
    made = babyai(levels=["GoToLocal"], test_tasks=4)
    assert await check_suite(made, scored=4, tasks=1) == {"oracle": 1.0, "null": 0.0}
    await made.close()


async def test_a_play_step_by_step() -> None:
    made = babyai(levels=["GoToRedBallGrey"])
    task = next(made.tasks("train"))
    driven = await drive(made, task, 3, {"agent": saying("turn left", " Turn Right ", "fly", "fly", "fly")})
    heard = driven.heard("agent")
    assert heard[0].startswith(f"{RULES}\n\nYour mission: go to the red ball.\n\nYou look ")
    assert heard[0].endswith(heard[2])  # left and right again
    assert heard[1] != heard[2] and heard[3].startswith("That is no action. Reply with one of: turn left")
    assert driven.steps[0].asks[0].legal == ACTIONS
    assert driven.kinds() == ["invalid"] * 3 and driven.stop.reason == "illegal reply"
    assert (driven.final["steps"], driven.final["solved"], driven.final["reward"]) == (2, False, 0.0)
    await made.close()


async def test_a_mission_is_cut_after_the_levels_steps() -> None:
    made = babyai(levels=["MiniGrid-Empty-5x5-v0"])
    driven = await drive(made, next(made.tasks("test")), 0, {"agent": saying("turn left")})
    assert (driven.stop.kind, driven.final["steps"]) == ("truncated", 100)
    assert driven.heard("agent")[0].count("the goal") == 1
    await made.close()


async def test_plays_side_by_side_and_after_a_killed_worker_see_their_own_world() -> None:
    made = babyai(levels=["GoToLocal"])
    task = next(made.tasks("test"))
    envs = [await made.make(task, seed) for seed in (0, 0, 1)]
    said: list[list[str]] = [[], [], []]
    for place, env in enumerate(envs):
        said[place].append((await env.start()).asks[0].messages[0].text)
    for action in ("turn left", "turn left", "go forward"):
        for place, env in enumerate(envs):
            said[place].append((await env.step({"agent": assistant(action)})).asks[0].messages[0].text)
        await made._outside.close()
    assert said[0] == said[1] != said[2]
    for env in envs:
        await env.close()
    await made.close()


async def test_a_level_that_the_bot_cannot_do_has_no_solver() -> None:
    made = babyai(levels=["MiniGrid-Empty-5x5-v0"])
    task = next(made.tasks("test"))
    with pytest.raises(BadInput, match="the bot knows no solution"):
        await drive(made, task, 0, {"agent": made.oracle(task)})
    await made.close()


def test_levels_and_splits() -> None:
    assert len(suite.known_levels(installed("minigrid"))) == 178
    made = babyai()
    assert made.levels == tuple(f"BabyAI-{level}-v0" for level in LEVELS)
    train = {task.id for task in islice(made.tasks("train"), 200)}
    assert len(train) == 200 and not train & {task.id for task in made.tasks("test")}
    with pytest.raises(UnknownName, match="did you mean 'GoToLocal'"):
        babyai(levels=["GoToLocl"])
    with pytest.raises(UnknownName, match="did you mean 'test'"):
        made.tasks("tests")


def view(**changed: Any) -> dict[str, Any]:
    image = [[[1, 0, 0] for _ in range(7)] for _ in range(7)]
    return {"mission": "go", "image": image, "direction": 0, "carrying": None, "reward": 0.0, "terminated": False,
            "truncated": False, **changed}


def test_what_is_seen_is_told_from_where_one_stands() -> None:
    seen = view(direction=3, carrying="grey key")
    seen["image"][3][4] = [2, 5, 0]   # a wall two ahead
    seen["image"][2][6] = [4, 4, 0]   # an open yellow door to the left can be walked through
    seen["image"][0][6] = [9, 0, 0]   # lava further there cannot
    seen["image"][4][6] = [7, 0, 0]   # a red box beside one, to the right
    seen["image"][3][6] = [1, 0, 0]
    assert told(seen) == (
        "You look north and carry a grey key.\n"
        "You see: an open yellow door, 1 to the left; a red box, 1 to the right; lava, 3 to the left.\n"
        "Free cells: 1 ahead, 2 to the left, 0 to the right."
    )


SHORT, DEEP = view(), view()
SHORT["image"] = SHORT["image"][:6]
DEEP["image"] = copy.deepcopy(DEEP["image"])
DEEP["image"][0][0] = [1, 0, 4]


@pytest.mark.parametrize("reply", [None, {}, view(direction=4), view(reward="1"), view(carrying=1), SHORT, DEEP])
async def test_what_comes_back_is_checked(reply: Any, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(f"def answer(request):\n    return {reply!r}\n")
    made = babyai(levels=["GoToLocal"])
    made._outside = Outside("forged", tmp_path, tmp_path / "script.py")
    env = await made.make(next(made.tasks("test")), 0)
    with pytest.raises(EnvironmentFailed, match="the view of"):
        await env.start()
    await env.close()
    await made.close()


def test_the_command_plays_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["eval", "babyai", "--policy", "oracle", "--tasks", "7", "--runs", str(tmp_path), "--json"]
    assert main(command) == 0
    row = json.loads(capsys.readouterr().out.splitlines()[-1])["mixture"]
    assert (row["mean"], row["n_tasks"], row["errors"]) == (1.0, 7, 0)

"""MiniWoB++ in a real Chromium: the scripted player, what the page shows, replies that cannot be done, no way out."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest

from polyturn.envs.miniwob import ADDRESS, GAMES, miniwob, plan
from polyturn.errors import BadInput, UnknownName
from polyturn.testing import check_suite
from tests.envs.drive import drive, saying


@pytest.mark.model
@pytest.mark.timeout(600)
async def test_the_scripted_player_solves_all_test_tasks() -> None:
    made = miniwob()
    rewards = {task.id: (await drive(made, task, 0, {"agent": made.oracle(task)})).final["reward"]
               for task in made.tasks("test")}
    assert len(rewards) == 44 and {task for task, reward in rewards.items() if reward < 1} == set()
    await made.close()


@pytest.mark.timeout(300)
async def test_the_suite_keeps_its_contract() -> None:
    made = miniwob(games=["enter-text"], test_tasks=2)
    task = next(made.tasks("test"))
    await drive(made, task, 0, {"agent": made.oracle(task)})  # Playwright draws its own name when it starts
    assert await check_suite(made, scored=2, tasks=1) == {"oracle": 1.0, "null": 0.0}
    await made.close()


async def test_a_play_step_by_step() -> None:
    made = miniwob(games=["click-checkboxes"])
    task = next(made.tasks("train"))
    driven = await drive(made, task, 0, {"agent": saying(
        "hello", "click 99", "press No!", "press NoSuchKey", "select 0 x", "click 0", "click 0", "press Tab")})
    heard = driven.heard("agent")
    assert "Your task: Select " in heard[0] and '[0] checkbox "' in heard[0] and 'button "Submit"' in heard[0]
    for place, words in enumerate((
        "That is no action", "There is nothing numbered '99'", "'No!' is no key", "'NoSuchKey' is no key",
        "Number 0 has no option 'x'"), 1):
        assert heard[place].startswith(words)
    assert "(checked)" in heard[6].splitlines()[0] and "(checked)" not in heard[7]
    assert driven.kinds() == ["invalid"] * 5
    assert (driven.stop.kind, driven.final["steps"], driven.final["done"]) == ("truncated", 20, False)
    await made.close()


async def test_a_page_reaches_nothing_but_its_folder() -> None:
    made = miniwob(games=["click-test"])
    env = await made.make(next(made.tasks("train")), 0)
    await env.start()
    assert env._page is not None
    tries: list[Any] = []
    for address in (f"{ADDRESS}core/core.js", f"{ADDRESS}../../minigrid/__init__.py", f"{ADDRESS}%2e%2e/x", "http://a.b/"):
        tries.append(await env._page.evaluate(
            "address => fetch(address).then(r => r.status, () => null)", address))
    assert tries == [200, None, None, None]
    await env.close()
    await made.close()


def test_tasks_and_names() -> None:
    made = miniwob()
    assert len(list(made.tasks("test"))) == 4 * len(GAMES)
    train = {task.id for task in islice(made.tasks("train"), 100)}
    assert len(train) == 100 and not train & {task.id for task in made.tasks("test")}
    with pytest.raises(UnknownName, match="did you mean 'click-test'"):
        miniwob(games=["click-tset"])
    with pytest.raises(UnknownName, match="did you mean 'test'"):
        made.tasks("tests")


@pytest.mark.parametrize(("task", "page", "actions"), [
    ("Click the button.", '[0] button "Click Me!"', ["click 0"]),
    ('Click on the "No" button.', '[0] button "Yes"\n[1] button "No"', ["click 1"]),
    ("Select a, c and click Submit.", '[0] checkbox "a"\n[1] checkbox "b"\n[2] checkbox "c"\n[3] button "Submit"',
     ["click 0", "click 2", "click 3"]),
    ("Select nothing and click Submit.", '[0] checkbox "a"\n[1] button "Submit"', ["click 1"]),
    ("Select Ann from the list and click Submit.", '[0] select options: Bo, Ann\n[1] button "Submit"',
     ["select 0 Ann", "click 1"]),
    ('Enter the username "u" and the password "p" into the text fields and press login.',
     '[0] text\n[1] password\n[2] button "Login"', ["type 0 u", "type 1 p", "click 2"]),
])
def test_the_scripted_player_plans(task: str, page: str, actions: list[str]) -> None:
    assert plan(f"rules\n\nYour task: {task}\n\n{page}") == actions
    with pytest.raises(BadInput, match="no task stands in"):
        plan(page)

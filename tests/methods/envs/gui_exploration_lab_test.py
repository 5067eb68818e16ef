"""Screen navigation: the terms and scores by hand, against a slow twin, and where the released rules can be fooled."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from polyturn.agents.chat import AnswerAgent, ChatAgent
from polyturn.envs.gui_lab.actions import BRIEF_COMPLETE, COMPLETE, click_text, thousandths
from polyturn.envs.gui_lab.app import HEIGHT, WIDTH, AppSpec, Element, Kind, make_app
from polyturn.envs.gui_lab.env import Look
from polyturn.envs.gui_lab.graphs import KINDS
from polyturn.envs.gui_lab.splits import pairs
from polyturn.envs.gui_lab.suite import Drawn, GuiLab
from polyturn.envs.stored import Stored
from polyturn.errors import BadInput, UnknownName
from polyturn.methods.envs.gui_exploration_lab import (
    TOLERANCE,
    Judged,
    PathReward,
    StepReward,
    app_of,
    judged,
    legacy_reward_of,
    path_accuracy,
    reward_of,
    static_report,
    step_terms,
    wanted_at,
)
from polyturn.policies.dictated import Dictated
from polyturn.policies.scripted import Scripted
from polyturn.protocols import Match, Player, Verifier
from polyturn.rollout.pool import Pool, play
from polyturn.rollout.score import score_groups
from polyturn.testing import check_suite
from polyturn.types import Episode, Group, Stop, Task
from tests.envs.drive import drive, episode, saying
from tests.methods.envs import gui_exploration_lab_slow as slow

SPEC = AppSpec(branching=(3, 2, 2))
STAR = Element("teal-star", (424, 736, 624, 936), 7)


def lab(**more: Any) -> GuiLab:
    return GuiLab(Drawn(SPEC), Look(**more), test_tasks=12)


def saying_click(icon: str, x: int, y: int) -> str:
    return f"Explain: click {icon} icon on page_3.\tAction: click(start_box='({x},{y})')"


# ---------------------------------------------------------------- by hand


@pytest.mark.parametrize(("reply", "terms"), [
    # the box in thousandths: 424 / 1.179 = 359.6 to 624 / 1.179 = 529.3, and 736 / 2.556 = 287.9 to 936 / 2.556 = 366.2
    (saying_click("teal-star", 445, 327), (1, 1, 1, 1, True)),
    (saying_click("teal-star", 360, 288), (1, 1, 1, 1, True)),  # pixel (424, 736): the first inside
    (saying_click("teal-star", 359, 288), (1, 0, 1, 1, False)),  # 359 * 1.179 = 423.3
    (saying_click("teal-star", 530, 327), (1, 0, 1, 1, False)),  # 530 * 1.179 = 624.9
    (saying_click("red-star", 445, 327), (1, 1, 0, 1, False)),
    ("Action: click(start_box='(445,327)')", (1, 1, 0, 0, False)),
    ("Explain: click teal-star icon on page_3. Action: complete", (0, 0, 1, 0, False)),
    (COMPLETE, (0, 0, 0, 1, False)),
    ("I would click the teal-star icon", (0, 0, 0, 0, False)),
    ("teal-star c3", (1, 1, 1, 1, True)),  # the brief form: third column, third row
    ("teal-star c4", (1, 0, 1, 1, False)),
])
def test_the_terms_of_a_click(reply: str, terms: tuple[Any, ...]) -> None:
    found = step_terms(reply, STAR)
    assert (found.kind, found.coordinate, found.intent, found.form, found.right) == terms


@pytest.mark.parametrize(("reply", "terms"), [
    (COMPLETE, (1, 1, 1, 1, True)), ("Action: complete", (1, 1, 1, 0, True)), (BRIEF_COMPLETE, (1, 1, 1, 1, True)),
    (saying_click("teal-star", 445, 327), (0, 0, 0, 1, False)), ("", (0, 0, 0, 0, False)),
])
def test_the_terms_of_complete(reply: str, terms: tuple[Any, ...]) -> None:
    found = step_terms(reply, None)
    assert (found.kind, found.coordinate, found.intent, found.form, found.right) == terms


def test_tolerance_pays_beside_the_box_and_never_makes_a_step_right() -> None:
    # 5 % of 1179 is 58.95 px: from 424 - 58.95 = 365.05 on; 311 * 1.179 lies in pixel 366, 310 * 1.179 in 365
    near, far = saying_click("teal-star", 311, 327), saying_click("teal-star", 310, 327)
    assert step_terms(near, STAR, tolerance=TOLERANCE).coordinate == 1.0
    assert step_terms(far, STAR, tolerance=TOLERANCE).coordinate == 0.0
    assert not step_terms(near, STAR, tolerance=TOLERANCE).right
    assert step_terms(near, STAR).coordinate == 0.0
    with pytest.raises(BadInput, match="tolerance"):
        step_terms(near, STAR, tolerance=-0.1)


def test_rewards_of_a_play() -> None:
    end = {"page": "page_4", "goal": "page_9", "completed": True, "distance": 2}
    assert [reward_of(end, goal) for goal in ("a2b", "a2b_wo")] == [0.0, 0.0]
    assert reward_of(end, "soft_a2b") == pytest.approx(0.1353352832366127)  # exp(-2)
    assert reward_of({**end, "distance": None}, "soft_a2b") == 0.0
    there = {**end, "page": "page_9", "distance": 0}
    assert [reward_of(there, goal) for goal in ("a2b", "a2b_wo", "soft_a2b")] == [1.0, 1.0, 1.0]
    assert [reward_of({**there, "completed": False}, goal) for goal in ("a2b", "a2b_wo", "soft_a2b")] == [0.0, 1.0, 1.0]
    with pytest.raises(UnknownName):
        reward_of(end, "b2a")  # type: ignore[arg-type]


def test_the_static_report_by_hand() -> None:
    """Task p of length 2 with three right steps, task q of length 2 with two, task r of length 1 with both."""
    steps = [
        Judged("p", 0, 2, "click", True), Judged("p", 0, 2, "click", True), Judged("p", 0, 2, "complete", True),
        Judged("q", 0, 2, "click", True), Judged("q", 0, 2, "click", False), Judged("q", 0, 2, "complete", True),
        Judged("r", 0, 1, "click", True), Judged("r", 0, 1, "complete", True),
        Judged("c", 0, 0, "caption", False), Judged("g", 0, 0, "ground", True),
    ]
    assert static_report(steps) == {
        "all": 7 / 8, "clicks": 3 / 4, "complete": 1.0, "edge": 1.0, "caption": 0.0, "ground": 1.0,
        "length/1": 1.0, "length/2": 5 / 6, "path/1": 1.0, "path/2": 0.5,
    }
    assert path_accuracy(steps) == 2 / 3
    with pytest.raises(BadInput, match="no answered step"):
        path_accuracy(steps[-2:])


# ---------------------------------------------------------------- the slow twin


def drawn_reply(draw: random.Random, wanted: Element | None) -> tuple[str, Any]:
    """A reply in words, and taken apart."""
    kind = draw.choice(("click", "click", "complete", "unreadable"))
    icon = draw.choice(("teal-star", "red-star", "back"))
    if kind == "unreadable":
        return draw.choice(("", "click", f"click {icon}", "Action: click(start_box='(1001,5)')")), None
    if kind == "complete":
        if draw.random() < 0.5:
            return COMPLETE, ("complete", None, None, None)
        return f"Explain: click {icon} icon on page_3.\tAction: complete", ("complete", None, None, icon)
    x, y = draw.randint(0, 1000), draw.randint(0, 1000)
    if wanted is not None and draw.random() < 0.7:
        x, y = (at + draw.randint(-120, 120) for at in thousandths(wanted.centre))
        x, y = min(max(x, 0), 1000), min(max(y, 0), 1000)
    return saying_click(icon, x, y), ("click", x, y, icon)


def test_terms_equal_the_slow_twin_on_a_thousand_replies() -> None:
    draw = random.Random(0)
    seen = set()
    for _ in range(1000):
        left, top = draw.randrange(WIDTH - 200), draw.randrange(HEIGHT - 200)
        wanted = None if draw.random() < 0.2 else Element("teal-star", (left, top, left + 200, top + 200), 1)
        text, apart = drawn_reply(draw, wanted)
        tolerance = draw.choice((0.0, 0.05, 0.2))
        found = step_terms(text, wanted, tolerance=tolerance)
        expected = slow.terms(apart, None if wanted is None else (wanted.name, *wanted.box), tolerance)
        assert (found.kind, found.coordinate, found.intent, found.right) == expected
        seen.add(expected)
    assert len(seen) == 7


def drawn_steps(draw: random.Random) -> list[Judged]:
    steps = []
    for task in range(draw.randint(1, 6)):
        length = draw.randint(1, 4)
        for trial in range(draw.randint(1, 2)):
            kinds = ["click"] * length + ["complete"]
            steps += [Judged(f"t{task}", trial, length, kind, draw.random() < 0.8) for kind in kinds]  # type: ignore[arg-type]
    extra = [Judged("q", 0, 0, draw.choice(("caption", "ground")), draw.random() < 0.5)
             for _ in range(draw.randint(0, 3))]  # type: ignore[arg-type]
    steps += extra
    draw.shuffle(steps)
    return steps


def test_reports_equal_the_slow_twin_on_a_thousand_batches() -> None:
    draw = random.Random(1)
    differ = 0
    for _ in range(1000):
        steps = drawn_steps(draw)
        rows = [(step.task, step.trial, step.length, step.kind, step.right) for step in steps]
        assert static_report(steps) == pytest.approx(slow.report(rows))
        assert path_accuracy(steps) == pytest.approx(slow.path(rows))
        differ += path_accuracy(steps) != pytest.approx(slow.path_by_steps(rows))
    assert differ > 800  # by steps instead of by tasks is another number


def test_rewards_equal_the_slow_twin_on_a_thousand_plays() -> None:
    draw = random.Random(2)
    for _ in range(1000):
        distance = draw.choice((None, 0, 1, 2, 3, 5))
        page = "page_1" if distance == 0 else "page_2"
        end = {"page": page, "goal": "page_1", "completed": draw.random() < 0.5, "distance": distance}
        for goal in ("a2b", "a2b_wo", "soft_a2b"):
            expected = slow.reward(page, "page_1", end["completed"], distance, goal)
            assert reward_of(end, goal) == pytest.approx(expected)  # type: ignore[arg-type]


# ---------------------------------------------------------------- through the house


async def solved(suite: GuiLab, count: int = 12, *, label: str = "solved") -> list[Episode]:
    tasks = list(suite.tasks("test"))[:count]

    def player(task: Task) -> Player:
        return Player(lambda: AnswerAgent(suite.oracle(task)), "script")

    groups = await play([Match(suite, task, {"agent": player(task)}) for task in tasks], {"script": Dictated()},
                        label=label)
    return [one for group in groups for one in group]


async def again(suite: Stored, replies: list[str], *, rollouts: int = 1) -> list[Group]:
    """All stored steps answered by fixed replies, scored."""
    tasks = list(suite.tasks("test"))
    matches = [Match(suite, task, {"agent": Player(ChatAgent, "main")}, rollouts=rollouts) for task in tasks]
    return await score_groups(await play(matches, {"main": Scripted(replies)}, pool=Pool(1)), suite)


@pytest.mark.parametrize("brief", [False, True])
async def test_the_solver_is_right_at_every_step_and_on_every_path(brief: bool) -> None:
    suite = Stored([], await solved(lab(brief=brief)), verifier=StepReward())
    replies = [task.payload["stored"] for task in suite.tasks("test")]
    groups = await again(suite, replies)
    assert all(value == 1.0 for value in static_report(list(judged(groups))).values())
    assert path_accuracy(list(judged(groups))) == 1.0
    assert all(one.parent == one.task.id and one.scores["score"]["agent"].value == 1.0 for g in groups for one in g)
    nothing = list(judged(await again(suite, [COMPLETE] * len(replies))))
    assert path_accuracy(nothing) == 0.0 and static_report(nothing)["complete"] == 1.0
    assert static_report(nothing)["clicks"] == 0.0


@pytest.mark.parametrize(("kind", "seed"), list(product(KINDS, range(3))))
def test_the_solver_is_right_by_the_static_rule_on_every_pair_and_silence_on_none(kind: Kind, seed: int) -> None:
    app = make_app(AppSpec(kind, seed, (2, 2, 2)))
    solved_steps, silent = [], []
    for (start, goal), length in pairs(app, (1, 99)):
        for page in (path := app.path(start, goal)):
            wanted = app.best(page, goal) if page != goal else None
            said = COMPLETE if wanted is None else click_text(app.pages[page].name, wanted)
            for steps, reply in ((solved_steps, said), (silent, COMPLETE)):
                steps.append(Judged(f"{start}>{goal}", 0, length, "complete" if wanted is None else "click",
                                    step_terms(reply, wanted).right))
        assert len(path) == length + 1
    assert set(static_report(solved_steps).values()) == {path_accuracy(solved_steps)} == {1.0}
    assert path_accuracy(silent) == 0.0 and static_report(silent)["complete"] == 1.0


async def test_step_reward_is_the_mean_of_its_terms() -> None:
    suite = Stored([], (await solved(lab()))[:1], verifier=StepReward())
    task = next(iter(suite.tasks("test")))
    wanted = wanted_at(task)
    assert wanted is not None
    away = click_text("page_0", replace(wanted, box=(0, 0, 2, 2)))
    (one,), *_ = await again(suite, [away] * 12)
    assert one.scores["score"]["agent"].value == pytest.approx(2 / 3)  # kind and intent, not the coordinate
    assert one.scores["score"]["agent"].parts == {"kind": 1.0, "coordinate": 0.0, "intent": 1.0}
    with_form = (await StepReward(form=True)([(one,)]))[one.id]["agent"]
    assert with_form.value == pytest.approx(3 / 4) and with_form.parts["form"] == 1.0


async def test_stored_suites_keep_the_contract() -> None:
    episodes = await solved(lab(), 4)
    others = [replace(one, id=f"x{one.id}") for one in episodes]
    await check_suite(Stored(others, episodes, verifier=StepReward()))
    assert isinstance(StepReward(), Verifier) and isinstance(PathReward(), Verifier)


async def test_questions_stored_and_scored() -> None:
    suite = GuiLab(Drawn(SPEC, questions=True), test_tasks=14)
    stored = Stored([], await solved(suite, 18), verifier=StepReward())
    replies = [task.payload["stored"] for task in stored.tasks("test")]
    report = static_report(list(judged(await again(stored, replies))))
    assert report["caption"] == report["ground"] == 1.0
    wrong = static_report(list(judged(await again(stored, ["Explain: this is pink-cup icon."] * len(replies)))))
    assert wrong["caption"] == wrong["ground"] == 0.0


async def test_steps_that_the_solver_did_not_take_are_refused() -> None:
    suite = lab()
    task = next(iter(suite.tasks("test")))
    with pytest.raises(BadInput, match="no stored step"):
        wanted_at(task)
    other = {"stored": COMPLETE, "step": 0, "of": task.id}
    with pytest.raises(BadInput, match="not the solver's"):
        wanted_at(replace(task, payload={**task.payload, **other}))


# ---------------------------------------------------------------- faults of the released rules


async def test_naming_the_right_icon_without_clicking_it_pays_by_the_text_rule_alone() -> None:
    """The policy says it clicks the icon that opens the goal, on its page, clicks a corner, and says complete."""
    suite = lab()
    task = max(suite.tasks("test"), key=lambda one: one.payload["length"])
    app = app_of(task)
    *_, page, goal = (app.pages[index] for index in app.path(task.payload["start"], task.payload["goal"]))
    icon = next(element.name for element, target in app.moves(page.index) if target == goal.index)
    lie = f"Explain: click {icon} icon on {page.name}.\tAction: click(start_box='(0,0)')"
    driven = await drive(suite, task, 0, {"agent": saying(lie, COMPLETE)})
    played = episode(task, driven, id="lie")
    by_text = (await PathReward(legacy=True)([(played,)]))["lie"]["agent"]
    by_engine = (await PathReward()([(played,)]))["lie"]["agent"]
    assert (by_text.value, by_engine.value) == (1.0, 0.0)
    assert by_text.success is False and by_engine.success is False
    assert (await PathReward("a2b_wo", legacy=True)([(played,)]))["lie"]["agent"].value == 1.0
    with pytest.raises(BadInput, match="soft_a2b"):
        await PathReward("soft_a2b", legacy=True)([(played,)])


async def test_honest_play_pays_by_both_rules() -> None:
    suite = lab()
    for task in suite.tasks("test"):
        driven = await drive(suite, task, 0, {"agent": suite.oracle(task)})
        assert legacy_reward_of(driven.final, app_of(task)) == reward_of(driven.final) == 1.0
        null = await drive(suite, task, 0, {"agent": suite.null(task)})
        assert legacy_reward_of(null.final, app_of(task)) == reward_of(null.final) == 0.0


def test_icon_names_with_spaces_and_pages_that_do_not_exist() -> None:
    app = make_app(SPEC)
    click = {"page": "page_0", "point": (0, 0), "icon": "two words", "claimed": "page_999", "hit": None, "after": "x"}
    end = {"page": "page_0", "goal": "page_1", "completed": True, "clicks": [click]}
    assert legacy_reward_of(end, app) == 0.0
    assert legacy_reward_of({**end, "clicks": [{**click, "claimed": None, "icon": None}]}, app) == 0.0
    assert step_terms(saying_click("two words", 445, 327), replace(STAR, name="two words")).right


async def test_what_broke_is_not_scored_and_what_has_no_state_abstains() -> None:
    suite = lab()
    task = next(iter(suite.tasks("test")))
    for reward in (PathReward(), StepReward()):
        broken = Episode("b", task, 0, stop=Stop("error", "x"))
        assert await reward([(broken,)]) == {}
        assert (await reward([(Episode("n", task, 0),)]))["n"]["agent"].value is None

"""The application: its graphs, boxes, shortest paths, splits, plays and players, as text."""

from __future__ import annotations

import json
from collections import Counter
from graphlib import TopologicalSorter
from itertools import islice, pairwise, product
from typing import Any, get_args

import pytest

from polyturn.envs.gui_lab.actions import COMPLETE, click_text, pixel, read_action, thousandths, well_formed
from polyturn.envs.gui_lab.app import HEIGHT, WIDTH, App, AppSpec, Kind, make_app
from polyturn.envs.gui_lab.env import Look
from polyturn.envs.gui_lab.graphs import KINDS, draw_graph
from polyturn.envs.gui_lab.icons import names, picture
from polyturn.envs.gui_lab.splits import Rule, balanced, endless, pairs, split
from polyturn.envs.gui_lab.suite import Drawn, GuiLab, gui_lab
from polyturn.errors import BadInput, UnknownName
from polyturn.protocols import Suite
from polyturn.testing import check_suite
from polyturn.types import Task, assistant
from tests.envs.drive import Driven, drive, episode, mean_score, saying, score

SMALL = AppSpec(branching=(3, 2, 2))


def small(kind: Kind, seed: int, **more: Any) -> App:
    return make_app(AppSpec(kind, seed, (3, 2, 2), **more))


# ---------------------------------------------------------------- graphs and pages


def test_the_default_application_is_the_papers() -> None:
    app = make_app(AppSpec())
    # 1 + 5 + 5*3 + 15*2 + 30*2 + 60*1 + 60*1 = 231 pages, one icon for each but the root
    assert len(app.pages) == 231
    assert Counter(page.depth for page in app.pages) == {0: 1, 1: 5, 2: 15, 3: 30, 4: 60, 5: 60, 6: 60}
    icons = [element.name for page in app.pages for element in page.elements if element.kind == "icon"]
    assert len(icons) == len(set(icons)) == 230
    for page in app.pages:
        system = {element.name for element in page.elements if element.kind == "system"}
        assert system == ({"back"} if page.depth else set()) | ({"home"} if page.depth >= 2 else set())


@pytest.mark.parametrize(("kind", "seed"), list(product(KINDS, range(3))))
def test_boxes_are_apart_and_icons_unique(kind: Kind, seed: int) -> None:
    app = small(kind, seed, noise=2)
    names_of = [e.name for page in app.pages for e in page.elements if e.kind in ("icon", "noise")
                and page.index not in app.popups]
    assert len(names_of) == len(set(names_of))
    assert sorted(page.name for page in app.pages) == sorted(f"page_{n}" for n in range(len(app.pages)))
    for page in app.pages:
        for place, one in enumerate(page.seen):
            left, top, right, bottom = one.box
            assert left >= 60 and top >= 150 and right <= WIDTH - 60 and bottom <= HEIGHT and right - left == 200
            for other in page.seen[place + 1:]:
                assert right <= other.box[0] or other.box[2] <= left or bottom <= other.box[1] or other.box[3] <= top


def test_what_lies_above_is_hit() -> None:
    app = small("cyclic", 1)
    popup = app.pages[min(app.popups)]
    beneath = app.pages[app.after(popup.index, popup.seen[0].centre)]
    assert [element.name for element in popup.seen] == ["close"]
    hidden = [element for element in popup.elements if element.kind in ("icon", "system") and element.name != "close"]
    assert hidden and all(app.after(popup.index, element.centre) == popup.index for element in hidden)
    assert set(hidden) == set(beneath.elements)


def test_numbers_of_pages_say_nothing_about_the_tree() -> None:
    one, two = make_app(AppSpec(seed=1)), make_app(AppSpec(seed=1, looks=2))
    assert [page.name for page in one.pages] != [f"page_{n}" for n in range(231)]
    assert [page.name for page in one.pages] != [page.name for page in two.pages]
    edges = [[[target for _, target in sorted(app.moves(page.index), key=lambda move: move[1])] for page in app.pages]
             for app in (one, two)]
    assert edges[0] == edges[1]
    assert one.pages[0].elements != two.pages[0].elements
    assert make_app.__wrapped__(AppSpec(seed=1)) == one


def test_random_children_and_sizes() -> None:
    sizes = {len(draw_graph("tree", seed, (3, 3), random_children=True)) for seed in range(20)}
    assert min(sizes) >= 3 and max(sizes) <= 13 and len(sizes) > 3
    with pytest.raises(BadInput, match="branching"):
        draw_graph("tree", 0, ())
    with pytest.raises(BadInput, match="kind"):
        draw_graph("forest", 0)
    with pytest.raises(BadInput, match="room for 40"):
        make_app(AppSpec(branching=(41,)))
    with pytest.raises(BadInput, match="icons"):
        names(4000)
    assert set(KINDS) == set(get_args(Kind))


def test_acyclic_graphs_have_no_cycle_and_small_worlds_are_rewired() -> None:
    graph = draw_graph("acyclic", 3)
    assert len(tuple(TopologicalSorter(dict(enumerate(graph.opens))).static_order())) == 231
    assert sum(map(len, graph.opens)) > 230
    ring = draw_graph("small_world", 3)
    far = [abs(page - target) % 231 for page in range(231) for target in ring.opens[page]]
    assert 0.05 < sum(2 < distance < 229 for distance in far) / len(far) < 0.35


def test_icons_are_what_their_names_say() -> None:
    assert picture("red-square")[0] == (205, 38, 38) and picture("red-square")[1] == picture("blue-square")[1]
    assert len(picture("red-square-3")[1]) == len(picture("red-square")[1]) + 3
    for wrong in ("red", "red-", "red-square-0", "red-square-x", "mauve-square"):
        with pytest.raises(UnknownName):
            picture(wrong)


# ---------------------------------------------------------------- distances


def slow_distance(app: App, start: int, goal: int) -> int | None:
    """Breadth-first search forwards, over clicks on every box's centre."""
    known, edge, steps = {start}, {start}, 0
    while edge:
        if goal in edge:
            return steps
        edge = {app.after(page, element.centre) for page in edge for element in app.pages[page].elements} - known
        known |= edge
        steps += 1
    return None


@pytest.mark.parametrize(("kind", "seed"), list(product(KINDS, range(3))))
async def test_the_solver_takes_the_shortest_path_for_every_pair(kind: Kind, seed: int) -> None:
    """Every pair of every graph, played in the environment: completed, reached, and no click too many."""
    lab = GuiLab(Drawn(AppSpec(kind, seed, (2, 2, 2)), Rule("app"), (1, 99)))
    app = make_app(lab.drawn.app)
    found = list(pairs(app, (1, 99)))
    ends = len(app.pages) - len(app.popups)
    assert len(found) == ends * (ends - 1)
    for (start, goal), length in found:
        assert length == slow_distance(app, start, goal) == len(app.path(start, goal)) - 1
        if length > 7:
            continue
        task = lab.task(app.pages[start].name, app.pages[goal].name)
        driven = await drive(lab, task, 0, {"agent": lab.oracle(task)})
        assert driven.final["completed"] and driven.final["page"] == driven.final["goal"]
        assert len(driven.final["clicks"]) == driven.final["shortest"] == length
        null = await drive(lab, task, 0, {"agent": lab.null(task)})
        assert (await score(lab, [episode(task, null)]))[task.id] == 0.0


# ---------------------------------------------------------------- replies


@pytest.mark.parametrize(("text", "kind", "point", "icon", "page"), [
    ("Explain: click teal-star icon on page_3.\tAction: click(start_box='(512,98)')", "click", (512, 98),
     "teal-star", "page_3"),
    ("Explain: click two words icon on page_3. Action: click('(5, 9)')", "click", (5, 9), "two words", "page_3"),
    ("Action: click((1000,0))", "click", (1000, 0), None, None),
    ("Action: click(start_box=\"(1,2)\") Action: click(start_box='(1,2)')", "click", (1, 2), None, None),
    (COMPLETE, "complete", None, None, None),
])
def test_replies_that_are_read(text: str, kind: str, point: Any, icon: str | None, page: str | None) -> None:
    action = read_action(text)
    assert action is not None
    assert (action.kind, action.point, action.icon, action.page) == (kind, point, icon, page)


@pytest.mark.parametrize("text", [
    "", "click", "(3,4)", "Action: click(start_box='(1001,4)')", "Action: click(start_box='(-1,4)')",
    "Action: click(start_box='(1,2)') Action: click(start_box='(1,3)')",
    "Action: complete, or Action: click(start_box='(1,2)')", "Action: completely lost",
])
def test_replies_that_are_not(text: str) -> None:
    assert read_action(text) is None and not well_formed(text)


def test_every_centre_survives_the_thousandths() -> None:
    for page in make_app(AppSpec()).pages:
        for element in page.seen:
            action = read_action(click_text(page.name, element))
            assert action is not None and action.point is not None
            assert page.hit(pixel(action.point)) is element and action.icon == element.name
            assert well_formed(click_text(page.name, element))
            x, y = element.centre
            assert abs(pixel(thousandths((x, y)))[0] - x) <= 1 and abs(pixel(thousandths((x, y)))[1] - y) <= 2


# ---------------------------------------------------------------- splits


@pytest.mark.parametrize("rule", [Rule(), Rule(single_clicks=False), Rule("edge"), Rule("app")],
                         ids=["subtree", "subtree, nothing seen", "edge", "app"])
@pytest.mark.parametrize("kind", KINDS)
def test_splits_share_no_task(kind: Kind, rule: Rule) -> None:
    found = split(AppSpec(kind, 5, (4, 2, 2)), rule)
    train, test = ({pair for each in by.values() for pair in each} for by in (found.train, found.test))
    assert train and test
    if rule.by == "app":
        assert make_app(found.train_app).pages != make_app(found.test_app).pages
        return
    assert not train & test
    app = make_app(found.train_app)
    for by_length in (found.train, found.test):
        assert all(app.distance(*pair) == length for length, each in by_length.items() for pair in each)


def test_a_held_out_subtree_is_seen_by_single_clicks_alone() -> None:
    app = make_app(AppSpec())
    found = split(AppSpec())
    seen = {page for length, each in found.train.items() if length > 1 for pair in each for page in pair}
    (held,) = {app.branch(page.index) for page in app.pages if page.index not in seen}
    inside = {page.index for page in app.pages if app.branch(page.index) == held}
    assert len(inside) == 46  # (231 - 1) / 5
    for length, each in found.train.items():
        assert length == 1 or not any(inside & set(app.path(*pair)) for pair in each[:300])
    assert 1 not in found.test and all(inside & set(pair) for each in found.test.values() for pair in each)
    assert set(split(AppSpec(), Rule(single_clicks=False)).test) == {1, 2, 3, 4, 5, 6, 7}


def test_a_held_out_edge_is_on_no_path_that_is_trained_on() -> None:
    found = split(AppSpec(), Rule("edge", 0.1))
    app = make_app(AppSpec())

    def edges(by_length: Any) -> set[tuple[int, int]]:
        paths = [app.path(*pair) for each in by_length.values() for pair in each]
        return {(a, b) for path in paths for a, b in pairwise(path)
                if app.pages[b].parent == a}

    assert len(edges(found.test) - edges(found.train)) == 23  # a tenth of 230 icons


def test_lengths_are_equally_frequent() -> None:
    found = split(AppSpec())
    drawn = list(islice(endless(found.train, 0), 7000))
    length = {pair: n for n, each in found.train.items() for pair in each}
    assert Counter(length[pair] for pair in drawn) == dict.fromkeys(range(1, 8), 1000)
    held = balanced(found.test, 60, 0)
    of = {pair: n for n, each in found.test.items() for pair in each}
    assert len(set(held)) == 60 and Counter(of[pair] for pair in held) == dict.fromkeys(range(2, 8), 10)


def test_splits_that_cannot_be_made() -> None:
    with pytest.raises(BadInput, match="at least 2"):
        split(AppSpec(branching=(1, 2)))
    with pytest.raises(BadInput, match="empty"):
        split(SMALL, Rule(), (9, 9))
    with pytest.raises(BadInput, match="held out by"):
        Rule("page")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="share"):
        Rule(share=1.0)
    with pytest.raises(BadInput, match="lengths"):
        split(SMALL, Rule(), (0, 3))


# ---------------------------------------------------------------- plays


def task_of(suite: GuiLab, index: int = 0) -> Task:
    return list(suite.tasks("test"))[index]


@pytest.mark.parametrize("suite", [
    gui_lab(test_tasks=35), GuiLab(Drawn(AppSpec("cyclic", 2, (3, 2, 2), noise=3), questions=True), test_tasks=20),
    GuiLab(Drawn(AppSpec("small_world", 2, (3, 2, 2)), Rule("edge", 0.3)), test_tasks=20),
    GuiLab(Drawn(AppSpec("acyclic", 2, (3, 2, 2)), Rule("app")), test_tasks=20),
    GuiLab(Drawn(AppSpec("cyclic", 3, (3, 2, 2))), Look(brief=True), test_tasks=20),
], ids=["tree", "cyclic with questions", "small world by edge", "acyclic by app", "brief"])
async def test_it_keeps_the_contract_of_suites(suite: GuiLab) -> None:
    assert isinstance(suite, Suite)
    await check_suite(suite)


async def test_the_words_of_a_play() -> None:
    lab = GuiLab(Drawn(SMALL))
    app = make_app(SMALL)
    goal = app.pages[0].seen[0].target
    assert goal is not None
    task = lab.task(app.pages[0].name, app.pages[goal].name)
    wrong = click_text(app.pages[0].name, app.pages[0].seen[1])
    other = app.pages[app.pages[0].seen[1].target or 0]
    driven = await drive(lab, task, 0, {"agent": saying(wrong, "?", "Action: click(start_box='(0,0)')", COMPLETE)})
    first, second, third, fourth = driven.heard("agent")
    rows = [f"{e.name} icon ({thousandths(e.centre)[0]},{thousandths(e.centre)[1]})" for e in app.pages[0].seen]
    assert first.endswith("\n".join([
        f"From {app.pages[0].name} to {app.pages[goal].name}.", "History: Null", f"Page: {app.pages[0].name}", *rows,
    ]))
    step1 = f"step1: click {app.pages[0].seen[1].name} icon on {app.pages[0].name}."
    assert f"\nHistory: {step1}\nPage: {other.name}\n" in second
    assert f"\nHistory: {step1} step2: unreadable reply on {other.name}.\nPage: {other.name}\n" in third
    assert f" step3: click (0,0) on {other.name}.\nPage: {other.name}\n" in fourth
    assert driven.kinds() == ["click", "invalid", "click"]
    assert driven.stop.reason == "complete" and not driven.final["reached"]
    assert all(ask.fresh for step in driven.steps for ask in step.asks)


async def test_the_brief_words_of_a_play() -> None:
    """Places of the grid instead of points, the pages passed instead of a history in words."""
    lab = GuiLab(Drawn(SMALL), Look(brief=True))
    app = make_app(SMALL)
    root, goal = app.pages[0], app.pages[app.pages[0].seen[0].target or 0]
    task = lab.task(root.name, goal.name)
    driven = await drive(lab, task, 0, {"agent": lab.oracle(task)})
    assert driven.final["completed"] and driven.said[-1] == {"agent": "complete"}
    first, second = driven.heard("agent")
    top, *rows, last = first.split("\n")
    assert (top, last) == (f"From {root.name} by Null", f"To {goal.name} on {root.name}")
    assert rows[0] == driven.said[0]["agent"]
    assert [row.split()[0] for row in rows] == [element.name for element in root.seen]
    assert second.startswith(f"From {root.name} by {root.name}\n")
    assert second.endswith(f"\nTo {goal.name} on {goal.name}")
    with pytest.raises(BadInput, match="brief"):
        Look("image", brief=True)


async def test_what_a_reply_claims_moves_nothing() -> None:
    """The engine's page counts: the right icon named without a click on it leads nowhere."""
    lab = GuiLab(Drawn(SMALL))
    app = make_app(SMALL)
    goal = app.pages[app.pages[0].seen[0].target or 0]
    task = lab.task(app.pages[0].name, goal.name)
    claim = f"Explain: click {app.pages[0].seen[0].name} icon on {app.pages[0].name}.\tAction: click(start_box='(0,0)')"
    driven = await drive(lab, task, 0, {"agent": saying(claim, COMPLETE)})
    assert driven.final["page"] == app.pages[0].name and driven.final["clicks"][0]["icon"] == app.pages[0].seen[0].name
    assert (await score(lab, [episode(task, driven)]))[task.id] == 0.0


async def test_eight_turns_at_most() -> None:
    lab = gui_lab()
    driven = await drive(lab, task_of(lab), 0, {"agent": saying("Action: click(start_box='(0,0)')")})
    assert len(driven.final["clicks"]) == 8 and driven.stop.kind == "truncated"
    assert (await score(lab, [episode(task_of(lab), driven)]))[task_of(lab).id] == 0.0


async def test_a_play_goes_on_from_any_page() -> None:
    """Saved after each turn of a play over a pop-up, and gone on with in a fresh environment."""
    lab = GuiLab(Drawn(AppSpec("cyclic", 1, (3, 2, 2)), lengths=(1, 7)))
    app = make_app(lab.drawn.app)
    longest = max(lab.tasks("test"), key=lambda task: task.payload["length"])
    whole = await drive(lab, longest, 0, {"agent": lab.oracle(longest)})
    env = await lab.make(longest, 0)
    step = await env.start()
    for turn, replies in enumerate(whole.said):
        state = await env.save()
        copy = await lab.make(longest, 0)
        assert (await copy.start(state)).asks == step.asks
        rest = Driven([whole.steps[turn]])
        for later in whole.said[turn:]:
            rest.steps.append(await copy.step({seat: assistant(text) for seat, text in later.items()}))
        assert rest.steps[1:] == whole.steps[turn + 1:] and await copy.final() == whole.final
        step = await env.step({seat: assistant(text) for seat, text in replies.items()})
    for page in app.pages:
        made = {"page": page.index, "reached": False, "clicks": [], "history": []}
        there = await (await lab.make(longest, 0)).start(json.dumps(made).encode())
        assert f"Page: {page.name}\n" in there.asks[0].messages[0].text


async def test_players_and_report() -> None:
    lab = GuiLab(Drawn(AppSpec(branching=(3, 2, 2, 1))), test_tasks=600)
    tasks = list(lab.tasks("test"))
    played: dict[str, list[Any]] = {"oracle": [], "clicker": []}
    for number, task in enumerate(tasks):
        for who, answer in (("oracle", lab.oracle(task)), ("clicker", lab.random_clicker(task, number))):
            driven = await drive(lab, task, 0, {"agent": answer})
            one = episode(task, driven, id=f"{who}{number}")
            scores = await lab.verifier([(one,)])
            played[who].append(episode(task, driven, id=one.id, scores={"score": scores[one.id]}))
    report = {who: lab.report([(one,) for one in episodes]) for who, episodes in played.items()}
    assert all(value == 1.0 for name, value in report["oracle"].items() if name.startswith("success"))
    assert all(value == 0.0 for name, value in report["oracle"].items() if name.startswith("excess"))
    assert all(value == 0.0 for name, value in report["clicker"].items() if name.startswith("success"))
    reached = [report["clicker"][f"reached/{n}"] for n in (2, 3, 4)]
    assert reached[0] > reached[1] > reached[2] > 0
    assert await mean_score(lab, "null", 20) == 0.0


async def test_questions_about_one_page() -> None:
    lab = GuiLab(Drawn(SMALL, questions=True), test_tasks=28)
    tasks = [task for task in lab.tasks("test") if task.payload["ask"] != "navigate"]
    train = [task for task in islice(lab.tasks("train"), 300) if task.payload["ask"] != "navigate"]
    assert tasks and {task.payload["ask"] for task in tasks} == {"caption", "ground"}
    assert not {task.payload["icon"] for task in tasks} & {task.payload["icon"] for task in train}
    for task in tasks:
        right = await drive(lab, task, 0, {"agent": lab.oracle(task)})
        wrong = await drive(lab, task, 0, {"agent": saying("Explain: this is pink-cup icon.")})
        assert right.final["right"] and not wrong.final["right"]
    caption = next(task for task in tasks if task.payload["ask"] == "caption")
    assert (await drive(lab, caption, 0, {"agent": saying(f" {caption.payload['icon']}\n")})).final["right"]


def test_options_that_do_not_exist() -> None:
    with pytest.raises(BadInput, match="no option"):
        gui_lab(colour="red")
    with pytest.raises(BadInput, match="driver"):
        gui_lab(driver="firefox")  # type: ignore[arg-type]
    with pytest.raises(UnknownName):
        gui_lab().tasks("validation")
    with pytest.raises(UnknownName):
        gui_lab().task("page_0", "page_999")

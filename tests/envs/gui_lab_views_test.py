"""The picture and the files: what is drawn where, where its bytes go, and that a run's record finds them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from polyturn.agents.chat import AnswerAgent
from polyturn.audit.report import audit_run
from polyturn.envs.gui_lab.app import HEIGHT, WIDTH, AppSpec, make_app
from polyturn.envs.gui_lab.drawing import PAPER, VEIL, drawn, png, shown_size
from polyturn.envs.gui_lab.env import Look
from polyturn.envs.gui_lab.export import export, layers, structure
from polyturn.envs.gui_lab.icons import picture
from polyturn.envs.gui_lab.suite import Drawn, GuiLab, gui_lab
from polyturn.errors import BadInput
from polyturn.media import Media
from polyturn.policies.dictated import Dictated
from polyturn.protocols import Match, Player
from polyturn.record.read import read_episodes
from polyturn.record.write import open_run
from polyturn.rollout.episode import Place, play_episode
from polyturn.testing import check_suite
from tests.envs.drive import drive, saying

SPEC = AppSpec("cyclic", 4, (3, 2, 2), noise=1)


def test_every_icon_lies_in_its_box_and_nowhere_else() -> None:
    """Found by colour alone: each box holds its icon's colour, and outside of all boxes there is none of it."""
    app = make_app(SPEC)
    for page in app.pages:
        pixels = drawn(page, max_pixels=None).load()
        ground = VEIL if page.index in app.popups else PAPER
        for element in page.seen:
            left, top, right, bottom = element.box
            inside = {pixels[x, y] for x in range(left, right, 4) for y in range(top, bottom, 4)}
            assert picture(element.name)[0] in inside and ground in inside
        free = [(x, y) for x in range(0, WIDTH, 40) for y in range(150, HEIGHT, 40) if page.hit((x, y)) is None]
        allowed = {picture(element.name)[0] for element in page.seen}
        assert not allowed & {pixels[place] for place in free}


def test_the_model_is_shown_at_most_so_many_pixels() -> None:
    width, height = shown_size()
    assert width * height <= 200_704 and abs(width / height - WIDTH / HEIGHT) < 0.002
    page = make_app(SPEC).pages[0]
    assert drawn(page).size == (width, height) and drawn(page, max_pixels=None).size == (WIDTH, HEIGHT)
    assert png(drawn(page)) == png(drawn(page))
    with pytest.raises(BadInput, match="max_pixels"):
        GuiLab(max_pixels=100)


@pytest.mark.parametrize("view", ["image", "both"])
async def test_they_keep_the_contract_of_suites(tmp_path: Path, view: Any) -> None:
    await check_suite(GuiLab(Drawn(SPEC), Look(view, Media(tmp_path)), test_tasks=10))


async def test_a_picture_needs_a_store() -> None:
    lab = gui_lab(view="image")
    with pytest.raises(BadInput, match="store"):
        await lab.make(next(iter(lab.tasks("test"))), 0)


async def test_the_views_differ_in_what_they_tell(tmp_path: Path) -> None:
    store = Media(tmp_path)
    heard = {}
    for view in ("text", "image", "both"):
        lab = GuiLab(Drawn(SPEC), Look(view, store))  # type: ignore[arg-type]
        task = next(iter(lab.tasks("test")))
        driven = await drive(lab, task, 0, {"agent": saying("Action: complete")})
        heard[view] = driven.steps[0].asks[0].messages[0]
        assert lab.oracle(task)(driven.steps[0].asks[0]).text.startswith("Explain: click ")
    page = make_app(SPEC).pages[task.payload["start"]]
    assert [part.kind for part in heard["text"].parts] == ["text"]
    assert "Page:" not in heard["image"].text and heard["both"].text == heard["text"].text
    for view in ("image", "both"):
        part = heard[view].parts[1]
        assert part.kind == "image" and part.mime == "image/png" and part.media is not None
        shown = Image.open(io.BytesIO(store.get(part.media)))
        assert shown.tobytes() == drawn(page).tobytes()
    assert heard["image"].parts[1] == heard["both"].parts[1]


async def test_a_run_keeps_its_pictures_and_the_audit_misses_a_lost_one(tmp_path: Path) -> None:
    with open_run(tmp_path / "run") as recorder:
        lab = GuiLab(Drawn(SPEC), Look("both", recorder.media))
        task = next(iter(lab.tasks("test")))
        agent = Player(lambda: AnswerAgent(lab.oracle(task)), "script")
        match = Match(lab, task, {"agent": agent}, rollouts=1)
        episode = await play_episode(match, {"script": Dictated()}, Place("one"), recorder=recorder)
    assert episode.stop.reason == "complete"
    (again,) = read_episodes(tmp_path / "run")
    pictures = [part.media for message in again.trajectories[0].messages for part in message.parts if part.media]
    assert len(pictures) == task.payload["length"] + 1
    store = Media(tmp_path / "run" / "media")
    assert all(Image.open(io.BytesIO(store.get(name))).size == shown_size() for name in pictures)
    assert audit_run(tmp_path / "run").faults == []
    store.path(pictures[0]).unlink()
    assert {fault.name for fault in audit_run(tmp_path / "run").faults} == {"missing_media"}


# ---------------------------------------------------------------- files


def test_the_structure_says_all_that_a_player_may_know() -> None:
    app = make_app(SPEC)
    told = json.loads(json.dumps(structure(app)))
    assert told["pages"].keys() == app.by_name.keys() and told["root"] == app.pages[0].name
    for page in app.pages:
        rows = told["pages"][page.name]
        for transition in rows["transitions"]:
            left, top, right, bottom = transition["bbox"]
            assert app.pages[app.after(page.index, ((left + right) // 2, (top + bottom) // 2))].name == (
                transition["target_page"])
        for row in rows["elements"]:
            left, top, right, bottom = row["bbox_norm"]
            if row["kind"] != "veil":
                assert row["bbox"][0] <= left * WIDTH / 1000 and right * WIDTH / 1000 < row["bbox"][2]
                assert row["bbox"][1] <= top * HEIGHT / 1000 and bottom * HEIGHT / 1000 < row["bbox"][3]
        assert [row["name"] for row in rows["elements"] if row["visible"]] == [e.name for e in page.seen]


def test_the_nested_structure_holds_every_page_once() -> None:
    app = make_app(SPEC)
    nested = layers(app)

    def walk(node: Any) -> list[str]:
        return [node["page"], *(name for child in node["children"] for name in walk(child))]

    assert sorted([*walk(nested), *nested["popups"]]) == sorted(app.by_name)
    assert len(nested["popups"]) == len(app.popups) > 0


def test_everything_is_written(tmp_path: Path) -> None:
    app = make_app(AppSpec("cyclic", 4, (2, 2)))
    paths = export(app, tmp_path, max_pixels=20_000)
    assert json.loads(paths["ui_structure.json"].read_text()) == json.loads(json.dumps(structure(app)))
    assert json.loads(paths["ui_structure_layer.json"].read_text()) == layers(app)
    assert {path.stem for path in paths["pages"].iterdir()} == app.by_name.keys()
    used = {e.name for page in app.pages for e in page.elements if e.kind != "veil"}
    assert {path.stem for path in paths["icons"].iterdir()} == used
    assert Image.open(paths["topology.png"]).size == (1200, 1200)


async def test_each_page_is_drawn_and_stored_once(tmp_path: Path) -> None:
    store, spec = Media(tmp_path), AppSpec(seed=9)
    lab = GuiLab(Drawn(spec), Look("image", store))
    app = make_app(spec)
    task = lab.task(app.pages[0].name, app.pages[1].name)
    for page in app.pages[:100]:
        env = await lab.make(task, 0)
        await env.start(json.dumps({"page": page.index, "reached": False, "clicks": [], "history": []}).encode())
    assert len(list(store.folder.glob("??/*"))) == 100

"""Everything there is to know about an application, as files: structure flat and nested, pictures, topology, icons."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from polyturn.envs.gui_lab.app import HEIGHT, WIDTH, App, Page
from polyturn.envs.gui_lab.drawing import PAPER, canvas, drawn, png, whole_icon


def structure(app: App) -> dict[str, Any]:
    """The flat structure: every page with its elements, boxes (pixels, and thousandths of the canvas), and transitions.

    >>> from polyturn.envs.gui_lab.app import AppSpec, make_app
    >>> structure(make_app(AppSpec(branching=(1,))))["pages"]["page_0"].keys()
    dict_keys(['depth', 'elements', 'transitions'])
    """
    return {
        "kind": app.spec.kind, "seed": app.spec.seed, "looks": app.spec.looks, "root": app.pages[0].name,
        "canvas": [WIDTH, HEIGHT], "pages": {page.name: _page(page, app) for page in app.pages},
    }


def _page(page: Page, app: App) -> dict[str, Any]:
    elements = [
        {"name": e.name, "kind": e.kind, "bbox": list(e.box), "bbox_norm": _norm(e.box), "visible": e in page.seen}
        for e in page.elements
    ]
    transitions = [
        {"action": f"click {e.name}", "target_page": app.pages[target].name, "bbox": list(e.box)}
        for e, target in app.moves(page.index)
    ]
    return {"depth": page.depth, "elements": elements, "transitions": transitions}


def _norm(box: tuple[int, int, int, int]) -> list[int]:
    left, top, right, bottom = box
    return [math.ceil(1000 * left / WIDTH), math.ceil(1000 * top / HEIGHT), math.ceil(1000 * right / WIDTH) - 1,
            math.ceil(1000 * bottom / HEIGHT) - 1]


def layers(app: App) -> dict[str, Any]:
    """The nested structure: each page under the page that ``back`` leads to; pop-ups beside the root."""
    below: dict[int, list[int]] = {}
    for page in app.pages:
        if page.parent is not None:
            below.setdefault(page.parent, []).append(page.index)

    def nested(index: int) -> dict[str, Any]:
        return {"page": app.pages[index].name, "children": [nested(child) for child in below.get(index, [])]}

    return {**nested(0), "popups": sorted(app.pages[index].name for index in app.popups)}


def export(app: App, folder: Path | str, *, max_pixels: int | None = None) -> Mapping[str, Path]:
    """What was written: ``ui_structure.json``, ``ui_structure_layer.json``, ``topology.png``, and the folders ``pages``
    and ``icons`` of pictures. Raises: MissingPackage without Pillow."""
    home = Path(folder)
    names = ("ui_structure.json", "ui_structure_layer.json", "topology.png", "pages", "icons")
    paths = {name: home / name for name in names}
    for name in ("pages", "icons"):
        paths[name].mkdir(parents=True, exist_ok=True)
    for name, value in (("ui_structure.json", structure(app)), ("ui_structure_layer.json", layers(app))):
        paths[name].write_text(json.dumps(value, indent=1), encoding="utf-8")
    paths["topology.png"].write_bytes(png(topology(app)))
    for page in app.pages:
        (paths["pages"] / f"{page.name}.png").write_bytes(png(drawn(page, max_pixels=max_pixels)))
    for icon in sorted({element.name for page in app.pages for element in page.elements if element.kind != "veil"}):
        (paths["icons"] / f"{icon}.png").write_bytes(png(whole_icon(icon)))
    return paths


def topology(app: App, *, side: int = 1200) -> Any:
    """The picture of the graph: pages on rings by depth, dark lines for icons, pale ones for ``back`` and ``home``."""
    image, pen, font = canvas((side, side), PAPER)
    place = _places(app, side)
    for system in (True, False):
        for page in app.pages:
            for element, target in app.moves(page.index):
                if (element.kind == "system") == system:
                    pen.line((*place[page.index], *place[target]), (222, 222, 220) if system else (90, 100, 130), 2)
    for page in app.pages:
        x, y = place[page.index]
        pen.ellipse((x - 5, y - 5, x + 5, y + 5), (200, 60, 40) if page.index in app.popups else (30, 60, 160))
        pen.text((x, y + 6), page.name.removeprefix("page_"), (20, 20, 20), font(11), anchor="ma")
    return image


def _places(app: App, side: int) -> list[tuple[float, float]]:
    deepest = max(page.depth for page in app.pages) or 1
    ring: dict[int, list[int]] = {}
    for page in app.pages:
        ring.setdefault(page.depth, []).append(page.index)
    place = [(side / 2, side / 2)] * len(app.pages)
    for depth, pages in ring.items():
        for number, index in enumerate(pages):
            angle = 2 * math.pi * number / len(pages)
            reach = 0.47 * side * depth / deepest
            place[index] = (side / 2 + reach * math.cos(angle), side / 2 + reach * math.sin(angle))
    return place

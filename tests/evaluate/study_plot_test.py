"""The picture of a study is well-formed, holds every point, and needs nothing beside itself."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

from polyturn.evaluate.study import results, to_choose, to_report
from polyturn.evaluate.study_plot import band, plot
from tests.evaluate.study_test import STUDY, WORTH, played

SVG = "{http://www.w3.org/2000/svg}"


def test_every_seed_has_its_point_and_every_arm_its_interval() -> None:
    tried = played(to_choose(STUDY), WORTH)
    found = results("x", STUDY, tried, played(to_report(STUDY, {"new": 1, "old": 0}), WORTH))
    picture = ElementTree.fromstring(plot(found))
    points = [circle for circle in picture.iter(f"{SVG}circle") if "point" in circle.get("class", "")]
    ranges = [line for line in picture.iter(f"{SVG}line") if "range" in line.get("class", "")]
    assert (len(points), len(ranges)) == (6, 2)
    assert points[0].find(f"{SVG}title").text == "seed 0: 0.7"  # type: ignore[union-attr]
    assert "href" not in plot(found) and "http" not in plot(found).replace('xmlns="http://www.w3.org/2000/svg"', "")


def test_curves_are_drawn_where_they_were_recorded() -> None:
    study = replace(STUDY, curve="score/x")
    curve = ((0, 0.1), (1, 0.2))
    reported = [replace(t, curve=curve) for t in played(to_report(study, {"new": 1, "old": 0}), WORTH)]
    found = results("x", study, played(to_choose(study), WORTH), reported)
    picture = ElementTree.fromstring(plot(found))
    assert len([line for line in picture.iter(f"{SVG}polyline") if "line" in line.get("class", "")]) == 2


def test_a_band_takes_the_iterations_that_all_seeds_have() -> None:
    points = band([{0: 0.0, 1: 1.0, 2: 5.0}, {0: 1.0, 1: 1.0}])
    assert [(p.x, p.y) for p in points] == [(0, 0.5), (1, 1.0)]

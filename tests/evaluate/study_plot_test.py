"""The picture of a study is well-formed, holds every point, and needs nothing beside itself."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

from polyturn.evaluate.study import results, to_choose, to_report
from polyturn.evaluate.study_plot import LETTER, band, plot
from polyturn.record.charts import WIDTH
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


def test_the_names_of_many_arms_stand_inside_of_the_picture() -> None:
    arms = {f"an arm with a name {i}": {"points": {"y": {"0": 0.5, "1": 0.5}}, "curves": {"0": [[0, 0.1], [1, 0.2]]},
            "means": {"y": {"mean": 0.5, "low": 0.4, "high": 0.6}}} for i in range(7)}
    found = {"outcome": "y", "arms": arms, "seeds": [0, 1], "curve": "score/x", "figure": "y"}
    picture = ElementTree.fromstring(plot(found))
    names = [text for text in picture.iter(f"{SVG}text") if text.get("class") == "arm"]
    assert [text.text for text in names] == list(arms)
    assert not [text for text in picture.iter(f"{SVG}text") if text.text in arms and text not in names]
    height = float(picture.get("viewBox", "").split()[-1])
    assert {text.get("y") for text in names} == {"204", "218"} and height > 222
    ends = [float(text.get("x", "")) + LETTER * len(text.text or "") for text in names]
    assert max(ends) < 2 * WIDTH + 24 and len({text.get("x") for text in names}) > 3


def test_a_band_takes_the_iterations_that_all_seeds_have() -> None:
    points = band([{0: 0.0, 1: 1.0, 2: 5.0}, {0: 1.0, 1: 1.0}])
    assert [(p.x, p.y) for p in points] == [(0, 0.5), (1, 1.0)]

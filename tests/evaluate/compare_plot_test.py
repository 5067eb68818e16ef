"""The picture of a comparison, read as XML."""

from __future__ import annotations

from math import nan
from xml.etree import ElementTree

from polyturn.evaluate import compare
from polyturn.evaluate.compare_plot import bar, plot
from polyturn.evaluate.stats import Estimate
from tests.evaluate.compare_test import NEW, OLD, played

SVG = "{http://www.w3.org/2000/svg}"


def drawn(text: str) -> tuple[list[str], list[str]]:
    """All texts, and the titles of the dots."""
    root = ElementTree.fromstring(text)
    texts = [e.text or "" for e in root.iter(f"{SVG}text")]
    return texts, [e.text or "" for e in root.iter(f"{SVG}title")]


def test_every_mean_and_every_difference_is_drawn_with_its_interval() -> None:
    table = {"old <one>": OLD, "new": NEW}
    text = plot(table, compare.against(table, "old <one>"), "old <one>")
    texts, titles = drawn(text)
    assert len(titles) == 2 * 3 + 3  # two results on two games and their mixture, one difference on each
    assert "difference to old <one>, paired by task" in texts and "kuhn" in texts and "mixture" in texts
    assert titles[0].startswith("0.000 [0.000, 0.658], 2 tasks")
    assert text == plot(table, compare.against(table, "old <one>"), "old <one>")


def test_one_environment_has_one_panel_and_one_run_no_differences() -> None:
    texts, titles = drawn(plot({"one": played({"guess": {"a": 1.0, "b": 0.0}})}, {}, "one"))
    assert "guess" in texts and "mixture" not in texts
    assert len(titles) == 1


def test_dots_stand_where_the_axis_says() -> None:
    table = {"half": played({"guess": {"a": 1.0, "b": 0.0}})}
    root = ElementTree.fromstring(plot(table, {}, "half"))
    (dot,) = root.iter(f"{SVG}circle")
    marks = {e.text: float(e.get("x", "")) for e in root.iter(f"{SVG}text") if e.get("class") == "tick"}
    assert float(dot.get("cx", "")) == marks["0.5"] == (marks["0"] + marks["1"]) / 2


def test_an_unknown_interval_is_no_line() -> None:
    assert bar(Estimate(0.5, nan, nan, nan, 0, 1)) == "·" * 12 + "●" + "·" * 12
    texts, titles = drawn(plot({"one": played({"guess": {"a": 1.0}})}, {}, "one"))
    assert titles == ["1.000 [nan, nan], 1 tasks"] and "not known" not in texts

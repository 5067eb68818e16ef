"""Pictures are valid SVG, stay inside their frame, and put values where they belong."""

from __future__ import annotations

from itertools import pairwise
from xml.etree import ElementTree

import pytest

from polyturn.record.charts import HEIGHT, WIDTH, Curve, Point, compact, interval, line_chart, sparkline, ticks


def test_ticks_are_round_and_cover() -> None:
    """A step of 1, 2 or 5 times a power of ten; 0 to 7 in four steps: rough step 1.75, so 2."""
    assert ticks(0, 7) == [0.0, 2.0, 4.0, 6.0, 8.0]
    assert ticks(-0.3, 0.4) == [-0.4, -0.2, 0.0, 0.2, 0.4]
    assert ticks(0.0, 0.0) == [0.0, 0.5, 1.0] and ticks(2.0, 2.0) == [1.8, 2.0, 2.2]
    for low, high in ((3.0, 3.0), (0.0, 0.0), (-2.0, -2.0), (1e-9, 2e-9), (1e6, 5e6)):
        found = ticks(low, high)
        assert found[0] <= low and found[-1] >= high and 2 <= len(found) <= 8


@pytest.mark.parametrize("values", [[0.5], [0.1, 0.9], [3.0, 3.0, 3.0], [-5.0, 1e9]])
def test_a_chart_is_valid_and_stays_inside(values: list[float]) -> None:
    points = tuple(Point(float(i), v, v - 1, v + 1, "a < b") for i, v in enumerate(values))
    text = line_chart([Curve("<s>", (points,), 1)], label='"q" & <x>', stages=[("stage <1>", 0.0)])
    root = ElementTree.fromstring(text)
    assert root.get("aria-label") == '"q" & <x>'
    circles = [(float(c.get("cx", "")), float(c.get("cy", ""))) for c in root.iter("circle")]
    assert len(circles) == len(values)
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in circles)
    ups = pairwise(y for _, y in circles)
    assert all((a >= b) == (v <= w) for (a, b), (v, w) in zip(ups, pairwise(values), strict=True))


def test_no_points_no_chart() -> None:
    assert line_chart([Curve("a", ())], label="x") == "" and sparkline([1.0]) == ""


def test_an_interval_by_hand() -> None:
    """0..1 stands for 4..116: a mean of 0.5 at 60, 0.25 at 32, 0.75 at 88."""
    root = ElementTree.fromstring(interval(0.5, 0.25, 0.75))
    spread = next(line for line in root.iter("line") if "range" in line.get("class", ""))
    assert (spread.get("x1"), spread.get("x2")) == ("32.0", "88.0")
    assert next(root.iter("circle")).get("cx") == "60.0"
    assert len(list(ElementTree.fromstring(interval(0.5, 0.25, 0.75, span=(-1, 1))).iter("line"))) == 3


def test_numbers_are_short() -> None:
    assert all(len(compact(v)) <= 7 for v in (1e-12, 0.123456, 12.3456, 999.9, 1e5, 1e15, -0.00001234, -123456.0))
    assert compact(float("nan")) == "–"


@pytest.mark.parametrize(("low", "high"), [(0.0, 3e-15), (-2e-16, 1e-16), (1.0, 1.0 + 3e-16), (7.0, 7.0), (0.0, 0.0)])
def test_ticks_of_next_to_nothing_still_span_something(low: float, high: float) -> None:
    found = ticks(low, high)
    assert found[0] <= low <= high <= found[-1] and found[0] < found[-1] and len(set(found)) == len(found)
    curve = Curve("x", ((Point(0.0, low, low, low, ""), Point(1.0, high, high, high, "")),), 0)
    assert "<svg" in line_chart([curve], label="x")

"""Questions to an index, against counting by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from polyturn.dashboard import query
from polyturn.errors import BadInput
from polyturn.evaluate.stats import bounded_mean
from polyturn.record.index import Index
from polyturn.record.read import read_plays
from tests.dashboard.made import made_run
from tests.record.sample_run import Plan, sample_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sample_run(tmp_path_factory.mktemp("runs") / "run", Plan(4, 6, 2, 4))


def opened(folder: Path) -> Index:
    index = Index(folder)
    index.update()
    return index


def test_a_curve_is_the_clustered_mean_of_five_iterations(folder: Path) -> None:
    found = {(c["family"], c["seat"]): c for c in query.curves(opened(folder))}
    assert set(found) == {("guess_the_number", ""), ("tic_tac_toe", ""), ("kuhn_poker", "player_0"),
                          ("kuhn_poker", "player_1")}
    groups: dict[str, list[float]] = {}
    for _, episode in read_plays(folder):
        if episode.task.family == "tic_tac_toe" and episode.group.startswith(("stage2.0.", "stage2.1.", "stage2.2.")):
            value = episode.scores["score"]["agent"].value
            groups.setdefault(episode.group, []).append(value if value is not None else np.nan)
    expected = bounded_mean(list(groups.values()))
    parts = {part["stage"]: part["points"] for part in found["tic_tac_toe", ""]["parts"]}
    assert parts["stage2"][0] == [0, expected.mean, expected.low, expected.high, 6, 24]


def test_a_long_run_is_drawn_by_every_kth_iteration(folder: Path) -> None:
    found = query.series(opened(folder), most=3)
    assert found["every"] == 4 and found["count"] == 10
    assert [row[:2] for row in found["at"]] == [["stage1", 0], ["stage2", 0], ["stage2", 4], ["stage2", 5]]


def test_groups_stand_in_the_order_of_their_numbers(folder: Path) -> None:
    found = query.groups(opened(folder), "stage2", 3)
    assert [g["grp"] for g in found] == [f"stage2.3.{n}" for n in range(6)]
    assert all(len(g["episodes"]) == 4 for g in found)
    for group in found:
        values = {e["score"] for e in group["episodes"]}
        assert group["alike"] == (len(values) == 1)


def test_filters_meet(folder: Path) -> None:
    index = opened(folder)
    page = query.page(index, {"family": "guess_the_number", "stage": "stage2", "min_turns": "2"}, count=500)
    expected = [e for _, e in read_plays(folder) if e.task.family == "guess_the_number" and e.group.startswith("stage2")
                and sum(len(t.turns) for t in e.trajectories) >= 2]
    assert page["total"] == len(expected) == len(page["rows"])


def test_a_condition_of_sql_ends_where_its_line_ends(folder: Path) -> None:
    assert query.page(opened(folder), {"where": "turns = 1 -- a remark"})["total"] > 0


def test_the_search_says_how_far_it_came(folder: Path) -> None:
    _, share = query.plays_with(opened(folder), "nothing", seconds=-1.0)
    assert share == 0.0


def test_a_text_is_found_across_chunks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = opened(folder)
    whole, share = query.plays_with(index, "too high")
    monkeypatch.setattr(query, "CHUNK", 700)
    assert query.plays_with(index, "TOO high") == (whole, 1.0) and share == 1.0
    expected = {key for key, episode in read_plays(folder) for t in episode.trajectories for m in t.messages
                if "too high" in m.text.lower()}
    assert whole == expected != set()


@pytest.mark.parametrize("given", ["10000000000000000000000000::hugeint", "null", "'x'", "0.5", "-1"])
def test_plays_of_a_select_are_whole_numbers(folder: Path, given: str) -> None:
    with pytest.raises(BadInput, match="expected whole numbers"):
        query.plays_by(opened(folder), f"select {given} as attempt, 1 as play")
    assert query.plays_by(opened(folder), "select 1 as attempt, 2 as play") == {(1, 2)}


def test_names_with_numbers_of_any_kind_have_an_order() -> None:
    names = ["", "8" * 5000, "9" * 5000, "a.9", "a.010", "a.100", "a.\u00b2", "\u00b2"]
    assert sorted(reversed(names), key=query._natural) == names


def test_numbers_must_be_numbers() -> None:
    with pytest.raises(BadInput, match="min_score"):
        query.asked({"min_score": "many"})


def test_stages_outside_training_have_no_iterations(tmp_path: Path) -> None:
    made_run(tmp_path / "run", iterations=2)
    stage, = query.stages(opened(tmp_path / "run"))
    assert (stage["stage"], stage["iterations"], stage["mean"], stage["errors"]) == ("learn", 2, 0.5, 0)

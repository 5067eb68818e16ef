"""The index against the slow reading of the whole record, after appends, rewinds and damage."""

from __future__ import annotations

from pathlib import Path

import pytest

from polyturn.errors import BadInput, UnknownName
from polyturn.record.index import FILE, Index
from polyturn.record.read import Lines, read_at, read_credit, read_metrics, read_plain
from polyturn.record.write import RunRecorder, open_run
from polyturn.types import Score
from tests.dashboard.made import episode, iteration, keep_tokenizer, live, made_run
from tests.record.sample_run import Plan, sample_run


def rows(index: Index) -> list[dict[str, object]]:
    with index.connected() as db:
        return [dict(row) for row in db.execute("select * from episodes order by offset")]


def agrees(folder: Path) -> Index:
    """An index brought up to date, equal in everything to what a reader of the whole record sees."""
    index = Index(folder)
    assert index.update().whole
    plain = dict(read_plain(folder))
    assert {(row["attempt"], row["play"]) for row in rows(index)} == set(plain)
    every = list(read_credit(folder))
    for key, expected in plain.items():
        assert index.plain(key) == expected
        credited = [row for row in every if (row["attempt"], row["play"]) == key]
        assert [(r["update"], r["span"]) for r in index.credit(key)] == [(r["update"], r["span"]) for r in credited]
    assert [row["values"] for row in index.metrics()] == [row["values"] for row in read_metrics(folder)]
    for row in rows(index):
        found = plain[row["attempt"], row["play"]]  # type: ignore[index]
        given = found["scores"].get("score", {})
        values = [s["value"] for seat, s in given.items() if seat in found["train"] and s["value"] is not None]
        assert row["score"] == (sum(values) / len(values) if values else None)
        assert row["tokens"] == sum(t["usage"]["completion_tokens"] for x in found["trajectories"] for t in x["turns"])
        assert (row["stop"], row["reason"], row["error"]) == (
            found["stop"]["kind"], found["stop"]["reason"], found["error"])
        assert bool(row["trained"]) == bool(index.credit((row["attempt"], row["play"])))  # type: ignore[arg-type]
    return index


def test_a_sample_run_reads_the_same(tmp_path: Path) -> None:
    agrees(sample_run(tmp_path / "run", Plan(2, 3, 1, 3)))


@pytest.mark.parametrize("name", ["9" * 31 + ".1", "1." + "9" * 5000, "\u0661.\u0661"])
def test_plays_that_no_table_can_number_are_not_recorded(tmp_path: Path, name: str) -> None:
    made_run(tmp_path / "run", iterations=1)
    with pytest.raises(UnknownName):
        agrees(tmp_path / "run").find(name)


def test_it_follows_a_run_at_work(tmp_path: Path) -> None:
    recorder = made_run(tmp_path / "run", iterations=1, close=False)
    index = agrees(tmp_path / "run")
    assert len(rows(index)) == 2
    iteration(recorder, 1, keep_tokenizer(tmp_path / "run"), "0" * 64)
    played = episode(0, "", "0" * 64, iteration=2)
    live(played, recorder)
    index.update()
    assert len(rows(index)) == 4
    assert [play["id"] for play in index.open_plays()] == [played.id]
    assert index.plain(index.find(played.id))["stop"]["kind"] == "error"
    recorder.episode(played)
    recorder.close()
    agrees(tmp_path / "run")
    assert index.update().whole and not index.open_plays()


def test_a_rewind_takes_back_what_it_made_void(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    recorder = made_run(folder, iterations=2, close=False)
    iteration(recorder, 2, "", "0" * 64)
    index = agrees(folder)
    assert len(rows(index)) == 6
    recorder.rewind("learn:1")
    agrees(folder)
    iteration(recorder, 1, "", "0" * 64)
    recorder.close()
    assert [row["iteration"] for row in rows(agrees(folder))] == [0, 0, 1, 1]
    with RunRecorder(folder) as again:
        again.rewind(None)
    assert rows(agrees(folder)) == []


def test_a_rewound_score_counts_no_more(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    recorder = made_run(folder, iterations=1, close=False)
    recorder.scores("score", {"learn.0.0.0": {"agent": Score(0.25)}})
    index = agrees(folder)
    assert rows(index)[0]["score"] == 0.25
    recorder.rewind("learn:1")
    recorder.close()
    assert rows(agrees(folder))[0]["score"] == 1.0


def test_what_could_not_be_scored_is_an_error_until_it_is_scored(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    recorder = made_run(folder, iterations=1, close=False)
    before = rows(agrees(folder))[0]
    recorder.unscored("score", {"learn.0.0.0": ("verifier score: ValueError: odd", "Traceback ...")})
    lost = rows(agrees(folder))[0]
    assert (lost["stop"], lost["reason"], lost["error"], lost["score"]) == (
        "error", "verifier score: ValueError: odd", "Traceback ...", None)
    recorder.scores("score", {"learn.0.0.0": {"agent": Score(0.25)}})
    assert rows(agrees(folder))[0] == {**before, "score": 0.25, "success": None}
    recorder.rewind("learn:1")
    recorder.close()
    assert rows(agrees(folder))[0] == before


def test_seats_that_learn_against_each_other_are_kept_apart(tmp_path: Path) -> None:
    index = agrees(sample_run(tmp_path / "run", Plan(1, 1, 1, 2)))
    kuhn = [row for row in rows(index) if row["family"] == "kuhn_poker"]
    assert kuhn and all(row["score"] == 0.5 and '"player_1"' in str(row["by_seat"]) for row in kuhn)


def test_damage_is_counted_and_passed_over(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    made_run(folder, iterations=2)
    path = folder / "episodes.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[0] = lines[0].replace(b"guess-1", b"guess-2")
    path.write_bytes(b"".join(lines) + b'{"crc32":"torn')
    index = Index(folder)
    progress = index.update()
    assert progress.damaged == 1
    assert len(rows(index)) == 3
    assert not progress.whole  # the torn line may still be finished


def test_a_replaced_table_is_read_anew(tmp_path: Path) -> None:
    made_run(tmp_path / "run", iterations=3)
    index = agrees(tmp_path / "run")
    for path in (tmp_path / "run").glob("*.jsonl"):
        path.unlink()
    made_run(tmp_path / "other", iterations=1)
    for path in (tmp_path / "other").glob("*.jsonl"):
        path.rename(tmp_path / "run" / path.name)
    index.update()
    assert len(rows(index)) == 2


def test_a_little_time_reads_a_little(tmp_path: Path) -> None:
    folder = sample_run(tmp_path / "run", Plan(2, 4, 2, 4))
    index = Index(folder)
    progress = index.update(seconds=0.0)
    assert not progress.whole and 0 < progress.read < progress.there
    while not index.update(seconds=0.0).whole:
        pass
    agrees(folder)


def test_a_folder_that_cannot_be_written_is_indexed_in_memory(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    made_run(folder, iterations=1)
    (folder / FILE).mkdir()  # root may write anywhere, so the place itself is taken
    index = Index(folder)
    assert index.update().whole and len(rows(index)) == 2
    assert index.plain((1, 1))["id"] == "learn.0.0.0"


def test_an_index_that_was_damaged_is_made_anew(tmp_path: Path) -> None:
    made_run(tmp_path / "run", iterations=2)
    agrees(tmp_path / "run")
    for path in (tmp_path / "run").glob(f"{FILE}*"):
        path.write_bytes(b"this is no database" * 300)
    assert len(rows(agrees(tmp_path / "run"))) == 4


def test_names_are_found_or_the_nearest_said(tmp_path: Path) -> None:
    made_run(tmp_path / "run", iterations=2)
    index = agrees(tmp_path / "run")
    assert index.find("1.2") == (1, 2) == index.find("learn.0.0.1")
    with pytest.raises(UnknownName, match=r"learn\.1\.0\.1"):
        index.find("learn.1.0.2")
    with pytest.raises(UnknownName, match=r"1\.99"):
        index.plain((1, 99))
    with pytest.raises(BadInput, match="no run folder"):
        Index(tmp_path)


def test_a_place_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    made_run(tmp_path / "run", iterations=1)
    with pytest.raises(BadInput, match="the index is of another table"):
        read_at(tmp_path / "run", Lines((3, 100), []))


def test_scores_by_id_alone_find_their_episode(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    made_run(folder, iterations=1)
    with open_run(folder, resume=True) as again:
        again.scores("score", {"learn.0.0.1": {"agent": Score(0.75)}})  # another attempt knows no play of that id
    assert rows(agrees(folder))[1]["score"] == 0.75

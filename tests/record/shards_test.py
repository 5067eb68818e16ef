"""Closing grows with the run, starts anew where the record went back, and what is closed is checked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from polyturn.errors import BadInput
from polyturn.record.closed import read_closed
from polyturn.record.query import open_tables
from polyturn.record.read import read_episodes
from polyturn.record.shards import check_shards, close_shards, read_index
from polyturn.record.write import RunRecorder
from polyturn.types import Score
from tests.record.generated import Drawn, same


def record(recorder: RunRecorder, *numbers: int) -> None:
    for number in numbers:
        recorder.episode(Drawn(number).episode(f"e{number}"))


def closed_ids(folder: Path) -> list[list[str]]:
    """The ids in each shard; all of them together are what the record holds."""
    shards = [list(read_closed(path)) for path in sorted((folder / "closed").glob("episodes-*.parquet"))]
    recorded = list(read_episodes(folder))
    assert all(same(a, b) for a, b in zip(recorded, [e for shard in shards for e in shard], strict=True))
    return [[episode.id for episode in shard] for shard in shards]


def test_closing_again_leaves_no_old_shard(tmp_path: Path) -> None:
    with RunRecorder(tmp_path) as recorder:
        for seed in range(3):
            recorder.episode(Drawn(seed).episode(f"e{seed}"))
    assert len(list(close_shards(tmp_path, rows_per_shard=1).glob("*.parquet"))) == 3
    assert len(list(close_shards(tmp_path).glob("*.parquet"))) == 1


def test_shards_grow_with_the_marks_of_a_run_at_work(tmp_path: Path) -> None:
    with RunRecorder(tmp_path) as recorder:
        record(recorder, 0, 1)
        close_shards(tmp_path)
        assert read_index(tmp_path) is None, "nothing is settled before a mark"
        recorder.commit("a")
        close_shards(tmp_path)
        assert closed_ids(tmp_path) == [["e0", "e1"]]
        first = (tmp_path / "closed" / "episodes-00000.parquet").stat().st_ino
        record(recorder, 2, 3, 4)
        recorder.commit("b")
        close_shards(tmp_path, least=10)
        index = read_index(tmp_path)
        assert index is not None and index.rows == 2, "three more are fewer than ten"
        close_shards(tmp_path, least=3)
        assert closed_ids(tmp_path) == [["e0", "e1"], ["e2", "e3", "e4"]]
        assert (tmp_path / "closed" / "episodes-00000.parquet").stat().st_ino == first, "written once"
        record(recorder, 5)
    close_shards(tmp_path)
    assert closed_ids(tmp_path) == [["e0", "e1"], ["e2", "e3", "e4"], ["e5"]]


def test_going_back_makes_the_shards_anew(tmp_path: Path) -> None:
    with RunRecorder(tmp_path) as recorder:
        record(recorder, 0)
        recorder.commit("a")
        record(recorder, 1)
    close_shards(tmp_path)
    assert closed_ids(tmp_path) == [["e0", "e1"]]
    with RunRecorder(tmp_path) as recorder:
        recorder.rewind("a")
        record(recorder, 2)
    close_shards(tmp_path)
    assert closed_ids(tmp_path) == [["e0", "e2"]]
    with RunRecorder(tmp_path) as recorder:
        recorder.scores("later", {"e0": {"seat.0": Score(0.5)}})
    close_shards(tmp_path)
    assert closed_ids(tmp_path) == [["e0", "e2"]]
    found = next(read_closed(tmp_path / "closed" / "episodes-00000.parquet"))
    assert found.scores["later"]["seat.0"].value == 0.5


def test_what_was_closed_is_checked(tmp_path: Path) -> None:
    with RunRecorder(tmp_path) as recorder:
        record(recorder, 0)
    closed = close_shards(tmp_path)
    check_shards(tmp_path)
    path = closed / "episodes-00000.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"x")
    check_shards(tmp_path, hashes=False)
    with pytest.raises(BadInput, match="was changed or damaged"):
        check_shards(tmp_path)
    path.write_bytes(whole[:-1])
    with pytest.raises(BadInput, match="was changed or damaged"):
        check_shards(tmp_path, hashes=False)
    path.unlink()
    with pytest.raises(BadInput, match="is gone"):
        check_shards(tmp_path)
    (closed / "index.json").write_text(json.dumps({"rows": 1}))
    with pytest.raises(BadInput, match="is no index of shards"):
        check_shards(tmp_path)


def test_one_process_closes_at_a_time(tmp_path: Path) -> None:
    with RunRecorder(tmp_path) as recorder:
        record(recorder, 0)
    closed = close_shards(tmp_path)
    with RunRecorder(closed) as _, pytest.raises(BadInput, match="is being written"):
        close_shards(tmp_path)


def test_a_kill_while_closing_leaves_nothing_that_counts(tmp_path: Path) -> None:
    """Shards of which the index knows nothing, halves of files: neither is read, and closing again clears them away."""
    with RunRecorder(tmp_path) as recorder:
        record(recorder, 0)
    closed = close_shards(tmp_path)
    with RunRecorder(tmp_path) as recorder:
        record(recorder, 1)
    (closed / "episodes-00001.parquet").write_bytes(b"PAR1 half")
    (closed / "episodes-00002.parquet").write_bytes(b"")
    (closed / ".index.json.12345").write_text("{")
    with open_tables([tmp_path], close_at=None) as tables:
        assert tables.ask("SELECT id FROM episodes ORDER BY id").rows == [("e0",), ("e1",)]
    close_shards(tmp_path)
    assert closed_ids(tmp_path) == [["e0"], ["e1"]]
    check_shards(tmp_path)

"""What trackers hold of a run, read back by their own packages."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from polyturn.cli.main import main
from polyturn.errors import BadInput, UnknownName
from polyturn.record.read import read_metrics
from polyturn.record.trackers import export
from tests.dashboard.made import iteration, made_run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made_run(tmp_path / "run", iterations=3)
    return tmp_path / "run"


def expected(folder: Path) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    for step, row in enumerate(read_metrics(folder)):
        for name, value in {**row["values"], "iteration": float(row["iteration"])}.items():
            found.setdefault(name, []).append((step, pytest.approx(value, rel=1e-6)))
    return found


def test_tensorboard_reads_the_same_numbers_and_times(folder: Path) -> None:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    assert export(folder, "tensorboard") == 3
    path, = (folder / "trackers" / "tensorboard" / "run").glob("events.*")
    found: dict[str, list[tuple[int, float]]] = {}
    times = set()
    for event in EventFileLoader(str(path)).Load():
        for value in event.summary.value:
            if value.tag == "settings":
                assert b"| lr | 0.1 |" in value.tensor.string_val[0]
            else:
                found.setdefault(value.tag, []).append((event.step, value.tensor.float_val[0]))
                times.add(event.wall_time)
    assert found == expected(folder) and times == {row["time"] for row in read_metrics(folder)}


def test_mlflow_reads_the_same_numbers_and_times(folder: Path, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    assert export(folder, "mlflow", out=str(tmp_path / "ml"), project="games") == 3
    client = MlflowClient((tmp_path / "ml").as_uri())
    experiment = client.get_experiment_by_name("games")
    run, = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    assert run.data.params == {"seed": "0", "lr": "0.1"}
    for name, values in expected(folder).items():
        assert sorted((m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)) == values
    times = [m.timestamp for m in client.get_metric_history(run.info.run_id, "learner/loss")]
    assert sorted(times) == [round(row["time"] * 1000) for row in read_metrics(folder)]
    assert run.info.end_time == max(times)


def test_mlflow_in_a_folder_named_from_here(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert export(folder, "mlflow", out="ml") == 3
    assert list((tmp_path / "ml").glob("*/*/metrics/learner/loss"))


def test_a_server_that_is_not_there_is_said_in_a_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert main(["track", str(folder), "--to", "mlflow", "--out", "http://127.0.0.1:9"]) == 4
    said = capsys.readouterr().err
    assert said.startswith("polyturn: error: MLflow at http://127.0.0.1:9 does not take the run: ")
    assert "refused" in said


def logged(data: bytes) -> Iterator[bytes]:
    """The records of a log in LevelDB's form, behind seven bytes: blocks of 32 KiB, pieces with sum, size and kind."""
    at, whole = 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        size, kind = struct.unpack("<HB", data[at + 4:at + 7])
        whole += data[at + 7:at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last piece
            yield whole
            whole = b""


def test_wandb_writes_an_offline_run(folder: Path) -> None:
    from wandb.proto import wandb_internal_pb2

    assert export(folder, "wandb") == 3
    path, = (folder / "trackers" / "wandb").rglob("*.wandb")
    found: dict[str, list[tuple[int, float]]] = {}
    for data in logged(path.read_bytes()):
        record: Any = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for name in row.keys() - {"_step", "_runtime", "_timestamp"}:
            found.setdefault(name, []).append((int(row["_step"]), row[name]))
    assert found == expected(folder)


def test_trackio_reads_the_same_numbers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sqlite3

    monkeypatch.setenv("TRACKIO_DIR", "")
    words = ["-m", "polyturn", "track", str(folder), "--to", "trackio", "--project", "games"]
    subprocess.run([sys.executable, *words], check=True, timeout=120, capture_output=True)
    monkeypatch.setitem(sys.modules, "trackio", object())
    with pytest.raises(BadInput, match="a process of its own"):
        export(folder, "trackio", project="games")
    path, = (folder / "trackers" / "trackio").glob("games*.db")
    with sqlite3.connect(path) as db:
        rows = db.execute("select step, metrics from metrics order by step").fetchall()
    found: dict[str, list[tuple[int, float]]] = {}
    for step, text in rows:
        for name, value in json.loads(text).items():
            found.setdefault(name, []).append((step, value))
    assert found == expected(folder)


def test_a_run_at_work_is_followed_to_its_end(tmp_path: Path) -> None:
    recorder = made_run(tmp_path / "run", iterations=1, close=False)
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 1:
            iteration(recorder, 1, "", "0" * 64)
        else:
            recorder.close()

    assert export(tmp_path / "run", "tensorboard", follow=True, sleep=sleep) == 2
    assert len(slept) == 2


def test_a_rewind_while_followed_is_said(tmp_path: Path) -> None:
    recorder = made_run(tmp_path / "run", iterations=2, close=False)
    with pytest.raises(BadInput, match="1 rows that were handed on are void"):
        export(tmp_path / "run", "tensorboard", follow=True, sleep=lambda seconds: recorder.rewind("learn:1"))
    recorder.close()


def test_places_and_names(folder: Path) -> None:
    export(folder, "tensorboard")
    with pytest.raises(BadInput, match="holds an export already"):
        export(folder, "tensorboard")
    with pytest.raises(UnknownName, match="did you mean 'wandb'"):
        export(folder, "wandbb")

"""The run folder: its manifest is never half written, its lock is one writer's."""

from __future__ import annotations

import multiprocessing
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from polyturn.errors import BadInput
from polyturn.record.run import (
    Attempt,
    Lock,
    RunInfo,
    code_sha256,
    is_locked,
    read_info,
    versions,
    write_info,
    write_whole,
)
from polyturn.record.write import RunRecorder

INFO = RunInfo("r", "quickstart", "text", {"lr": 1e-5, "b": [1]}, {"world": 1}, {"python": "3.11"}, "ab", 1.5, (
    Attempt(1, 7, "here", 1.5, 2.5, "killed", ""), Attempt(2, 8, "here", 3.0),
))


def test_the_manifest_comes_back(tmp_path: Path) -> None:
    write_info(tmp_path, INFO)
    assert read_info(tmp_path) == INFO and INFO.status == "running"
    assert replace(INFO, attempts=()).status == "killed"
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


def test_a_folder_without_a_run_says_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"it does not exist; expected a run\.json"):
        read_info(tmp_path / "none")
    with pytest.raises(BadInput, match="it is empty"):
        read_info(tmp_path)
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(BadInput, match=r"it holds notes\.txt"):
        read_info(tmp_path)
    (tmp_path / "turns.jsonl").write_text("")
    with pytest.raises(BadInput, match="half-written"):
        read_info(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(BadInput, match=r"run\.json is not JSON"):
        read_info(tmp_path)


def test_a_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    """A reader that has the old file open keeps the old text; nothing is left beside it."""
    path = tmp_path / "a.json"
    write_whole(path, b"old")
    with path.open("rb") as old:
        write_whole(path, b"new")
        assert old.read() == b"old"
    assert path.read_bytes() == b"new" and len(list(tmp_path.iterdir())) == 1


def test_versions_and_code_hash() -> None:
    assert {"python", "platform", "numpy"} <= versions().keys()
    assert code_sha256() == code_sha256() and len(code_sha256()) == 64


def test_a_lock_is_held_once_and_freed(tmp_path: Path) -> None:
    assert not is_locked(tmp_path)
    lock = Lock(tmp_path)
    assert is_locked(tmp_path)
    with pytest.raises(BadInput, match=f"another run .process {os.getpid()} on .*; wait for it, stop it, or choose"):
        Lock(tmp_path)
    lock.free()
    lock.free()
    assert not is_locked(tmp_path)
    Lock(tmp_path).free()


def test_a_forked_worker_does_not_keep_the_lock(tmp_path: Path) -> None:
    """A worker process that outlives the run must not block a resume."""
    recorder = RunRecorder(tmp_path)
    worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(30,))
    worker.start()
    try:
        recorder.close()
        assert worker.is_alive() and not is_locked(tmp_path)
    finally:
        worker.kill()
        worker.join()


@pytest.mark.parametrize("text", [
    "[]", "3", "null", '{"id": 3}', '{"attempts": 5}', '{"attempts": [{"number": "x"}]}',
    '{"id": "a", "settings_json": 5}',
    '{"id": "a", "seeds_json": "{"}',
])
def test_a_run_json_of_others_is_checked(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    try:
        info = read_info(tmp_path)
    except BadInput as error:
        assert "run.json" in str(error)
    else:
        assert isinstance(info.status, str)

"""Runs are found, named, followed and told of."""

from __future__ import annotations

from pathlib import Path

import pytest

from polyturn.dashboard.watch import Watch, run_folders
from polyturn.errors import BadInput, UnknownName
from tests.dashboard.made import iteration, made_run


def test_runs_are_found_below_folders_and_named_apart(tmp_path: Path) -> None:
    made_run(tmp_path / "a" / "seed0", iterations=1)
    made_run(tmp_path / "b" / "seed0", iterations=1)
    made_run(tmp_path / "c", iterations=1)
    found = run_folders([tmp_path, tmp_path / "c"])
    assert set(found) == {"a~seed0", "b~seed0", "c"}


def test_no_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no run\.json"):
        Watch((tmp_path,)).look()


def test_a_run_at_work_grows_and_a_quiet_one_does_not(tmp_path: Path) -> None:
    recorder = made_run(tmp_path / "run", iterations=1, close=False)
    watch = Watch((tmp_path,))
    watch.look()
    assert watch.read_on(5)
    watched = watch.run("run")
    before = watched.version
    assert watched.status() == "running"
    watch.read_on(5)
    assert watched.version == before
    iteration(recorder, 1, "", "0" * 64)
    watch.read_on(5)
    assert watched.version == before + 1
    recorder.close()
    watch.read_on(5)
    assert watched.version == before + 2 and watched.status() == "finished"
    with pytest.raises(UnknownName, match="did you mean 'run'"):
        watch.run("ran")


def test_new_runs_appear_and_removed_ones_go(tmp_path: Path) -> None:
    made_run(tmp_path / "first", iterations=1)
    watch = Watch((tmp_path,))
    watch.look()
    made_run(tmp_path / "second", iterations=1)
    watch.look()
    assert set(watch.runs) == {"first", "second"}
    (tmp_path / "first" / "run.json").unlink()
    watch.look()
    assert set(watch.runs) == {"second"}


def test_the_thread_reads_on_and_ends(tmp_path: Path) -> None:
    made_run(tmp_path / "run", iterations=2)
    watch = Watch((tmp_path,), every_s=0.01)
    watch.look()
    watch.start()
    for _ in range(500):
        if watch.run("run").progress.whole:
            break
        watch._stop.wait(0.01)
    watch.stop()
    assert watch.run("run").progress.whole and watch._thread is not None and not watch._thread.is_alive()


def test_what_is_wrong_with_a_record_is_kept(tmp_path: Path) -> None:
    made_run(tmp_path / "run", iterations=1)
    (tmp_path / "run" / "turns.jsonl").write_bytes(b'{"crc32":"4cbd5bd4","x":1}\n')
    watch = Watch((tmp_path,))
    watch.look()
    watch.read_on(5)
    assert watch.run("run").trouble or watch.run("run").progress.damaged

"""Nothing that was reported written is lost: by a kill, a full disk, two writers, or a value that has no form."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polyturn.errors import BadInput, NotFinite
from polyturn.protocols import Recorder
from polyturn.record import write
from polyturn.record.read import OPEN, read_episodes, read_metrics, read_plays
from polyturn.record.run import is_locked, read_info
from polyturn.record.table import lines_from
from polyturn.record.write import RunRecorder, open_run
from polyturn.types import Episode, Message, Part, Score, Span, Task, Turn, assistant, user
from tests.record.generated import Drawn, ended, live, same

ROOT = Path(__file__).parents[2]
WRITER = """
import os, sys
from polyturn.record.write import RunRecorder
from tests.record.generated import Drawn, ended, live
recorder = RunRecorder(sys.argv[1])
for seed in range(100_000):
    drawn = Drawn(seed)
    episode = drawn.episode(f"e{seed}")
    for turn in live(episode, recorder):
        os.write(1, f"turn {seed} {turn.at}\\n".encode())
    recorder.episode(ended(episode, drawn))
    os.write(1, f"episode {seed} 0\\n".encode())
"""


def started(code: str, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, cwd=ROOT,
                            env={**os.environ, "PYTHONPATH": str(ROOT)})


def turn_at(episode: Episode, at: int) -> tuple[Turn, tuple[Message, ...], tuple[Span, ...]]:
    """A turn with the messages and the spans that it and those before it wrote."""
    trajectory, turn = next((t, turn) for t in episode.trajectories for turn in t.turns if turn.at == at)
    return turn, trajectory.messages[:turn.reply + 1], trajectory.spans[:max(turn.spans, default=-1) + 1]


def test_it_is_a_recorder(tmp_path: Path) -> None:
    with RunRecorder(tmp_path) as recorder:
        assert isinstance(recorder, Recorder)


@pytest.mark.parametrize("kill", range(5))
def test_a_kill_loses_nothing_reported(tmp_path: Path, kill: int) -> None:
    """kill -9 at a random moment: every turn and episode reported written is read back, equal to what was made."""
    writer = started(WRITER, str(tmp_path))
    assert writer.stdout is not None
    reported = [writer.stdout.readline()]
    time.sleep(random.Random(kill).uniform(0, 0.15))
    writer.send_signal(signal.SIGKILL)
    reported += writer.stdout.read().splitlines(keepends=True)
    assert writer.wait() == -signal.SIGKILL
    found = {episode.id: episode for episode in read_episodes(tmp_path, include_open=True)}
    lines = [line.split() for line in reported if line.endswith(b"\n")]
    for kind, number, at in lines:
        seed = int(number)
        drawn = Drawn(seed)
        expected = drawn.episode(f"e{seed}")
        episode = found[f"e{seed}"]
        if kind == b"episode":
            assert same(ended(expected, drawn), episode)
        elif episode.error == OPEN:
            assert same(turn_at(episode, int(at)), turn_at(expected, int(at)))
    assert read_info(tmp_path).status == "running" and not is_locked(tmp_path)
    with open_run(tmp_path, resume=True) as again:
        again.metrics(0, {"score/guess": 0.5})
        assert [a.status for a in again.info.attempts] == ["killed", "running"]
    assert len(read_metrics(tmp_path)) == 1
    assert [e.id for e in read_episodes(tmp_path, include_open=True)] == list(found)


def test_a_full_disk_is_said_and_costs_nothing_written(tmp_path: Path) -> None:
    """A file may not pass 20,000 bytes (the same error path as a full disk); then it may again."""
    code = """
import resource, sys
from polyturn.record.table import RecordFailed
from polyturn.record.write import RunRecorder
recorder = RunRecorder(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
for i in range(10_000):
    try:
        recorder.metrics(i, {"score/guess": 0.5})
    except RecordFailed as error:
        assert isinstance(error, OSError)
        print(i, error, flush=True)
        break
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
recorder.metrics(i, {"score/guess": 0.75})
recorder.close()
"""
    writer = started(code, str(tmp_path))
    said = writer.communicate(timeout=60)[0].decode()
    assert writer.returncode == 0, said
    failed_at = int(said.split()[0])
    assert failed_at > 100
    assert "metrics.jsonl: File too large" in said and "whole and readable. Free some space" in said
    rows = read_metrics(tmp_path)
    assert [row["iteration"] for row in rows] == [*range(failed_at), failed_at]
    assert rows[-1]["values"] == {"score/guess": 0.75}


def test_a_full_disk_hides_no_error_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    """Files may not grow at all: the run cannot say how it ended, and the error that ended it is told all the same."""
    code = """
import resource, sys
from pathlib import Path
from polyturn.record.run import write_whole
from polyturn.record.table import RecordFailed
from polyturn.record.write import RunRecorder
def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
folder = Path(sys.argv[1])
limit(100)
try:
    RunRecorder(folder / "none")
except RecordFailed as error:
    print(error)
print(sorted(path.name for path in (folder / "none").iterdir()))
limit(resource.RLIM_INFINITY)
write_whole(folder / "results.json", b"old")
try:
    with RunRecorder(folder / "run") as recorder:
        limit(0)
        raise KeyError("why it ended")
except KeyError as error:
    print(error)
try:
    write_whole(folder / "results.json", b"new")
except RecordFailed as error:
    print(error)
limit(resource.RLIM_INFINITY)
print((folder / "results.json").read_text(), sorted(path.name for path in folder.iterdir()))
"""
    writer = started(code, str(tmp_path))
    said = writer.communicate(timeout=60)[0].decode().splitlines()
    assert writer.returncode == 0, said
    full = "File too large; what stood there before is whole. Free some space first"
    assert said == [
        f"cannot write {tmp_path}/none/run.json: {full}", "['lock']", "'why it ended'",
        f"cannot write {tmp_path}/results.json: {full}", "old ['none', 'results.json', 'run']"]
    assert read_info(tmp_path / "run").status == "running" and not is_locked(tmp_path / "run")  # which reads as killed


def test_two_runs_cannot_share_a_folder(tmp_path: Path) -> None:
    first = open_run(tmp_path / "run", recipe="quickstart")
    with pytest.raises(BadInput, match=rf"being written by another run \(process {os.getpid()} on "):
        RunRecorder(tmp_path / "run")
    with pytest.raises(BadInput, match=r"already holds a run of quickstart \(being written\); continue it"):
        open_run(tmp_path / "run", recipe="quickstart")
    first.close()
    with pytest.raises(BadInput, match=r"already holds a run of quickstart \(finished\); continue it with --resume"):
        open_run(tmp_path / "run", recipe="quickstart")
    with open_run(tmp_path / "run", resume=True) as again:
        assert (again.attempt, again.info.recipe) == (2, "quickstart")


def test_folders_that_cannot_be_a_new_run(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is no run folder: it does not exist"):
        open_run(tmp_path / "none", resume=True)
    assert not (tmp_path / "none").exists()
    (tmp_path / "turns.jsonl").write_text("")
    with pytest.raises(BadInput, match="half-written"):
        open_run(tmp_path)
    (tmp_path / "turns.jsonl").unlink()
    with open_run(tmp_path, recipe="quickstart", text="main = 1\n", settings={"seed": 3}, seeds={"world": 3}):
        pass
    info = read_info(tmp_path)
    assert (info.text, info.settings, info.seeds) == ("main = 1\n", {"seed": 3}, {"world": 3})
    assert info.versions["python"].startswith("3.") and len(info.code_sha256) == 64


def test_an_exception_makes_the_attempt_failed(tmp_path: Path) -> None:
    for error, status in ((ValueError("a"), "failed"), (KeyboardInterrupt(), "stopped")):
        with pytest.raises(type(error)), RunRecorder(tmp_path):
            raise error
        assert read_info(tmp_path).status == status
    assert read_info(tmp_path).attempts[0].reason == "ValueError: a"


def test_a_closed_record_says_so(tmp_path: Path) -> None:
    recorder = RunRecorder(tmp_path)
    recorder.close()
    recorder.close()
    with pytest.raises(BadInput, match="is closed; open the run again with resume=True"):
        recorder.metrics(0, {})


SPAN = Span(-1, np.array([5], np.int32), True, np.array([-0.5]))
EPISODE = Episode("e", Task("t", "f"), 0)
BROKEN: list[tuple[Any, type[Exception], str]] = [
    (replace(EPISODE, started=float("nan")), NotFinite, r"episode e\.started: is nan"),
    (replace(EPISODE, final={"a": [1, {"b": float("inf")}]}), NotFinite, r"episode e\.final\.a\[1\]\.b: is a number"),
    (replace(EPISODE, final={"a": np.array([0.5, np.nan])}), NotFinite, r"episode e\.final\.a: is a number that"),
    (replace(EPISODE, final={"a": {1: 2}}), BadInput, r"episode e\.final\.a: has the key 1; keys of a JSON object"),
    (replace(EPISODE, final={"a": {1}}), BadInput, r"episode e\.final\.a: is set .*; expected a JSON value"),
    (replace(EPISODE, final={"a": "\ud800"}), BadInput, r"episode e\.final\.a: is str '\\ud800'"),
    (replace(EPISODE, final={"a": 2**64}), BadInput, r"episode e\.final\.a: is int"),
    (replace(EPISODE, final={"a": 10**5000}), BadInput, r"episode e\.final\.a: is int of 16610 bits"),
    (replace(EPISODE, trial=2**63), BadInput, r"episode e\.trial: is an integer of 64 bits"),
    (replace(EPISODE, started=10**400), NotFinite, r"episode e\.started: is an integer that no float holds"),
    (replace(EPISODE, task=Task("t", "\udcff")), BadInput, r"episodes\.episode\.task\.family: is str '\\udcff'"),
    (replace(EPISODE, seed="1"), BadInput, r"episode e\.seed: is '1'; expected an integer"),
    (replace(EPISODE, scores={"v": {"a": Score(1.0, parts={"p": float("inf")})}}), NotFinite,
     r"episode e\.scores\.v\.a\.parts\.p: is inf"),
]


@pytest.mark.parametrize(("episode", "error", "message"), BROKEN)
def test_what_has_no_form_on_disk_is_refused_with_its_place(
    tmp_path: Path, episode: Episode, error: type[Exception], message: str
) -> None:
    with RunRecorder(tmp_path) as recorder:
        with pytest.raises(error, match=message):
            recorder.episode(episode)
        recorder.episode(EPISODE)
    assert [e.id for e in read_episodes(tmp_path)] == ["e"]


TURN = Turn(0, "agent", "main", (0,), 1, (0,))
BROKEN_SPANS: list[tuple[Span, type[Exception], str]] = [
    (replace(SPAN, logprobs=np.array([-np.inf])), NotFinite, r"span 0\.logprobs: \[0\] is infinite; unknown is NaN"),
    (replace(SPAN, logprobs=np.array([-0.5, -0.5])), BadInput, "span 0: 2 logprobs for 1 ids"),
    (replace(SPAN, support=((1,), (2,))), BadInput, "span 0: 2 support for 1 ids"),
    (replace(SPAN, ids=np.array([[5]], np.int32)), BadInput, r"span 0\.ids: is an array of int32 with shape \(1, 1\)"),
    (replace(SPAN, ids=np.array([0.5])), BadInput, r"span 0\.ids: is an array of float64"),
    (replace(SPAN, ids=np.array([2**40])), BadInput, r"span 0\.ids: holds numbers beyond int32"),
]


@pytest.mark.parametrize(("span", "error", "message"), BROKEN_SPANS)
def test_a_broken_span_is_refused(tmp_path: Path, span: Span, error: type[Exception], message: str) -> None:
    with RunRecorder(tmp_path) as recorder, pytest.raises(error, match=message):
        recorder.turn("e", TURN, {}, {0: span})


def test_numbers_and_credit_must_be_finite(tmp_path: Path) -> None:
    with RunRecorder(tmp_path) as recorder:
        with pytest.raises(NotFinite, match=r"metrics of iteration 3\.loss/total: is nan; an unknown number is None"):
            recorder.metrics(3, {"loss/total": float("nan")})
        with pytest.raises(NotFinite, match="credit of episode e, span 1: advantage is infinite"):
            recorder.credit(0, [{"episode": "e", "span": 1, "advantage": np.array([0.0, np.inf])}])
    assert read_metrics(tmp_path) == []


def test_numpy_scalars_and_tuples_in_open_values(tmp_path: Path) -> None:
    """What JSON does not know comes back as what it does: documented in shape.py."""
    given = {"a": (1, 2), "b": np.float64(0.5), "c": np.arange(2), "d": np.int32(3)}
    with RunRecorder(tmp_path) as recorder:
        recorder.episode(replace(EPISODE, final=given))
    assert next(read_episodes(tmp_path)).final == {"a": [1, 2], "b": 0.5, "c": [0, 1], "d": 3}


def test_threads_write_whole_lines(tmp_path: Path) -> None:
    """Eight threads, one recorder: every turn is there, in its own episode."""
    with RunRecorder(tmp_path) as recorder:
        def play(thread: int) -> None:
            for seed in range(3):
                drawn = Drawn(100 * thread + seed)
                episode = drawn.episode(f"e{100 * thread + seed}")
                for _ in live(episode, recorder):
                    pass
                recorder.episode(ended(episode, drawn))

        threads = [threading.Thread(target=play, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    plays = dict(read_plays(tmp_path))
    assert len(plays) == 24
    for episode in plays.values():
        drawn = Drawn(int(episode.id[1:]))
        assert same(ended(drawn.episode(episode.id), drawn), episode)


def test_what_is_known_of_ended_episodes_is_bounded_and_late_rows_find_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "KNOWN", 2)
    with RunRecorder(tmp_path) as recorder:
        for seed in range(9):
            drawn = Drawn(seed)
            episode = drawn.episode(f"e{seed}")
            for _ in live(episode, recorder):
                pass
            recorder.episode(ended(episode, drawn))
        assert len(recorder._plays) + len(recorder._older) <= 4
        recorder.scores("late", {f"e{seed}": {"agent": Score(seed / 10)} for seed in range(9)})
    named = [line.row()["play"] for line in lines_from(tmp_path / "scores.jsonl")]
    assert named[0] is None and named[8] == 9, "the oldest is named by its id alone, the newest by its number too"
    found = {episode.id: episode for episode in read_episodes(tmp_path)}
    assert [found[f"e{seed}"].scores["late"]["agent"].value for seed in range(9)] == [s / 10 for s in range(9)]


def test_a_turn_is_cheap_to_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An ordinary turn: two messages, 60 prompt and 30 sampled ids. Printed; the bound allows for a busy machine."""
    spans = {0: Span(-1, np.arange(60, dtype=np.int32)),
             1: Span(0, np.arange(30, dtype=np.int32), True, -np.linspace(0.01, 3, 30), 3)}
    messages = {0: user("hello " * 20, id="m0"), 1: assistant((Part("text", "12"),), id="m1")}  # type: ignore[arg-type]
    seconds = []
    with RunRecorder(tmp_path) as recorder:
        for i in range(1000):
            start = time.perf_counter()
            recorder.turn(f"e{i}", TURN, messages, spans)
            seconds.append(time.perf_counter() - start)
    with capsys.disabled():
        print(f"\n  record: {1e6 * float(np.median(seconds)):.0f} us a turn (median of 1,000)")
    assert np.median(seconds) < 1e-3

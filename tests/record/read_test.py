"""What is recorded is what is read: every value, every bit, in order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from polyturn.errors import BadInput, UnknownName
from polyturn.record.read import OPEN, list_runs, read_credit, read_episodes, read_metrics, read_plain, read_scores
from polyturn.record.write import RunRecorder, open_run, rewind
from polyturn.types import Episode, Score, Span, Stop, Task, Trajectory, Turn, assistant, user
from tests.record.generated import Drawn, ended, live, same


def one_turn(name: str = "e0", *, iteration: int = 0) -> Episode:
    """One seat, one turn of two spans."""
    spans = (Span(-1, np.array([5, 6], np.int32)), Span(0, np.array([7], np.int32), True, np.array([-0.5]), 1))
    turn = Turn(0, "agent", "main", (0,), 1, (1,))
    messages = (user("guess", id="a"), assistant("7", id="b", spans=(("agent", "main", 1),)))
    return Episode(name, Task("t", "guess"), 1, iteration=iteration, train=frozenset({"agent"}),
                   trajectories=(Trajectory("agent", "main", None, messages, (turn,), spans),))


def record(recorder: RunRecorder, episode: Episode) -> None:
    for _ in live(episode, recorder):
        pass
    recorder.episode(episode)


def test_random_episodes_come_back_bit_by_bit(tmp_path: Path) -> None:
    """300 episodes, written by turns that interleave, changed when they end, scored afterwards."""
    recorder = open_run(tmp_path / "run")
    finished = []
    for batch in range(30):
        drawn = [Drawn(10 * batch + i) for i in range(10)]
        begun = [d.episode(f"e{batch}.{i}") for i, d in enumerate(drawn)]
        waiting = [live(episode, recorder) for episode in begun]
        while waiting:
            waiting = [turns for turns in waiting if next(turns, None) is not None]
        for d, episode in zip(drawn, begun, strict=True):
            last = ended(episode, d)
            recorder.episode(last)
            score = {"seat.0": d.score(), "seat.1": d.score()}
            recorder.scores("judge", {last.id: score})
            finished.append(replace(last, scores={**last.scores, "judge": score}))
    recorder.close()
    found = list(read_episodes(tmp_path / "run"))
    assert len(found) == 300
    assert sum(len(t.turns) for e in finished for t in e.trajectories) > 1000
    for recorded, read in zip(finished, found, strict=True):
        assert same(recorded, read), f"{recorded}\n{read}"


def test_a_run_at_work_is_read_as_it_stood_when_reading_began(tmp_path: Path) -> None:
    recorder = open_run(tmp_path / "run")
    for name in ("e0", "e1"):
        record(recorder, one_turn(name))
    reading = read_episodes(tmp_path / "run")
    found = [next(reading).id]
    record(recorder, one_turn("e2"))  # its turns came after the turns were read
    found += [episode.id for episode in reading]
    assert found == ["e0", "e1"]
    assert [episode.id for episode in read_episodes(tmp_path / "run")] == ["e0", "e1", "e2"]
    recorder.close()


def test_same_sees_differences() -> None:
    """The comparison above is no rubber stamp."""
    episode = one_turn()
    trajectory = episode.trajectories[0]
    span = replace(trajectory.spans[1], logprobs=np.array([-0.5000000000000001]))
    other = replace(episode, trajectories=(replace(trajectory, spans=(trajectory.spans[0], span)),))
    assert same(episode, one_turn()) and not same(episode, other)
    assert not same({"a": None}, {"a": ()}) and not same({"a": 1}, {"a": 1.0}) and not same({"a": 0}, {"a": False})


def test_null_and_empty_are_kept_apart(tmp_path: Path) -> None:
    recorder = RunRecorder(tmp_path)
    base = one_turn()
    episodes = [replace(base, id="none", final=None, error=None), replace(base, id="empty", final={}, error=""),
                replace(base, id="json", final={"a": None, "b": [], "c": "", "d": {}})]
    for episode in episodes:
        record(recorder, episode)
    recorder.close()
    assert [(e.final, e.error) for e in read_episodes(tmp_path)] == [
        (None, None), ({}, ""), ({"a": None, "b": [], "c": "", "d": {}}, None)]


def test_an_open_episode_is_read_on_request_only(tmp_path: Path) -> None:
    recorder = RunRecorder(tmp_path)
    record(recorder, one_turn("whole"))
    for _ in live(one_turn("half"), recorder):
        pass
    recorder.close("failed")
    assert [e.id for e in read_episodes(tmp_path)] == ["whole"]
    whole, half = read_episodes(tmp_path, include_open=True)
    assert (half.id, half.stop.kind, half.error) == ("half", "error", OPEN)
    assert same(half.trajectories, whole.trajectories)


def test_a_retry_under_the_same_id_is_another_play(tmp_path: Path) -> None:
    recorder = RunRecorder(tmp_path)
    for _ in live(one_turn(), recorder):
        pass
    record(recorder, one_turn())
    recorder.close()
    assert [e.stop.kind for e in read_episodes(tmp_path, include_open=True)] == ["done", "error"]


def test_an_episode_that_could_not_be_scored_ends_in_an_error_and_keeps_its_play(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with open_run(folder) as recorder:
        for name in ("e0", "e1", "e2"):
            record(recorder, one_turn(name))
        recorder.scores("won", {"e0": {"agent": Score(1.0)}, "e2": {"agent": Score(0.5)}})
        recorder.unscored("won", {"e1": ("verifier won: odd", "Traceback ..."), "e2": ("verifier won: late", "")})
    whole, lost, late = read_episodes(folder)
    assert same(replace(one_turn("e1"), stop=Stop("error", "verifier won: odd"), error="Traceback ..."), lost)
    assert (late.stop.kind, late.scores) == ("error", {}) and whole.scores == {"won": {"agent": Score(1.0)}}
    assert [name for _, name, _ in read_scores(folder)] == ["e0", "e2"]
    with open_run(folder, resume=True) as recorder:  # another attempt scores them, and knows them by their ids
        recorder.scores("won", {name: {"agent": Score(0.0)} for name in ("e1", "e2")})
    assert [e.stop.kind for e in read_episodes(folder)] == ["done"] * 3
    assert [e.scores["won"]["agent"].value for e in read_episodes(folder)] == [1.0, 0.0, 0.0]
    assert [plain["scores"] for _, plain in read_plain(folder, as_played=True)] == [{}] * 3


def test_a_rewound_run_counts_nothing_twice(tmp_path: Path) -> None:
    """Iterations 0 and 1 committed, 2 and 3 played, killed; resumed from 1: 2 is played again under the same ids."""
    first = open_run(tmp_path / "run", recipe="quickstart")

    def iteration(recorder: RunRecorder, i: int, score: float) -> None:
        record(recorder, one_turn(f"e{i}", iteration=i))
        recorder.scores("score", {f"e{i}": {"agent": Score(score)}})
        recorder.credit(i, [{"episode": f"e{i}", "span": 1, "weight": np.array([score])}])
        recorder.metrics(i, {"score/guess": score}, stage="stage1")

    for i in range(4):
        iteration(first, i, 0.25)
        if i == 1:
            first.commit("stage1/1")
    first.close("killed")
    second = open_run(tmp_path / "run", resume=True)
    second.rewind("stage1/1")
    assert second.attempt == 2
    iteration(second, 2, 0.75)
    second.commit("stage1/2")
    second.close()
    folder = tmp_path / "run"
    assert [(e.id, e.scores["score"]["agent"].value) for e in read_episodes(folder, include_open=True)] == [
        ("e0", 0.25), ("e1", 0.25), ("e2", 0.75)]
    assert [(r["attempt"], r["iteration"]) for r in read_metrics(folder)] == [(1, 0), (1, 1), (2, 2)]
    assert [r["weight"].tolist() for r in read_credit(folder)] == [[0.25], [0.25], [0.75]]
    assert [episode for _, episode, _ in read_scores(folder)] == ["e0", "e1", "e2"]
    rewind(folder, "stage1/1")
    assert [r["iteration"] for r in read_metrics(folder)] == [0, 1]
    with pytest.raises(UnknownName, match=r"no mark .* named 'stage1/2'; did you mean 'stage1/1'"):
        rewind(folder, "stage1/2")
    rewind(folder, None)
    assert list(read_episodes(folder, include_open=True)) == [] and read_metrics(folder) == []


def test_a_damaged_line_is_named_and_passed_over_on_request(tmp_path: Path) -> None:
    recorder = RunRecorder(tmp_path)
    for i in range(3):
        recorder.metrics(i, {"loss/total": 0.5})
    recorder.close()
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"iteration":1', b'"iteration":7'))
    with pytest.raises(BadInput, match=r"metrics\.jsonl, line 2: the checksum does not match"):
        read_metrics(tmp_path)
    assert [row["iteration"] for row in read_metrics(tmp_path, skip_corrupt=True)] == [0, 2]


def test_a_damaged_turn_is_named(tmp_path: Path) -> None:
    recorder = RunRecorder(tmp_path)
    record(recorder, one_turn())
    record(recorder, one_turn("e1"))
    recorder.close()
    path = tmp_path / "turns.jsonl"
    data = bytearray(path.read_bytes())
    data[data.index(b"guess")] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(BadInput, match=r"turns\.jsonl, line 1: the checksum"):
        list(read_episodes(tmp_path))
    with pytest.raises(BadInput, match=r"episodes\.jsonl, line 1: turns\.jsonl lacks"):
        list(read_episodes(tmp_path, skip_corrupt=True))


def test_a_torn_last_line_is_no_line(tmp_path: Path) -> None:
    """At every possible length of the last line; the next writer cuts it off and goes on."""
    recorder = RunRecorder(tmp_path)
    for i in range(2):
        recorder.metrics(i, {"loss/total": 0.5})
    recorder.close()
    path = tmp_path / "metrics.jsonl"
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in range(first, len(whole)):
        path.write_bytes(whole[:cut])
        assert [row["iteration"] for row in read_metrics(tmp_path)] == [0]
    with RunRecorder(tmp_path) as again:
        again.metrics(5, {"loss/total": 0.25})
    assert [row["iteration"] for row in read_metrics(tmp_path)] == [0, 5]


def test_runs_are_listed_oldest_first(tmp_path: Path) -> None:
    for name, start in (("b", 1.0), ("a", 2.0)):
        clock = iter([start] * 2 + [9.0] * 9).__next__
        recorder = open_run(tmp_path / name, recipe="quickstart", settings={"seed": 0}, clock=clock)
        recorder.metrics(0, {"score/guess": 0.25, "loss/total": 1.5})
        recorder.metrics(1, {"score/guess": 0.5})
        if name == "b":
            recorder.close()
    (tmp_path / "no run").mkdir()
    older, newer = list_runs(tmp_path)
    assert (older.folder.name, older.status, older.info.settings, older.seconds) == ("b", "finished", {"seed": 0}, 8.0)
    assert (newer.status, dict(newer.metrics)) == ("running", {"score/guess": 0.5, "loss/total": 1.5})
    assert older.size_bytes > 500
    recorder.close("failed", "the disk is full")
    assert list_runs(tmp_path)[1].status == "failed"
    assert list_runs(tmp_path)[1].info.attempts[0].reason == "the disk is full"

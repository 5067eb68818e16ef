"""Records that others published (tests/record/formats/data) come in with their meaning, and go back as they were."""

from __future__ import annotations

import json
from pathlib import Path

from polyturn.record.formats.exchange import export_run, import_file
from polyturn.record.read import read_episodes

DATA = Path(__file__).parent / "data"


def test_tau_bench(tmp_path: Path) -> None:
    """Four trials; task 12 was solved with no action at all, its reply is the agent's."""
    path = DATA / "tau-bench" / "gpt-4o-airline.json"
    assert import_file(path, "tau-bench", tmp_path / "run").episodes == 4
    first = next(read_episodes(tmp_path / "run"))
    source = json.loads(path.read_text())
    assert (first.task.id, first.trial, first.scores["tau-bench"]["agent"].value) == ("12", source[0]["trial"], 1.0)
    assert first.task.payload["task"]["user_id"] == "amelia_sanchez_4739"
    replies = [m for m in source[0]["traj"] if m["role"] == "assistant"]
    trajectory = first.trajectories[0]
    said = [trajectory.messages[turn.reply].text for turn in trajectory.turns]
    assert said == [m["content"] or "" for m in replies]
    called = [call["function"]["name"] for record in source for m in record["traj"]
              for call in m.get("tool_calls") or []]
    found = [call.name for episode in read_episodes(tmp_path / "run") for m in episode.trajectories[0].messages
             for call in m.calls]
    assert found == called and len(called) > 0
    export_run(tmp_path / "run", "tau-bench", tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text()) == source


def test_who_and_when(tmp_path: Path) -> None:
    """Six logs: who was at fault, at which step, and what was said there."""
    folder = DATA / "who-and-when"
    assert import_file(folder, "who-and-when", tmp_path / "run").episodes == 6
    sources = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    for episode, source in zip(read_episodes(tmp_path / "run"), sources, strict=True):
        scores = episode.scores["who-and-when"]
        (fault, finding), = [(seat, f) for seat, score in scores.items() for f in score.findings]
        step = int(source["mistake_step"])
        assert (finding.name, finding.target["turn"]) == ("decisive_error", step)
        assert finding.value == source["mistake_agent"]
        trajectory = episode.trajectory(fault)
        assert trajectory is not None
        said = {turn.at: trajectory.messages[turn.reply].text for turn in trajectory.turns}
        assert said[step] == source["history"][step]["content"]
        assert all(score.value == 0.0 and score.success is False for score in scores.values())
    export_run(tmp_path / "run", "who-and-when", tmp_path / "out")
    assert [json.loads(path.read_text()) for path in sorted((tmp_path / "out").iterdir())] == sources

"""Nodes: along every path their tokens are those of our tree, and what was sampled is masked as such once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from polyturn.audit.report import audit_run
from polyturn.media import Media
from polyturn.record.formats.exchange import export_run, import_file, write_foreign
from polyturn.record.read import read_episodes
from polyturn.types import Episode, Trajectory
from tests.record.formats.foreign import drawn
from tests.record.formats.probe import probe
from tests.record.sample_run import Plan, sample_run


def path_of(nodes: list[dict[str, Any]], node: int | None) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while node is not None:
        found.insert(0, nodes[node])
        node = nodes[node]["parent"]
    return found


def tokens(trajectory: Trajectory, span: int) -> list[int]:
    return [id for index in trajectory.path(span) for id in trajectory.spans[index].ids.tolist()]


def check(episode: Episode, trajectory: Trajectory, trace: dict[str, Any]) -> None:
    """Every call's node ends the path of tokens that the turn saw and wrote."""
    kept = [turn for turn in trajectory.turns if not turn.branch and not turn.dropped]
    by_node = {call["node"]: turn for call, turn in zip(trace["calls"], kept, strict=True)}
    for node, turn in by_node.items():
        path = path_of(trace["nodes"], node)
        assert [id for step in path for id in step["token_ids"]] == tokens(trajectory, turn.spans[-1])
        assert [step["message"]["role"] for step in path] == [
            trajectory.messages[i].role for i in (*turn.prompt, turn.reply)]
    sampled = [id for span in trajectory.spans if span.sampled for id in span.ids.tolist()]
    masked = [id for node in trace["nodes"] for id, own in zip(node["token_ids"], node["mask"], strict=True) if own]
    assert sorted(masked) == sorted(sampled)
    logprobs = [value for node in trace["nodes"] for value in node["logprobs"]]
    assert sorted(logprobs) == sorted(v for s in trajectory.spans if s.logprobs is not None for v in s.logprobs)


def test_a_summary_begins_a_branch(tmp_path: Path) -> None:
    """Worked by hand: replies 4 5 and 7 8 on one path, 10 behind the summary on another that shares the
    system message alone; 1 2 3 stands once."""
    store = Media(tmp_path)
    episode = probe(store=store)
    (trace, helper) = write_foreign([episode], "verifiers", media=store)
    check(episode, episode.trajectories[0], trace)
    nodes = trace["nodes"]
    assert [node["parent"] for node in nodes] == [None, 0, 1, 2, 3, 4, 0, 6]
    assert [(node["token_ids"], sum(node["mask"])) for node in nodes] == [
        ([], 0), ([], 0), ([1, 2, 3, 4, 5], 2), ([], 0), ([], 0), ([6, 7, 8], 2), ([1, 9], 0), ([10], 1)]
    assert trace["info"] == {"turn_rewards": {"2": {"look": 0.25}}}
    assert trace["rewards"] == {"exact": {"score": 1.0, "weight": 1.0}}
    assert helper["agent"]["name"] == "planner-helper"


def test_every_path_of_a_run(tmp_path: Path) -> None:
    run = sample_run(tmp_path / "run", Plan(0, 3, 2, 2))
    for episode in read_episodes(run):
        for trajectory, trace in zip(episode.trajectories, write_foreign([episode], "verifiers"), strict=True):
            check(episode, trajectory, trace)


def test_the_tokens_come_back(tmp_path: Path) -> None:
    """Our run, its traces, a run of these: the same sampled tokens with the same log-probabilities."""
    run = sample_run(tmp_path / "run", Plan(0, 2, 1, 2))
    export_run(run, "verifiers", tmp_path / "t.jsonl")
    import_file(tmp_path / "t.jsonl", "verifiers", tmp_path / "b")

    def sampled(folder: Path) -> list[tuple[list[int], list[float]]]:
        return [(tokens(t, turn.spans[-1]), _logprobs(t, turn.spans))
                for e in read_episodes(folder) for t in e.trajectories for turn in t.turns]

    assert sampled(run) == sampled(tmp_path / "b")
    again = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    assert list(write_foreign(list(read_episodes(tmp_path / "b")), "verifiers")) == again


def _logprobs(trajectory: Trajectory, spans: tuple[int, ...]) -> list[float]:
    found: list[float] = []
    for index in spans:
        values = trajectory.spans[index].logprobs
        found += [] if values is None else values.tolist()
    return found


def test_imported_traces_pass_the_audit(tmp_path: Path) -> None:
    """Masks with holes too: what stands between the runs that a call sampled belongs to its turn."""
    records = drawn("verifiers", 20)
    node = next(node for node in records[0]["nodes"] if node["sampled"])
    node |= {"token_ids": [5, 6, 7, 8], "mask": [False, True, False, True], "logprobs": [-0.5, -0.25]}
    (tmp_path / "t.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    import_file(tmp_path / "t.jsonl", "verifiers", tmp_path / "run")
    assert not audit_run(tmp_path / "run").faults
    trajectory = next(read_episodes(tmp_path / "run")).trajectories[0]
    assert [trajectory.spans[index].sampled for index in trajectory.turns[0].spans] == [True, False, True]
    export_run(tmp_path / "run", "verifiers", tmp_path / "out.jsonl")
    assert [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()] == records

"""verifiers, inspect and Harbor themselves read what is exported, and what the tests draw is what they would write.

They need other versions of packages than Polyturn, so they live in an environment of their own: ``make peers``.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from polyturn.record.formats.exchange import export_run, import_file
from polyturn.record.read import read_episodes
from tests.record.formats.foreign import drawn
from tests.record.formats.probe import probe_run
from tests.record.generated import same
from tests.record.sample_run import Plan, sample_run

ROOT = Path(__file__).parents[3]
PYTHON = Path(os.environ.get("POLYTURN_PEERS", ROOT / ".venv-peers" / "bin" / "python"))

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


def asked(name: str, path: Path) -> int:
    """How many records the package read."""
    assert PYTHON.exists(), f"{PYTHON} is missing: run make peers"
    script = Path(__file__).with_name("peers.py")
    done = subprocess.run([PYTHON, script, name, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return int(done.stdout.split()[-1])


def test_verifiers(tmp_path: Path) -> None:
    export_run(probe_run(tmp_path / "probe"), "verifiers", tmp_path / "a.jsonl")
    export_run(sample_run(tmp_path / "run", Plan(1, 2, 1, 2)), "verifiers", tmp_path / "b.jsonl")
    (tmp_path / "c.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in drawn("verifiers", 60)))
    assert [asked("verifiers", tmp_path / f"{name}.jsonl") for name in "abc"] == [8, 24, 60]


def test_inspect_reads_and_writes_and_nothing_is_lost(tmp_path: Path) -> None:
    """Our log, written anew by inspect as ``.eval``, comes back as the very episodes."""
    for number, run in enumerate((probe_run(tmp_path / "probe"), sample_run(tmp_path / "run", Plan(1, 2, 1, 2)))):
        export_run(run, "inspect", tmp_path / f"{number}.json")
        assert asked("inspect", tmp_path / f"{number}.json") == 1
        import_file(tmp_path / f"{number}.eval", "inspect", tmp_path / f"again{number}")
        again = {episode.id: replace(episode, source=None) for episode in read_episodes(tmp_path / f"again{number}")}
        before = list(read_episodes(run))
        assert len(before) == len(again) and all(same(episode, again[episode.id]) for episode in before)
    (tmp_path / "drawn").mkdir()
    for number, record in enumerate(drawn("inspect", 40)):
        (tmp_path / "drawn" / f"{number}.json").write_text(json.dumps(record))
    assert asked("inspect", tmp_path / "drawn") == 40


def test_harbor(tmp_path: Path) -> None:
    export_run(probe_run(tmp_path / "probe"), "atif", tmp_path / "a")
    export_run(sample_run(tmp_path / "run", Plan(1, 2, 1, 2)), "atif", tmp_path / "b")
    (tmp_path / "c").mkdir()
    for number, record in enumerate(drawn("atif", 60)):
        (tmp_path / "c" / f"{number}.json").write_text(json.dumps(record))
    assert [asked("atif", tmp_path / name) for name in "abc"] == [4, 18, 60]

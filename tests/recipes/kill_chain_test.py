"""Runs of every kind, killed without warning at random moments and gone on with, against one that was left alone.

The moments are drawn over the time that the run left alone took, so that they fall into start-up and the writing of
checkpoints too. A run that comes to its end before all kills are spent is compared, and another is begun.
``POLYTURN_KILLS`` is how many kills a kind gets (20); ``POLYTURN_KILL_SEED`` draws other moments.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
import pytest

from polyturn.audit.report import audit_run
from polyturn.record.read import read_credit, read_episodes, read_metrics
from polyturn.seeds import generator
from tests.policies.tiny import tiny_folder

KILLS = int(os.environ.get("POLYTURN_KILLS", "20"))
SEED = int(os.environ.get("POLYTURN_KILL_SEED", "0"))
COMMAND = [sys.executable, "-m", "polyturn", "run"]
ALONE = {**os.environ, "OMP_NUM_THREADS": "1"}
KINDS = {
    "group_rl": "--environment tic_tac_toe --mask --warm-updates 2 --warm-episodes 2 --iterations 6 --groups 2 "
                "--rollouts 4 --max-tokens 4 --test-tasks 3 --trials 1 --lr 1e-3 --save-every 1",
    "spiral": "--model tiny --games kuhn_poker --mask --no-rules --warm-updates 3 --iterations 6 --batch 6 "
              "--measure-every 2 --test-games 8 --lr 1e-3 --save-every 1",
    "mua_rl": "--model tiny --kinds set_colour --orders 1 --warm-updates 80 --warm-episodes 12 --iterations 12 "
              "--groups 3 --rollouts 6 --lr 1e-4 --test-tasks 4 --trials 1",
    "supo": "--model tiny --onsets 2 --parts 2 --steps 6 --warm-updates 60 --warm-lr 4e-3 --warm-episodes 12 "
            "--iterations 4 --groups 3 --rollouts 8 --lr 5e-4 --test-tasks 3 --save-every 1",
    "dart": "--model tiny --env-steps 600 --groups 2 --rollouts 3 --tasks 6 --horizon 5 --lr 1e-3 --kl 0 "
            "--environments 4 --max-lag 1 --warm-updates 2",
}
"""Recipe -> its settings: single, self-play, a user who is simulated, summaries, decoupled."""
TIMED = ("seconds", "per_s", "waited_s", "rollout/occupied", "rollout/busy")
"""Ends of the names of numbers that say how long something took, or what was in play at a moment."""


def words(kind: str, folder: Path, model: Path) -> list[str]:
    """The command that begins a run, or goes on with what its folder holds."""
    if (folder / "run.json").exists():
        return [*COMMAND, "--resume", str(folder)]
    rmtree(folder, ignore_errors=True)  # killed before anything was begun
    own = ["--model", str(model)] if kind == "group_rl" else []
    return [*COMMAND, kind, "--folder", str(folder), "--deterministic", *own, *KINDS[kind].split()]


def ended(command: list[str], after_s: float | None) -> bool:
    """Whether the run came to its end before it was killed. Fails where it ends with an error."""
    process = subprocess.Popen(command, env=ALONE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        _, said = process.communicate(timeout=after_s or 900)
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)
        assert after_s is not None, "the run did not come to its end in 15 minutes"
        return False
    assert process.returncode == 0, said.decode()[-4000:]
    return True


def numbers(folder: Path) -> list[tuple[str, int, dict[str, float]]]:
    return [
        (row["stage"], row["iteration"], {k: v for k, v in row["values"].items() if not k.endswith(TIMED)})
        for row in read_metrics(folder)
    ]


def kept(value: Any) -> Any:
    """Results without what is measured in time or memory or saved by a warm cache, and without the tables as text."""
    if isinstance(value, dict):
        measured = ("seconds", "peak_bytes", "per_s", "cached_tokens")
        return {k: kept(v) for k, v in value.items() if k != "text" and not k.endswith(measured)}
    return [kept(item) for item in value] if isinstance(value, list) else value


def weights(folder: Path) -> dict[str, bytes]:
    """The models of all stages."""
    root = folder / "checkpoints"
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("model.safetensors"))}


def credited(folder: Path) -> list[tuple[Any, ...]]:
    name = ("stage", "iteration", "episode", "seat", "span")
    return sorted(tuple(row[column] for column in name) for row in read_credit(folder))


def ticket(episode: str) -> int:
    """The number of a decoupled stage's ticket, in the order of learning; -1 for other episodes."""
    found = re.fullmatch(r"learn\.t(\d+)\.\d+", episode)
    return int(found[1]) if found else -1


def episodes(folder: Path) -> list[tuple[str, str | None]]:
    """Ids and end states of all that was played and counts, but for the tickets behind the last one that was learned
    from: how far environments had run ahead when a decoupled stage ended depends on time."""
    last = max(ticket(row["episode"]) for row in read_credit(folder))
    return sorted((e.id, e.final_sha256) for e in read_episodes(folder) if ticket(e.id) <= last)


def assert_same(broken: Path, whole: Path) -> None:
    """The broken run came to what the whole one came to, to the bit."""
    assert weights(whole) and weights(broken) == weights(whole)
    assert numbers(broken) == numbers(whole)
    trained = credited(broken)
    assert trained == credited(whole) and len(trained) == len(set(trained))
    played = episodes(broken)
    assert played == episodes(whole) and len(played) == len({name for name, _ in played})
    one, other = (kept(json.loads((folder / "results.json").read_text())) for folder in (broken, whole))
    assert one == other
    assert faults(broken) == faults(whole)


def faults(folder: Path) -> list[tuple[str, str]]:
    """What the audit finds; runs as small as these may have updates without a signal, which both then have."""
    return sorted((found.name, str(sorted(found.target.items()))) for found in audit_run(folder).faults)


def learned(folder: Path) -> set[str]:
    """The stages that had an advantage to learn from."""
    return {row["stage"] for row in read_credit(folder) if row["advantage"] is not None and np.any(row["advantage"])}


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("kind", KINDS)
def test_kills_at_random_moments_change_nothing(kind: str, tmp_path: Path) -> None:
    model = tiny_folder(tmp_path / "model")
    whole, draw = tmp_path / "whole", generator("kills", SEED, kind)
    began = time.monotonic()
    assert ended(words(kind, whole, model), None)
    took_s = time.monotonic() - began
    assert learned(whole) - {"warm", "sft", "sure", "imitate"}, "nothing was learned, so equal weights would say little"
    kills, runs, broken = 0, 0, tmp_path / "broken0"
    while kills < KILLS:
        if ended(words(kind, broken, model), float(draw.uniform(0, took_s))):
            assert_same(broken, whole)
            runs, broken = runs + 1, tmp_path / f"broken{runs + 1}"
        else:
            kills += 1
    assert ended(words(kind, broken, model), None)
    assert_same(broken, whole)
    print(f"{kind}: {took_s:.1f} s alone, {kills} kills over {runs + 1} runs")

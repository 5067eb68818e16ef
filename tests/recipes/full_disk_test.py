"""A run whose disk is full ends with one clear line, has lost nothing that it recorded, and goes on once there is room.

The disk is a file system in memory, seen by the run and by this test's helper only, with a file on it that leaves so
many bytes; the helper removes that file before it goes on with the run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from polyturn.record.read import read_episodes
from polyturn.record.table import TABLES
from tests.policies.tiny import tiny_folder
from tests.recipes.kill_chain_test import ALONE, COMMAND, assert_same

SETTINGS = (
    "group_rl --environment tic_tac_toe --mask --warm-updates 2 --warm-episodes 2 --iterations 4 --groups 2 "
    "--rollouts 4 --max-tokens 4 --test-tasks 3 --trials 1 --lr 1e-3 --save-every 1 --deterministic"
)
HELPER = """
import json, os, shutil, subprocess, sys
left, disk, out, again, *command = sys.argv[1:]
os.mkdir(disk)
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", disk], check=True)
room = os.statvfs(disk)
with open(f"{disk}/filler", "wb") as filler:
    filler.write(bytes(room.f_bavail * room.f_frsize - int(left)))
first = subprocess.run(command, capture_output=True, text=True)
shutil.copytree(f"{disk}/run", f"{out}/full")
os.remove(f"{disk}/filler")
second = subprocess.run(json.loads(again) if os.path.exists(f"{disk}/run/run.json") else command, capture_output=True,
                        text=True)
shutil.copytree(f"{disk}/run", f"{out}/run")
print(json.dumps([first.returncode, first.stderr, second.returncode, second.stderr]))
"""
ALONE_MOUNTED = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_full_disk_is_said_in_a_line_and_costs_nothing_that_was_recorded(tmp_path: Path) -> None:
    model, whole = tiny_folder(tmp_path / "model"), tmp_path / "whole"
    settings = [*SETTINGS.split(), "--model", str(model)]
    subprocess.run([*COMMAND, *settings, "--folder", str(whole)], env=ALONE, check=True, capture_output=True)
    for left, words in (
        (4_096, "cannot write {disk}/run/run.json"), (20_000, "cannot write {disk}/run/"),
        (40_000, "cannot write {disk}/run/"),
        (300_000, "no checkpoint could be written to {disk}/run/checkpoints/state"),
        (1_100_000, "the model could not be written to {disk}/run/checkpoints/warm"),
        (2_000_000, "no checkpoint could be written to {disk}/run/checkpoints/state"),
    ):
        out, disk = tmp_path / str(left), tmp_path / f"disk{left}"
        out.mkdir()
        run = ["--folder", str(disk / "run")]
        again = json.dumps([*COMMAND, "--resume", str(disk / "run")])
        helper = [*ALONE_MOUNTED, sys.executable, "-c", HELPER, str(left), str(disk), str(out), again]
        helper += [*COMMAND, *settings, *run]
        done = subprocess.run(helper, env=ALONE, check=True, capture_output=True, text=True)
        code, said, code_again, said_again = json.loads(done.stdout)
        last = said.strip().splitlines()[-1]
        assert code == 4 and last.startswith(f"polyturn: error: {words.format(disk=disk)}"), said
        assert "No space left on device" in last and "--resume" in last
        assert said.count("polyturn: ") == 1 and "Traceback" not in said
        assert code_again == 0, said_again
        if (out / "full" / "run.json").exists():
            list(read_episodes(out / "full"))
            for table in TABLES:
                kept = (out / "full" / f"{table}.jsonl").read_bytes()
                assert (out / "run" / f"{table}.jsonl").read_bytes().startswith(kept), f"{left}: {table}"
        assert not [path.name for path in (out / "run").rglob(".*")], "something half written was left behind"
        assert_same(out / "run", whole)

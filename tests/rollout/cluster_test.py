"""The workers of a crew as actors of a Ray cluster of two nodes on this machine, one of which is lost."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from polyturn.errors import BadInput
from polyturn.record.read import read_credit, read_episodes
from polyturn.rollout.cluster import Mailbox, starter
from polyturn.rollout.crew.lead import here
from polyturn.rollout.crew.lines import End, Ready, frame, heard
from polyturn.rollout.episode import Place, play_episode
from tests.rollout.crew_parts import Letters, match
from tests.rollout.crew_test import plain

DRIVER = Path(__file__).parent / "cluster_driver.py"


def driven(folder: Path, which: str) -> dict[str, Any]:
    """What the driver says. The cluster is bound to the loopback: with this variable Ray asks for no other address."""
    alone = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
             "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    ended = subprocess.run([sys.executable, str(DRIVER), str(folder), which], env=alone, capture_output=True,
                           text=True, timeout=280, check=False)
    assert ended.returncode == 0, ended.stderr[-4000:]
    found: dict[str, Any] = json.loads(folder.with_suffix(".json").read_text("utf-8"))  # Ray prints too
    return found


@pytest.mark.timeout(300)
async def test_episodes_on_two_nodes_are_the_same_as_here_also_when_one_node_is_lost(tmp_path: Path) -> None:
    said = await asyncio.to_thread(driven, tmp_path / "run", "episodes")
    assert [name.split(" (")[0] for name in said["names"]] == ["worker 0 of Ray", "worker 1 of Ray"]
    assert said["listeners"] and all(ip.removeprefix("::ffff:").startswith("127.") for ip in said["listeners"])
    assert said["episodes"] == 12 and said["left"] == 1
    assert 1 <= len(said["why"]) <= 2 and all("ended (" in why for why in said["why"])
    assert any("another takes its place" in note for note in said["notes"])
    found = {e.id: plain(e) for e in read_episodes(tmp_path / "run")}
    assert len(found) == 12
    for number in range(6):
        one = match(f"t{number}")
        for trial in range(2):
            place = Place(f"s.t{number}.{trial}", f"s.t{number}", trial)
            alone = plain(await play_episode(one, {"main": Letters()}, place))
            alone["task"] = found[place.id]["task"]  # there it slept
            assert alone == found[place.id]


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_training_by_ticket_on_ray_is_the_run_of_one_process_to_the_bit(tmp_path: Path) -> None:
    from tests.learn.decoupled_processes_test import TICKET, credit, done

    said = await asyncio.to_thread(driven, tmp_path / "ray", "training")
    await done(tmp_path / "alone", TICKET, processes=0, sleep_s=0.0)
    assert any("is played again" in one for one in said["said"])
    assert credit(tmp_path / "ray") == credit(tmp_path / "alone") and read_credit(tmp_path / "ray")


def test_an_address_where_nobody_listens_is_refused_at_once() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"  # held, and nobody listens
        with pytest.raises(BadInput, match=f"no Ray cluster at '{address}': .*refused"):
            starter(address)


def test_a_mailbox_hands_frames_both_ways_until_its_worker_has_ended() -> None:
    box = Mailbox()
    (first,) = box.collect(5.0)
    assert isinstance(heard(first), Ready)
    box.deliver(frame(here()))
    assert box.collect(0.05) == []
    box.deliver(frame(End()))
    with pytest.raises(EOFError, match="the worker has ended"):
        while True:
            assert box.collect(1.0) == []
    assert "worker" not in {thread.name for thread in threading.enumerate()}

"""A driver of a Ray cluster of two nodes on the loopback, one CPU each; run by itself, it says what it saw as JSON.

``python cluster_driver.py FOLDER episodes``: plays episodes by two actors, and ends one node in the middle.
``python cluster_driver.py FOLDER training``: trains by ticket with two actors, and kills one in the middle.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import psutil

from polyturn.record.read import read_metrics
from polyturn.record.write import open_run
from polyturn.rollout.cluster import starter
from polyturn.rollout.crew.lead import Crew
from polyturn.rollout.environments import Environments, Occupancy
from tests.rollout.crew_line import Line
from tests.rollout.crew_parts import Letters, match


def listeners() -> list[str]:
    """The addresses at which the cluster's processes wait for others."""
    return sorted({
        connection.laddr.ip for process in psutil.Process().children(recursive=True)
        for connection in process.net_connections("inet") if connection.status == psutil.CONN_LISTEN
    })


async def episodes(folder: Path, cluster: Any, node: Any) -> dict[str, Any]:
    """Twelve rollouts by two actors, of which one is gone with its node after the first four."""
    notes: list[str] = []
    crew = Crew(starter(cluster.address), 2, notes.append, start_s=30.0)
    line = Line([match(f"t{number}", sleep_s=0.3) for number in range(6)], Letters())
    crewing = asyncio.create_task(crew.work())
    with open_run(folder) as record:
        environments = Environments(4, "s", recorder=record, player=crew.play)
        working = asyncio.create_task(environments.work(line, Occupancy(4)))
        await asyncio.wait_for(line.has(4), 120)
        seen = {"names": sorted(hand.name for hand in crew.hands), "listeners": listeners()}
        await asyncio.to_thread(cluster.remove_node, node, False)
        await asyncio.wait_for(line.over.wait(), 120)
        left = len(crew.hands)
        for task in (working, crewing):
            task.cancel()
        await asyncio.gather(working, crewing, return_exceptions=True)
    return {**seen, "why": line.why, "notes": notes, "left": left, "episodes": len(line.episodes)}


async def training(folder: Path, cluster: Any, node: Any) -> dict[str, Any]:
    """Four updates by ticket with two actors, of which one is killed after the second."""
    from tests.learn.decoupled_processes_test import TICKET, done

    async def kill() -> None:
        while len(read_metrics(folder)) < 2:  # noqa: ASYNC110 (a file says it)
            await asyncio.sleep(0.01)
        actors = [p for p in psutil.Process().children(recursive=True) if p.name().startswith("ray::Mailbox")]
        actors[0].kill()

    killing = asyncio.create_task(kill())
    run = await done(folder, TICKET, processes=2, ray=cluster.address, sleep_s=0.05)
    await killing
    return {"said": run.results["said"]}


def main(folder: Path, which: str) -> None:
    """Begins the cluster, and ends it whatever happens."""
    from ray.cluster_utils import Cluster

    own = {"num_cpus": 1, "include_dashboard": False, "node_ip_address": "127.0.0.1", "object_store_memory": 80 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args=own)
    try:
        node = cluster.add_node(**own)
        play = {"episodes": episodes, "training": training}[which]
        folder.with_suffix(".json").write_text(json.dumps(asyncio.run(play(folder, cluster, node))), "utf-8")
    finally:
        import ray

        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    main(Path(sys.argv[1]), sys.argv[2])

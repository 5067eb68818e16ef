"""10,000 episodes of 2,000 tokens: written within 30 s, their token columns read within 3 s, memory bounded.

Seconds are those of the processor, so that other work on the machine does not count.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polyturn.record.query import open_tables
from polyturn.record.shards import close_shards
from polyturn.record.write import open_run
from polyturn.types import Episode, PolicyInfo, Score, Span, Task, Trajectory, Turn, assistant, user

COUNT = 10_000


def episode(number: int, draw: np.random.Generator) -> Episode:
    """Five turns of 200 tokens told and 200 sampled."""
    messages, spans, turns = [], [], []
    for k in range(5):
        messages.append(user("x" * 300, id=f"u{k}"))
        spans.append(Span(len(spans) - 1, draw.integers(0, 49_000, 200).astype(np.int32)))
        ids = draw.integers(0, 49_000, 200).astype(np.int32)
        spans.append(Span(len(spans) - 1, ids, True, -draw.exponential(size=200)))
        place = len(messages)
        messages.append(assistant("y" * 600, id=f"a{k}", spans=(("agent", "main", len(spans) - 1),)))
        turns.append(Turn(k, "agent", "main", tuple(range(place)), place, (len(spans) - 1,)))
    return Episode(
        f"e{number}", Task(f"t{number % 50}", "f"), number, f"g{number // 4}", number % 4, train=frozenset({"agent"}),
        cast={"agent": PolicyInfo("main", "model")}, scores={"s": {"agent": Score(float(number % 2))}},
        trajectories=(Trajectory("agent", "main", None, tuple(messages), tuple(turns), tuple(spans)),))


def timed(name: str, work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.process_time()
    found = work()
    seconds = time.process_time() - began
    print(f"\n  {name}: {seconds:.1f} s of the processor", end="")
    return seconds, found


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_ten_thousand_episodes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw = np.random.default_rng(0)
    kept = [episode(number, draw) for number in range(50)]
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def write() -> None:
        with open_run(tmp_path / "run") as recorder:
            for number in range(COUNT):
                one = kept[number % 50]
                recorder.episode(Episode(f"e{number}", one.task, number, train=one.train, cast=one.cast,
                                         trajectories=one.trajectories, scores=one.scores))

    def asked(sql: str) -> Any:
        with open_tables([tmp_path / "run"], asked=sql) as tables:
            return tables.ask(sql).rows

    with capsys.disabled():
        written, _ = timed("written", write)
        timed("closed", lambda: close_shards(tmp_path / "run"))
        more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held) / 1024
        print(f"\n  memory beyond the start: {more:.0f} MiB", end="")
        read, ((count, total),) = timed("token columns", lambda: asked(
            "SELECT count(*), sum(logprob) FROM tokens WHERE sampled"))
        timed("opened and counted", lambda: asked("SELECT count(*) FROM episodes"))
    assert (count, written < 30, read < 3, more < 1500) == (COUNT * 1000, True, True, True)
    assert total < 0

"""A record of as many episodes as asked for, made in minutes: those of a small run, copied under new names.

``python -m tests.dashboard.large FOLDER 200000`` writes one.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from zlib import crc32

from polyturn.record.write import open_run
from tests.dashboard.made import made_run

GROUP = 8
"""Rollouts of a group; 32 groups make an iteration."""


def large_run(folder: Path, episodes: int) -> Path:
    """The run, closed: two turns in three hold the words of :mod:`tests.dashboard.made`, each episode its own name,
    group, iteration and score."""
    with TemporaryDirectory() as beside:
        small = Path(beside) / "small"
        made_run(small, iterations=1)
        rows = {
            name: [line for line in (small / f"{name}.jsonl").read_bytes().splitlines() if b'"mark"' not in line[:30]]
            for name in ("turns", "episodes", "scores", "credit", "metrics")
        }
    open_run(folder, recipe="large", settings={"seed": 0}, seeds={"seed": 0}).close()
    for name, lines in rows.items():
        with (folder / f"{name}.jsonl").open("wb") as file:
            if name == "metrics":
                for i in range(-(-episodes // (GROUP * 32))):
                    file.write(line_of(lines[0], 0, i, 0, 0))
                continue
            for n in range(episodes):
                own = [line for line in lines if f'"play":{n % 2 + 1},'.encode() in line]
                i, group = n // (GROUP * 32), n // GROUP % 32
                file.writelines(line_of(line, n + 1, i, group, n % GROUP) for line in own)
    return folder


def line_of(line: bytes, play: int, i: int, group: int, trial: int) -> bytes:
    """A line under other numbers, with its checksum."""
    body = line[line.index(b",") + 1:]
    body = re.sub(rb'"play":\d+,', b'"play":%d,' % play, body, count=1)
    body = body.replace(b'"iteration":0', b'"iteration":%d' % i)
    body = re.sub(rb'learn\.0\.0\.[01]', b"learn.%d.%d.%d" % (i, group, trial), body)
    body = re.sub(rb'"learn\.0\.0"', b'"learn.%d.%d"' % (i, group), body)
    body = body.replace(b'"trial":1', b'"trial":0').replace(b'"trial":0', b'"trial":%d' % trial)
    return b'{"crc32":"%08x",%s\n' % (crc32(b"{" + body), body)


if __name__ == "__main__":
    large_run(Path(sys.argv[1]), int(sys.argv[2]))

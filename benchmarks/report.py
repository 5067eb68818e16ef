"""What a benchmark says: one table for people, or one JSON object with ``ratios`` and ``limits``."""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from polyturn.doctor import machine


@dataclass(slots=True)
class Report:
    """One benchmark's figures, gathered while it runs.

    ``ratios``: contender -> ours over theirs in speed (above 1 is ours faster). ``limits``: floor -> the fraction of it
    that is reached. ``tables``: heading -> rows, the first of which names the columns. ``details``: what else the JSON
    object holds.
    """

    title: str
    command: str
    packages: tuple[str, ...] = ()
    ratios: dict[str, float] = field(default_factory=dict)
    limits: dict[str, float] = field(default_factory=dict)
    tables: dict[str, list[Sequence[object]]] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)

    def row(self, table: str, *cells: object) -> None:
        """Adds a row; the first one of a table names its columns."""
        self.tables.setdefault(table, []).append(cells)

    def told(self) -> dict[str, Any]:
        """The JSON object."""
        return {
            "benchmark": self.title, "command": self.command, "date": datetime.now(UTC).isoformat(timespec="minutes"),
            "machine": described(), "versions": versions(("polyturn", "torch", *self.packages)),
            "ratios": self.ratios, "limits": self.limits, "details": self.details,
        }  # fmt: skip

    def text(self) -> str:
        """The tables, ratios, limits, machine and versions for people."""
        told = self.told()
        lines = [self.title, ""]
        for heading, rows in self.tables.items():
            lines += [heading, *aligned(rows), ""]
        for name, values in (("times as fast as", self.ratios), ("fraction of the floor reached", self.limits)):
            lines += [name, *aligned([(key, f"{value:.2f}") for key, value in values.items()]), ""] if values else []
        found = ", ".join(f"{name} {number}" for name, number in told["versions"].items())
        return "\n".join([*lines, f"{told['date']}; {told['machine']}; {found}", told["command"]])


def aligned(rows: Sequence[Sequence[object]]) -> list[str]:
    """Lines whose columns stand under each other; numbers to the right.

    >>> aligned([("what", "s"), ("ours", 1.25)])
    ['  what     s', '  ours  1.25']
    """
    cells = [[f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) if i < len(row) else 0 for row in cells) for i in range(max(map(len, cells)))]
    return [
        "  " + "  ".join(c.rjust(widths[i]) if i else c.ljust(widths[0]) for i, c in enumerate(row)) for row in cells
    ]


def described() -> str:
    """The machine in one line."""
    found = machine(Path())
    name = found.processor
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        name = lines[0] if lines else name
    return (
        f"{name}, {found.cores} cores, {found.memory / 2**30:.0f} GiB, {found.torch_threads} threads, "
        f"{platform.system()}, Python {found.python}"
    )


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Package -> installed version; those that are not installed are left out."""
    found = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def parser(about: str) -> argparse.ArgumentParser:
    """A parser of command lines with what all benchmarks share: ``--json`` and ``--repeats``."""
    made = argparse.ArgumentParser(description=about, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    made.add_argument("--json", action="store_true", help="print one JSON object with ratios and limits")
    made.add_argument("--repeats", type=int, default=5, help="counted rounds, after one to warm up")
    return made


def show(report: Report, *, as_json: bool) -> None:
    """Prints it."""
    print(json.dumps(report.told()) if as_json else report.text(), flush=True)


def figures(timings: Mapping[str, Any]) -> dict[str, Any]:
    """Contender -> its timing as JSON holds it."""
    return {name: timing.told() for name, timing in timings.items()}

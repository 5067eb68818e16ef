"""The order in which a decoupled stage opened, judged and took its groups, so that it can be followed again.

``journal.jsonl`` in the run folder holds checksummed lines, each written before what it says is done. A checkpoint
names a place in it; a resumed run follows what stands behind that place, and so makes the same updates of the same
episodes in the same order. ``{"rewind": n}`` makes void what stands behind line n.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from polyturn.errors import BadInput
from polyturn.record.table import Table, as_line, is_whole, lines_from

FILE = "journal.jsonl"


class Journal:
    """The journal of one stage of a run."""

    def __init__(self, folder: Path, stage: str) -> None:
        self.path, self.stage = folder / FILE, stage
        self._table = Table(self.path)
        self.lines = sum(1 for _ in lines_from(self.path))
        """How many lines it has: the place that a checkpoint names."""

    def write(self, row: Mapping[str, Any]) -> None:
        """Adds one line; it survives a kill of the process."""
        self._append([row])

    def behind(self, line: int) -> list[dict[str, Any]]:
        """The stage's rows behind a line that count, in order.

        Raises: BadInput for a damaged line, with its number.
        """
        found: list[tuple[int, dict[str, Any]]] = []
        for one in lines_from(self.path):
            if one.number <= line:
                continue
            if not is_whole(one.data):
                raise BadInput(f"{self.path}, line {one.number}: the checksum does not match; the order of the run's "
                               "updates is unknown from there on. Restore the file from a copy, or begin a new run")
            row = one.row()
            if "rewind" in row:
                found = [(number, kept) for number, kept in found if number <= row["rewind"]]
            else:
                found.append((one.number, row))
        return [{k: v for k, v in row.items() if k != "stage"} for _, row in found if row["stage"] == self.stage]

    def begin_again(self, line: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Makes void what stands behind ``line`` and writes ``rows`` in its place, at once."""
        self._append([{"rewind": line}, *rows])

    def _append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._table.append([as_line(row if "rewind" in row else {**row, "stage": self.stage}) for row in rows])
        self.lines += len(rows)

    def close(self) -> None:
        """Syncs and closes the file."""
        self._table.close()

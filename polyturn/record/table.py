"""Append-only tables: JSON Lines in which every line carries the CRC-32 of its own body.

A line is ``{"crc32":"89abcdef",<the rest of the object>``; the sum is taken over the object without that first key, so
a line is plain JSON for everybody else. A last line without its newline was torn by a kill and is no line: readers pass
over it and the next writer cuts it off. A bad line anywhere else is reported with its number.

Three kinds of line: a row; a mark (``{"mark": name}``, written by a commit); and a rewind (``{"rewind": name}``), after
which all rows since that mark are void. Nothing is ever deleted.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from zlib import crc32

import orjson

from polyturn.errors import BadInput, PolyturnError, UnknownName
from polyturn.record.shape import dumped

TABLES = ("turns", "episodes", "scores", "credit", "metrics")
_HEAD = b'{"crc32":"'
_BODY = len(_HEAD) + 8 + len(b'",')
_OPENED = crc32(b"{")


class Rewound(PolyturnError):
    """A rewind made rows void that stand before the place from which a table was to be read."""


class RecordFailed(PolyturnError, OSError):
    """A row or a file could not be written: the disk is full, or gone. What was written before stays readable."""

    def __str__(self) -> str:
        """What to do, without the number of the error."""
        return str(self.args[-1])


def as_line(row: Mapping[str, Any], what: str = "row") -> bytes:
    """One line of a table, with its checksum and newline.

    >>> as_line({"iteration": 3})
    b'{"crc32":"05f0de78","iteration":3}\\n'
    """
    body = dumped(row, what)
    return b'%s%08x",%s\n' % (_HEAD, crc32(body), body[1:])


def is_whole(line: bytes) -> bool:
    """True if a line (with its newline) is what its checksum says."""
    head = b'%s%08x",' % (_HEAD, crc32(memoryview(line)[_BODY:-1], _OPENED))
    return line.startswith(head) and line.endswith(b"}\n")


class Table:
    """The writer of one table. Each append is one ``write`` to the operating system, so a killed process loses nothing
    that :meth:`append` returned from; :meth:`sync` makes it survive a power cut too. Not thread-safe by itself."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self.size = _whole_lines(self._file)
        os.ftruncate(self._file, self.size)

    def append(self, lines: Sequence[bytes]) -> None:
        """Writes the lines, all or none.

        Raises: RecordFailed when the operating system refuses; the table then ends where it ended before.
        """
        data = b"".join(lines)
        done = 0
        try:
            while done < len(data):
                done += os.write(self._file, data[done:])
        except OSError as error:
            os.ftruncate(self._file, self.size)
            raise RecordFailed(
                error.errno, f"cannot write {self.path}: {os.strerror(error.errno or 0)}; the {self.size} bytes held "
                "before are whole and readable. Free some space and continue the run with --resume"
            ) from error
        self.size += len(data)

    def sync(self) -> None:
        """Waits until everything appended is on the disk."""
        os.fsync(self._file)

    def close(self) -> None:
        """Syncs and closes the file."""
        try:
            os.fsync(self._file)
        finally:
            os.close(self._file)


def _whole_lines(file: int) -> int:
    """The number of bytes up to and with the last newline."""
    end = os.fstat(file).st_size
    while end > 0:
        start = max(0, end - 65536)
        at = os.pread(file, end - start, start).rfind(b"\n")
        if at >= 0:
            return start + at + 1
        end = start
    return 0


@dataclass(frozen=True, slots=True)
class Line:
    """One whole line: where it stands, and its bytes."""

    number: int
    """Counted from 1."""
    offset: int
    data: bytes

    @property
    def marks(self) -> bool:
        """Whether it is a mark or a rewind and no row."""
        return self.data.startswith((b'"mark":', b'"rewind":'), _BODY)

    def row(self) -> dict[str, Any]:
        """The object, without its checksum."""
        found: dict[str, Any] = orjson.loads(self.data)
        del found["crc32"]
        return found


@dataclass(frozen=True, slots=True)
class Place:
    """A point between two lines of a table: so many lines and bytes stand before it."""

    line: int = 0
    offset: int = 0


START = Place()


def read_lines(
    path: Path, *, skip_corrupt: bool = False, upto: int | None = None, since: Place = START,
    void: Literal["", "only", "too"] = "",
) -> Iterator[Line]:
    """The rows of a table that count, in order: no marks, nothing that a rewind made void, no torn last line.

    ``since``: only what stands behind this place. ``upto``: only what stood in the first so many bytes, for a table
    that is being written. ``void``: what the last rewind made void, and no earlier one, comes ``too``, or in the place
    of what counts (``only``).
    Raises: BadInput for a line that is not what its checksum says, with its number (``skip_corrupt`` passes over it);
    Rewound if rows before ``since`` were made void later on. A table that was never written has no rows.
    """
    _, gone = _marks(path, since)
    wanted = gone.pop() if void and gone else (0, 0)
    for line in lines_from(path, since):
        if upto is not None and line.offset >= upto:
            return
        if any(first < line.number <= last for first, last in gone):
            continue
        if void == "only" and not wanted[0] < line.number <= wanted[1]:
            continue
        if not is_whole(line.data):
            if skip_corrupt:
                continue
            raise BadInput(
                f"{path}, line {line.number}: the checksum does not match, the line was changed or damaged. Read the "
                "rest with skip_corrupt=True, or restore the file from a copy"
            )
        if not line.marks:
            yield line


def check_mark(path: Path, mark: str) -> None:
    """Raises: UnknownName if a table has no such mark that counts."""
    marks, _ = _marks(path)
    if mark not in marks:
        raise UnknownName(f"mark in {path}", mark, marks)


def last_mark(path: Path, *, since: Place = START) -> Place:
    """The place just before the last mark that counts behind ``since``; ``since`` itself if there is none.

    Raises: Rewound as :func:`read_lines`.
    """
    marks, _ = _marks(path, since)
    return max(marks.values(), key=lambda place: place.line, default=since)


def end_of(path: Path, *, since: Place = START) -> Place:
    """The place behind the last whole line of a table."""
    last = since
    for line in lines_from(path, since):
        last = Place(line.number, line.offset + len(line.data))
    return last


def lines_from(path: Path, since: Place = START, *, upto: int | None = None) -> Iterator[Line]:
    """Every whole line behind a place: marks, rewinds and damaged ones too; none if there is no file.

    ``upto``: only what stood in the first so many bytes. A reader that keeps its place goes on where it stopped.
    """
    if not path.exists():
        return
    offset = since.offset
    with path.open("rb") as file:
        file.seek(offset)
        for number, data in enumerate(file, since.line + 1):
            if not data.endswith(b"\n") or (upto is not None and offset >= upto):
                return
            yield Line(number, offset, data)
            offset += len(data)


def _marks(path: Path, since: Place = START) -> tuple[dict[str, Place], list[tuple[int, int]]]:
    """Mark -> the place before it, for those that count; and the line ranges (first, last] that rewinds made void."""
    marks: dict[str, Place] = {}
    void: list[tuple[int, int]] = []
    for line in lines_from(path, since):
        if not line.marks or not is_whole(line.data):
            continue
        row = line.row()
        if "mark" in row:
            marks[row["mark"]] = Place(line.number - 1, line.offset)
            continue
        name = row["rewind"]
        if since != START and name not in marks:
            raise Rewound(f"{path}, line {line.number}: goes back to {name!r}, which stands before line {since.line}")
        start = marks[name].line + 1 if name is not None else 0
        marks = {kept: place for kept, place in marks.items() if place.line < start}
        void.append((start, line.number))
    return marks, void

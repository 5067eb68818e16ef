"""From lines of a run's tables to rows of its index, a batch in a transaction."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from polyturn.errors import BadInput
from polyturn.json_numbers import whole_or_none
from polyturn.record.read import rows_at, with_scores
from polyturn.record.table import Line, Place, is_whole, lines_from

BATCH = 2000
"""Lines between two looks at the clock."""
_TURN = re.compile(rb'"attempt":(\d+),"play":(\d+),"episode":("(?:[^"\\]|\\.)*")')
_SPENT = re.compile(rb'"completion_tokens":(\d+)')
_CREDIT = re.compile(
    rb'"attempt":(\d+),"update":(\d+),"iteration":-?\d+,"play":(\d+|null),"episode":("(?:[^"\\]|\\.)*")')
_SCORES = re.compile(rb'"attempt":(\d+),"play":(\d+|null),"episode":("(?:[^"\\]|\\.)*")')



class Reader:
    """Takes over lines of one table, a batch in a transaction."""

    def __init__(self, db: sqlite3.Connection, folder: Path, name: str) -> None:
        self.db, self.name, self.path = db, name, folder / f"{name}.jsonl"

    def take(self, upto: int) -> int:
        """Takes one batch; how many lines it had."""
        self.db.execute("begin immediate")
        offset, number, damaged = self.db.execute(
            "select offset, number, damaged from state where tab = ?", (self.name,)).fetchone()
        rows: list[Line] = []
        first = number
        for line in lines_from(self.path, Place(number, offset), upto=upto):
            offset, number = line.offset + len(line.data), line.number
            if not is_whole(line.data):
                damaged += 1
            elif line.marks:
                self._write(rows)
                rows = []
                self._mark(line)
            else:
                rows.append(line)
            if number - first >= BATCH:
                break
        self._write(rows)
        self.db.execute(
            "update state set offset = ?, number = ?, damaged = ? where tab = ?", (offset, number, damaged, self.name))
        self.db.commit()
        return int(number) - int(first)

    def _mark(self, line: Line) -> None:
        row = line.row()
        if "mark" in row:
            self.db.execute("replace into marks values (?, ?, ?)", (self.name, row["mark"], line.offset))
            return
        start = -1
        if row["rewind"] is not None:
            found = self.db.execute(
                "select offset from marks where tab = ? and name = ?", (self.name, row["rewind"])).fetchone()
            if found is None:
                raise BadInput(f"{self.path}, line {line.number}: a rewind to {row['rewind']!r}, which was not marked")
            start = found[0]
        self.db.execute("delete from marks where tab = ? and offset > ?", (self.name, start))
        stale = []
        if self.name in {"scores", "credit"}:
            stale = self.db.execute(
                f"select distinct attempt, play from {self.name} where offset > ?", (start,)).fetchall()
        self.db.execute(f"delete from {self.name} where offset > ?", (start,))
        for key in stale:
            self._score(tuple(key)) if self.name == "scores" else self._trained(tuple(key))

    def _write(self, lines: Sequence[Line]) -> None:
        try:
            if lines:
                getattr(self, f"_{self.name}")(lines)
        except OverflowError as error:
            raise BadInput(f"{self.path}, lines {lines[0].number} to {lines[-1].number}: hold a number that no index "
                           f"holds ({error})") from None

    def _turns(self, lines: Sequence[Line]) -> None:
        found = []
        for line in lines:
            match = _matched(_TURN, line, self.path)
            spent = _SPENT.search(line.data)
            found.append((line.offset, len(line.data), int(match[1]), int(match[2]), orjson.loads(match[3]),
                          int(spent[1]) if spent else 0))
        self.db.executemany("insert into turns values (?, ?, ?, ?, ?, ?)", found)

    def _episodes(self, lines: Sequence[Line]) -> None:
        rows = []
        for line in lines:
            row = _episode_row(line)
            row["tokens"] = self.db.execute(
                "select coalesce(sum(tokens), 0) from turns where attempt = ? and play = ?",
                (row["attempt"], row["play"])).fetchone()[0]
            rows.append(row)
        names = list(rows[0])
        marks = ", ".join(f":{name}" for name in names)
        self.db.executemany(f"replace into episodes ({', '.join(names)}) values ({marks})", rows)

    def _scores(self, lines: Sequence[Line]) -> None:
        rows: list[tuple[Any, ...]] = []
        given: dict[tuple[int, int | None], list[Line]] = {}
        for line in lines:
            match = _matched(_SCORES, line, self.path)
            key, name = self._key(match[1], match[2], match[3])
            rows.append((line.offset, len(line.data), *key, name))
            given[key] = [*given.get(key, ()), line]
        self.db.executemany("insert into scores values (?, ?, ?, ?, ?)", rows)
        for key, own in given.items():
            count = self.db.execute("select count(*) from scores where attempt = ? and play = ?", key).fetchone()[0]
            self._score(key, [line.row() for line in own] if count == len(own) else None)

    def _credit(self, lines: Sequence[Line]) -> None:
        rows = []
        for line in lines:
            match = _matched(_CREDIT, line, self.path)
            key, name = self._key(match[1], match[3], match[4])
            rows.append((line.offset, len(line.data), *key, name, int(match[2])))
        self.db.executemany("insert into credit values (?, ?, ?, ?, ?, ?)", rows)
        self.db.executemany("update episodes set trained = 1 where attempt = ? and play = ? and trained = 0",
                            list(dict.fromkeys((row[2], row[3]) for row in rows)))

    def _key(self, attempt: bytes, play: bytes, name: bytes) -> tuple[tuple[int, int | None], str]:
        """The play that a row speaks of, by its number, or else by the id of the last episode so named; and the id."""
        known = orjson.loads(name)
        if play != b"null":
            return (int(attempt), int(play)), known
        found = self.db.execute(
            "select attempt, play from episodes where id = ? order by offset desc", (known,)).fetchone()
        return (int(attempt), None) if found is None else (found[0], found[1]), known

    def _score(self, key: tuple[Any, ...], rows: Sequence[Mapping[str, Any]] | None = None) -> None:
        """The score of a play over the seats that learn, of the verifier ``score`` or else the first; ``rows`` are its
        rows of scores, read from the table where they are not given."""
        row = self.db.execute("select learners, stop from episodes where attempt = ? and play = ?", key).fetchone()
        if row is not None:
            known = rows_at(self.path, places_of(self.db, "scores", key)) if rows is None else rows
            told = _whole_score(with_scores({"scores": {}}, known)["scores"], orjson.loads(row["learners"]))
            self.db.execute("update episodes set score = ?, success = ?, by_seat = ? where attempt = ? and play = ?",
                            (*told, *key))
            if row["stop"] == "error" or any("reason" in r for r in known):
                self._ended(key, known)

    def _ended(self, key: tuple[Any, ...], rows: Sequence[Mapping[str, Any]]) -> None:
        """How a play ended, when its verifiers are done with it."""
        place = self.db.execute("select offset, size from episodes where attempt = ? and play = ?", key).fetchone()
        (own,) = rows_at(self.path.with_name("episodes.jsonl"), [tuple(place)])
        plain = with_scores(own["episode"], rows)
        self.db.execute("update episodes set stop = ?, reason = ?, error = ? where attempt = ? and play = ?",
                        (plain["stop"]["kind"], plain["stop"]["reason"], plain["error"], *key))

    def _trained(self, key: tuple[Any, ...]) -> None:
        count = self.db.execute("select count(*) from credit where attempt = ? and play = ?", key).fetchone()[0]
        self.db.execute("update episodes set trained = ? where attempt = ? and play = ?", (int(count > 0), *key))

    def _metrics(self, lines: Sequence[Line]) -> None:
        rows = [line.row() for line in lines]
        self.db.executemany("insert into metrics values (?, ?, ?, ?, ?, ?)", [
            (line.offset, row["attempt"], row["stage"], row["iteration"], row["time"], orjson.dumps(row["values"]))
            for line, row in zip(lines, rows, strict=True)])


def size_of(path: Path) -> int:
    """Bytes of a file, 0 where there is none."""
    return path.stat().st_size if path.exists() else 0


def _matched(pattern: re.Pattern[bytes], line: Line, path: Path) -> re.Match[bytes]:
    match = pattern.search(line.data)
    if match is None:
        raise BadInput(f"{path}, line {line.number}: no attempt and play in the row")
    return match


def places_of(db: sqlite3.Connection, table: str, key: Sequence[Any]) -> list[tuple[int, int]]:
    """(offset, size) of the rows of one play in a file, in its order."""
    rows = db.execute(f"select offset, size from {table} where attempt = ? and play = ? order by offset", tuple(key))
    return [(row[0], row[1]) for row in rows]


def label_of(group: str) -> tuple[str, int | None]:
    """(stage, iteration) of a group's id; the iteration is None outside training.

    >>> label_of("learn.12.3"), label_of("before.3"), label_of("")
    (('learn', 12), ('before', None), ('', None))
    """
    label, _, _ = group.rpartition(".")
    stage, _, number = label.rpartition(".")
    iteration = whole_or_none(number) if stage else None
    return (label, None) if iteration is None else (stage, iteration)


def _episode_row(line: Line) -> dict[str, Any]:
    row = line.row()
    episode, trajectories = row["episode"], row["trajectories"]
    stage, iteration = label_of(episode["group"])
    turns = [turn for trajectory in trajectories for turn in trajectory["turns"]]
    score, success, by_seat = _whole_score(episode["scores"], episode["train"])
    return {
        "offset": line.offset, "size": len(line.data), "attempt": row["attempt"], "play": row["play"],
        "id": episode["id"], "grp": episode["group"], "task": episode["task"]["id"],
        "family": episode["task"]["family"],
        "stage": stage, "iteration": iteration, "trial": episode["trial"], "seed": str(episode["seed"]),
        "parent": episode["parent"], "score": score, "success": success, "stop": episode["stop"]["kind"],
        "reason": episode["stop"]["reason"], "error": episode["error"], "turns": len(turns), "tokens": 0,
        "invalid": sum(event["kind"] == "invalid" and not event["branch"] for event in episode["events"]),
        "seats": len({trajectory["seat"] for trajectory in trajectories}),
        "branches": len({event["branch"] for event in episode["events"]} - {""}), "trained": 0,
        "started": episode["started"], "ended": episode["ended"], "learners": orjson.dumps(episode["train"]).decode(),
        "by_seat": by_seat,
    }


def _whole_score(
    given: Mapping[str, Any], learners: Sequence[str]
) -> tuple[float | None, int | None, str | None]:
    """The mean over the learning seats (all, where none learns) that were not abstained from, whether all succeeded,
    and where there are several the value of each as JSON."""
    if not given:
        return None, None, None
    by_seat = given.get("score") or next(iter(given.values()))
    counted = {seat: score for seat, score in by_seat.items() if not learners or seat in learners}
    values = {seat: score["value"] for seat, score in counted.items() if score["value"] is not None}
    told = [score["success"] for score in counted.values() if score["success"] is not None]
    mean = sum(values.values()) / len(values) if values else None
    return mean, (int(all(told)) if told else None), orjson.dumps(values).decode() if len(values) > 1 else None

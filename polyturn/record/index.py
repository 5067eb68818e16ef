"""An index of a run's tables: what each episode is in a few numbers, and at which byte its lines stand.

``index.sqlite`` in the run folder is made from the tables and may be deleted at any time. :meth:`Index.update` reads
only what was appended since; a rewind takes back what it made void. So one of 200,000 episodes is found and read
without reading the others, while the run goes on. Where the folder cannot be written, the index lives in memory.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import orjson

from polyturn.errors import BadInput, UnknownName
from polyturn.record.read import Lines, read_at, rows_at
from polyturn.record.run import read_info
from polyturn.record.table import TABLES, Line, Place, is_whole, lines_from

Key = tuple[int, int]
VERSION = 3
FILE = "index.sqlite"
OPEN = 20_000
"""Of how many plays before the last one an open one is looked for."""
BATCH = 2000
"""Lines between two looks at the clock."""
_SCHEMA = """
create table state (tab text primary key, offset int not null, number int not null, damaged int not null);
create table marks (tab text, name text, offset int, primary key (tab, name));
create table turns (offset int primary key, size int, attempt int, play int, id text, tokens int);
create table episodes (
  offset int primary key, size int, attempt int, play int, id text, grp text, task text, family text, stage text,
  iteration int, trial int, seed text, parent text, score real, success int, stop text, reason text, error text,
  turns int, tokens int, invalid int, seats int, branches int, trained int, started real, ended real, learners text,
  by_seat text);
create table scores (offset int primary key, size int, attempt int, play int, id text);
create table credit (offset int primary key, size int, attempt int, play int, id text, step int);
create table metrics (offset int primary key, attempt int, stage text, iteration int, time real, "values" text);
create index turns_play on turns (attempt, play);
create unique index episodes_play on episodes (attempt, play);
create index episodes_id on episodes (id);
create index episodes_group on episodes (grp);
create index episodes_sums on episodes (stage, iteration, family, grp, score, by_seat, stop, turns, tokens, invalid,
  success, trained, started, ended, attempt, play);
create index scores_play on scores (attempt, play);
create index credit_play on credit (attempt, play);
"""
_TURN = re.compile(rb'"attempt":(\d+),"play":(\d+),"episode":("(?:[^"\\]|\\.)*")')
_SPENT = re.compile(rb'"completion_tokens":(\d+)')
_CREDIT = re.compile(
    rb'"attempt":(\d+),"update":(\d+),"iteration":-?\d+,"play":(\d+|null),"episode":("(?:[^"\\]|\\.)*")')
_SCORES = re.compile(rb'"attempt":(\d+),"play":(\d+|null),"episode":("(?:[^"\\]|\\.)*")')


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an index is: bytes read of the bytes there are, and lines passed over because they are damaged."""

    read: int
    there: int
    damaged: int

    @property
    def whole(self) -> bool:
        """Whether everything was read that had been written."""
        return self.read >= self.there


class Index:
    """The index of one run. Threads and processes may share it: each call opens the file for itself.

    Raises: BadInput for a folder without a run.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        read_info(self.folder)
        self._path = str(self.folder / FILE)
        self._memory: sqlite3.Connection | None = None
        try:
            self._prepare()
        except sqlite3.OperationalError:
            self._path = f"file:{id(self)}?mode=memory&cache=shared"
            self._memory = sqlite3.connect(self._path, uri=True, check_same_thread=False)
            self._prepare()

    @contextmanager
    def connected(self) -> Iterator[sqlite3.Connection]:
        """A connection that gives rows by name."""
        with closing(sqlite3.connect(self._path, uri=self._memory is not None, timeout=30)) as found:
            found.row_factory = sqlite3.Row
            yield found

    def _prepare(self) -> None:
        with self.connected() as db:
            if self._memory is None:
                db.execute("pragma journal_mode = wal")
            db.execute("pragma synchronous = off")
            known = db.execute("pragma user_version").fetchone()[0]
            if known != VERSION:
                self._reset(db)

    def _reset(self, db: sqlite3.Connection) -> None:
        """Empties the index."""
        names = [row[0] for row in db.execute("select name from sqlite_master where type = 'table'")]
        script = "".join(f"drop table {name};" for name in names)
        rows = "".join(f"insert into state values ('{name}', 0, 0, 0);" for name in TABLES)
        db.executescript(f"begin immediate; {script} {_SCHEMA} {rows} pragma user_version = {VERSION}; commit;")

    # ------------------------------------------------------------ reading on

    def update(self, *, seconds: float = float("inf"), clock: Callable[[], float] = time.monotonic) -> Progress:
        """Reads what was appended, for about so many seconds at most; how far it came."""
        until = clock() + seconds
        there = {name: _size(self.folder / f"{name}.jsonl") for name in reversed(TABLES)}  # a row is younger than what
        with self.connected() as db:                                                       # it speaks of
            db.execute("pragma synchronous = off")
            state = {row["tab"]: row["offset"] for row in db.execute("select * from state")}
            if any(there[name] < state[name] for name in TABLES):
                self._reset(db)
            for name in TABLES:
                while taken := _Reader(db, self.folder, name).take(there[name]):
                    if clock() >= until:
                        return self.progress()
                    if taken < BATCH:
                        break
        return self.progress()

    def progress(self) -> Progress:
        """How far the index is."""
        with self.connected() as db:
            read, damaged = db.execute("select sum(offset), sum(damaged) from state").fetchone()
        return Progress(read, sum(_size(self.folder / f"{name}.jsonl") for name in TABLES), damaged)

    # ------------------------------------------------------------ one episode

    def plain(self, key: Key) -> dict[str, Any]:
        """One episode as the plain JSON object of :func:`polyturn.record.read.read_plain`, from its own lines.

        Raises: UnknownName for a play that is not recorded.
        """
        with self.connected() as db:
            ended = db.execute("select offset, size from episodes where attempt = ? and play = ?", key).fetchone()
            turns, scores = _places(db, "turns", key), _places(db, "scores", key)
            place = Lines(None if ended is None else tuple(ended), turns, scores)
            if ended is None and not place.turns:
                raise UnknownName("play", f"{key[0]}.{key[1]}", self._near(db, ""))
        return read_at(self.folder, place)

    def credit(self, key: Key) -> list[dict[str, Any]]:
        """The rows of credit of one play, in the order of the updates."""
        with self.connected() as db:
            return rows_at(self.folder / "credit.jsonl", _places(db, "credit", key))

    def find(self, name: str) -> Key:
        """The play of ``"<attempt>.<play>"``, of an episode's id (its last play), or of the end of one id.

        Raises: UnknownName for a play that is not recorded.
        """
        with self.connected() as db:
            if re.fullmatch(r"\d+\.\d+", name):
                attempt, play = (int(part) for part in name.split("."))
                known = "select attempt, play from {} where attempt = ? and play = ? limit 1"
                for table in ("episodes", "turns"):
                    if row := db.execute(known.format(table), (attempt, play)).fetchone():
                        return row[0], row[1]
            for table in ("episodes", "turns"):
                row = db.execute(
                    f"select attempt, play from {table} where id = ? order by offset desc", (name,)).fetchone()
                if row is not None:
                    return row[0], row[1]
            raise UnknownName("episode", name, self._near(db, name))

    def metrics(self) -> list[dict[str, Any]]:
        """The rows of metrics that count: attempt, stage, iteration, time, values."""
        with self.connected() as db:
            rows = db.execute(
                'select attempt, stage, iteration, time, "values" from metrics order by offset').fetchall()
        return [{**dict(row), "values": orjson.loads(row["values"])} for row in rows]

    def open_plays(self) -> list[dict[str, Any]]:
        """Plays of the last attempt with turns and no end yet, the newest first: attempt, play, id, turns, tokens."""
        with self.connected() as db:
            last = db.execute("select attempt, max(play) from turns where attempt = (select max(attempt) from turns)")
            attempt, play = last.fetchone()
            rows = db.execute(
                "select attempt, play, id, count(*) turns, sum(tokens) tokens from turns t where attempt = ? and "
                "play > ? and not exists (select 1 from episodes e where e.attempt = t.attempt and e.play = t.play) "
                "group by attempt, play order by max(offset) desc limit 200", (attempt, (play or 0) - OPEN)).fetchall()
        return [dict(row) for row in rows]

    def _near(self, db: sqlite3.Connection, name: str) -> list[str]:
        """A few ids, those like the name before others."""
        known = [row[0] for row in db.execute("select id from episodes order by offset desc limit 2000")]
        return get_close_matches(name, known, 5) or known[:5]


# ---------------------------------------------------------------- from lines to rows


class _Reader:
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
        if lines:
            getattr(self, f"_{self.name}")(lines)

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
        row = self.db.execute("select learners from episodes where attempt = ? and play = ?", key).fetchone()
        if row is not None:
            known = rows_at(self.path, _places(self.db, "scores", key)) if rows is None else rows
            told = _whole_score({r["verifier"]: r["scores"] for r in known}, orjson.loads(row["learners"]))
            self.db.execute("update episodes set score = ?, success = ?, by_seat = ? where attempt = ? and play = ?",
                            (*told, *key))

    def _trained(self, key: tuple[Any, ...]) -> None:
        count = self.db.execute("select count(*) from credit where attempt = ? and play = ?", key).fetchone()[0]
        self.db.execute("update episodes set trained = ? where attempt = ? and play = ?", (int(count > 0), *key))

    def _metrics(self, lines: Sequence[Line]) -> None:
        rows = [line.row() for line in lines]
        self.db.executemany("insert into metrics values (?, ?, ?, ?, ?, ?)", [
            (line.offset, row["attempt"], row["stage"], row["iteration"], row["time"], orjson.dumps(row["values"]))
            for line, row in zip(lines, rows, strict=True)])


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _matched(pattern: re.Pattern[bytes], line: Line, path: Path) -> re.Match[bytes]:
    match = pattern.search(line.data)
    if match is None:
        raise BadInput(f"{path}, line {line.number}: no attempt and play in the row")
    return match


def _places(db: sqlite3.Connection, table: str, key: Sequence[Any]) -> list[tuple[int, int]]:
    rows = db.execute(f"select offset, size from {table} where attempt = ? and play = ? order by offset", tuple(key))
    return [(row[0], row[1]) for row in rows]


def label_of(group: str) -> tuple[str, int | None]:
    """(stage, iteration) of a group's id; the iteration is None outside training.

    >>> label_of("learn.12.3"), label_of("before.3"), label_of("")
    (('learn', 12), ('before', None), ('', None))
    """
    label, _, _ = group.rpartition(".")
    stage, _, number = label.rpartition(".")
    return (stage, int(number)) if stage and number.isdigit() else (label, None)


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

"""An index of a run's tables: what each episode is in a few numbers, and at which byte its lines stand.

``index.sqlite`` in the run folder is made from the tables and may be deleted at any time. :meth:`Index.update` reads
only what was appended since; a rewind takes back what it made void. So one of 200,000 episodes is found and read
without reading the others, while the run goes on. Where the folder cannot be written, the index lives in memory.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import orjson

from polyturn.errors import UnknownName
from polyturn.record.indexing import BATCH, Reader, places_of, size_of
from polyturn.record.read import Lines, read_at, rows_at
from polyturn.record.run import read_info
from polyturn.record.table import TABLES

Key = tuple[int, int]
VERSION = 3
FILE = "index.sqlite"
OPEN = 20_000
"""Of how many plays before the last one an open one is looked for."""
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
            self._prepare_anew()
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

    def _prepare_anew(self) -> None:
        """Prepares the file; one that is no database any more is made anew."""
        try:
            self._prepare()
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError:
            for suffix in ("", "-wal", "-shm"):
                Path(self._path + suffix).unlink(missing_ok=True)
            self._prepare()

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
        # a row is younger than what it speaks of, so the youngest tables are measured first
        there = {name: size_of(self.folder / f"{name}.jsonl") for name in reversed(TABLES)}
        with self.connected() as db:
            db.execute("pragma synchronous = off")
            state = {row["tab"]: row["offset"] for row in db.execute("select * from state")}
            if any(there[name] < state[name] for name in TABLES):
                self._reset(db)
            for name in TABLES:
                while taken := Reader(db, self.folder, name).take(there[name]):
                    if clock() >= until:
                        return self.progress()
                    if taken < BATCH:
                        break
        return self.progress()

    def progress(self) -> Progress:
        """How far the index is."""
        with self.connected() as db:
            read, damaged = db.execute("select sum(offset), sum(damaged) from state").fetchone()
        return Progress(read, sum(size_of(self.folder / f"{name}.jsonl") for name in TABLES), damaged)

    # ------------------------------------------------------------ one episode

    def plain(self, key: Key) -> dict[str, Any]:
        """One episode as the plain JSON object of :func:`polyturn.record.read.read_plain`, from its own lines.

        Raises: UnknownName for a play that is not recorded.
        """
        with self.connected() as db:
            ended = db.execute("select offset, size from episodes where attempt = ? and play = ?", key).fetchone()
            turns, scores = places_of(db, "turns", key), places_of(db, "scores", key)
            place = Lines(None if ended is None else tuple(ended), turns, scores)
            if ended is None and not place.turns:
                raise UnknownName("play", f"{key[0]}.{key[1]}", self._near(db, ""))
        return read_at(self.folder, place)

    def credit(self, key: Key) -> list[dict[str, Any]]:
        """The rows of credit of one play, in the order of the updates."""
        with self.connected() as db:
            return rows_at(self.folder / "credit.jsonl", places_of(db, "credit", key))

    def find(self, name: str) -> Key:
        """The play of ``"<attempt>.<play>"``, of an episode's id (its last play), or of the end of one id.

        Raises: UnknownName for a play that is not recorded.
        """
        with self.connected() as db:
            if re.fullmatch(r"[0-9]{1,18}\.[0-9]{1,18}", name):
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

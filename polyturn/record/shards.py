"""Closing: what is settled of a run becomes Parquet shards, once, and grows with the run.

A run's folder ``closed`` holds ``episodes-00000.parquet`` and so on (the rows of :mod:`polyturn.record.closed`),
``credit-00000.parquet`` (those of the table ``credit``) and ``index.json``: files with rows, bytes and sha256, and how
far into each table they reach. Settled is what stands before the last mark of a run at work, and everything of a run
that nobody writes. The tables stay and are the truth: where a rewind, or a score given later, changes what was closed,
all shards are made anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from polyturn.errors import BadInput
from polyturn.record.closed import SCHEMA_VERSION, WRITERS, schema
from polyturn.record.read import CREDIT_ARRAYS, OPEN, play_of, read_plain
from polyturn.record.run import Lock, is_locked, read_info, write_whole
from polyturn.record.table import Place, Rewound, end_of, last_mark, read_lines
from polyturn.types import EMPTY

_TABLES = ("credit", "scores", "turns", "episodes")
"""In the order in which their ends are looked up: an episode is written before its scores."""


@dataclass(frozen=True, slots=True)
class Index:
    """What ``index.json`` says."""

    schema_version: str
    schema_sha256: str
    rows: int = 0
    """Episodes in the shards, each counted once."""
    rows_per_shard: int = 1000
    encodings: tuple[str, ...] = ("parquet",)
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """File name -> ``rows``, ``bytes``, ``sha256``."""
    upto: Mapping[str, Place] = field(default_factory=dict)
    """Table -> the place before which its rows are in the shards (of ``turns``: all that a reader may pass over)."""

    def named(self, kind: str, encoding: str = "parquet") -> list[str]:
        """The names of the shards of one kind (``episodes`` or ``credit``), in order."""
        return sorted(name for name in self.files if name.startswith(kind) and name.endswith(encoding))


def credit_schema() -> Any:
    """The Arrow schema of the shards of credit."""
    import pyarrow

    whole = ("attempt", "update", "iteration", "play", "at", "span", "version", "batch_group")
    text = ("episode", "seat", "policy", "stage", "waiver", "rule_json", "steps_json")
    lists = {name: pyarrow.float64() for name in CREDIT_ARRAYS} | {"clipped": pyarrow.bool_()}
    return pyarrow.schema([*((name, pyarrow.int64()) for name in whole), *((name, pyarrow.string()) for name in text),
                           *((name, pyarrow.list_(kind)) for name, kind in lists.items())])


def read_index(folder: Path | str) -> Index | None:
    """What was closed of a run; None if nothing was, or if another version of the schema wrote it.

    Raises: BadInput for an index that cannot be read.
    """
    path = Path(folder) / "closed" / "index.json"
    if not path.is_file():
        return None
    try:
        found = orjson.loads(path.read_bytes())
        upto = {name: Place(**place) for name, place in found.pop("upto").items()}
        index = Index(**{**found, "encodings": tuple(found["encodings"]), "upto": upto})
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{path} is no index of shards ({type(error).__name__}: {error}); remove the folder "
                       f"{path.parent}, it is made anew from the tables") from None
    return index if index.schema_sha256 == _schema_sha256() else None


def check_shards(folder: Path | str, *, hashes: bool = True) -> None:
    """Raises: BadInput if a shard of a run is gone or is not what the index says; ``hashes=False`` looks at the size
    alone."""
    index = read_index(folder)
    for name, said in ({} if index is None else index.files).items():
        path = Path(folder) / "closed" / name
        size = path.stat().st_size if path.is_file() else -1
        whole = size == said["bytes"]
        if not whole or (hashes and hashlib.sha256(path.read_bytes()).hexdigest() != said["sha256"]):
            raise BadInput(f"{path} {'is gone' if size < 0 else 'was changed or damaged'}; remove the folder "
                           f"{path.parent}, it is made anew from the tables")


def close_shards(
    folder: Path | str, *, rows_per_shard: int = 1000, encodings: Sequence[str] = ("parquet",), least: int = 1
) -> Path:
    """The folder ``closed`` of a run, brought up to what is settled; memory is bounded by one shard.

    With ``"jsonl"`` among ``encodings`` the same rows are written as JSON Lines too. Nothing is done while a run at
    work has fewer than ``least`` episodes to close. Raises: BadInput for a damaged table, an encoding that does not
    exist, and while another process closes.
    """
    unknown = set(encodings) - WRITERS.keys()
    if unknown:
        raise BadInput(f"no encoding {sorted(unknown)}; known: {sorted(WRITERS)}")
    folder = Path(folder)
    read_info(folder)
    closed = folder / "closed"
    closed.mkdir(exist_ok=True)
    lock = Lock(closed)
    try:
        empty = Index(SCHEMA_VERSION, _schema_sha256(), 0, rows_per_shard, tuple(encodings))
        before = read_index(folder)
        same = before is not None and (before.rows_per_shard, before.encodings) == (rows_per_shard, tuple(encodings))
        try:
            _grow(folder, before if before is not None and same else empty, least)
        except Rewound:
            _grow(folder, empty, least)
    finally:
        lock.free()
    return closed


def _schema_sha256() -> str:
    return hashlib.sha256(f"{schema()}\n{credit_schema()}".encode()).hexdigest()


def _grow(folder: Path, index: Index, least: int) -> None:
    """Adds the shards of what is settled behind ``index``, then writes the new index."""
    done = _keys(folder, index)
    _check_late(folder, index, done)
    upto = _settled(folder, index.upto)
    waiting = upto["episodes"].line - index.upto.get("episodes", Place()).line
    if is_locked(folder) and waiting < least:
        return
    if index.upto and all(upto[name] == index.upto[name] for name in ("episodes", "scores", "credit")):
        return
    files = dict(index.files)
    rows = 0
    info = read_info(folder)
    numbered = len(index.named("episodes", index.encodings[0]))
    plays = ({"schema_version": SCHEMA_VERSION, "run_id": info.id, "attempt": key[0], "play": key[1], **plain}
             for key, plain in read_plain(folder, since=index.upto, upto=upto))
    while shard := list(islice(plays, index.rows_per_shard)):
        files |= _write(folder / "closed", f"episodes-{numbered:05d}", shard, index.encodings, schema())
        done |= {(row["attempt"], row["play"]): row["id"] for row in shard}
        numbered, rows = numbered + 1, rows + len(shard)
    numbered = len(index.named("credit", index.encodings[0]))
    lines = _credit(folder, index, upto)
    while shard := list(islice(lines, 10 * index.rows_per_shard)):
        files |= _write(folder / "closed", f"credit-{numbered:05d}", shard, index.encodings, credit_schema())
        numbered += 1
    first = _first_open(folder / "turns.jsonl", index, done, upto["turns"])
    index = replace(index, rows=index.rows + rows, files=files, upto={**upto, "turns": first})
    written = orjson.dumps(asdict(index), option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS)
    write_whole(folder / "closed" / "index.json", written)
    for old in (folder / "closed").glob("*-[0-9]*.*"):
        if old.name not in files:
            old.unlink()


def _settled(folder: Path, since: Mapping[str, Place]) -> dict[str, Place]:
    """Table -> the place before which nothing changes but by a rewind or a later score."""
    find = last_mark if is_locked(folder) else end_of
    found = {}
    for name in _TABLES:
        found[name] = find(folder / f"{name}.jsonl", since=since.get(name, Place()))
    return found


def _write(
    closed: Path, stem: str, rows: Sequence[Mapping[str, Any]], encodings: Sequence[str], of: Any
) -> dict[str, Mapping[str, Any]]:
    """Writes one shard in each encoding; file name -> what the index says of it."""
    files: dict[str, Mapping[str, Any]] = {}
    for encoding in encodings:
        data = WRITERS[encoding](rows, of)
        path = closed / f"{stem}.{encoding}"
        write_whole(path, data)
        files[path.name] = {"rows": len(rows), "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    return files


def _credit(folder: Path, index: Index, upto: Mapping[str, Place]) -> Iterator[dict[str, Any]]:
    since = index.upto.get("credit", Place())
    for line in read_lines(folder / "credit.jsonl", since=since, upto=upto["credit"].offset):
        yield line.row()


def _keys(folder: Path, index: Index) -> dict[tuple[int, int], str]:
    """(attempt, play) -> episode id of all that is closed. Raises: Rewound where no Parquet file says it."""
    from pyarrow import parquet

    found: dict[tuple[int, int], str] = {}
    if index.files and "parquet" not in index.encodings:
        raise Rewound("shards without Parquet are made anew each time")
    for name in index.named("episodes"):
        path = folder / "closed" / name
        if not path.is_file():
            raise Rewound(f"{path} is gone")
        table = parquet.read_table(path, columns=["attempt", "play", "id"])
        for attempt, play, episode in zip(*(column.to_pylist() for column in table.columns), strict=True):
            found[attempt, play] = episode
    return found


def _check_late(folder: Path, index: Index, done: Mapping[tuple[int, int], str]) -> None:
    """Raises: Rewound if an episode that is closed was scored since."""
    if not done:
        return
    ids = set(done.values())
    for line in read_lines(folder / "scores.jsonl", since=index.upto.get("scores", Place())):
        row = line.row()
        if (row["episode"] in ids) if row["play"] is None else ((row["attempt"], row["play"]) in done):
            raise Rewound(f"episode {row['episode']} was scored after it was closed")


def _first_open(path: Path, index: Index, done: Mapping[tuple[int, int], str], last: Place) -> Place:
    """The place before the first row of ``turns`` whose episode is not closed, or ``last`` if that comes first."""
    for line in read_lines(path, since=index.upto.get("turns", Place()), upto=last.offset):
        if play_of(path, line) not in done:
            return Place(line.number - 1, line.offset)
    return last


def tail(
    folder: Path | str, index: Index | None, *, skip_corrupt: bool = False
) -> Iterator[tuple[bool, dict[str, Any]]]:
    """The rows of the closed view that are in no shard, from the tables: (whether the episode has not ended, row).

    Raises: Rewound where the shards of ``index`` hold what no longer counts.
    """
    folder = Path(folder)
    info = read_info(folder)
    done: Mapping[tuple[int, int], str] = {}
    if index is not None:
        done = _keys(folder, index)
        _check_late(folder, index, done)
    head = {"schema_version": SCHEMA_VERSION, "run_id": info.id}
    since: Mapping[str, Place] = EMPTY if index is None else index.upto
    for (attempt, play), plain in read_plain(folder, include_open=True, skip_corrupt=skip_corrupt, since=since):
        if (attempt, play) not in done:
            yield plain["error"] == OPEN, {**head, "attempt": attempt, "play": play, **plain}


def credit_tail(folder: Path | str, index: Index | None, *, skip_corrupt: bool = False) -> Iterator[dict[str, Any]]:
    """The rows of ``credit`` that are in no shard. Raises: Rewound as :func:`tail`."""
    since = Place() if index is None else index.upto["credit"]
    for line in read_lines(Path(folder) / "credit.jsonl", since=since, skip_corrupt=skip_corrupt):
        yield line.row()

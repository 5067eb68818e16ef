"""The closed view: one row an episode, everything of it joined, in Parquet and in JSON Lines under the same names.

Columns are the fields of :class:`polyturn.types.Episode`, nested as its dataclasses are (:mod:`polyturn.record.shape`),
after ``schema_version``, ``run_id``, ``attempt`` and ``play``. Both encodings hold null, empty list and empty text
apart, and read back into equal episodes. A reader passes over columns that it does not know.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from polyturn.errors import BadInput
from polyturn.record.read import read_plain
from polyturn.record.run import read_info, write_whole
from polyturn.record.shape import column_name, columns, shape_of
from polyturn.types import Episode

SCHEMA_VERSION = "1.0"
"""A minor version adds nullable columns only."""
_EPISODE = shape_of(Episode)


def schema() -> Any:
    """The Arrow schema of the closed view."""
    import pyarrow

    own = [("schema_version", pyarrow.string()), ("run_id", pyarrow.string()), ("attempt", pyarrow.int64()),
           ("play", pyarrow.int64())]
    shapes = columns(Episode)
    return pyarrow.schema(own + [(column_name(name, shape), shape.arrow()) for name, shape in shapes.items()])


def close_shards(folder: Path | str, *, rows_per_shard: int = 1000, encodings: Sequence[str] = ("parquet",)) -> Path:
    """The folder ``closed`` of a run, made anew from its tables; memory is bounded by one shard.

    It holds ``episodes-00000.parquet`` (zstd) and so on, with ``"jsonl"`` among ``encodings`` the same rows as JSON
    Lines, and ``index.json``: the number of rows, the hash of the schema, the sha256 and rows of each file. The tables
    stay. Raises: BadInput for a damaged table, an encoding that does not exist.
    """
    unknown = set(encodings) - _WRITERS.keys()
    if unknown:
        raise BadInput(f"no encoding {sorted(unknown)}; known: {sorted(_WRITERS)}")
    folder = Path(folder)
    info = read_info(folder)
    closed = folder / "closed"
    closed.mkdir(exist_ok=True)
    rows = ({"schema_version": SCHEMA_VERSION, "run_id": info.id, "attempt": attempt, "play": play, **plain}
            for (attempt, play), plain in read_plain(folder))
    files: dict[str, Any] = {}
    number = 0
    while shard := list(islice(rows, rows_per_shard)):
        for encoding in encodings:
            path = closed / f"episodes-{number:05d}.{encoding}"
            write_whole(path, _WRITERS[encoding](shard))
            files[path.name] = {"rows": len(shard), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        number += 1
    for old in set(closed.glob("episodes-*")) - {closed / name for name in files}:
        old.unlink()
    index = {
        "schema_version": SCHEMA_VERSION, "schema_sha256": hashlib.sha256(str(schema()).encode()).hexdigest(),
        "rows": sum(file["rows"] for name, file in files.items() if name.endswith(encodings[0])), "files": files,
    }
    write_whole(closed / "index.json", orjson.dumps(index, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS))
    return closed


def read_closed(path: Path | str) -> Iterator[Episode]:
    """The episodes of one Parquet or JSON Lines file of the closed view.

    Raises: BadInput for another kind of file, and for a line that is no row, with its number.
    """
    path = Path(path)
    readers = {".parquet": _parquet_rows, ".jsonl": _json_rows}
    if path.suffix not in readers:
        raise BadInput(f"{path} ends in {path.suffix!r}; expected .parquet or .jsonl")
    for row in readers[path.suffix](path):
        episode: Episode = _EPISODE.decode(row)
        yield episode


def _as_parquet(rows: Sequence[Mapping[str, Any]]) -> bytes:
    import pyarrow
    from pyarrow import parquet

    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema()), sink, compression="zstd")
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _as_lines(rows: Sequence[Mapping[str, Any]]) -> bytes:
    return b"".join(orjson.dumps(row) + b"\n" for row in rows)


_WRITERS = {"parquet": _as_parquet, "jsonl": _as_lines}


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    from pyarrow import parquet

    for batch in parquet.ParquetFile(path).iter_batches(batch_size=200):
        yield from batch.to_pylist()


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise BadInput(f"{path}, line {number}: not a JSON object ({error})") from None

"""The closed view: one row an episode, everything of it joined, in Parquet and in JSON Lines under the same names.

Columns are the fields of :class:`polyturn.types.Episode`, nested as its dataclasses are (:mod:`polyturn.record.shape`),
after ``schema_version``, ``run_id``, ``attempt`` and ``play``. Both encodings hold null, empty list and empty text
apart, and read back into equal episodes. A reader passes over columns that it does not know.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from polyturn.errors import BadInput
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


def as_parquet(rows: Sequence[Mapping[str, Any]], of: Any) -> bytes:
    """The rows as the bytes of a Parquet file (zstd, a checksum on each page) with the Arrow schema ``of``."""
    import pyarrow
    from pyarrow import parquet

    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.Table.from_pylist(rows, schema=of), sink, compression="zstd", write_page_checksum=True)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def as_lines(rows: Sequence[Mapping[str, Any]], of: Any) -> bytes:
    """The rows as JSON Lines; ``of`` is not needed."""
    return b"".join(orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY) + b"\n" for row in rows)


WRITERS = {"parquet": as_parquet, "jsonl": as_lines}
"""Encoding -> (rows, Arrow schema) -> the bytes of a file."""


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

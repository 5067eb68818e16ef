"""Records in files: JSON Lines, JSON documents and lists, Parquet, folders of documents; checked, written whole."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from polyturn.errors import BadInput
from polyturn.record.formats.check import Field, parsed

MOST_BYTES = 2 * 2**30
"""The largest JSON document that is read at once."""


def read_records(path: Path, *, bad: list[str] | None = None) -> Iterator[Field]:
    """The records of a file, or of the ``.json`` files of a folder, each with its place.

    A document that is a list is as many records. ``bad``: lines that are no JSON are added here and passed over;
    without it they are errors. Raises: BadInput with file and line, also for a link that leads out of the folder.
    """
    if path.is_dir():
        files = sorted(path.glob("*.json"))
        if not files:
            raise BadInput(f"{path} holds no .json file")
        for file in files:
            if file.resolve().parent != path.resolve():
                raise BadInput(f"{file} is a link that leads out of the folder")
            if not file.is_file():
                raise BadInput(f"{file} is no file; expected documents in {path}")
            yield from read_records(file, bad=bad)
    elif not path.is_file():
        raise BadInput(f"{path} does not exist")
    elif path.suffix == ".parquet":
        yield from _rows(path)
    elif path.suffix == ".jsonl":
        yield from _lines(path, bad)
    elif path.suffix == ".json":
        yield from _document(path)
    else:
        raise BadInput(f"{path} ends in {path.suffix!r}; expected .jsonl, .json or .parquet")


def _lines(path: Path, bad: list[str] | None) -> Iterator[Field]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            where = f"{path}, line {number}"
            if not line.strip():
                continue
            try:
                yield Field(parsed(line, where), where)
            except BadInput as error:
                if bad is None:
                    raise
                bad.append(str(error))


def _document(path: Path) -> Iterator[Field]:
    if path.stat().st_size > MOST_BYTES:
        raise BadInput(f"{path} has {path.stat().st_size} bytes; a JSON document may have {MOST_BYTES}: make it .jsonl")
    value = parsed(path.read_bytes(), str(path))
    if isinstance(value, list):
        yield from (Field(item, f"{path}, record {number}") for number, item in enumerate(value))
    else:
        yield Field(value, str(path))


def _rows(path: Path) -> Iterator[Field]:
    import pyarrow
    from pyarrow import parquet

    try:
        number = 0
        for batch in parquet.ParquetFile(path).iter_batches(batch_size=200):
            for row in batch.to_pylist():
                yield Field(_as_json(row, f"{path}, row {number}"), f"{path}, row {number}")
                number += 1
    except BadInput:
        raise
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        said = " ".join(str(error).split())
        raise BadInput(f"{path} is no Parquet file that can be read ({said})") from None


def _as_json(row: dict[str, Any], where: str) -> Any:
    """A row as the same line of JSON would be read. Raises: BadInput for bytes, dates and whatever else JSON lacks."""
    for column, value in row.items():
        try:
            if not isinstance(value, str | int | None):
                row[column] = parsed(json.dumps(value), f"{where}.{column}")
        except (TypeError, ValueError) as error:
            raise BadInput(f"{where}.{column}: is no JSON value ({error})") from None
    return row


def write_records(path: Path, records: Iterable[Any], *, one_document: bool = False, of: Any = None) -> int:
    """Writes the records whole or not at all, and returns how many there were.

    By the ending of ``path``: ``.jsonl`` a line each, ``.parquet`` a row each, ``.json`` a list; with ``one_document``
    the one record itself, or, for a path without an ending, a folder of documents. ``of``: the Arrow schema of rows.
    Raises: BadInput where something stands at ``path`` already, or where records do not fit the file.
    """
    if path.exists():
        raise BadInput(f"{path} exists; remove it or choose another name with --out")
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        if of is not None and path.suffix == ".parquet":
            count = _write_table(beside, records, of)
        else:
            count = _written(path, beside, records, one_document)
        beside.rename(path)
    finally:
        if beside.is_file():
            beside.unlink()
        elif beside.is_dir():
            for file in beside.iterdir():
                file.unlink()
            beside.rmdir()
    return count


def _written(path: Path, beside: Path, records: Iterable[Any], one_document: bool) -> int:
    count = 0
    if path.suffix == ".jsonl":
        with beside.open("wb") as file:
            for count, record in enumerate(records, 1):  # noqa: B007
                file.write(as_bytes(record) + b"\n")
        return count
    if one_document and not path.suffix:
        beside.mkdir()
        for count, record in enumerate(records, 1):
            (beside / f"{count - 1:05d}.json").write_bytes(as_bytes(record, pretty=True))
        return count
    held = list(records)
    if path.suffix == ".parquet":
        _write_rows(beside, held, path)
    elif path.suffix != ".json":
        raise BadInput(f"{path} ends in {path.suffix!r}; expected .jsonl, .json or .parquet")
    elif one_document and len(held) != 1:
        raise BadInput(f"{path} would hold {len(held)} documents; name a folder, or choose one with --where")
    else:
        beside.write_bytes(as_bytes(held[0] if one_document else held, pretty=True))
    return len(held)


def as_bytes(record: Any, *, pretty: bool = False) -> bytes:
    """A record as UTF-8 JSON. Raises: BadInput for what JSON cannot hold."""
    option = orjson.OPT_SERIALIZE_NUMPY | (orjson.OPT_INDENT_2 if pretty else 0)
    try:
        return orjson.dumps(record, option=option)
    except TypeError as error:
        raise BadInput(f"a record cannot be written as JSON: {error}") from None


def _write_table(beside: Path, records: Iterable[Any], of: Any) -> int:
    """Rows of a known schema, in groups of 500."""
    import pyarrow
    from pyarrow import parquet

    count = 0
    rows = iter(records)
    with parquet.ParquetWriter(beside, of, compression="zstd", write_page_checksum=True) as out:
        while batch := list(islice(rows, 500)):
            out.write_table(pyarrow.Table.from_pylist(batch, schema=of))
            count += len(batch)
    return count


def _write_rows(beside: Path, rows: list[Any], path: Path) -> None:
    """Rows as Parquet; objects in columns become JSON text, for a table would give each of them the keys of all."""
    import pyarrow
    from pyarrow import parquet

    plain = [{key: as_bytes(value).decode() if key in ("tools", "input") else value for key, value in row.items()}
             for row in rows]
    try:
        parquet.write_table(pyarrow.Table.from_pylist(plain), beside, compression="zstd")
    except pyarrow.ArrowException as error:
        raise BadInput(f"{path}: the rows do not fit one table ({error}); write .jsonl instead") from None

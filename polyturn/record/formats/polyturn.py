"""The closed view itself, one row an episode, as Parquet or JSON Lines: what loses nothing.

A row holds no trace of the run that it came from, so that rows of several runs make a new one. A reader passes over
columns that it does not know, and takes the default of one that is missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from polyturn.errors import BadInput
from polyturn.record.closed import SCHEMA_VERSION
from polyturn.record.closed import schema as closed_schema
from polyturn.record.formats.catalogue import Give
from polyturn.record.formats.chat import Store
from polyturn.record.formats.check import Field
from polyturn.record.shape import shape_of
from polyturn.types import Episode

_EPISODE = shape_of(Episode)
OWN = True
"""Its records are episodes: nothing is ever put aside."""


def schema() -> Any:
    """The Arrow schema of a Parquet file of rows."""
    import pyarrow

    return pyarrow.schema([field for field in closed_schema() if field.name not in ("run_id", "attempt", "play")])


def episodes(record: Field, store: Store) -> list[Episode]:
    """The episode of a row, as it was; the media that it names lie in the folder ``media`` beside the file."""
    row = record.object()
    record["id"].text()
    try:
        episode: Episode = _EPISODE.decode(row)
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
        raise BadInput(f"{record.where}: is no row of an episode ({type(error).__name__}: {error})") from None
    return [episode]


def records(group: Sequence[Episode], give: Give) -> Iterator[Any]:
    """One row an episode."""
    for episode in group:
        plain = orjson.loads(orjson.dumps(_EPISODE.encode(episode), option=orjson.OPT_SERIALIZE_NUMPY))
        yield {"schema_version": SCHEMA_VERSION, **plain}

"""SQL over runs: closed shards and live tables alike, as DuckDB views that can read and nothing else.

:func:`open_tables` makes the views of :data:`VIEWS` over one or more run folders. What is closed is read from its
Parquet shards, the rest from the live tables, with rewinds, checksums and later scores applied, so that the answer is
the same whether a run was closed or not. The connection reads no other file, writes none and takes single statements
that select. Lists count from 1 in SQL; every index (``prompt``, ``reply``, ``message``, ``span``) counts from 0.
"""

from __future__ import annotations

import re
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from polyturn.errors import BadInput, DeadlinePassed
from polyturn.record.closed import schema
from polyturn.record.read import read_metrics
from polyturn.record.run import is_locked, read_info
from polyturn.record.shape import shape_of, written
from polyturn.record.shards import Index, check_shards, close_shards, credit_schema, credit_tail, read_index, tail
from polyturn.record.table import Rewound

_KEY = 'run, attempt, play, id AS episode, "open", iteration, "group", trial, task.id AS task, task.family AS family'
_OF = 'run, attempt, play, episode, "open", iteration, "group", trial, task, family'
_TEXT = "array_to_string([part.text FOR part IN {0}.parts IF part.kind = '{1}'], '')"
VIEWS = {
    "runs": ("one row a run: recipe, settings, seeds, versions, when it began",
             "SELECT * FROM _runs"),
    "episodes": ("one row an episode that ended: the closed view, with every trajectory, event and score inside",
                 'SELECT * EXCLUDE ("open") FROM _plays WHERE NOT "open"'),
    "trajectories": ("one row a seat and policy of an episode; open = the episode has not ended",
                     f"SELECT {_KEY}, unnest(trajectories, max_depth := 2) FROM _plays"),
    "turns": ("one row a call of a policy, with the text of its reply and the number of its tokens",
              f"SELECT {_OF}, turn.*, {_TEXT.format('messages[turn.reply + 1]', 'text')} AS text, "
              "coalesce(list_sum([len(spans[s + 1].ids) FOR s IN turn.spans]), 0)::BIGINT AS tokens "
              f"FROM (SELECT {_OF}, messages, spans, unnest(turns) AS turn FROM trajectories)"),
    "messages": ("one row a message of a seat's log, whoever wrote it",
                 f"SELECT {_OF}, seat, policy, index - 1 AS message, {_TEXT.format('row', 'text')} AS text, "
                 f"{_TEXT.format('row', 'reasoning')} AS reasoning, row.* FROM (SELECT {_OF}, seat, policy, "
                 "unnest(messages) AS row, generate_subscripts(messages, 1) AS index FROM trajectories)"),
    "calls": ("one row a tool call",
              f"SELECT {_OF}, seat, policy, message, call.* FROM "
              f"(SELECT {_OF}, seat, policy, message, unnest(calls) AS call FROM messages)"),
    "spans": ("one row a span of tokens",
              f"SELECT {_OF}, seat, policy, index - 1 AS span, row.* FROM (SELECT {_OF}, seat, policy, "
              "unnest(spans) AS row, generate_subscripts(spans, 1) AS index FROM trajectories)"),
    "tokens": ("one row a token: its id, whether it was sampled, its log-probability",
               f"SELECT {_OF}, seat, policy, span, unnest(range(len(ids))) AS position, unnest(ids) AS id, sampled, "
               "unnest(logprobs) AS logprob, version FROM spans"),
    "events": ("one row an event: rewards, invalid moves, tools, chance",
               f"SELECT {_OF}, event.* FROM (SELECT {_KEY}, unnest(events) AS event FROM _plays)"),
    "rewards": ("one row a reward that was paid in real play",
                f"SELECT {_OF}, \"at\", seat, content_json::JSON->>'channel' AS channel, "
                "(content_json::JSON->>'value')::DOUBLE AS value FROM events "
                "WHERE kind = 'reward' AND branch = ''"),
    "scores": ("one row a verifier, seat and episode; value NULL = abstained",
               f"SELECT {_OF}, verifier, seat.key AS seat, unnest(seat.value) FROM (SELECT {_OF}, given.key AS "
               f"verifier, unnest(map_entries(given.value)) AS seat FROM (SELECT {_KEY}, "
               "unnest(map_entries(scores)) AS given FROM _plays))"),
    "findings": ("one row a finding of a verifier",
                 f"SELECT {_OF}, verifier, seat, finding.* FROM "
                 f"(SELECT {_OF}, verifier, seat, unnest(findings) AS finding FROM scores)"),
    "credit": ("one row a span of an update, with lists as long as the span",
               "SELECT * FROM _credit"),
    "weights": ("one row a token of an update: advantage, weight, log-probabilities, entropy, clipped",
                "SELECT run, attempt, play, episode, update, iteration, stage, seat, policy, \"at\", span, "
                "unnest(range(len(weight))) AS position, unnest(advantage) AS advantage, unnest(weight) AS weight, "
                "unnest(old) AS old, unnest(behavior) AS behavior, unnest(reference) AS reference, "
                "unnest(entropy) AS entropy, unnest(clipped) AS clipped FROM _credit"),
    "metrics": ("one row a number of an iteration",
                "SELECT * FROM _metrics"),
}
"""View -> (what a row is, its SELECT)."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a statement gave: ``Answer(("n",), ("BIGINT",), [(3,)], False)``."""

    columns: tuple[str, ...]
    types: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    cut: bool
    """True if there are more rows than were asked for."""

    def as_dicts(self) -> list[dict[str, Any]]:
        """One mapping a row."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


class Tables:
    """The views over some runs, until closed. Not for several threads at once; make one each."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def ask(self, sql: str, values: Sequence[Any] = (), *, most: int | None = None,
            timeout_s: float | None = None) -> Answer:
        """What one SELECT gives (EXPLAIN, DESCRIBE and SHOW work too); ``values`` stand for its question marks.

        Raises: BadInput for anything that does not select, and for what DuckDB cannot answer, with its words;
        DeadlinePassed after ``timeout_s``.
        """
        import duckdb

        _check_selects(sql)
        late = threading.Event()

        def stop() -> None:
            late.set()
            self._connection.interrupt()

        timer = threading.Timer(timeout_s or 0.0, stop)
        if timeout_s is not None:
            timer.start()
        try:
            found = self._connection.execute(sql, list(values))
            rows = found.fetchall() if most is None else found.fetchmany(most + 1)
        except duckdb.InterruptException:
            if late.is_set():
                raise DeadlinePassed(f"the query was stopped after its {timeout_s} s: {sql[:200]}") from None
            raise
        except duckdb.Error as error:
            raise BadInput(f"{str(error).strip()}") from None
        finally:
            timer.cancel()
        columns, types = tuple(d[0] for d in found.description), tuple(str(d[1]) for d in found.description)
        return Answer(columns, types, rows[:most], most is not None and len(rows) > most)

    def close(self) -> None:
        """Frees what it holds."""
        self._connection.close()


@contextmanager
def open_tables(
    folders: Iterable[Path | str], *, hashes: bool = True, skip_corrupt: bool = False, close_at: int | None = 1000,
    asked: str | None = None,
) -> Iterator[Tables]:
    """The tables of some runs, for a ``with`` statement.

    Settled episodes become shards on the way where at least ``close_at`` of them wait or nobody writes the run (None:
    never). ``hashes``: check the shards' sha256, not their size alone. ``skip_corrupt`` reads the tables alone and
    passes over damaged lines. ``asked``: the one statement that will be asked; credit that it does not name is not
    loaded. Raises: BadInput for a folder that is no run, for two runs of one name, a damaged table or shard.
    """
    import duckdb

    runs = [Path(folder) for folder in folders]
    names = [folder.resolve().name for folder in runs]
    if len(set(names)) < len(names):
        raise BadInput(f"two of the runs have the same name, which tells them apart: {', '.join(sorted(names))}")
    connection = duckdb.connect()
    try:
        connection.execute("SET enable_progress_bar = false")
        connection.execute(f"SET temp_directory = {_quoted(tempfile.gettempdir() + '/polyturn-query')}")
        for name, make in (("_plays", _plays), ("_credit", _credit)):
            wanted = name != "_credit" or asked is None or re.search(r"\b(credit|weights)\b", asked, re.I) is not None
            parts = [make(connection, f"{name}_{i}", run, (hashes, skip_corrupt, close_at)) if wanted else []
                     for i, run in enumerate(runs)]
            _union(connection, name, list(zip(names, parts, strict=True)))
        _small(connection, runs, names, skip_corrupt)
        for name, (_, select) in VIEWS.items():
            connection.execute(f"CREATE VIEW {name} AS {select}")
        allowed = ", ".join(_quoted(f"{(run / 'closed').resolve()}/") for run in runs)
        connection.execute(f"SET allowed_directories = [{allowed}]")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        yield Tables(connection)
    finally:
        connection.close()


def described(tables: Tables) -> dict[str, dict[str, str]]:
    """View -> column -> its type in SQL."""
    found: dict[str, dict[str, str]] = {}
    for name in VIEWS:
        answer = tables.ask(f"DESCRIBE SELECT * FROM {name}")
        found[name] = {row[0]: row[1] for row in answer.rows}
    return found


def _check_selects(sql: str) -> None:
    import duckdb

    try:
        statements = duckdb.extract_statements(sql)
    except duckdb.Error as error:
        raise BadInput(str(error).strip()) from None
    kinds = [statement.type for statement in statements]
    good = {duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN}
    if len(kinds) != 1 or kinds[0] not in good:
        said = ", ".join(str(kind).split(".")[-1] for kind in kinds) or "nothing"
        raise BadInput(f"expected one SELECT, got {said}; a run is read and never changed here (write PIVOT as "
                       "SELECT * FROM (PIVOT ... ON ... IN (...)))")


def _index(run: Path, how: tuple[bool, bool, int | None]) -> Index | None:
    """What of a run is read from shards, after closing what can be closed."""
    hashes, skip_corrupt, close_at = how
    if skip_corrupt:
        return None
    read_info(run)
    check_shards(run, hashes=hashes)
    if close_at is not None and not is_locked(run / "closed"):
        with suppress(PermissionError):
            close_shards(run, least=close_at)
    return read_index(run)


def _plays(connection: Any, name: str, run: Path, how: tuple[bool, bool, int | None]) -> list[str]:
    """The SELECTs whose union is the episodes of one run."""
    import pyarrow

    index = _index(run, how)
    of = schema().append(pyarrow.field("open", pyarrow.bool_()))
    try:
        table = _arrow(({**row, "open": is_open} for is_open, row in tail(run, index, skip_corrupt=how[1])), of)
    except Rewound:
        index = None
        table = _arrow(({**row, "open": is_open} for is_open, row in tail(run, None, skip_corrupt=how[1])), of)
    connection.register(name, table)
    closed = _parquet(run, index, "episodes")
    return [f"SELECT *, false AS open FROM {closed}"] * bool(closed) + [f"SELECT * FROM {name}"]


def _credit(connection: Any, name: str, run: Path, how: tuple[bool, bool, int | None]) -> list[str]:
    """The SELECTs whose union is the credit of one run."""
    index = None if how[1] else read_index(run)
    try:
        table = _arrow(credit_tail(run, index, skip_corrupt=how[1]), credit_schema())
    except Rewound:
        index = None
        table = _arrow(credit_tail(run, None, skip_corrupt=how[1]), credit_schema())
    connection.register(name, table)
    closed = _parquet(run, index, "credit")
    return [f"SELECT * FROM {closed}"] * bool(closed) + [f"SELECT * FROM {name}"]


def _parquet(run: Path, index: Index | None, kind: str) -> str:
    """The call that reads the shards of one kind; empty without shards."""
    names = [] if index is None else index.named(kind)
    files = ", ".join(_quoted(str((run / "closed" / name).resolve())) for name in names)
    return f"read_parquet([{files}], union_by_name = true)" if names else ""


def _union(connection: Any, name: str, parts: Sequence[tuple[str, Sequence[str]]]) -> None:
    """One view over the parts of all runs, each row with the name of its run."""
    selects = [f"SELECT {_quoted(run)} AS run, * FROM ({part})" for run, found in parts for part in found]
    if not selects:
        connection.register(f"{name}_none", credit_schema().empty_table())
        selects = [f"SELECT NULL::VARCHAR AS run, * FROM {name}_none"]
    connection.execute(f"CREATE VIEW {name} AS {' UNION ALL BY NAME '.join(selects)}")


def _small(connection: Any, runs: Sequence[Path], names: Sequence[str], skip_corrupt: bool) -> None:
    """The views over what is small: metrics and what the runs are."""
    import pyarrow

    text, whole, real = pyarrow.string(), pyarrow.int64(), pyarrow.float64()
    metrics = pyarrow.schema([("run", text), ("attempt", whole), ("stage", text), ("iteration", whole), ("time", real),
                              ("name", text), ("value", real)])
    rows = ({**row, "run": run, "name": key, "value": value} for run, folder in zip(names, runs, strict=True)
            for row in read_metrics(folder, skip_corrupt=skip_corrupt) for key, value in row["values"].items())
    connection.register("_metrics", _arrow(rows, metrics))
    about = pyarrow.schema([("run", text), ("id", text), ("recipe", text), ("status", text), ("started", real),
                            ("attempts", whole), ("settings_json", text), ("seeds_json", text), ("code_sha256", text)])
    connection.register("_runs", _arrow(map(_about, names, runs), about))


def _about(name: str, folder: Path) -> dict[str, Any]:
    info = read_info(folder)
    status = info.status if info.status != "running" or is_locked(folder) else "killed"
    open_text = shape_of(Mapping[str, Any])
    return {"run": name, "id": info.id, "recipe": info.recipe, "status": status, "started": info.started,
            "attempts": len(info.attempts), "settings_json": written(open_text, info.settings, "settings"),
            "seeds_json": written(open_text, info.seeds, "seeds"), "code_sha256": info.code_sha256}


def _arrow(rows: Iterable[Mapping[str, Any]], of: Any) -> Any:
    """An Arrow table of the rows, made in batches."""
    import pyarrow

    rows = iter(rows)
    names = set(of.names)
    batches = []
    while batch := [{key: row[key] for key in row if key in names} for row in islice(rows, 500)]:
        batches.append(pyarrow.RecordBatch.from_pylist(batch, schema=of))
    return pyarrow.Table.from_batches(batches, schema=of)


def _quoted(text: str) -> str:
    """An SQL literal."""
    return "'" + text.replace("'", "''") + "'"

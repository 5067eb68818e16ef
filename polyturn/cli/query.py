"""``polyturn query RUN [RUN ...] "SELECT ..."``: the record of runs asked in SQL."""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polyturn.cli.parse import Parser, finite, not_negative, positive, print_json, table_text
from polyturn.errors import BadInput

if TYPE_CHECKING:
    from polyturn.record.query import Answer

EXAMPLES = (
    "polyturn query runs/a",
    'polyturn query runs/a "select family, avg(value), count(*) from scores group by all"',
    'polyturn query runs/a runs/b "select run, name, avg(value) from metrics group by all" --json',
    'polyturn query runs/a "select * from turns where text ilike \'%sorry%\'" --out sorry.jsonl',
)
MOST_SHOWN, WIDEST = 100, 60


def command(name: str, arguments: list[str]) -> int:
    """0 when the statement was answered."""
    parser = Parser(name, "Ask the record of runs in SQL (DuckDB), while they go on or afterwards. Without SQL: the "
                    "tables and their columns. Quote the columns \"at\", \"group\" and \"to\".", EXAMPLES)
    parser.add_argument("words", nargs="+", metavar="RUN | SQL", help="run folders, then one SELECT")
    parser.add_argument("--json", action="store_true", help="one object: columns, rows, cut")
    parser.add_argument("--out", metavar="FILE", help="write the rows to a .csv or .jsonl file instead")
    parser.add_argument("--limit", type=positive, metavar="N", help=f"at most N rows (printed: {MOST_SHOWN})")
    parser.add_argument("--timeout", type=not_negative, metavar="SECONDS", help="stop the query after so long")
    parser.add_argument("--skip-bad", action="store_true", help="pass over damaged lines of the tables")
    asked = parser.all_known(arguments)
    runs, sql = split(asked.words)
    if asked.out is not None and Path(asked.out).suffix not in {".csv", ".jsonl"}:
        raise BadInput(f"--out {asked.out}: expected a name that ends in .csv or .jsonl")
    from polyturn.record.query import described, open_tables

    with open_tables(runs, asked=sql or "", skip_corrupt=asked.skip_bad) as tables:
        if sql is None:
            return show_tables(described(tables), asked.json)
        printed = None if asked.json or asked.out else MOST_SHOWN
        answer = tables.ask(sql, most=asked.limit or printed, timeout_s=asked.timeout)
    if asked.out is not None:
        write(answer, Path(asked.out))
        print(f"{len(answer.rows)} rows in {asked.out}", file=sys.stderr)
    elif asked.json:
        print_json({"columns": list(answer.columns), "rows": plain(answer.rows), "cut": answer.cut})
    else:
        print(table_text([list(answer.columns), *([cell(value) for value in row] for row in answer.rows)]))
        if answer.cut:
            print(f"... and more; --limit, --json or --out FILE give {MOST_SHOWN} and beyond", file=sys.stderr)
    return 0


def split(words: list[str]) -> tuple[list[str], str | None]:
    """The run folders, and the SQL if there is any: the last word, unless a folder has its name."""
    if len(words) > 1 and not Path(words[-1]).is_dir():
        return words[:-1], words[-1]
    return words, None


def show_tables(found: Mapping[str, Mapping[str, str]], as_json: bool) -> int:
    """Prints each table with what a row is, and its columns with their types."""
    from polyturn.record.query import VIEWS

    if as_json:
        print_json({"tables": {name: {"about": VIEWS[name][0], "columns": found[name]} for name in found}})
        return 0
    for name, types in found.items():
        print(f"{name}: {VIEWS[name][0]}")
        print(f"  {', '.join(f'{column} {short(kind)}' for column, kind in types.items())}\n")
    return 0


def short(kind: str) -> str:
    """A type of SQL without what a struct or a map holds.

    >>> short("STRUCT(a BIGINT, b VARCHAR)[]"), short("DOUBLE[]")
    ('struct[]', 'double[]')
    """
    head = kind.split("(", 1)[0].lower()
    return head if "(" not in kind else head + "[]" * kind[kind.rindex(")") + 1:].count("[]")


def plain(value: Any) -> Any:
    """A value of DuckDB as JSON: maps as objects, decimals as numbers, times as text.

    >>> plain([(1, Decimal("0.5"), {"a": (2,)})])
    [[1, 0.5, {'a': [2]}]]
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Decimal):
        return float(value)
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def cell(value: Any) -> str:
    """A value in a table for the eye: one line, cut where it is long."""
    if value is None:
        return "-"
    text = f"{value:.6g}" if isinstance(value, float) else str(plain(value)).replace("\n", "⏎")
    return text if len(text) <= WIDEST else text[: WIDEST - 1] + "…"


def write(answer: Answer, path: Path) -> None:
    """Writes all rows to a ``.csv`` file (lists and objects as JSON) or a ``.jsonl`` file, whole or not at all."""
    import io
    import json

    from polyturn.record.run import write_whole

    rows = [plain(list(row)) for row in answer.rows]
    if path.suffix == ".jsonl":
        lines = (json.dumps(finite(dict(zip(answer.columns, row, strict=True))), ensure_ascii=False) for row in rows)
        write_whole(path, "".join(f"{line}\n" for line in lines).encode())
        return
    text = io.StringIO()
    out = csv.writer(text)
    out.writerow(answer.columns)
    nested = (dict, list)
    out.writerows([json.dumps(v, ensure_ascii=False) if isinstance(v, nested) else v for v in row] for row in rows)
    write_whole(path, text.getvalue().encode())

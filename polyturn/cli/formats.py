"""``polyturn import FILE --from FORMAT`` and ``polyturn export RUN --to FORMAT``."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from polyturn.cli.parse import Parser, print_json

IMPORTS = (
    "polyturn import results.json --from tau-bench --run runs/airline",
    "polyturn import chats.jsonl --from chatml --skip-bad",
)
EXPORTS = (
    "polyturn export runs/a --to openai --out train.jsonl",
    'polyturn export runs/a --to chatml --where "task.family = \'kuhn_poker\' and iteration > 50"',
)


def command(name: str, arguments: list[str]) -> int:
    """0 when everything was imported or exported; 1 where records were passed over on request."""
    return taken(arguments) if name == "import" else given(arguments)


def listed() -> str:
    """The formats, one a line, for ``--help``."""
    from polyturn.record.formats.catalogue import FORMATS

    return "formats:\n" + "\n".join(f"  {row['name']:<18}{row['about']}" for row in FORMATS)


def taken(arguments: list[str]) -> int:
    """``import``: a file of others becomes a run, which everything here reads: query, eval, audit, export."""
    parser = Parser("import", "Make a run of a file of another format, whole or not at all.", IMPORTS)
    parser.epilog = f"{parser.epilog}\n\n{listed()}"
    parser.add_argument("file", metavar="FILE", help="a file, or a folder of documents")
    parser.add_argument("--from", dest="format", required=True, metavar="FORMAT", help="what it is written in")
    parser.add_argument("--run", metavar="FOLDER", help="the new run folder (runs/import-<name>-<time>)")
    parser.add_argument("--skip-bad", action="store_true", help="pass over records that cannot be read, and say which")
    parser.add_argument("--json", action="store_true", help="one object: run, records, episodes, bad")
    asked = parser.all_known(arguments)
    from polyturn.record.formats.exchange import import_file

    stamp = time.strftime("%Y%m%d-%H%M%S")
    folder = Path(asked.run or f"runs/import-{Path(asked.file).stem}-{stamp}")
    moved = import_file(asked.file, asked.format, folder, skip_bad=asked.skip_bad)
    for line in moved.bad:
        print(f"polyturn: passed over: {line}", file=sys.stderr)
    if asked.json:
        print_json({"run": str(moved.path), "records": moved.records, "episodes": moved.episodes, "bad": moved.bad})
    else:
        print(f"{moved.path}: {moved.episodes} episodes from {moved.records} records"
              + (f"; {len(moved.bad)} passed over" if moved.bad else ""))
    return 1 if moved.bad else 0


def given(arguments: list[str]) -> int:
    """``export``: the episodes of a run as others read them."""
    parser = Parser("export", "Write the episodes of a run in another format; docs/formats.md says what each of them "
                    "loses.", EXPORTS)
    parser.epilog = f"{parser.epilog}\n\n{listed()}"
    parser.add_argument("run", metavar="RUN", help="a run folder")
    parser.add_argument("--to", dest="format", required=True, metavar="FORMAT", help="what to write")
    parser.add_argument("--out", metavar="FILE", help="the file (here, named after run and format)")
    parser.add_argument("--where", metavar="SQL", help="a condition on the table episodes (polyturn query RUN)")
    parser.add_argument("--seat", action="append", default=[], metavar="SEAT",
                        help="whose dialogues to write (the seats that learn, or all); may be given more than once")
    parser.add_argument("--bare", action="store_true", help="without the whole episode, which inspect logs and ATIF "
                        "documents carry so that nothing is lost")
    parser.add_argument("--json", action="store_true", help="one object: file, records, episodes")
    asked = parser.all_known(arguments)
    from polyturn.record.formats.exchange import export_run

    moved = export_run(asked.run, asked.format, asked.out, where=asked.where, seats=asked.seat,
                       bare=asked.bare)
    if asked.json:
        print_json({"file": str(moved.path), "records": moved.records, "episodes": moved.episodes})
    else:
        print(f"{moved.path}: {moved.records} records from {moved.episodes} episodes")
    return 0

"""``polyturn runs``: which run folders there are, how large they are, and removing one."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from polyturn.cli.parse import Parser, print_json, table_text
from polyturn.errors import BadInput

EXAMPLES = ("polyturn runs list", "polyturn runs size --json", "polyturn runs remove runs/quickstart-20260101-120000")


def command(name: str, arguments: list[str]) -> int:
    """Lists, measures or removes run folders."""
    parser = Parser(name, "List run folders, measure them, or remove one.", EXAMPLES)
    parser.add_argument("action", choices=("list", "size", "remove"))
    parser.add_argument("run", nargs="?", help="the folder to remove")
    parser.add_argument("--runs", default="runs", metavar="FOLDER", help="where run folders are (runs)")
    parser.add_argument("--json", action="store_true", help="one object with a list under 'runs'")
    asked = parser.all_known(arguments)
    if asked.action == "remove":
        return remove(asked.run, asked.json)
    if asked.run is not None:
        raise BadInput(f"runs {asked.action} takes no folder; --runs {asked.run} looks there")
    rows = [described(folder, asked.action == "size") for folder in found(Path(asked.runs))]
    if asked.json:
        print_json({"runs": rows})
        return 0
    show(rows, asked.runs)
    return 0


def found(top: Path) -> list[Path]:
    """The run folders in a folder, oldest first."""
    from polyturn.record.run import read_info

    folders = [path.parent for path in top.glob("*/run.json")]
    return sorted(folders, key=lambda folder: (read_info(folder).started, folder.name))


def described(folder: Path, with_bytes: bool) -> dict[str, Any]:
    """One run as JSON values: run, recipe, status, started (seconds since 1970), attempts, bytes."""
    from polyturn.record.run import is_locked, read_info

    info = read_info(folder)
    status = info.status if info.status != "running" or is_locked(folder) else "killed"
    row: dict[str, Any] = {"run": str(folder), "recipe": info.recipe, "status": status, "started": info.started,
                           "attempts": len(info.attempts)}
    return {**row, "bytes": size(folder)} if with_bytes else row


def size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def show(rows: list[dict[str, Any]], top: str) -> None:
    """Prints the runs as a table."""
    if not rows:
        print(f"no runs in {top}")
        return
    keys = [key for key in rows[0] if key != "started"]
    lines = [["begun", *keys]]
    for row in rows:
        begun = time.strftime("%Y-%m-%d %H:%M", time.localtime(row["started"]))
        cells = [f"{row[key] / 2**20:.1f} MiB" if key == "bytes" else str(row[key]) for key in keys]
        lines.append([begun, *cells])
    print(table_text(lines))


def remove(run: str | None, as_json: bool) -> int:
    """Deletes one run folder. Raises: BadInput for a folder that is no run, or one that is being written."""
    from polyturn.record.run import is_locked, read_info

    if run is None:
        raise BadInput("runs remove needs the folder to remove")
    folder = Path(run)
    read_info(folder)
    if is_locked(folder):
        raise BadInput(f"{folder} is being written by a run; stop that first")
    count = size(folder)
    shutil.rmtree(folder)
    if as_json:
        print_json({"removed": run, "bytes": count})
    else:
        print(f"removed {run}: {count / 2**20:.1f} MiB")
    return 0

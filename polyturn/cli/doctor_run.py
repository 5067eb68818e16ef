"""``polyturn doctor --run RUN``: who waits for whom in a run, live or dead, since when and until when."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polyturn.cli.parse import print_json, table_text

if TYPE_CHECKING:
    from polyturn.record.waits import Standing, Wait

SHOWN = 30
"""Waits that the table shows; ``--json`` has all that the run told."""
OVER = ("finished", "stopped")
"""How a run ends that nobody needs to look after."""


def doctor_run(folder: Path, *, as_json: bool) -> int:
    """0, or 1 where something stands in the way: a deadline that passed, a process that does not turn, a run that was
    killed or failed."""
    from polyturn.record.waits import standing

    found = standing(folder)
    process = looked_at(found)
    faults = faults_of(found, process)
    if as_json:
        print_json({"run": str(folder), **as_object(found), "process": process, "findings": faults})
    else:
        print(as_text(folder, found, process, faults))
    return 1 if faults else 0


def looked_at(found: Standing) -> dict[str, Any]:
    """What the system says of the process of a run at work on this machine: its state, and how much of a core it uses;
    empty where it cannot be looked at."""
    import psutil

    if found.status != "running" or found.pid is None or found.host != platform.node():
        return {}
    try:
        process = psutil.Process(found.pid)
        return {"state": process.status(), "cores": process.cpu_percent(interval=0.3) / 100}
    except psutil.Error:
        return {}


def faults_of(found: Standing, process: Mapping[str, Any]) -> list[str]:
    """What stands in the way, a sentence each."""
    if found.status != "running":
        return [] if found.status in OVER else [
            f"the run is over ({found.status}); what follows is how it stood when it was last heard of"]
    said = []
    if found.told is None:
        said.append("the run has told nothing yet: it began less than a second ago, or its disk takes no file")
    elif not found.turns:
        state = f" ({process['state']})" if process else ""
        said.append(f"process {found.pid}{state} has told nothing for {found.at - found.told:.0f} s: it is stopped, or "
                    "one call keeps the whole interpreter")
    late = [wait for wait in found.waits if wait.left is not None and wait.left < -1]
    if late and found.turns:
        said.append(f"{len(late)} wait{'s' if len(late) > 1 else ''} passed their deadline, so the loop of the program "
                    "does not turn: a call that should be async keeps it; MainThread below says which")
    return said


def as_object(found: Standing) -> dict[str, Any]:
    """The standing as JSON values; times in seconds, ``left`` negative where a deadline passed."""
    return {
        "status": found.status, "pid": found.pid, "host": found.host, "count": found.count,
        "told_seconds_ago": None if found.told is None else found.at - found.told,
        "waits": [{"who": w.who, "whom": w.whom, "what": w.what, "seconds": w.seconds, "since": _begun(found, w),
                   "deadline_s": w.deadline_s, "left": w.left} for w in found.waits],
        "threads": {name: list(places) for name, places in found.threads.items()},
        "written_seconds_ago": {name: found.at - at for name, at in found.written.items()},
    }


def as_text(folder: Path, found: Standing, process: Mapping[str, Any], faults: list[str]) -> str:
    """The standing for a reader."""
    uses = f", uses {process['cores']:.1f} cores" if process else ""
    lines = [f"{folder}: {found.status}, process {found.pid} on {found.host}{uses}"]
    if found.written:
        ago = ", ".join(f"{name} {_long(found.at - at)} ago" for name, at in found.written.items())
        lines.append(f"last written: {ago}")
    lines += ["", *(f"! {text}" for text in faults)] if faults else []
    lines += ["", _waits(found)]
    if found.threads:
        lines += ["", *(f"{name}: {' < '.join(places)}" for name, places in found.threads.items())]
    return "\n".join(lines)


def _waits(found: Standing) -> str:
    if not found.waits:
        return "nobody waits for anybody" if found.told is not None else "it did not tell who waits for whom"
    rows = [["who", "waits for", "what", "since", "deadline"]]
    for wait in found.waits[:SHOWN]:
        rows.append([wait.who, wait.whom, wait.what,
                     f"{time.strftime('%H:%M:%S', time.localtime(_begun(found, wait)))}, {_long(wait.seconds)}",
                     _deadline(wait)])
    more = found.count - len(rows) + 1
    return table_text(rows) + (f"\nand {more} more, all of them shorter" if more > 0 else "")


def _begun(found: Standing, wait: Wait) -> float:
    looked = found.at if found.status == "running" or found.told is None else found.told
    return looked - wait.seconds


def _deadline(wait: Wait) -> str:
    if wait.left is None:
        return "none"
    return f"in {_long(wait.left)}" if wait.left >= 0 else f"passed {_long(-wait.left)} ago"


def _long(seconds: float) -> str:
    from polyturn.progress import duration

    return f"{seconds:.1f} s" if seconds < 10 else duration(seconds)

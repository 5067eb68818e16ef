"""``polyturn ctl RUN COMMAND``: what a run at work is asked for, and what it did."""

from __future__ import annotations

import os
import time
from pathlib import Path

from polyturn.cli.parse import Parser, not_negative, print_json, table_text
from polyturn.errors import BadInput, DeadlinePassed

EXAMPLES = (
    "polyturn ctl runs/quickstart-20260101-120000 pause", "polyturn ctl runs/quickstart-20260101-120000 set tokens=64",
    "polyturn ctl runs/quickstart-20260101-120000 stop --wait 600", "polyturn ctl runs/quickstart-20260101-120000",
)


def command(name: str, arguments: list[str]) -> int:
    """Asks, or lists what was asked for."""
    from polyturn.record.control import COMMANDS, SETTINGS, ask, orders

    parser = Parser(name, "Ask a run at work for something; it obeys between two iterations. "
                    + "; ".join(f"{key}: {text}" for key, text in COMMANDS.items()) + ". Without a command: what was "
                    "asked for so far.", EXAMPLES)
    parser.add_argument("run", metavar="RUN", help="a run folder")
    parser.add_argument("command", nargs="?", help=", ".join(COMMANDS))
    parser.add_argument("settings", nargs="*", metavar="NAME=VALUE",
                        help=f"for set: {', '.join(SETTINGS)}; none = as the recipe says")
    parser.add_argument("--wait", type=not_negative, default=0.0, metavar="SECONDS", help="wait until it has obeyed")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    asked = parser.all_known(arguments)
    folder = Path(asked.run)
    if asked.command is None:
        return _list(folder, asked.json)
    order = ask(folder, asked.command, dict(map(_pair, asked.settings)), by=f"ctl, process {os.getpid()}")
    until = time.monotonic() + asked.wait
    while asked.wait and order.said is None:
        if time.monotonic() >= until:
            raise DeadlinePassed(f"the run has not obeyed {asked.command} within {asked.wait:g} s: it obeys between "
                                 "two iterations, a stop in a rating after the next episode; the order stands")
        time.sleep(0.1)
        order = orders(folder)[order.id - 1]
    if asked.json:
        print_json({"id": order.id, "command": order.command, "said": order.said})
    else:
        print(order.said or f"asked for {asked.command}: obeyed before the next iteration"
              + (", in a rating after the next episode" if asked.command == "stop" else ""))
    return 0


def _pair(text: str) -> tuple[str, float | None]:
    name, _, value = text.partition("=")
    if value.lower() in {"none", "null"}:
        return name, None
    try:
        return name, float(value)
    except ValueError:
        raise BadInput(f"{text!r} sets nothing; expected NAME=NUMBER, as tokens=64, or NAME=none") from None


def _list(folder: Path, as_json: bool) -> int:
    from polyturn.record.control import orders
    from polyturn.record.run import read_info

    read_info(folder)
    found = orders(folder)
    if as_json:
        print_json({"orders": [{"id": o.id, "command": o.command, "settings": dict(o.settings), "asked": o.asked,
                                "by": o.by, "said": o.said} for o in found]})
        return 0
    if not found:
        print(f"nothing was asked of {folder}")
        return 0
    rows = [["asked", "command", "by", "done"]]
    for order in found:
        told = " ".join([order.command, *(f"{key}={value}" for key, value in order.settings.items())])
        rows.append([time.strftime("%H:%M:%S", time.localtime(order.asked)), told, order.by, order.said or "not yet"])
    print(table_text(rows))
    return 0

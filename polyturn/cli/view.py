"""``polyturn view RUN...``: the dashboard of runs, while they go on and after."""

from __future__ import annotations

import os
import secrets
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from polyturn.cache import cache_folder
from polyturn.cli.parse import Parser, print_json
from polyturn.errors import BadInput

if TYPE_CHECKING:
    from polyturn.dashboard.watch import Watch

EXAMPLES = ("polyturn view", "polyturn view runs/quickstart-20260101-120000", "polyturn view runs study --port 8080")
PORT = 8765
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def command(name: str, arguments: list[str]) -> int:
    """Serves until it is interrupted."""
    parser = Parser(name, "Show runs in the browser: curves, episodes, tokens and the arithmetic of their weights, "
                    "live while a run goes on. Nothing is fetched from a network.", EXAMPLES)
    parser.add_argument("runs", nargs="*", metavar="RUN", help="run folders, or folders of them (runs)")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (127.0.0.1: this machine only)")
    parser.add_argument("--port", type=int, default=PORT, help=f"the port ({PORT}, or the next free one); 0 = any")
    parser.add_argument("--name", action="append", default=[], metavar="HOST:PORT",
                        help="a further name under which browsers reach it, as behind a tunnel")
    parser.add_argument("--json", action="store_true", help="print the address as one JSON object")
    asked = parser.all_known(arguments)
    from polyturn.dashboard.watch import Watch

    folders = tuple(Path(run) for run in asked.runs or ["runs"])
    missing = [str(folder) for folder in folders if not folder.exists()]
    if missing:
        raise BadInput(f"{', '.join(missing)} does not exist; expected run folders, or folders of them")
    watch = Watch(folders)
    watch.look()
    listening = listen(asked.host, asked.port)
    port = listening.getsockname()[1]
    token = kept_token(cache_folder() / "view-token")
    address = f"http://{_shown(asked.host)}:{port}/enter?token={quote(token)}"
    if asked.json:
        print_json({"address": address, "runs": sorted(watch.runs)})
    else:
        print(f"{len(watch.runs)} run{'s' if len(watch.runs) > 1 else ''} at {address}\nctrl-C ends it", flush=True)
    if asked.host not in LOOPBACK:
        print(f"polyturn: {asked.host} may be reached by others; the address above is the key", file=sys.stderr)
    serve(watch, listening, token, hosts(asked.host, port, asked.name))
    return 0


def listen(host: str, port: int) -> socket.socket:
    """A listening socket at the port, or at one of the next 20 where it is the usual one and taken.

    Raises: BadInput where none is free.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for tried in range(port, port + (20 if port == PORT else 1)):
        found = socket.socket(family, socket.SOCK_STREAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind((host, tried))
        except OSError as error:
            found.close()
            reason = error
            continue
        found.listen(128)
        return found
    raise BadInput(f"cannot listen on {host}:{port}: {reason}; choose another --port, or 0 for any")


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def hosts(host: str, port: int, more: list[str]) -> tuple[str, ...]:
    """The names, with port, that browsers may use."""
    names = [*LOOPBACK, host] if host not in {"0.0.0.0", "::"} else [*LOOPBACK, socket.gethostname()]
    return tuple(dict.fromkeys([*(f"{_shown(name)}:{port}" for name in names), *more]))


def kept_token(path: Path) -> str:
    """The token of this user, made at first use and readable by nobody else, so that links stay good."""
    if path.is_file():
        token = path.read_text("ascii").strip()
        if len(token) >= 32:
            return token
    path.parent.mkdir(parents=True, exist_ok=True)
    token = secrets.token_urlsafe(32)
    path.unlink(missing_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    os.write(file, token.encode())
    os.close(file)
    return token


def serve(watch: Watch, listening: socket.socket, token: str, names: tuple[str, ...]) -> None:
    """Serves the runs at a socket until the process is told to end."""
    import uvicorn

    from polyturn.dashboard.app import make_app

    app = make_app(watch, token=token, hosts=names)
    settings = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=1, lifespan="off",
        loop="asyncio", http="h11", limit_concurrency=256)
    watch.start()
    try:
        uvicorn.Server(settings).run(sockets=[listening])
    finally:
        watch.stop()

"""The server: JSON of runs, episodes and tokens, a stream of changes, and the page that shows them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from polyturn.dashboard import query
from polyturn.dashboard.episode import episode_view
from polyturn.dashboard.guard import COOKIE, Guard, TooLong, TooSlow
from polyturn.dashboard.overview import compared, run_rows, run_view
from polyturn.dashboard.watch import Watch, Watched
from polyturn.errors import BadInput, PolyturnError, UnknownName
from polyturn.record.control import ask

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

STATIC = Path(__file__).parent / "static"
MIME = re.compile(r"(image/(png|jpeg|gif|webp)|audio/[\w.+-]+|video/[\w.+-]+)")
"""What is shown in place; anything else is offered as a file. SVG may hold scripts and is not shown."""
LIVE_S = 0.5
"""Between two looks for changes."""
MOST_LIVE = 64
"""So many pages may listen for changes at once."""


def make_app(watch: Watch, *, token: str, hosts: tuple[str, ...]) -> Guard:
    """The ASGI app over the runs of a watch, behind its guard."""
    from starlette.applications import Starlette
    from starlette.routing import Mount, Route
    from starlette.staticfiles import StaticFiles

    site = _Site(watch)
    routes = [
        Route("/enter", site.enter, methods=["GET", "POST"]),
        Route("/api/runs", _answer(site.runs)),
        Route("/api/compare", _answer(site.compare)),
        Route("/api/live", site.live),
        Route("/api/run/{run}", _answer(site.run)),
        Route("/api/run/{run}/curves", _answer(site.curves)),
        Route("/api/run/{run}/metrics", _answer(site.metrics)),
        Route("/api/run/{run}/episodes", _answer(site.episodes)),
        Route("/api/run/{run}/groups", _answer(site.groups)),
        Route("/api/run/{run}/episode/{key}", _answer(site.episode)),
        Route("/api/run/{run}/media/{name}", site.media),
        Route("/api/run/{run}/control", site.control, methods=["POST"]),
        Route("/api/{path:path}", _answer(site.nothing), methods=["GET", "POST"]),
        Mount("/static", StaticFiles(directory=STATIC)),
        Route("/{path:path}", site.page),
    ]
    app: Starlette = Starlette(routes=routes, exception_handlers={TooLong: _too_much, TooSlow: _too_much})
    guard = Guard(app, token=token, hosts=hosts)
    site.guard = guard
    return guard


class _Site:
    """The routes. Each ``def`` runs in a thread, since it waits for the disk."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.guard: Guard | None = None
        self._listening = 0

    def page(self, request: Request) -> Response:
        from starlette.responses import FileResponse

        return FileResponse(STATIC / "index.html", headers={"cache-control": "no-cache"})

    def nothing(self, request: Request) -> Any:
        raise UnknownName("question", request.url.path[:100], ("/api/runs", "/api/run/RUN"))

    async def enter(self, request: Request) -> Response:
        """Takes the token from the address or the form and keeps it in a cookie that no script reads."""
        from starlette.responses import FileResponse, PlainTextResponse, RedirectResponse

        assert self.guard is not None
        brought = request.query_params.get("token", "")
        if request.method == "POST":
            brought = dict(_form(await request.body())).get("token", "")
        if not brought:
            return FileResponse(STATIC / "enter.html")
        if not self.guard.may_try():
            return PlainTextResponse("too many wrong tokens; wait a minute", 429)
        if not self.guard.is_token(brought):
            return FileResponse(STATIC / "enter.html", 401)
        wanted = request.query_params.get("to", "/")
        answer = RedirectResponse(wanted if re.fullmatch(r"/(?![/\\])[^\\]*", wanted) else "/", 303)
        answer.set_cookie(COOKIE, brought, httponly=True, samesite="strict", max_age=90 * 86400)
        return answer

    def _run(self, request: Request) -> Watched:
        return self.watch.run(request.path_params["run"])

    def runs(self, request: Request) -> Any:
        return run_rows(self.watch)

    def compare(self, request: Request) -> Any:
        names = [name for name in request.query_params.get("runs", "").split(",") if name]
        return compared({name: self.watch.run(name) for name in names[:40]})

    def run(self, request: Request) -> Any:
        return run_view(request.path_params["run"], self._run(request))

    def curves(self, request: Request) -> Any:
        watched = self._run(request)
        return watched.kept("curves", lambda: query.curves(watched.index))

    def metrics(self, request: Request) -> Any:
        watched = self._run(request)
        return watched.kept("series", lambda: query.series(watched.index))

    def episodes(self, request: Request) -> Any:
        given = dict(request.query_params)
        return query.page(
            self._run(request).index, given, first=_whole(given, "first", 0), count=_whole(given, "count", 50),
            sort=given.get("sort", "-offset"))

    def groups(self, request: Request) -> Any:
        given = dict(request.query_params)
        iteration = _whole(given, "iteration", 0) if given.get("iteration") else None
        return query.groups(self._run(request).index, given.get("stage", ""), iteration)

    def episode(self, request: Request) -> Any:
        watched = self._run(request)
        return episode_view(watched.folder, watched.index, request.path_params["key"])

    def media(self, request: Request) -> Response:
        """A picture or sound by its sha256; bytes that were changed are refused."""
        from starlette.responses import JSONResponse, Response

        from polyturn.media import Media

        name, mime = request.path_params["name"], request.query_params.get("mime", "")
        try:
            store = Media(self._run(request).folder / "media")
            if name not in store:
                return JSONResponse({"error": f"no media {name[:64]!r} in this run"}, 404)
            data = store.get(name)
        except PolyturnError as error:
            return JSONResponse({"error": str(error)}, 404 if isinstance(error, UnknownName) else 409)
        shown = MIME.fullmatch(mime) is not None
        headers = {"cache-control": "private, max-age=31536000, immutable"}
        headers |= {} if shown else {"content-disposition": "attachment"}
        return Response(data, media_type=mime if shown else "application/octet-stream", headers=headers)

    async def control(self, request: Request) -> Response:
        """Asks a run at work: ``{"command": "pause"}``, ``{"command": "set", "settings": {"tokens": 64}}``.

        Only JSON, which no form of another site can send. Reading the folder is quick, so the loop does it itself.
        """
        from starlette.responses import JSONResponse

        if request.headers.get("content-type", "").split(";")[0] != "application/json":
            return JSONResponse({"error": "expected content-type application/json"}, 415)
        body = await request.body()
        return _answer(lambda _: _asked(self._run(request), body))(request)

    async def live(self, request: Request) -> Response:
        """Server-sent events: run -> version, whenever one changes."""
        from starlette.responses import JSONResponse, StreamingResponse

        if self._listening >= MOST_LIVE:
            return JSONResponse({"error": f"{MOST_LIVE} pages listen already; close one"}, 429)
        return StreamingResponse(self._changes(request), media_type="text/event-stream",
                                 headers={"cache-control": "no-store"})

    async def _changes(self, request: Request) -> AsyncIterator[bytes]:
        self._listening += 1
        try:
            async for news in self._news(request):
                yield news
        finally:
            self._listening -= 1

    async def _news(self, request: Request) -> AsyncIterator[bytes]:
        told: dict[str, int] = {}
        quiet = 0.0
        while not await request.is_disconnected():
            now = {name: watched.version for name, watched in list(self.watch.runs.items())}
            news = {name: version for name, version in now.items() if told.get(name) != version}
            if news:
                yield b"data: " + orjson.dumps(news) + b"\n\n"
                quiet = 0.0
            elif quiet >= 15:
                yield b": still here\n\n"
                quiet = 0.0
            told = now
            await asyncio.sleep(LIVE_S)
            quiet += LIVE_S


def _answer(ask: Callable[[Request], Any]) -> Callable[[Request], Response]:
    """A route that gives JSON; what is wrong with the question becomes one line and 400 or 404."""

    @wraps(ask)
    def answered(request: Request) -> Response:
        from starlette.responses import Response

        status = 200
        try:
            found = ask(request)
        except UnknownName as error:
            found, status = {"error": str(error)}, 404
        except PolyturnError as error:
            found, status = {"error": str(error)}, 400
        data = orjson.dumps(found, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)
        return Response(data, status, media_type="application/json", headers={"cache-control": "no-store"})

    return answered


def _asked(watched: Watched, body: bytes) -> dict[str, Any]:
    """Gives an order to a run. Raises: BadInput for a body that is none."""
    try:
        found = orjson.loads(body)
        command, settings = found["command"], dict(found.get("settings") or {})
        numbers = [value for value in settings.values() if value is not None]
        right = isinstance(command, str) and all(type(value) in (int, float) for value in numbers)
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError):
        right = False
    if not right:
        raise BadInput("expected {\"command\": NAME, \"settings\": {NAME: NUMBER or null}}")
    order = ask(watched.folder, command, settings, by="dashboard")
    return {"id": order.id, "command": order.command}


async def _too_much(request: Request, error: Exception) -> Response:
    from starlette.responses import JSONResponse

    return JSONResponse({"error": str(error)}, 413 if isinstance(error, TooLong) else 408)


def _whole(given: Mapping[str, str], name: str, default: int) -> int:
    text = given.get(name, "")
    if text and not re.fullmatch(r"-?\d{1,15}", text):
        raise BadInput(f"{name} is {text!r}; expected a whole number")
    return int(text) if text else default


def _form(body: bytes) -> list[tuple[str, str]]:
    from urllib.parse import parse_qsl

    return parse_qsl(body.decode("utf-8", "replace"), max_num_fields=8)

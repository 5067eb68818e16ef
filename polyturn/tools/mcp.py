"""The tools of MCP servers (Model Context Protocol) as a toolbox: servers started for one episode, or reached by http.

An agent with them is ``ToolAgent(McpTools((McpServer("python my_server.py"),)))``. A server that crashes, hangs or
breaks the protocol is an error of the environment, so its episode has no score; a tool that says it failed, or that is
slower than its deadline while its server still answers, is an answer that the agent reads.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import json
import os
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from polyturn.errors import BadInput, EnvironmentFailed, MissingPackage, UnknownName
from polyturn.media import Media
from polyturn.tools.functions import shortened
from polyturn.types import Call, Message, Part, Tool

PASSED_ON: Final = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR")
"""The variables that a server sees besides those it is said to need; no keys among them."""
TETHER: Final = Path(__file__).with_name("tethered.py")
MOST_PAGES: Final = 100
"""Pages of a list of tools."""
TOLD: Final = (-32602, -32601)
"""Codes of errors that are the caller's: invalid parameters, unknown method."""
CLOSED, LATE = -32000, -32001


@dataclass(frozen=True, slots=True)
class McpServer:
    """A server: a command line that speaks over its standard input and output, or an address.

    ``McpServer("uvx mcp-server-time", pass_on=("TZ",))``, ``McpServer("http://127.0.0.1:8000/mcp")``. A command runs
    in the present folder, with the variables of ``PASSED_ON`` and ``pass_on`` and no others.
    """

    at: str
    pass_on: tuple[str, ...] = ()
    """Names of further variables that the command sees."""
    timeout_s: float = 60.0
    """The longest that one call of a tool may take."""
    start_s: float = 60.0
    """The longest that the server may take to start and to list its tools."""
    alive_s: float = 10.0
    """The longest that it may take to list its tools after a call was given up; a server that takes longer hangs."""
    key_env: str = ""
    """Of an address: the variable with a key, which is sent as a bearer token and written nowhere."""

    @property
    def remote(self) -> bool:
        """Whether it is reached by http and not started here."""
        return self.at.startswith(("http://", "https://"))

    def command(self, note: Path) -> list[str]:
        """The command line, tethered to this process; its process number will stand in the file ``note``. Raises:
        BadInput for one that cannot be run."""
        try:
            words = shlex.split(self.at)
        except ValueError as error:
            raise BadInput(f"the command of an MCP server cannot be read: {self.at!r}: {error}") from None
        if not words or shutil.which(words[0]) is None:
            raise BadInput(f"MCP server {self.at!r}: no program {words[0] if words else ''!r}; expected a command "
                           "line, or an address that begins with http:// or https://")
        return [sys.executable, "-I", "-S", str(TETHER), str(os.getpid()), str(note), *words]

    def variables(self) -> dict[str, str]:
        """What the command sees of this process's variables. Raises: BadInput for a named one that is not set."""
        missing = [name for name in self.pass_on if name not in os.environ]
        if missing:
            raise BadInput(f"MCP server {self.at!r} is to see {', '.join(missing)}, which is not set")
        return {name: os.environ[name] for name in (*PASSED_ON, *self.pass_on) if name in os.environ}

    def headers(self) -> dict[str, str]:
        """What a request carries. Raises: BadInput where the key's variable is not set."""
        if not self.key_env:
            return {}
        if self.key_env not in os.environ:
            raise BadInput(f"MCP server {self.at}: its key is to be read from {self.key_env}, which is not set")
        return {"Authorization": f"Bearer {os.environ[self.key_env]}"}


@dataclass
class McpTools:
    """A toolbox of the tools of some servers; opened before its first call, closed with its episode.

    Texts longer than ``most_characters`` are cut, with a mark. Pictures and sounds go into ``media`` where that is
    given; they are parts of the message where the policy reads them (``seen``), else a line says what was left out.
    """

    servers: Sequence[McpServer]
    media: Media | None = None
    seen: bool = False
    most_characters: int = 20_000
    _open: list[_Session] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        if self.seen and self.media is None:
            raise BadInput("seen=True makes pictures parts of messages, whose bytes lie in a media store: give media")

    async def open(self) -> None:
        """Starts every server and lists its tools; again: nothing. Raises: BadInput for a command that is none and
        for a name that two servers offer; EnvironmentFailed where a server does not start."""
        if self._open:
            return
        sessions = [_Session(server) for server in self.servers]
        try:
            await asyncio.gather(*(session.open() for session in sessions))
            names = [tool.name for session in sessions for tool in session.tools]
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise BadInput(f"two MCP servers offer {', '.join(twice)}; a call could not say which it means")
        except BaseException:
            await asyncio.gather(*(session.close() for session in sessions), return_exceptions=True)
            raise
        self._open = sessions

    def tools(self) -> tuple[Tool, ...]:
        """All tools, in the order of the servers. Raises: BadInput before :meth:`open`."""
        if not self._open:
            raise BadInput("the MCP servers are not open; await open() before tools()")
        return tuple(tool for session in self._open for tool in session.tools)

    async def call(self, call: Call) -> Message:
        """What the tool answered; ``status`` is ``error`` where it says that it failed, where the arguments could not
        be read, and where it was too slow. Raises: EnvironmentFailed where its server failed; UnknownName."""
        owner = {tool.name: session for session in self._open for tool in session.tools}
        if call.name not in owner:
            raise UnknownName("tool", call.name, owner)
        if call.arguments is None:
            why = call.error or f"cannot read the arguments {call.raw[:80]!r}"
            return self._message(call, (Part("text", f"Error: {why}"),), "error")
        answer = await owner[call.name].call(call.name, call.arguments)
        if isinstance(answer, str):
            return self._message(call, (Part("text", f"Error: {answer}"),), "error")
        try:
            parts = tuple(self._part(content) for content in answer.content)
        except binascii.Error as error:
            raise owner[call.name].failed(f"answered {call.name} with bytes that are not base64: {error}") from error
        parts = tuple(part for part in parts if part.kind != "text" or part.text)
        if not parts and answer.structured_content is not None:
            written = json.dumps(answer.structured_content, ensure_ascii=False)
            parts = (Part("text", shortened(written, self.most_characters)),)
        return self._message(call, parts, "error" if answer.is_error else "ok" if parts else "empty")

    @staticmethod
    def _message(call: Call, parts: tuple[Part, ...], status: Literal["ok", "error", "empty"]) -> Message:
        return Message("tool", parts, name=call.name, call_id=call.id, origin="tool", status=status)

    async def close(self) -> None:
        """Ends what was started; again: nothing."""
        sessions, self._open = self._open, []
        await asyncio.gather(*(session.close() for session in sessions))

    def _part(self, content: Any) -> Part:
        """One piece of an answer. Raises: binascii.Error for bytes that are not base64."""
        if content.type == "text":
            return Part("text", shortened(content.text, self.most_characters))
        if content.type in ("image", "audio"):
            return self._bytes(content.type, content.data, content.mime_type)
        if content.type == "resource_link":
            return Part("text", f"[{content.uri}]")
        found = content.resource
        if hasattr(found, "text"):
            return Part("text", shortened(found.text, self.most_characters))
        mime = found.mime_type or "application/octet-stream"
        return self._bytes(mime.partition("/")[0], found.blob, mime)

    def _bytes(self, kind: str, written: str, mime: str) -> Part:
        data = base64.b64decode(written, validate=True)
        name = None if self.media is None else self.media.put(data)
        if self.seen and kind in ("image", "audio"):
            return Part(kind, media=name, mime=mime)  # type: ignore[arg-type]
        return Part("text", f"[{mime}, {len(data)} bytes, not shown{f'; media {name}' if name else ''}]")


class _Session:
    """One server at work. A task of its own holds the connection, since the SDK wants it opened and closed by one."""

    def __init__(self, server: McpServer) -> None:
        self.server = server
        self.tools: tuple[Tool, ...] = ()
        self._client: Any = None
        self._end = asyncio.Event()
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task: asyncio.Task[None] | None = None
        self._folder: Path | None = None
        """Of a started server: its process number and what it wrote to standard error."""

    async def open(self) -> None:
        """Connects and lists the tools."""
        self._task = asyncio.create_task(self._held(), name=f"MCP server {self.server.at}")
        await self._ready

    async def close(self) -> None:
        """Ends the connection and, with it, a server that was started; its whole process group is gone after."""
        self._end.set()
        if self._task is not None:
            if not self.tools:
                self._task.cancel()
            await asyncio.wait((self._task,))
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    async def call(self, name: str, arguments: Mapping[str, Any]) -> Any:
        """The server's answer to a call, as the SDK has it; a text where the caller erred or the tool was too slow.

        Raises: EnvironmentFailed where the server ended, hangs, failed or broke the protocol.
        """
        from mcp.shared.exceptions import MCPError

        if self._task is None or self._task.done():
            raise self.failed("has ended")
        try:
            return await self._client.call_tool(name, dict(arguments), read_timeout_seconds=self.server.timeout_s)
        except MCPError as error:
            return await self._told(error, name)
        except Exception as error:
            raise self.failed(f"broke off at {name} ({_why(error)})") from error

    async def _told(self, error: Any, name: str) -> str:
        """What the caller reads of an error that is not the server's. Raises: EnvironmentFailed for every other."""
        if error.code in TOLD:
            return str(error)
        if error.code != LATE:
            raise self.failed("ended" if error.code == CLOSED else f"failed at {name} ({error})") from error
        late = f"did not answer {name} within {self.server.timeout_s:g} s"
        try:
            async with asyncio.timeout(self.server.alive_s):
                await self._client.list_tools(cache_mode="bypass")
        except Exception as hung:
            raise self.failed(f"{late}, and then nothing else either") from hung
        return f"{name} did not answer within {self.server.timeout_s:g} s and was stopped"

    async def _held(self) -> None:
        """The connection from its beginning to its end. What goes wrong before the tools are known is raised by
        :meth:`open`, what goes wrong later by the next call."""
        try:
            async with contextlib.AsyncExitStack() as stack:
                async with asyncio.timeout(self.server.start_s):
                    self._client = await stack.enter_async_context(self._connected())
                    self.tools = await self._listed()
                self._ready.set_result(None)
                await self._end.wait()
        except asyncio.CancelledError:
            self._ready.cancel()
            raise
        except Exception as error:
            if not self._ready.done():
                self._ready.set_exception(self._not_started(error))

    def _not_started(self, error: Exception) -> Exception:
        if isinstance(error, BadInput | MissingPackage | EnvironmentFailed):
            return error
        late = isinstance(error, TimeoutError)
        return self.failed(f"did not start within {self.server.start_s:g} s" if late
                           else f"did not start ({_why(error)})")

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[Any]:
        try:
            import httpx2
            from mcp import Client, StdioServerParameters, stdio_client
            from mcp.client.streamable_http import streamable_http_client
        except ImportError as error:
            raise MissingPackage("mcp", "mcp") from error
        if self.server.remote:
            waits = httpx2.Timeout(30.0, read=None)
            async with (
                httpx2.AsyncClient(headers=self.server.headers(), timeout=waits) as http,
                Client(streamable_http_client(self.server.at, http_client=http)) as client,
            ):
                yield client
            return
        self._folder = Path(tempfile.mkdtemp(prefix="polyturn-mcp-"))
        words, variables = self.server.command(self._folder / "process"), self.server.variables()
        started = StdioServerParameters(command=words[0], args=words[1:], env=variables)
        with (self._folder / "said").open("w", encoding="utf-8") as said:
            try:
                async with Client(stdio_client(started, errlog=said)) as client:
                    yield client
            finally:
                self._kill_rest()

    def _kill_rest(self) -> None:
        """Kills what is left of the server's process group; the SDK leaves what a server that has ended had started."""
        assert self._folder is not None
        with contextlib.suppress(OSError, ValueError):
            os.killpg(int((self._folder / "process").read_text("ascii")), signal.SIGKILL)

    async def _listed(self) -> tuple[Tool, ...]:
        found: list[Tool] = []
        cursor = None
        for _ in range(MOST_PAGES):
            page = await self._client.list_tools(cursor=cursor)
            found += [_as_tool(tool) for tool in page.tools]
            cursor = page.next_cursor
            if cursor is None and found:
                return tuple(found)
            if cursor is None:
                raise self.failed("offers no tools")
        raise self.failed(f"has a list of tools of more than {MOST_PAGES} pages")

    def failed(self, what: str) -> EnvironmentFailed:
        """The error that says what the server did, with the last that it wrote to standard error."""
        last = ""
        if self._folder is not None and (said := self._folder / "said").exists():
            last = said.read_bytes()[-2000:].decode("utf-8", "replace").strip()
        return EnvironmentFailed(f"MCP server {self.server.at!r} {what}{f'; it said: {last}' if last else ''}")


def _as_tool(tool: Any) -> Tool:
    """A tool of ours from one of the SDK's; its hints say whether it only reads."""
    hints = tool.annotations
    kind = "general" if hints is None or hints.read_only_hint is None else "read" if hints.read_only_hint else "write"
    return Tool(tool.name, tool.description or "", tool.input_schema, kind)  # type: ignore[arg-type]


def _why(error: BaseException) -> str:
    """What an error says; of a group of them, the first."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__

"""An MCP server for the tests, made with the official SDK: ``python mcp_server.py [http PORT]``."""

from __future__ import annotations

import asyncio
import base64
import os
import sys

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import (
    BlobResourceContents,
    CallToolResult,
    EmbeddedResource,
    ImageContent,
    ResourceLink,
    TextContent,
    ToolAnnotations,
)
from pydantic import BaseModel

DOT = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNg+M9QDwAChAGAU9mGOQAAAABJRU5ErkJggg==")
server = MCPServer("shop")
basket: dict[str, int] = {}


class Order(BaseModel):
    """What is bought."""

    name: str
    amount: int = 1
    notes: list[str] = []


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def price(name: str) -> float:
    """The price of one piece in euros."""
    prices = {"apple": 0.5, "pear": 0.75}
    if name not in prices:
        raise ToolError(f"no price for {name}")
    return prices[name]


@server.tool(annotations=ToolAnnotations(read_only_hint=False))
def buy(orders: list[Order]) -> dict[str, int]:
    """Puts orders into the basket and shows it."""
    for order in orders:
        basket[order.name] = basket.get(order.name, 0) + order.amount
    return basket


@server.tool()
async def wait(seconds: float) -> str:
    """Waits."""
    await asyncio.sleep(seconds)
    return "waited"


@server.tool()
def crash() -> str:
    """Ends the server."""
    print("out of apples", file=sys.stderr, flush=True)
    os._exit(3)


@server.tool()
def big(characters: int) -> str:
    """So many characters."""
    return "x" * characters


@server.tool()
def picture() -> CallToolResult:
    """Words and one red dot."""
    image = ImageContent(data=base64.b64encode(DOT).decode(), mime_type="image/png")
    return CallToolResult(content=[TextContent(text="a dot:"), image])


@server.tool()
def documents() -> CallToolResult:
    """A file and a link."""
    blob = base64.b64encode(b"%PDF").decode()
    held = BlobResourceContents(uri="file:///a.pdf", mime_type="application/pdf", blob=blob)
    return CallToolResult(content=[EmbeddedResource(resource=held), ResourceLink(name="b", uri="https://example.org/b")])


@server.tool()
def nothing() -> CallToolResult:
    """An empty answer."""
    return CallToolResult(content=[])


@server.tool()
def variables() -> list[str]:
    """The names of the environment's variables."""
    return sorted(os.environ)


if __name__ == "__main__":
    if sys.argv[1:2] == ["http"]:
        server.run("streamable-http", port=int(sys.argv[2]))
    else:
        server.run("stdio")

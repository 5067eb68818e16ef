"""An MCP server of the standard library alone, which starts in an instant: what the protocol asks for, line by line.

``python plain_server.py [PAUSE]`` waits so many seconds before it reads anything.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Any

NUMBER = {"type": "number"}
TOOLS = [
    {"name": "add", "description": "The sum of two numbers.",
     "inputSchema": {"type": "object", "properties": {"a": NUMBER, "b": NUMBER}, "required": ["a", "b"]}},
    {"name": "crash", "description": "Ends the server.", "inputSchema": {"type": "object"}},
    {"name": "hang", "description": "Answers nothing any more.", "inputSchema": {"type": "object"}},
    {"name": "babble", "description": "Says what is no answer.", "inputSchema": {"type": "object"}},
    {"name": "processes", "description": "Starts a process that outlives it; the numbers of both.",
     "inputSchema": {"type": "object"}},
]
HELD = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"


def called(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The result of a call."""
    if name == "crash":
        print("out of paper", file=sys.stderr, flush=True)
        os._exit(3)
    if name == "hang":
        time.sleep(600)
    if name == "babble":
        return {"content": "words without a shape"}
    if name == "processes":
        child = subprocess.Popen([sys.executable, "-c", HELD], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        return said(f"{os.getpid()} {child.pid}")
    return said(str(arguments["a"] + arguments["b"]))


def said(text: str, failed: bool = False) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": text}], "isError": failed}


def answer(method: str, params: dict[str, Any]) -> dict[str, Any]:
    """``{"result": ...}`` or ``{"error": ...}``."""
    if method == "initialize":
        return {"result": {"protocolVersion": params["protocolVersion"], "capabilities": {"tools": {}},
                           "serverInfo": {"name": "plain", "version": "1"}}}
    if method == "tools/list":
        return {"result": {"tools": TOOLS}}
    if method == "tools/call":
        try:
            return {"result": called(params["name"], params.get("arguments", {}))}
        except KeyError as missing:
            return {"error": {"code": -32602, "message": f"{missing} is missing"}}
    return {"error": {"code": -32601, "message": f"no method {method}"}}


if __name__ == "__main__":
    time.sleep(float(sys.argv[1]) if sys.argv[1:] else 0)
    for line in sys.stdin:
        request = json.loads(line)
        if "id" in request:
            found = {"jsonrpc": "2.0", "id": request["id"], **answer(request["method"], request.get("params", {}))}
            print(json.dumps(found), flush=True)

"""``--mcp``: the tools of MCP servers for the judged policy, on any environment."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from polyturn.agents.tools import ToolAgent
from polyturn.cli.parse import Parser, above_zero
from polyturn.cli.recipe import is_recipe
from polyturn.cli.subject import MAIN
from polyturn.errors import BadInput
from polyturn.media import Media
from polyturn.protocols import AgentMaker, Match, Player
from polyturn.tools.mcp import McpServer, McpTools
from polyturn.types import Sampling

if TYPE_CHECKING:
    from polyturn.types import Tool

SCRIPTED = ("random", "null", "oracle")


def add_servers(parser: Parser) -> None:
    """Flags that name servers."""
    parser.add_argument("--mcp", action="append", default=[], metavar="SERVER",
                        help="MCP server whose tools the policy may call: a command line, started for each episode, or "
                        "an http address; may be given again")
    parser.add_argument("--mcp-env", action="append", default=[], metavar="NAME",
                        help="variable that the commands of --mcp see; may be given again")
    parser.add_argument("--mcp-key-env", default="", metavar="NAME",
                        help="variable that holds the key for the addresses of --mcp")
    parser.add_argument("--mcp-timeout", type=above_zero, default=60.0, metavar="SECONDS",
                        help="the longest that a tool may take (60)")


def servers_of(asked: argparse.Namespace) -> tuple[McpServer, ...]:
    """The servers that the flags name. Raises: BadInput where the flags ask for what cannot be done."""
    if not asked.mcp:
        given = [flag for flag, value in (("--mcp-env", asked.mcp_env), ("--mcp-key-env", asked.mcp_key_env)) if value]
        if given:
            raise BadInput(f"{' and '.join(given)} would do nothing without --mcp")
        return ()
    if is_recipe(asked.subject):
        raise BadInput(f"{asked.subject} is a recipe, which says itself what tools its agents have; leave out --mcp")
    if asked.policy in SCRIPTED:
        raise BadInput(f"--policy {asked.policy} is a script and calls no tools of --mcp; leave out one of the two")
    if asked.mask:
        raise BadInput("--mask allows only the replies of the environment, so no call of an --mcp tool; leave out one")
    return tuple(
        McpServer(at, pass_on=tuple(asked.mcp_env), timeout_s=asked.mcp_timeout, key_env=asked.mcp_key_env)
        for at in asked.mcp)


async def offered(servers: Sequence[McpServer]) -> tuple[Tool, ...]:
    """The tools of the servers, each started once and ended, so that what is wrong with one is said before a run.

    Raises: what :meth:`polyturn.tools.mcp.McpTools.open` raises.
    """
    if not servers:
        return ()
    toolbox = McpTools(servers)
    try:
        await toolbox.open()
        return toolbox.tools()
    finally:
        await toolbox.close()


def agent_with(servers: Sequence[McpServer], sampling: Sampling, system: str = "",
               media: Media | None = None) -> AgentMaker:
    """A maker of agents, each with servers of its own."""
    return partial(_agent, tuple(servers), sampling, system, media)


def _agent(servers: tuple[McpServer, ...], sampling: Sampling, system: str, media: Media | None) -> ToolAgent:
    return ToolAgent(McpTools(servers, media), system, sampling=sampling)


def armed(matches: Sequence[Match], make: AgentMaker) -> list[Match]:
    """The matches with this agent in the seats of the judged policy."""
    return [replace(match, cast={seat: Player(make, MAIN) if player.policy == MAIN else player
                                 for seat, player in match.cast.items()}) for match in matches]

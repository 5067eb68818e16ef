"""``polyturn chat RUN``: talk to the model of a run, turn by turn."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Mapping
from typing import Any

from polyturn.cli.evaluate import add_means, closed, means_of
from polyturn.cli.parse import Parser, not_negative, positive, print_json
from polyturn.programs import Table
from polyturn.types import Task

EXAMPLES = (
    "polyturn chat runs/quickstart-20260101-120000", "polyturn chat base --system 'You are brief.'",
    "echo 'Name a colour.' | polyturn chat base --temperature 0 --json",
)
DAY_S = 86_400.0


def command(name: str, arguments: list[str]) -> int:
    """Reads lines until the end of input; each is answered."""
    asked = _parser().all_known(arguments)
    return asyncio.run(talk(asked))


def _parser() -> Parser:
    parser = Parser("chat", "Talk to a model: a run or model folder, base, an address. Ctrl-D ends.", EXAMPLES)
    parser.add_argument("policy", metavar="RUN", help="a run or model folder, base, or an address")
    parser.add_argument("--system", default="", help="a system message")
    parser.add_argument("--temperature", type=not_negative, default=0.7, help="0 = the most likely token (0.7)")
    parser.add_argument("--max-tokens", type=positive, default=256, help="longest reply in tokens (256)")
    add_means(parser)
    parser.add_argument("--json", action="store_true", help="the dialogue as one JSON object on the last line")
    return parser


async def talk(asked: argparse.Namespace) -> int:
    """One episode whose environment is the person."""
    from polyturn.agents.chat import ChatAgent
    from polyturn.cli.play import as_json
    from polyturn.cli.policy import open_policy
    from polyturn.cli.subject import MAIN
    from polyturn.programs import ProgramSuite, as_env
    from polyturn.protocols import Match, Player, Spec
    from polyturn.rollout.pool import play
    from polyturn.types import Sampling

    policy = open_policy(asked.policy, means_of(asked))
    sampling = Sampling(temperature=asked.temperature, max_tokens=asked.max_tokens)
    suite = ProgramSuite(Spec("chat", step_timeout_s=DAY_S), as_env(_program(quiet=asked.json)), {})
    agent = Player(lambda: ChatAgent(asked.system, sampling=sampling), MAIN)
    try:
        groups = await play([Match(suite, Task("chat", "chat"), {"agent": agent})], {MAIN: policy}, label="chat")
    finally:
        await closed(policy)
    episode = groups[0][0]
    if asked.json:
        print_json({"policy": asked.policy, **as_json(episode)})
    if episode.stop.kind == "error":
        print(f"polyturn: {episode.stop.reason}", file=sys.stderr)
        return 3
    return 0


def _program(quiet: bool) -> Any:
    """The person as an environment: says a line, hears the reply, until the input ends."""

    async def program(task: Task, seed: int, table: Table) -> Mapping[str, Any]:
        from polyturn.cli.terminal import read_line

        lines = 0
        while True:
            try:
                line = await read_line("" if quiet else "> ")
            except EOFError:
                return {"lines": lines}
            if line.strip():
                lines += 1
                reply = await table.ask("agent", line)
                if not quiet:
                    print(reply.text, flush=True)

    return program

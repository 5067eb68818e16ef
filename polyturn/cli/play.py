"""``polyturn play``: watch episodes of an environment as they are played, or take a seat in the terminal."""

from __future__ import annotations

import argparse
import asyncio
import sys
from dataclasses import replace
from typing import Any

from polyturn.cli.evaluate import add_means, add_sampling, closed, means_of
from polyturn.cli.mcp import add_servers, agent_with, armed, offered, servers_of
from polyturn.cli.parse import Parser, positive, print_json
from polyturn.errors import BadInput
from polyturn.protocols import Match
from polyturn.types import Episode, Group

EXAMPLES = (
    "polyturn play guess_the_number --policy oracle", "polyturn play tic_tac_toe --seat agent",
    "polyturn play kuhn_poker --seat player_0 --policy random", "polyturn play path/to/env.py --policy base --json",
)


def command(name: str, arguments: list[str]) -> int:
    """Plays episodes one after another; 3 where one of them broke."""
    asked = _parser().all_known(arguments)
    groups = asyncio.run(watch(asked))
    if asked.json:
        print_json({"environment": asked.subject, "episodes": [as_json(e) for group in groups for e in group]})
    return 3 if any(episode.stop.kind == "error" for group in groups for episode in group) else 0


def _parser() -> Parser:
    parser = Parser("play", "Watch episodes of an environment (name or .py file), or take a seat.", EXAMPLES)
    parser.add_argument("subject", metavar="ENVIRONMENT")
    parser.add_argument("--policy", default="random", help="base, random (default), null, oracle, a folder, an address")
    parser.add_argument("--seat", help="the seat that you take yourself")
    parser.add_argument("--episodes", type=positive, default=1, help="held-out tasks to play (1)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other worlds (0)")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="argument of the "
                        "environment; may be given again")
    add_sampling(parser)
    add_means(parser)
    add_servers(parser)
    parser.add_argument("--json", action="store_true", help="the episodes as one JSON object on the last line")
    return parser


async def watch(asked: argparse.Namespace) -> list[Group]:
    """The groups that were played, printed while they were (to stderr with ``--json``)."""
    from polyturn.cli.policy import check_policy, open_policy, seated
    from polyturn.cli.subject import MAIN, held_out, suite_of
    from polyturn.cli.terminal import Watcher, read_line
    from polyturn.policies.person import Person
    from polyturn.rollout.pool import Pool, play
    from polyturn.rollout.score import score_groups
    from polyturn.types import Sampling

    def show(text: str) -> None:
        print(text, file=sys.stderr if asked.json else sys.stdout, flush=True)

    check_policy(asked.policy)
    servers = servers_of(asked)
    suite = suite_of(asked.subject, asked.option)
    sampling = Sampling(temperature=asked.temperature, max_tokens=asked.max_tokens)
    matches = held_out(suite, tasks=asked.episodes, trials=1, sampling=sampling, mask=asked.mask, seed=asked.seed)
    if servers:
        show(f"tools of --mcp: {', '.join(tool.name for tool in await offered(servers))}")
        matches = armed(matches, agent_with(servers, sampling))
    matches = seated(asked.policy, [_taken(match, asked.seat) for match in matches])
    person = Person(lambda: read_line("> "), show, name="person")
    needed = any(player.policy == MAIN for match in matches for player in match.cast.values())
    policy = open_policy(asked.policy, means_of(asked)) if needed else None
    policies: dict[str, Any] = {"person": person} if policy is None else {"person": person, MAIN: policy}
    recorder = Watcher(show, frozenset({"person"}))
    try:
        groups = []
        for index, match in enumerate(matches):
            played = await play([match], policies, label=f"play.{index}", recorder=recorder, pool=Pool(1))
            whole = getattr(suite, "verifier", None) is not None
            groups += await score_groups(played, suite, recorder) if whole else played
        return groups
    finally:
        await closed(policy)
        await suite.close()


def _taken(match: Match, seat: str | None) -> Match:
    """The match with a person in the seat."""
    from polyturn.agents.chat import ChatAgent
    from polyturn.protocols import Player

    if seat is None:
        return match
    if seat not in match.cast:
        raise BadInput(f"{match.suite.spec.name} has no free seat {seat!r}; it has {', '.join(match.cast)}")
    return replace(match, cast={**match.cast, seat: Player(ChatAgent, "person")})


def as_json(episode: Episode) -> dict[str, Any]:
    """An episode for a reader: who said what, how it ended, what each seat got."""
    from polyturn.types import all_turns

    said = []
    for turn in all_turns(episode):
        spoke = episode.trajectory(turn.seat, turn.policy)
        assert spoke is not None
        asked = spoke.messages[turn.prompt[-1]].text if turn.prompt else ""
        said.append({"seat": turn.seat, "policy": turn.policy, "asked": asked, "said": spoke.messages[turn.reply].text})
    scores = {seat: score.value for by_seat in episode.scores.values() for seat, score in by_seat.items()}
    return {"task": episode.task.id, "turns": said, "stop": episode.stop.kind, "reason": episode.stop.reason,
            "scores": scores, "final": episode.final}


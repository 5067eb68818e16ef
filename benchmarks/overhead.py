"""What a framework adds to a turn: a scripted policy and an environment that cost nothing, 1,000 episodes at once.

``python -m benchmarks.overhead``. Ours records everything to disk, messages, tokens with log-probabilities, turns,
events, rewards; the timer ends when the recorder is closed. Peers run in a process of their own, those that bring other
versions of packages in the environment of ``make peers`` (``--peers PYTHON``), and keep what they keep by default.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.report import Report, parser, show
from benchmarks.timing import interleaved
from polyturn.agents.chat import ChatAgent
from polyturn.policies.scripted import Scripted
from polyturn.protocols import Ask, Completion, Match, Piece, Player, Policy, Spec, Step, Written
from polyturn.record.write import open_run
from polyturn.rollout.pool import Pool, play
from polyturn.types import (
    Event,
    IntArray,
    Message,
    PolicyInfo,
    Sampling,
    Seat,
    Stop,
    Task,
    Tool,
    Usage,
    assistant,
    user,
)

PEERS = ("textarena", "inspect", "verifiers")
AT_ONCE = (50, 200)
"""Episodes at once that a peer is tried with besides all."""
ALWAYS = "I guess 8."
HEARD = "Higher. Guess again."


class Free:
    """An environment that answers every reply with the same words, pays 1 at the end, and costs nothing."""

    def __init__(self, turns: int) -> None:
        self.turns = turns
        self.taken = 0

    async def start(self, state: bytes | None = None) -> Step:
        """The first ask."""
        return Step((Ask("agent", (user("Guess a number.", origin="env"),)),))

    async def step(self, replies: Mapping[Seat, Message]) -> Step:
        """The next ask, or the end."""
        self.taken += 1
        told = Event(0, "milestone", "agent", {"taken": self.taken})
        if self.taken < self.turns:
            return Step((Ask("agent", (user(HEARD, origin="env"),)),), {"agent": {"step": 0.1}}, (told,))
        return Step(rewards={"agent": {"win": 1.0}}, events=(told,), stop=Stop("done"))

    async def final(self) -> Mapping[str, Any]:
        """How many replies were taken."""
        return {"taken": self.taken}

    async def close(self) -> None:
        """Nothing is held."""


class FreeSuite:
    """Tasks of :class:`Free`."""

    spec = Spec("free")

    def __init__(self, turns: int) -> None:
        self.turns = turns

    def tasks(self, split: str) -> Sequence[Task]:
        """One task."""
        return (Task("free", "free"),)

    async def make(self, task: Task, seed: int) -> Free:
        """A fresh environment."""
        return Free(self.turns)

    async def close(self) -> None:
        """Nothing is held."""


class Tokened:
    """A policy that always says the same, with the tokens and log-probabilities that a model's reply would have: 8 for
    each message of the prompt, 10 of the reply."""

    name = "main"
    limit = 2**31 - 1

    def __init__(self) -> None:
        self.prompt = np.arange(8, dtype=np.int32)
        self.ids: IntArray = np.arange(100, 110, dtype=np.int32)
        self.logprobs = np.linspace(-2, -0.1, 10)

    def info(self) -> PolicyInfo:
        """The kind ``scripted``."""
        return PolicyInfo(self.name, "scripted")

    def count(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> int:
        """Tokens of the prompt."""
        return 8 * len(messages)

    async def sample(
        self, messages: Sequence[Message], *, tools: Sequence[Tool] = (), sampling: Sampling = Sampling(),
        written: Written = lambda message: None,
    ) -> Completion:
        """The reply."""
        pieces: list[Piece] = []
        for message in messages:
            own = written(message) if message.spans else None
            pieces.extend(own or (Piece(self.prompt),))
        return Completion(assistant(ALWAYS), tuple(pieces), self.ids, self.logprobs, usage=Usage(0, 0, 10))


def ours(policy: Callable[[], Policy], episodes: int, turns: int) -> None:
    """Plays and records; ends when the record is closed."""
    suite = FreeSuite(turns)
    with tempfile.TemporaryDirectory() as folder, open_run(Path(folder) / "run") as recorder:
        player = Player(ChatAgent, "main")
        match = Match(suite, Task("free", "free"), {"agent": player}, rollouts=episodes, train=frozenset({"agent"}))
        groups = asyncio.run(play([match], {"main": policy()}, recorder=recorder, pool=Pool(concurrency=episodes)))
        assert all(len(e.trajectories[0].turns) == turns and e.stop.kind == "done" for e in groups[0])


def peer(python: str, name: str, episodes: int, turns: int) -> float:
    """Microseconds a turn of a peer, timed inside its own process after one warm-up.

    Raises: RuntimeError with its words where it fails.
    """
    command = [python, str(Path(__file__).with_name("overhead_peers.py")), name, str(episodes), str(turns)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name} failed in {python}: {done.stderr[-2000:]}")
    return float(json.loads(done.stdout.splitlines()[-1])["us_per_turn"])


def swept(python: str, name: str, episodes: int, turns: int, report: Report) -> int:
    """Episodes at once at which a peer takes the least time for a turn; a row for each that is tried.

    Raises: RuntimeError where it fails at all.
    """
    found: dict[int, float] = {}
    for at_once in sorted({episodes, *(few for few in AT_ONCE if few < episodes)}):
        try:
            found[at_once] = peer(python, name, at_once, turns)
        except RuntimeError as error:
            report.row("sweep", f"{name}, {at_once} at once", "failed", str(error).strip().splitlines()[-1][-80:])
            continue
        report.row("sweep", f"{name}, {at_once} at once", found[at_once], "us a turn")
    if not found:
        raise RuntimeError(f"{name} failed with {episodes} episodes at once, and with as few as {min(AT_ONCE)}")
    return min(found, key=found.__getitem__)


def main(argv: list[str] | None = None) -> None:
    """Parses the command line, measures, prints."""
    made = parser("what a framework adds to a turn")
    made.add_argument("--episodes", type=int, default=1000)
    made.add_argument("--turns", type=int, default=6)
    made.add_argument("--peers", default=".venv-peers/bin/python", help="the Python of make peers")
    made.add_argument("--peer", choices=PEERS, action="append", help="only these; default: all")
    made.add_argument("--alone", action="store_true", help="measure ours only")
    arguments = made.parse_args(argv)
    episodes, turns = arguments.episodes, arguments.turns
    command = "python -m benchmarks.overhead " + " ".join(sys.argv[1:] if argv is None else argv)
    report = Report("overhead: microseconds a turn", command, ("textarena",))
    timings = interleaved({
        "ours, tokens and text": lambda: ours(Tokened, episodes, turns),
        "ours, text alone": lambda: ours(lambda: Scripted(lambda messages: ALWAYS, name="main"), episodes, turns),
    }, repeats=arguments.repeats)  # fmt: skip
    table = f"{episodes} episodes at once, {turns} turns each"
    report.row(table, "who", "median", "worst", "us a turn")
    for name, timing in timings.items():
        report.row(table, name, *(s * 1e6 / episodes / turns for s in (timing.median, timing.worst)))
        report.details[name] = timing.told()
    own = median(timings["ours, tokens and text"].seconds) * 1e6 / episodes / turns
    report.limits["200 us a turn"] = 200.0 / own
    for name in () if arguments.alone else arguments.peer or PEERS:
        python = sys.executable if name == "textarena" else arguments.peers
        at_once = swept(python, name, episodes, turns, report)
        found = [peer(python, name, at_once, turns) for _ in range(arguments.repeats)]
        report.row(table, f"{name}, {at_once} at once", median(found), max(found))
        report.ratios[name] = median(found) / own
        report.details[name] = {"us_per_turn": found, "episodes_at_once": at_once}
    show(report, as_json=arguments.json)


if __name__ == "__main__":
    main()

"""A person at the terminal: reading a line without holding up the loop, and watching episodes as they are played."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from polyturn.calls import in_words
from polyturn.protocols import Scores
from polyturn.types import Episode, Message, Span, Turn


async def read_line(prompt: str = "") -> str:
    """The next line of stdin without its newline. Raises: EOFError at its end.

    The line is read by a thread that nobody waits for, so that ctrl-C ends the program at once.
    """
    loop = asyncio.get_running_loop()
    line: asyncio.Future[str] = loop.create_future()

    def put(text: str) -> None:
        if not line.done():
            line.set_result(text)

    def read() -> None:
        text = sys.stdin.readline()
        if not loop.is_closed():
            loop.call_soon_threadsafe(put, text)

    sys.stderr.write(prompt)
    sys.stderr.flush()
    threading.Thread(target=read, name="read-line", daemon=True).start()
    text = await line
    if not text:
        raise EOFError
    return text.rstrip("\n")


@dataclass
class Watcher:
    """A :class:`polyturn.protocols.Recorder` that prints each message when its turn is taken, and how episodes end.

    Messages of ``hidden`` policies (a person, who reads them already) are not printed.
    """

    show: Callable[[str], object] = print
    hidden: frozenset[str] = frozenset()

    def turn(self, episode_id: str, turn: Turn, messages: Mapping[int, Message], spans: Mapping[int, Span]) -> None:
        """Prints what the seat was told and what it replied."""
        if turn.policy in self.hidden:
            return
        for index in sorted(messages):
            message = messages[index]
            who = f"{turn.seat} ({turn.policy})" if index == turn.reply else f"to {turn.seat}"
            self.show(f"{who}: {in_words(message)}")

    def episode(self, episode: Episode) -> None:
        """Prints how it ended."""
        reason = f", {episode.stop.reason}" if episode.stop.reason else ""
        self.show(f"-- {episode.task.id}: {episode.stop.kind}{reason}")

    def scores(self, verifier: str, scores: Scores) -> None:
        """Prints what each seat got."""
        for name, by_seat in scores.items():
            for seat, score in by_seat.items():
                value = "abstained" if score.value is None else f"{score.value:.3f}"
                self.show(f"-- {name}: {verifier} of {seat} {value}")

    def unscored(self, verifier: str, failed: Mapping[str, tuple[str, str]]) -> None:
        """Prints what could not be scored."""
        for name, (reason, _) in failed.items():
            self.show(f"-- {name}: {reason}")

    def credit(self, iteration: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Nothing: watching trains nothing."""

    def metrics(self, iteration: int, values: Mapping[str, float], *, stage: str = "") -> None:
        """Nothing: watching trains nothing."""

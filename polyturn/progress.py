"""What a run shows while it works: stage, iteration, time left, scores, speed and one dialogue.

A loop calls the :class:`Progress` it was given; :func:`make_progress` chooses a live picture for a terminal and plain
lines for anything else. Both write to one stream (stderr), so that stdout stays free for results.

Metric names that the view knows: ``score/<environment>`` (0..1, drawn as a curve), ``rollout/tokens_per_s``.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, Protocol

from polyturn.calls import in_words
from polyturn.types import EMPTY, Episode, Message, all_turns

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live as RichLive

BARS = "▁▂▃▄▅▆▇█"
SPEED = "rollout/tokens_per_s"
SCORE = "score/"


class Progress(Protocol):
    """What a loop tells about itself. Every call returns at once and never raises for want of a terminal."""

    def stage(self, name: str, total: int) -> None:
        """A stage of ``total`` iterations begins; 0 = unknown."""
        ...

    def iteration(self, i: int, metrics: Mapping[str, float]) -> None:
        """Iteration ``i`` (from 0) of the stage is done."""
        ...

    def sample(self, played: Episode | Sequence[Message]) -> None:
        """One dialogue to look at, as far as it is played; later calls replace it."""
        ...

    def note(self, text: str) -> None:
        """A line that stays."""
        ...

    def close(self) -> None:
        """Nothing more will be told."""
        ...


def sparkline(values: Sequence[float], width: int = 24) -> str:
    """The last ``width`` values as bars, 0 the lowest and 1 the highest; values outside are cut, NaN is a blank.

    >>> sparkline([0.0, 0.5, 1.0])
    '▁▅█'
    """
    shown = [" " if math.isnan(v) else BARS[min(len(BARS) - 1, int(max(0.0, v) * len(BARS)))] for v in values[-width:]]
    return "".join(shown)


def bar(share: float, width: int = 60) -> str:
    """A bar of which ``share`` is full.

    >>> bar(0.5, width=4)
    '━━──'
    """
    full = round(min(1.0, max(0.0, share)) * width)
    return "━" * full + "─" * (width - full)


def duration(seconds: float) -> str:
    """A length of time in words.

    >>> duration(5), duration(125), duration(7380)
    ('5 s', '2 min 05 s', '2 h 03 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


@dataclass(slots=True)
class Board:
    """What is known of a run so far; both views are drawn from it.

    ``foreseen`` holds the seconds that each stage is expected to take, in order, so that time left covers the stages
    that have not begun; they are scaled by what the finished ones took against what was foreseen for them.
    """

    clock: Callable[[], float] = time.monotonic
    foreseen: Mapping[str, float] = field(default_factory=dict)
    name: str = "starting"
    total: int = 0
    done: int = 0
    begun: float = 0.0
    """When the stage began."""
    scores: dict[str, list[float]] = field(default_factory=dict)
    others: dict[str, float] = field(default_factory=dict)
    messages: tuple[Message, ...] = ()
    title: str = ""
    took_s: float = 0.0
    """What the finished stages took, of those that were foreseen."""
    expected_s: float = 0.0
    """What was foreseen for them."""
    turns: Callable[[], int] = int
    """How many turns were taken since the run began."""
    turns_before: int = 0
    """So many of them before the stage."""

    def __post_init__(self) -> None:
        self.begun = self.clock()

    def start(self, name: str, total: int) -> None:
        """A stage begins."""
        if self.name in self.foreseen and self.done >= self.total > 0:
            self.took_s += self.clock() - self.begun
            self.expected_s += self.foreseen[self.name]
        self.name, self.total, self.done, self.begun = name, total, 0, self.clock()
        self.others = {}
        self.turns_before = self.turns()

    def count(self, i: int, metrics: Mapping[str, float]) -> None:
        """Iteration ``i`` is done: scores go to their curves, other metrics replace the last ones."""
        self.done = i + 1
        for key, value in metrics.items():
            if key.startswith(SCORE):
                self.scores.setdefault(key.removeprefix(SCORE), []).append(value)
            else:
                self.others[key] = value

    def show(self, played: Episode | Sequence[Message]) -> None:
        """A dialogue replaces the last one."""
        self.messages, self.title = dialogue(played)

    def left_s(self) -> float | None:
        """Seconds until the last stage that is known of ends; None before the first iteration of a stage whose
        length was not foreseen."""
        later = list(self.foreseen)
        after = sum(self.foreseen[name] for name in later[later.index(self.name) + 1 :]) if self.name in later else 0.0
        pace = self.took_s / self.expected_s if self.expected_s else 1.0
        spent = self.clock() - self.begun
        if self.done and self.total:
            return after * pace + spent / self.done * max(0, self.total - self.done)
        if self.name in self.foreseen:
            return after * pace + max(0.0, self.foreseen[self.name] * pace - spent)
        return None

    def headline(self) -> str:
        """Stage, iteration, time left and speed in one line."""
        left = self.left_s()
        pieces = [self.name, *([f"{self.done}/{self.total}"] if self.total else [str(self.done)] if self.done else [])]
        pieces.append(f"{duration(left)} left" if left is not None else f"{duration(self.clock() - self.begun)} gone")
        if SPEED in self.others:
            pieces.append(f"{self.others[SPEED]:.0f} tokens/s")
        return " · ".join(pieces)

    def quiet(self) -> str:
        """The headline while nothing is counted: how long, and how many turns were taken, if any were."""
        pieces, taken = [self.headline()], self.turns() - self.turns_before
        if taken:
            pieces.append(f"{taken} turn" + "s" * (taken > 1))
        if self.left_s() is not None:
            pieces.append(f"{duration(self.clock() - self.begun)} so far")
        return " · ".join(pieces)


def dialogue(played: Episode | Sequence[Message]) -> tuple[tuple[Message, ...], str]:
    """The messages to show and a title: of an episode, what its first trajectory with turns saw and said."""
    if not isinstance(played, Episode):
        return tuple(played), ""
    turns = all_turns(played)
    if not turns:
        return (), played.task.id
    spoke = played.trajectory(turns[0].seat, turns[0].policy)
    return (spoke.messages if spoke else ()), f"{played.task.id}, seat {turns[0].seat}"


def message_lines(messages: Sequence[Message], most: int) -> list[tuple[str, str]]:
    """(role, one line of text) for the last ``most`` messages.

    >>> message_lines([Message("user", "guess\\n1 to 16"), Message("assistant", "8")], most=2)
    [('user', 'guess 1 to 16'), ('assistant', '8')]
    """
    return [(message.role, " ".join(in_words(message).split())) for message in list(messages)[-most:]]


class Plain:
    """One line for each iteration, at most one in ``every_s`` seconds apart from a stage's first and last.

    After ``quiet_s`` seconds without any line :meth:`remind` says what is known; then after twice as long, and so on,
    until the next stage.
    """

    def __init__(self, stream: IO[str], board: Board, *, every_s: float = 2.0, quiet_s: float = 10.0) -> None:
        self.stream = stream
        self.board = board
        self.every_s = every_s
        self.quiet_s = self._patience = quiet_s
        self._said = float("-inf")
        self._heard = board.clock()
        """When the last line of any kind was said."""
        self._writing = threading.RLock()
        self._closed = threading.Event()

    def stage(self, name: str, total: int) -> None:
        self.board.start(name, total)
        self._said, self._patience = float("-inf"), self.quiet_s
        self._line(f"stage {name}" + (f": {total} iterations" if total else ""))

    def iteration(self, i: int, metrics: Mapping[str, float]) -> None:
        self.board.count(i, metrics)
        now = self.board.clock()
        if now - self._said >= self.every_s or self.board.done == self.board.total:
            self._said = now
            scores = " ".join(f"{key.removeprefix(SCORE)} {value:.2f}" for key, value in metrics.items()
                              if key.startswith(SCORE))
            self._line(self.board.headline() + (f" · {scores}" if scores else ""))

    def sample(self, played: Episode | Sequence[Message]) -> None:
        self.board.show(played)

    def note(self, text: str) -> None:
        self._line(text)

    def close(self) -> None:
        self._closed.set()
        self.stream.flush()

    def remind(self) -> None:
        """Says that the run goes on, where nothing was said for long enough."""
        with self._writing:
            if self.board.clock() - self._heard >= self._patience:
                self._patience *= 2
                self._line(self.board.quiet())

    def watch(self) -> None:
        """Reminds from a thread of its own, so also while the loop computes, until it is closed."""
        threading.Thread(target=self._watch, name="progress", daemon=True).start()

    def _watch(self) -> None:
        while not self._closed.wait(1.0):
            self.remind()

    def _line(self, text: str) -> None:
        with self._writing:
            self._heard = self.board.clock()
            self.stream.write(text + "\n")
            self.stream.flush()


class Live:
    """A picture that is redrawn in place four times a second, on a terminal."""

    def __init__(self, stream: IO[str], board: Board, *, lines: int = 8) -> None:
        from rich.console import Console
        from rich.live import Live as RichLive

        self.board = board
        self.lines = lines
        self._console = Console(file=stream)
        self._live: RichLive = RichLive(
            console=self._console, get_renderable=self.picture, refresh_per_second=4, transient=False,
            redirect_stdout=False, redirect_stderr=False,
        )
        self._live.start()

    def stage(self, name: str, total: int) -> None:
        self.note(f"{self.board.name}: {duration(self.board.clock() - self.board.begun)}")
        self.board.start(name, total)

    def iteration(self, i: int, metrics: Mapping[str, float]) -> None:
        self.board.count(i, metrics)

    def sample(self, played: Episode | Sequence[Message]) -> None:
        self.board.show(played)

    def note(self, text: str) -> None:
        from rich.text import Text

        self._console.print(Text(text, style="dim"))

    def close(self) -> None:
        self._live.stop()

    def picture(self) -> RenderableType:
        """The whole view: headline with a bar, a row of score and curve for each environment, the dialogue."""
        from rich.console import Group
        from rich.panel import Panel
        from rich.text import Text

        board = self.board
        rows: list[Any] = [Text(board.headline(), style="bold")]
        if board.total:
            rows.append(Text(bar(board.done / board.total), style="cyan"))
        if board.scores:
            rows.append(self._scores())
        if board.messages:
            talk = Text(overflow="ellipsis", no_wrap=True)
            for role, line in message_lines(board.messages, self.lines):
                talk.append(f"{role:>9} ", style="cyan" if role == "assistant" else "dim").append(line + "\n")
            talk.rstrip()
            rows.append(Panel(talk, title=board.title or "sample dialogue", title_align="left", border_style="dim"))
        return Group(*rows)

    def _scores(self) -> RenderableType:
        from rich.table import Table

        table = Table.grid(padding=(0, 2))
        for name, values in self.board.scores.items():
            table.add_row(name, f"{values[-1]:.2f}", sparkline(values))
        return table


def make_progress(
    stream: IO[str], *, foreseen: Mapping[str, float] = EMPTY, clock: Callable[[], float] = time.monotonic,
    turns: Callable[[], int] = int,
) -> Progress:
    """A live picture if ``stream`` is a terminal, plain lines otherwise; ``turns`` tells how many were taken."""
    board = Board(clock=clock, foreseen=foreseen, turns=turns)
    if stream.isatty():
        return Live(stream, board)
    plain = Plain(stream, board)
    plain.watch()
    return plain

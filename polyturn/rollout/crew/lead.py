"""The leader of a crew: hands episodes to workers, answers their questions, records what they play, replaces the dead.

The leader holds the policies and the record; a worker holds environments and agents. What a dead worker held is lost
with it (:class:`polyturn.errors.WorkerLost`) and nothing else is: whoever ordered an episode orders it again.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from polyturn.errors import BadInput, DeadlinePassed, WorkerLost
from polyturn.protocols import Match, Policy, Suite, Witness
from polyturn.rollout.crew.hand import Hand, Held, Link
from polyturn.rollout.crew.lines import Begin, End, pickled
from polyturn.rollout.episode import Place
from polyturn.types import Episode
from polyturn.waits import Expired, Waiting, within

SUSPECT: Final = 2
"""An episode that was lost so often is played by a worker that holds no other, so that no other is lost with it."""
AGAIN_S: Final = 5.0
"""How long after a worker that could not begin the next one is tried, while others go on."""

Starter = Callable[[int], Awaitable[Link]]
"""Begins the worker of this number."""


@dataclass
class Crew:
    """``count`` workers, which ``start`` begins. :meth:`work` keeps them alive; :meth:`play` is then as
    :func:`polyturn.rollout.episode.play_episode`, in one of them.

    Raises: BadInput for none.
    """

    start: Starter
    count: int
    note: Callable[[str], None] = lambda said: None
    """Told of each worker that is lost, and what it held."""
    silent_s: float = 120.0
    """A worker whose loop does not answer for so long is ended, and another begun."""
    start_s: float = 120.0
    """The longest that a worker may take to begin."""
    hands: list[Hand] = field(default_factory=list)
    lost: Counter[str] = field(default_factory=Counter)
    """Episode -> how often it was lost with its worker."""
    _tried: set[int] = field(default_factory=set)
    _numbers: Any = field(default_factory=itertools.count)
    _suites: dict[int, tuple[Suite, int, bytes]] = field(default_factory=dict)
    _here: asyncio.Event = field(default_factory=asyncio.Event)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        if self.count < 1:
            raise BadInput(f"{self.count} workers; expected at least 1")

    async def work(self) -> None:
        """Begins the workers, serves them, begins new ones in the place of the dead; works until it is cancelled, and
        then ends them. Raises: WorkerLost where no worker lives and none can begin."""
        try:
            async with asyncio.TaskGroup() as running:
                for index in range(self.count):
                    running.create_task(self._keep(index))
        finally:
            hands, self.hands = self.hands, []
            for hand in hands:
                hand.lose("was ended with the crew")
                hand.tell(End())
            await asyncio.gather(*(hand.link.end() for hand in hands))

    async def play(
        self, match: Match, policies: Mapping[str, Policy], place: Place, *, recorder: Witness | None = None,
        call_timeout_s: float = 600.0,
    ) -> Episode:
        """The episode, played by the worker with the fewest. Raises: WorkerLost, BadInput for a match that cannot be
        played or sent, DeadlinePassed where no worker comes."""
        alone = self.lost[place.id] >= SUSPECT
        hand = await self._hand(place, alone)
        number: int = next(self._numbers)
        held = Held(match, policies, place, recorder, asyncio.get_running_loop().create_future())
        try:
            hand.give(number, held, call_timeout_s)
            with Waiting(f"episode {place.id}", hand.name, "its end"):
                return await held.done
        except WorkerLost:
            self.lost[place.id] += 1
            raise
        finally:
            hand.drop(number)
            hand.kept = hand.kept and not alone
            self._tell()

    async def _hand(self, place: Place, alone: bool) -> Hand:
        """The worker that is to play: that with the fewest; ``alone``, one that holds nothing, kept until it is so."""
        kept: Hand | None = None
        try:
            while True:
                await self._any(place)
                if kept is not None and not kept.held and kept in self.hands:
                    found, kept = kept, None
                    return found
                free = [hand for hand in self.hands if not hand.kept]
                if free and (kept is None or kept not in self.hands):
                    found = min(free, key=lambda hand: len(hand.held))
                    if not alone:
                        return found
                    found.kept, kept = True, found
                    continue
                with Waiting(f"episode {place.id}", "the crew", "a worker alone" if alone else "a worker"):
                    await self._change()
        finally:
            if kept is not None:
                kept.kept = False

    async def _any(self, place: Place) -> None:
        """Waits until workers live."""
        seconds = 2 * self.start_s
        with Waiting(f"episode {place.id}", "the crew", "a worker", seconds):
            try:
                await within(self._here.wait(), seconds)
            except Expired as error:
                raise DeadlinePassed(f"episode {place.id} waited {seconds:g} s for a worker") from error

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    async def _keep(self, index: int) -> None:
        while True:
            hand = await self._begun(index)
            self.hands.append(hand)
            self._tried.add(index)
            self._tell()
            why = await hand.live(self.silent_s)
            self.hands.remove(hand)
            self._tell()
            lost = ", ".join(hand.lose(why)) or "nothing"
            self.note(f"{hand.name} {why}; it held {lost}, and another takes its place")

    async def _begun(self, index: int) -> Hand:
        while True:
            link = await self.start(index)
            hand = Hand(link, self._numbered)
            try:
                with Waiting("the crew", f"worker {link.name}", "it begins", self.start_s):
                    async with asyncio.timeout(self.start_s):
                        await hand.greet(here())
                    return hand
            except (EOFError, BadInput, TimeoutError) as error:
                await link.kill()
                why = str(error) or f"it did not within {self.start_s:g} s"
                if not self.hands:
                    raise WorkerLost(f"worker {link.name} could not begin: {why}; what it printed says more (a script "
                                     "that begins workers does so under if __name__ == '__main__')") from error
                self._tried.add(index)
                self._tell()
                self.note(f"worker {link.name} could not begin ({why}); {len(self.hands)} go on, and it is tried again")
                await asyncio.sleep(AGAIN_S)
            except BaseException:
                await link.kill()
                raise

    def _tell(self) -> None:
        """Wakes who waits for a worker. Episodes are let in when each worker has tried to begin, so that the first of
        them does not get them all, and as long as one lives."""
        self._changed.set()
        if self.hands and len(self._tried) == self.count:
            self._here.set()
        else:
            self._here.clear()

    def _numbered(self, suite: Suite) -> tuple[int, bytes]:
        """The number of a suite and its pickle, made when it is first played."""
        known = self._suites.get(id(suite))
        if known is None:
            what = f"suite {suite.spec.name!r}"
            known = self._suites[id(suite)] = (suite, len(self._suites), pickled(suite, what))
        return known[1], known[2]


def here() -> Begin:
    """Where the modules of this process are found; those in files that no name leads to by their files."""
    files: dict[str, str] = {}
    for name, module in list(sys.modules.items()):
        spec = getattr(module, "__spec__", None)
        file = str(getattr(spec, "origin", ""))
        if "." not in name and file.endswith(".py") and str(Path(file).parent) not in sys.path and name != "__main__":
            known = any(finder.find_spec(name, None) for finder in sys.meta_path)
            files |= {} if known else {name: file}
    return Begin(tuple(path for path in sys.path if path), files)

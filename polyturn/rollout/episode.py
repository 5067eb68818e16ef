"""One match, one episode: the environment asks, agents answer through their desks, the log keeps everything.

Whatever ends an episode (its rules, a horizon, a budget, a crash) ends it as data: the turns sampled so far stand, and
an error is never a score.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import traceback
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from polyturn.desk import Budget, Desk, Log
from polyturn.errors import BadInput, BudgetSpent, DeadlinePassed, EnvironmentFailed
from polyturn.protocols import Agent, Ask, Env, Match, Player, Policy, Step, Witness
from polyturn.record.table import RecordFailed
from polyturn.rollout.world import Rules, World, answered, fork, over
from polyturn.seeds import derive
from polyturn.types import Episode, Message, PolicyInfo, Sampling, Seat, Stop, root_of
from polyturn.waits import Expired, Waiting, within

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Place:
    """Where an episode stands in a run."""

    id: str
    group: str = ""
    trial: int = 0
    iteration: int = 0


async def play_episode(
    match: Match, policies: Mapping[str, Policy], place: Place, *, recorder: Witness | None = None,
    call_timeout_s: float = 600.0,
) -> Episode:
    """The episode that one play of ``match`` made. It never raises for what goes wrong inside the episode: that is
    its ``stop`` (kind ``error``) and ``error``. Raises: BadInput for a match that cannot be played at all; RecordFailed
    where the disk is full.
    """
    log = Log(
        place.id, policies, seed=derive(match.seed, match.task.id), trial=place.trial, recorder=recorder,
        call_timeout_s=call_timeout_s,
    )
    log.drawn = partial(_drawn, match)
    cast = _cast(match)
    stored = getattr(match.suite, "stored", None)
    if stored is not None and (quoted := stored(match.task)) is not None:
        log.quote(*quoted)
    limits = match.limits.tightest(match.task.limits).tightest(match.suite.spec.limits)
    table = _Table(match, log, cast, {seat: Budget(limits) for seat in cast})
    started = log.clock()
    await table.play()
    episode = Episode(
        place.id, match.task, match.seed, place.group, place.trial, parent_of(match),
        match.iteration or place.iteration, match.train,
        seated(match, policies),
        trajectories=log.trajectories(table.stop), events=tuple(log.events), final=table.final,
        final_sha256="" if table.final is None else _sha256(table.final), stop=table.stop, error=table.error,
        started=started, ended=log.clock(),
    )
    if recorder is not None:
        recorder.episode(episode)
    return episode


def parent_of(match: Match) -> str:
    """The stored turn that a match answers again; empty for play."""
    parent = getattr(match.suite, "parent", None)
    return "" if parent is None else str(parent(match.task))


def _drawn(match: Match, seat: Seat, own: Sampling) -> Sampling:
    """How a seat's reply is drawn under what the match says of the seats that learn."""
    if root_of(seat) not in match.train:
        return own
    most = own.max_tokens if match.max_tokens is None else min(own.max_tokens, match.max_tokens)
    heat = own.temperature if match.temperature is None or own.temperature == 0 else match.temperature
    return replace(own, max_tokens=most, temperature=heat)


def _cast(match: Match) -> dict[Seat, Player]:
    """Every seat's player: the match's own over the suite's default. Raises: BadInput for a seat without one."""
    default = getattr(match.suite, "default_cast", None)
    cast = {**(default(match.task) if default else {}), **match.cast}
    missing = [seat for seat in match.suite.spec.seats if seat not in cast]
    strange = [seat for seat in (*match.cast, *match.train) if seat not in match.suite.spec.seats]
    if missing or strange:
        seats = list(match.suite.spec.seats)
        raise BadInput(f"{match.suite.spec.name} has seats {seats}; nobody sits in {missing}, unknown: {strange}")
    return {seat: cast[seat] for seat in match.suite.spec.seats}


def seated(match: Match, policies: Mapping[str, Policy]) -> dict[Seat, PolicyInfo]:
    """Who sits in each seat now. Raises: BadInput for a seat without a player."""
    names = {seat: player.policy for seat, player in _cast(match).items()}
    return {seat: policies[name].info() if name in policies else PolicyInfo(name) for seat, name in names.items()}


def _sha256(final: Mapping[str, Any]) -> str:
    text = json.dumps(final, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


async def _results(calls: Sequence[Awaitable[T]]) -> list[T | BaseException]:
    """What each of some calls gives or raises, all at once; a single one needs no task of its own."""
    if len(calls) != 1:
        return await asyncio.gather(*calls, return_exceptions=True)
    try:
        return [await calls[0]]
    except Exception as error:
        return [error]


class _Table:
    """One episode in play."""

    def __init__(self, match: Match, log: Log, cast: Mapping[Seat, Player], budgets: Mapping[Seat, Budget]) -> None:
        self.match, self.log, self.cast = match, log, cast
        self.budgets = budgets
        self.stop = Stop("done")
        self.error: str | None = None
        self.final: Mapping[str, Any] | None = None
        self.world: World | None = None
        self.desks = {seat: Desk(log, seat, player.policy, budgets[seat]) for seat, player in cast.items()}
        self.agents: dict[Seat, Agent] = {}

    async def play(self) -> None:
        """Plays to the end, reads the final state, closes everything."""
        try:
            self.agents = {seat: player.make() for seat, player in self.cast.items()}
            rules = Rules(self.match.suite.spec, self._make, self.log, self.budgets, self.match.start)
            self.world = World(rules, await self._make())
            self.log.forker = None if parent_of(self.match) else self._fork
            step = await self.world.start(self.match.start)
            self.world.log_start(step)
            await self._turns(step)
        except RecordFailed:  # a turn that could not be written is no fault of the episode
            raise
        except Exception as error:
            self._failed(error)
        finally:
            await self._close()

    async def _turns(self, step: Step) -> None:
        assert self.world is not None
        while (stop := over(step)) is None:
            stop = self._horizon(step)
            if stop is None:
                replies, stop = await self._answers(step.asks)
            if stop is not None:
                break
            step = await self.world.step(replies)
            await asyncio.sleep(0)  # what never waits lets the other episodes have their turn
        self.stop = stop or Stop("done")
        final = await self.world.final()
        _sha256(final)
        self.final = final

    def _horizon(self, step: Step) -> Stop | None:
        for ask in step.asks:
            limits = self.budgets[root_of(ask.seat)].limits
            if limits.env_steps is not None and self.budgets[root_of(ask.seat)].left.env_steps == 0:
                return Stop("truncated", f"env_steps: {limits.env_steps} spent", ask.seat)
        return None

    async def _answers(self, asks: tuple[Ask, ...]) -> tuple[dict[Seat, Message], Stop | None]:
        """All replies of one step. Every seat finishes, also when another one fails or runs out."""
        results = await _results([self._act(ask) for ask in asks])
        replies: dict[Seat, Message] = {}
        spent: Stop | None = None
        for ask, result in zip(asks, results, strict=True):
            if isinstance(result, BudgetSpent):
                spent = Stop("budget", str(result), ask.seat)
            elif isinstance(result, BaseException):
                raise result
            elif not isinstance(result, Message):
                raise BadInput(f"the agent of seat {ask.seat!r} gave {type(result).__name__}; expected a Message")
            else:
                replies[ask.seat] = result
        return replies, spent

    def _act(self, ask: Ask) -> Awaitable[Message]:
        desk = self.desks[ask.seat]
        return desk.acted(self.agents[ask.seat].act(ask, desk))

    async def _make(self) -> Env:
        spec = self.match.suite.spec
        making = self.match.suite.make(self.match.task, self.match.seed)
        made: Any = await answered(making, "make", spec, self.log.episode_id)
        if spec.worker == "none":
            env: Env = made
            return env
        from polyturn.rollout.worker import in_worker

        return in_worker(made, kind=spec.worker, timeout_s=spec.step_timeout_s)

    async def _fork(self, seat: Seat, of: Env | None) -> tuple[Env, Step]:
        if of is not None and not isinstance(of, World):
            raise BadInput(f"fork(of={type(of).__name__}): expected a copy that fork() gave")
        assert self.world is not None
        return await fork(of or self.world, seat)

    def _failed(self, error: Exception) -> None:
        kind = "environment" if isinstance(error, EnvironmentFailed) else type(error).__name__
        self.stop = Stop("error", f"{kind}: {error}"[:2000])
        self.error = "".join(traceback.format_exception(error))

    async def _close(self) -> None:
        closes = [close for agent in self.agents.values() if (close := getattr(agent, "close", None)) is not None]
        closers = [self._closed(close()) for close in closes]
        if self.world is not None:
            closers.append(self.world.close())
        for result in await _results(closers):
            if isinstance(result, Exception) and self.stop.kind != "error":
                self._failed(result)

    async def _closed(self, closing: Awaitable[None]) -> None:
        wait = self.log.call_timeout_s
        try:
            with Waiting(f"episode {self.log.episode_id}", "an agent of it", "close()", wait):
                await within(closing, wait)
        except Expired as error:
            raise DeadlinePassed(f"an agent was not closed within {wait:g} s") from error

"""From scored episodes to trials: what each attempt of a rated seat was worth, how it ended and what it used."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from polyturn.errors import BadInput
from polyturn.types import Episode, Group, Score, Seat, Trajectory, Turn, root_of

Seats: TypeAlias = Callable[[Episode], Sequence[Seat]]
"""The seats of an episode that a row rates."""
SOLVED = 1 - 1e-6
"""A score from here on is a success where the verifier did not say."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What calls of policies used, searches too: ``Cost(calls=3, prompt_tokens=910, completion_tokens=44)``."""

    calls: int = 0
    tool_calls: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    model_seconds: float = 0.0
    """From each call to its answer, waiting in a queue included; calls at the same time count each."""
    usd: float | None = 0.0
    """None where a call's price is not known."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One attempt of one rated seat."""

    task: str
    seat: Seat
    value: float | None
    """None = an error or an abstention; which of them, says ``failure``."""
    success: bool = False
    stop: str = "done"
    """How the episode ended: done, truncated, budget or error."""
    failure: str = ""
    """For an error, what broke: ``"environment"``, ``"PolicyFailed"``, ``"DeadlinePassed"`` ..."""
    illegal: int = 0
    replies: int = 0
    """Replies given to the environment: the denominator of ``illegal``."""
    turns: int = 0
    tokens: int = 0
    seconds: float = 0.0
    cost: Cost = field(default_factory=Cost)
    """Of the seat and its sub-seats."""
    others: Cost = field(default_factory=Cost)
    """Of the seats that are not rated: simulated users, opponents, judges. Stands on the episode's first trial."""

    @property
    def failed(self) -> bool:
        """Whether it ended in an error."""
        return self.stop == "error"


def seats_of(policy: str) -> Seats:
    """The rule that rates every root seat that ``policy`` sat in."""

    def seats(episode: Episode) -> Sequence[Seat]:
        mine = {seat for seat, info in episode.cast.items() if info.name == policy}
        mine |= {root_of(t.seat) for t in episode.trajectories if t.policy == policy and t.seat == root_of(t.seat)}
        return sorted(mine)

    return seats


def trials(groups: Sequence[Group], seats: Seats, verifier: str | None = None) -> list[Trial]:
    """Every attempt of every rated seat; an episode that broke before anybody sat is one failed attempt.

    A seat that the verifier scores in none of the episodes (a simulated user) is not rated. ``verifier`` names the
    score to be read; None = the only one there is. Raises: BadInput for an episode without rated seat, without score,
    or with several verifiers of which none was named.
    """
    episodes = [episode for group in groups for episode in group]
    judged = {seat for episode in episodes if not broke(episode) for seat in _scores(episode, verifier)}
    found: list[Trial] = []
    for episode in episodes:
        rated = _rated(episode, seats, judged)
        found += [_trial(episode, seat, verifier, () if place else rated) for place, seat in enumerate(rated)]
    return found


def broke(episode: Episode) -> bool:
    """Whether the episode ended in an error, and so has no score."""
    return episode.stop.kind == "error" or episode.error is not None


def _rated(episode: Episode, seats: Seats, judged: Collection[Seat]) -> Sequence[Seat]:
    sat = seats(episode)
    rated = [seat for seat in sat if seat in judged] or sat
    if not rated and broke(episode):
        return [""]
    if not rated:
        cast = {seat: info.name for seat, info in episode.cast.items()}
        raise BadInput(f"episode {episode.id} has no seat to be rated; its cast is {cast}")
    return rated


def _trial(episode: Episode, seat: Seat, verifier: str | None, rated: Collection[Seat]) -> Trial:
    """One trial; the seats beside those ``rated`` are its others, none where it is empty."""
    score = None if broke(episode) else _score(episode, seat, verifier)
    value = None if score is None else score.value
    played = [turn for _, turn in _turns(episode, {seat}) if not turn.branch]
    invalid = [e for e in episode.events if e.kind == "invalid" and not e.branch and root_of(e.seat or "") == seat]
    roots = {root_of(t.seat) for t in episode.trajectories}
    return Trial(
        task=episode.task.id, seat=seat, value=value,
        success=score is not None and value is not None and succeeded(score.success, value),
        stop="error" if broke(episode) else episode.stop.kind,
        failure=episode.stop.reason.split(":", 1)[0] if broke(episode) else "",
        illegal=len(invalid), replies=len({turn.step for turn in played}), turns=len(played),
        tokens=sum(_sampled_tokens(episode, turn) for turn in played), seconds=episode.ended - episode.started,
        cost=_cost(episode, {seat}), others=_cost(episode, roots - set(rated)) if rated else Cost(),
    )


def score_of(episode: Episode, seat: Seat = "agent", verifier: str | None = None) -> float:
    """A seat's score. Raises: BadInput where it has none: the episode broke, or its judge abstained."""
    value = _score(episode, seat, verifier).value
    if value is None:
        raise BadInput(f"the verifier abstained on seat {seat!r} of {episode.id}")
    return value


def _turns(episode: Episode, roots: Collection[Seat]) -> Iterator[tuple[Trajectory, Turn]]:
    for trajectory in episode.trajectories:
        if root_of(trajectory.seat) in roots:
            yield from ((trajectory, turn) for turn in trajectory.turns)


def _cost(episode: Episode, roots: Collection[Seat]) -> Cost:
    found = list(_turns(episode, roots))
    usage = [turn.usage for _, turn in found]
    prices = [one.cost_usd for one in usage if one.cost_usd is not None]
    return Cost(
        calls=len(found), tool_calls=sum(len(trajectory.messages[turn.reply].calls) for trajectory, turn in found),
        prompt_tokens=sum(one.prompt_tokens for one in usage), cached_tokens=sum(one.cached_tokens for one in usage),
        completion_tokens=sum(_sampled_tokens(episode, turn) for _, turn in found),
        model_seconds=sum(turn.ended - turn.started for _, turn in found),
        usd=sum(prices) if len(prices) == len(usage) else None,
    )


def _sampled_tokens(episode: Episode, turn: Turn) -> int:
    if turn.usage.completion_tokens:
        return turn.usage.completion_tokens
    trajectory = episode.trajectory(turn.seat, turn.policy)
    return sum(len(trajectory.spans[i].ids) for i in turn.spans) if trajectory is not None else 0


def succeeded(said: bool | None, value: float) -> bool:
    """Whether a score is a success: the verifier's word, or one (within 1e-6) and more."""
    return value >= SOLVED if said is None else said


def _scores(episode: Episode, verifier: str | None) -> Mapping[Seat, Score]:
    names = sorted(episode.scores)
    if verifier is None and len(names) == 1:
        verifier = names[0]
    if verifier is None or verifier not in episode.scores:
        wanted = "name one of them" if verifier is None else f"{verifier!r} is none of them"
        raise BadInput(f"episode {episode.id} was scored by {names or 'no verifier'}; {wanted}")
    return episode.scores[verifier]


def _score(episode: Episode, seat: Seat, verifier: str | None) -> Score:
    by_seat = _scores(episode, verifier)
    if seat not in by_seat:
        raise BadInput(f"the verifier gave seat {seat!r} of {episode.id} no score, only {sorted(by_seat)}")
    return by_seat[seat]

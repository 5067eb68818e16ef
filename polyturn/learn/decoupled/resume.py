"""Going on with a decoupled stage: no episode that was finished is lost, and none is trained on twice.

A checkpoint holds the books. The episodes of its open tickets stand in the record; what was finished after the
checkpoint is void there, and is recorded again when its ticket takes it back. Free, the journal is followed first:
the same groups are opened, judged and taken in the same order, so that the same updates are made of the same episodes,
and the weights that wrote the later ones exist again. Their hashes are compared; from the first that differs on, the
journal and all that newer weights wrote are left, and played anew.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from polyturn.learn.decoupled.stock import Stock
from polyturn.policies.replicas import Pinned
from polyturn.record.read import read_episodes
from polyturn.rollout.environments import group_name
from polyturn.rollout.leases import Lease
from polyturn.types import Episode

Step = Callable[[int, Lease, Any], Awaitable[None]]
"""One update of leased groups, to its end."""


def bring_back(stock: Stock, state: Mapping[str, Any]) -> None:
    """Puts the recorded episodes back on the restored tickets, and notes those that a kill made void."""
    folder, label = stock.run.folder, f"{stock.stage.name}.t"
    places = {group_name(stock.stage.name, number): ticket for number, ticket in stock.leases.tickets.items()}
    offered = {number["number"]: number["offered"] for number in state["leases"]["tickets"] if number["offered"]}
    wanted = {name for names in offered.values() for name in names}
    named: dict[str, Episode] = {}
    ahead: dict[tuple[str, int], Episode] = {}
    for episode in read_episodes(folder):
        if episode.id in wanted:
            named[episode.id] = episode
        if episode.group.startswith(label) and int(episode.group.removeprefix(label)) >= stock.leases.next:
            ahead[episode.group, episode.trial] = episode
        if episode.group in places and stock.last_attempt(episode):
            places[episode.group].done[episode.trial] = episode
    for number, names in offered.items():
        stock.leases.offer(stock.leases.tickets[number], tuple(named[name] for name in names))
    for episode in read_episodes(folder, void=True):
        if episode.group.startswith(label) and stock.last_attempt(episode):
            _record_again(stock, episode)
            ahead[episode.group, episode.trial] = episode
    stock.kept_back = ahead
    for ticket in list(stock.leases.tickets.values()):
        if ticket.offered is None:
            stock.adopt(ticket)


def _record_again(stock: Stock, episode: Episode) -> None:
    stock.run.recorder.episode(episode)
    for verifier, by_seat in episode.scores.items():
        stock.run.recorder.scores(verifier, {episode.id: by_seat})


async def follow(stock: Stock, line: int, step: Step) -> int:
    """Follows the journal behind ``line`` as far as it holds; the number of updates made.

    Free only: by ticket, nothing depends on an order.
    """
    rows, made = stock.journal.behind(line), 0
    left = deque(rows)
    stock.following = True
    while left and _holds(stock, left[0]):
        row = left.popleft()
        if "opened" in row:
            ticket = stock.leases.put_back(stock.again(row["opened"]))
            proposal, place = ticket.proposal, ticket.place
            more = place + 1 < len(stock.proposed(proposal))
            stock.opened = (proposal, place + 1) if more else (proposal + 1, 0)
            stock.adopt(ticket)
        elif "judged" in row:
            ticket = stock.leases.tickets[row["judged"]]
            await stock.score(ticket)
            stock.weigh(ticket)
        else:
            lease, groups = stock.taken(row["update"])
            await step(row["update"], lease, groups)
            made += 1
    stock.following = False
    if left:
        stock.journal.begin_again(line, rows[: len(rows) - len(left)])
        stock.run.progress.note(f"{len(left)} steps of the journal could not be followed; what they led to is played "
                                "again")
    forget_unknown_weights(stock)
    _judge_the_rest(stock)
    return made


def _holds(stock: Stock, row: Mapping[str, Any]) -> bool:
    """Whether a row can be followed: its groups are whole, and were written by weights that exist."""
    tickets, version = stock.leases.tickets, stock.stage.learner.version
    if "opened" in row:
        return row["opened"]["number"] not in tickets
    if "judged" in row:
        ticket = tickets.get(row["judged"])
        return ticket is not None and ticket.complete and ticket.offered is None and all(
            newest_version(episode, stock.stage.policy) <= version and not _by_others(stock, episode)
            for episode in ticket.group
        )
    if row["update"] != version - stock.first:
        return False
    wanted = [ticket.number for ticket in stock.wanted(row["update"])]
    return bool(wanted[: stock.schedule.groups] == row["took"])


def newest_version(episode: Episode, policy: str) -> int:
    """The newest weights that wrote a token of a policy in an episode, or -1."""
    return max(
        (s.version for t in episode.trajectories if t.policy == policy for s in t.spans if s.sampled), default=-1)


def _by_others(stock: Stock, episode: Episode) -> bool:
    """Whether an episode names the present version with other weights than the present ones."""
    if isinstance(stock.pool, Pinned):
        return False
    now = stock.pool.info()
    return any(
        (info.name, info.version) == (now.name, now.version) and info.weights_sha256 != now.weights_sha256
        for info in episode.cast.values()
    )


def forget_unknown_weights(stock: Stock) -> None:
    """Drops what weights wrote that do not exist now: those rollouts are played again."""
    version = stock.stage.learner.version

    def is_known(episode: Episode) -> bool:
        return newest_version(episode, stock.stage.policy) <= version and not _by_others(stock, episode)

    stock.kept_back = {key: episode for key, episode in stock.kept_back.items() if is_known(episode)}
    for ticket in stock.leases.tickets.values():
        if ticket.offered is None:
            ticket.done = {trial: episode for trial, episode in ticket.done.items() if is_known(episode)}


def _judge_the_rest(stock: Stock) -> None:
    """Queues the complete groups that wait for judgement, once each."""
    stock.empty_queue()
    for number in sorted(stock.leases.tickets):
        ticket = stock.leases.tickets[number]
        if ticket.complete and ticket.offered is None:
            stock.finish(ticket)


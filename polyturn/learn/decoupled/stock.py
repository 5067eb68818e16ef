"""The data manager: opens tickets, hands out orders, judges finished groups, and lends them to the learner.

All of it happens in the event loop's thread. Everything whose order matters is written to the journal first.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

from polyturn.errors import BadInput, DeadlinePassed
from polyturn.learn.decoupled.journal import Journal
from polyturn.learn.decoupled.schedule import Schedule, fresh
from polyturn.learn.loop import Stage
from polyturn.learn.run import Run
from polyturn.policies.replicas import Pinned, Replicas
from polyturn.protocols import Match, Policy
from polyturn.rollout.environments import episode_name, group_name
from polyturn.rollout.leases import Lease, Leases, Order, Ticket, as_it_was
from polyturn.rollout.score import names_unscored, refuse_all_unscored, score_matches, score_with, unscored
from polyturn.types import Episode, Group
from polyturn.waits import Waiting


class Stock:
    """The groups of one stage, from proposal to update; a :class:`polyturn.rollout.environments.Queue`."""

    def __init__(self, run: Run, stage: Stage, schedule: Schedule, pool: Replicas | Pinned) -> None:
        self.run, self.stage, self.schedule, self.pool = run, stage, schedule, pool
        self.leases = Leases()
        self.journal = Journal(run.folder, stage.name)
        self.first = stage.learner.version
        """The version before the stage's first update."""
        self.opened = (0, 0)
        """Free: the proposal and the place in it that is opened next."""
        self.kept_back: dict[tuple[str, int], Episode] = {}
        """(group, trial) -> what an earlier attempt finished after its last checkpoint, until its ticket is opened."""
        self.stale_episodes = 0
        self.begun = 0
        """The updates whose groups were taken: what is judged now is for the next one."""
        self.following = False
        """Whether the journal is being followed, and so holds already what is done."""
        self.lost: list[Group] = []
        """The last groups in a row of which episodes could not be scored."""
        self._proposal: tuple[int, Sequence[Match]] | None = None
        self._finished: asyncio.Queue[Ticket] = asyncio.Queue()
        self._changed = asyncio.Condition()

    # ------------------------------------------------------------ tickets

    def proposed(self, proposal: int) -> Sequence[Match]:
        """The matches of a proposal, under what is set while the run works."""
        if self._proposal is None or self._proposal[0] != proposal:
            matches = [self.run.control.match(match) for match in self.stage.curriculum.propose(proposal)]
            if not matches:
                raise BadInput(f"the curriculum proposes nothing in proposal {proposal}, so there is nothing to play")
            self._proposal = (proposal, matches)
        return self._proposal[1]

    def open_next(self) -> Ticket | None:
        """Free: opens one more ticket, unless as many are open as may be."""
        if len(self.leases.tickets) >= self.schedule.ahead:
            return None
        proposal, place = self.opened
        matches = self.proposed(proposal)
        ticket = self.leases.open(matches[place], proposal, place)
        self.opened = (proposal, place + 1) if place + 1 < len(matches) else (proposal + 1, 0)
        self._note({"opened": ticket.state()})
        return self.adopt(ticket)

    def open_proposal(self, proposal: int) -> None:
        """By ticket: opens all groups of an update."""
        for place, match in enumerate(self.proposed(proposal)):
            self.adopt(self.leases.open(match, proposal, place))
        self.opened = (proposal + 1, 0)

    def adopt(self, ticket: Ticket) -> Ticket:
        """Gives a ticket what an earlier attempt finished of it."""
        group = group_name(self.stage.name, ticket.number)
        for trial in range(ticket.match.rollouts):
            episode = self.kept_back.pop((group, trial), None)
            if episode is not None and trial not in ticket.done and self._is_of(episode, ticket):
                ticket.done[trial] = episode
        if ticket.complete:
            self.finish(ticket)
        return ticket

    def finish(self, ticket: Ticket) -> None:
        """Hands a complete group to the judge."""
        self._finished.put_nowait(ticket)

    def empty_queue(self) -> None:
        """Takes back what the judge was handed and has not begun."""
        while not self._finished.empty():
            self._finished.get_nowait()

    def _is_of(self, episode: Episode, ticket: Ticket) -> bool:
        """By ticket: whether an episode was played by the very weights that play its ticket now."""
        if isinstance(self.pool, Replicas):
            return True
        now = self.pool.of(self.version_of(ticket)).info()
        return all(info.weights_sha256 == now.weights_sha256 for info in episode.cast.values() if info.name == now.name)

    def _note(self, row: Mapping[str, Any]) -> None:
        if not self.following:
            self.journal.write(row)

    def version_of(self, ticket: Ticket) -> int:
        """By ticket: the weights that play it."""
        return self.first + self.schedule.played_by(ticket.proposal)

    # ------------------------------------------------------------ what environments ask

    async def order(self, environment: str) -> Order:
        """The next rollout; a new ticket is opened where there is none to play."""
        async with self._changed:
            while True:
                found = self.leases.take_order(environment)
                if found is not None:
                    return found
                if self.schedule.by_ticket or self.open_next() is None:
                    with Waiting(f"environment {environment}", "the stock", "an order"):
                        await self._changed.wait()

    def played(self, order: Order, episode: Episode, environment: str) -> None:
        """Takes in a finished rollout; a group that it completes goes to the judge."""
        if self.leases.give(order, episode, environment):
            self.finish(order.ticket)

    async def lose(self, environment: str, why: str) -> None:
        """What an environment held goes back into the books, and is played again."""
        for order in self.leases.lost(environment):
            ticket = order.ticket
            self.run.progress.note(f"stage {self.stage.name}: {why}; rollout {order.trial} of ticket {ticket.number}, "
                                   f"task {ticket.match.task.id}, is played again")
        await self.tell()

    def policies(self, order: Order) -> Mapping[str, Policy]:
        """The stage's policies, with those that sample in the place of what is trained."""
        if isinstance(self.pool, Replicas):
            return {**self.stage.policies, self.stage.policy: self.pool}
        return {**self.stage.policies, self.stage.policy: self.pool.of(self.version_of(order.ticket))}

    # ------------------------------------------------------------ judging

    async def judge(self) -> None:
        """Judges finished groups one after the other, in the order in which they came; works until cancelled."""
        while True:
            ticket = await self._finished.get()
            await self.score(ticket)
            self.weigh(ticket)
            await self.tell()

    async def score(self, ticket: Ticket) -> None:
        """Scores a complete group by its suite's verifier and the stage's own."""
        if all(episode.scores or episode.stop.kind == "error" for episode in ticket.group):
            return
        recorder, timeout_s = self.run.recorder, self.stage.deadline_of([ticket.match])
        groups = await score_matches([ticket.match], [ticket.group], recorder, part=True)
        for verifier in self.stage.verifiers:
            groups = await score_with(verifier, groups, recorder, timeout_s=timeout_s, part=True)
        ticket.done = dict(enumerate(groups[0]))
        self._refuse_unscored(ticket)

    def _refuse_unscored(self, ticket: Ticket) -> None:
        """Raises: VerifierFailed where of as many groups in a row as an update takes nothing could be scored."""
        lost = names_unscored([ticket.group])
        if lost:
            self.run.progress.note(f"stage {self.stage.name}: {lost}")
        self.lost = [*self.lost, ticket.group][-self.schedule.groups :] if lost else []
        if len(self.lost) == self.schedule.groups:
            refuse_all_unscored(self.lost)

    def weigh(self, ticket: Ticket) -> None:
        """Offers a scored group. Free: tells the curriculum, and settles a group of which the filters leave nothing."""
        if self.schedule.by_ticket:
            self.leases.offer(ticket, ticket.group)
            return
        self._note({"judged": ticket.number})
        self.stage.curriculum.observe([ticket.group])
        kept = self.filtered([ticket.group])
        if kept:
            self.leases.offer(ticket, kept[0])
        else:
            self.leases.settle(ticket, "dead")

    def filtered(self, groups: Sequence[Group]) -> Sequence[Group]:
        """The groups as the present rule's filters leave them."""
        for keep in self.stage.rule_at(min(self.begun, self.stage.iterations - 1)).filters:
            groups = keep(groups)
        return groups

    # ------------------------------------------------------------ what the learner asks

    async def take(self, update: int) -> tuple[Lease, Sequence[Group]]:
        """Lends the groups of an update, waiting for them; the groups as the filters leave them.

        Raises: DeadlinePassed after ``deadline_s`` without enough groups, with what there is.
        """
        said = [self.waiting(update)]
        with Waiting("the learner", "the stock", lambda: said[0], self.schedule.deadline_s):
            await self._until_enough(update, said)
        return self.taken(update)

    async def _until_enough(self, update: int, said: list[str]) -> None:
        """Waits; ``said[0]`` is kept in words, for who looks from another thread must not look into the books."""
        started = told = time.monotonic()
        while not self.is_enough(update):
            await self.tell()  # what is too old has left room for others
            said[0] = self.waiting(update)
            try:
                async with asyncio.timeout(min(self.schedule.tell_after_s, 1.0)), self._changed:
                    await self._changed.wait()
            except TimeoutError:
                now = time.monotonic()
                if now - started > self.schedule.deadline_s:
                    raise DeadlinePassed(f"the learner waited {now - started:.0f} s: {said[0]}") from None
                if now - told >= self.schedule.tell_after_s:
                    told = now
                    self.run.progress.note(said[0])

    def taken(self, update: int) -> tuple[Lease, Sequence[Group]]:
        """Lends the groups of an update, all of which are there."""
        tickets = self.wanted(update)
        if self.schedule.by_ticket:
            groups = [ticket.group for ticket in tickets]
            self.stage.curriculum.observe(groups)
            kept, self.begun = self.filtered(groups), update + 1
            return self.leases.lease(tickets), kept
        self.begun = update + 1
        tickets = tickets[: self.schedule.groups]
        self._note({"took": [ticket.number for ticket in tickets], "update": update})
        return self.leases.lease(tickets), [ticket.offered for ticket in tickets if ticket.offered is not None]

    def wanted(self, update: int) -> list[Ticket]:
        """What is on offer for an update; free, what is too old is settled as stale on the way."""
        offered = self.leases.on_offer()
        if self.schedule.by_ticket:
            return [ticket for ticket in offered if ticket.proposal == update]
        version, found = self.stage.learner.version, []
        for ticket in offered:
            assert ticket.offered is not None
            own = group_name(self.stage.name, ticket.number)
            left = fresh(ticket.offered, self.stage.policy, version, self.schedule.max_lag, own=own)
            self.stale_episodes += len(ticket.offered) - len(left)
            if len(left) < min(2, len(ticket.offered)):
                self.leases.settle(ticket, "stale")
            else:
                ticket.offered = left
                found.append(ticket)
        return found

    def is_enough(self, update: int) -> bool:
        """Whether an update's groups are all there."""
        return len(self.wanted(update)) >= self._needed(update)

    def _needed(self, update: int) -> int:
        if not self.schedule.by_ticket:
            return self.schedule.groups
        return max(1, sum(ticket.proposal == update for ticket in self.leases.tickets.values()))

    def waiting(self, update: int) -> str:
        """Who waits for what, in words."""
        playing = sum(len(ticket.playing) for ticket in self.leases.tickets.values())
        return (f"waiting for data, {len(self.wanted(update))} of {self._needed(update)} groups of update {update} "
                f"({playing} episodes in play, {self.leases.settled['dead']} groups so far without anything to learn, "
                f"{self.leases.settled['stale']} too old)")

    async def commit(self, lease: Lease) -> None:
        """Settles what an update was made of."""
        self.leases.commit(lease)
        await self.tell()

    async def tell(self) -> None:
        """Wakes whoever waits for a ticket or a group."""
        async with self._changed:
            self._changed.notify_all()

    # ------------------------------------------------------------ state

    def state(self) -> dict[str, Any]:
        """The books, the version that the stage began with, and the place in the journal."""
        return {"leases": self.leases.state(), "first": self.first, "opened": list(self.opened),
                "begun": self.begun,
                "journal": self.journal.lines, "stale_episodes": self.stale_episodes,
                "versions": self.pool.state() if isinstance(self.pool, Pinned) else {}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes back the books; :func:`polyturn.learn.decoupled.resume.resume` then brings the episodes."""
        books = state["leases"]
        self.first, self.opened = int(state["first"]), (int(state["opened"][0]), int(state["opened"][1]))
        self.stale_episodes, self.begun = int(state["stale_episodes"]), int(state["begun"])
        self.leases.settled.update(books["settled"])
        self.leases.next = int(books["next"])
        for ticket in books["tickets"]:
            self.leases.put_back(self.again(ticket))

    def again(self, ticket: Mapping[str, Any]) -> Ticket:
        """A ticket of an earlier attempt."""
        matches = self.stage.curriculum.propose(int(ticket["proposal"]))
        if int(ticket["place"]) >= len(matches):
            raise BadInput(f"proposal {ticket['proposal']} has {len(matches)} groups and had one at place "
                           f"{ticket['place']}; resume with the settings and tasks of the run")
        return as_it_was(ticket, matches[int(ticket["place"])])

    def last_attempt(self, episode: Episode) -> bool:
        """Whether an episode stands, or would be played again because it broke."""
        name = episode_name(episode.group, episode.trial, self.stage.pool.retries)
        return episode.stop.kind != "error" or unscored(episode) or episode.id == name

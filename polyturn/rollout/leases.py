"""Tickets and leases: which group is to be played, in play, complete, leased to the learner, or settled.

The books of decoupled training, and nothing else: no waiting, no clock. A ticket is a match to be played. Each of its
rollouts is an :class:`Order` that one environment holds at a time; what a dead environment held goes back. A complete
group is *offered*; the learner takes some under a :class:`Lease`, and only :meth:`Leases.commit` after the update
settles them. A lease that is not committed is released, and its groups are offered again: nothing is lost, and nothing
can be trained twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from polyturn.errors import BadInput
from polyturn.protocols import Match
from polyturn.types import Episode, Group, Limits

Outcome = Literal["used", "dead", "stale"]
"""How a ticket was settled: trained on, without anything to learn, or by weights too old."""


@dataclass(slots=True)
class Ticket:
    """One group from its proposal to its end. Tickets are numbered in the order in which they were opened."""

    number: int
    match: Match
    proposal: int
    """The proposal of the curriculum that the match is of, and its place in it."""
    place: int
    done: dict[int, Episode] = field(default_factory=dict)
    """Trial -> its episode."""
    playing: dict[int, str] = field(default_factory=dict)
    """Trial -> the environment that plays it."""
    offered: Group | None = None
    """What the learner may take: the scored group, as the filters left it."""
    leased: bool = False

    @property
    def complete(self) -> bool:
        """Whether all rollouts were played."""
        return len(self.done) == self.match.rollouts

    @property
    def group(self) -> Group:
        """The episodes by trial."""
        return tuple(self.done[trial] for trial in range(self.match.rollouts))

    def state(self) -> dict[str, Any]:
        """What cannot be asked of the curriculum again, as JSON values."""
        limits = self.match.limits
        return {
            "number": self.number, "proposal": self.proposal, "place": self.place, "task": self.match.task.id,
            "seed": self.match.seed, "rollouts": self.match.rollouts,
            "limits": [limits.env_steps, limits.model_calls, limits.tool_calls, limits.tokens, limits.seconds],
            "max_tokens": self.match.max_tokens, "temperature": self.match.temperature,
            "offered": None if self.offered is None else [episode.id for episode in self.offered],
        }


def as_it_was(state: Mapping[str, Any], match: Match) -> Ticket:
    """The ticket of a state, around the match that the curriculum proposes at its place again.

    Raises: BadInput where that is another task or seed: the settings or the tasks have changed.
    """
    if (match.task.id, match.seed) != (state["task"], state["seed"]):
        raise BadInput(f"proposal {state['proposal']} was task {state['task']} with seed {state['seed']}, and is now "
                       f"{match.task.id} with {match.seed}; resume with the settings and tasks of the run")
    own = replace(match, rollouts=int(state["rollouts"]), limits=Limits(*state["limits"]),
                  max_tokens=state["max_tokens"], temperature=state["temperature"])
    return Ticket(int(state["number"]), own, int(state["proposal"]), int(state["place"]))


@dataclass(frozen=True, slots=True)
class Order:
    """One rollout to be played by one environment."""

    ticket: Ticket
    trial: int


@dataclass(frozen=True, slots=True)
class Lease:
    """Groups that the learner took, in this order."""

    tickets: tuple[Ticket, ...]

    @property
    def numbers(self) -> list[int]:
        """Their numbers."""
        return [ticket.number for ticket in self.tickets]


class Leases:
    """The books. Every change is refused that would lose or double a rollout."""

    def __init__(self) -> None:
        self.tickets: dict[int, Ticket] = {}
        """Those that are not settled, by number."""
        self.next = 0
        self.settled: Counter[str] = Counter()
        """Outcome -> tickets."""

    def open(self, match: Match, proposal: int, place: int) -> Ticket:
        """A new ticket."""
        return self.put_back(Ticket(self.next, match, proposal, place))

    def put_back(self, ticket: Ticket) -> Ticket:
        """A ticket of an earlier attempt. Raises: BadInput if there is one of that number."""
        if ticket.number in self.tickets:
            raise BadInput(f"ticket {ticket.number} is open already")
        self.tickets[ticket.number] = ticket
        self.next = max(self.next, ticket.number + 1)
        return ticket

    def take_order(self, environment: str) -> Order | None:
        """The next rollout for an environment: the lowest ticket first, then the lowest trial; None if all are played
        or in play. The smallest unit is one rollout: no environment waits for a group or a batch."""
        for number in sorted(self.tickets):
            ticket = self.tickets[number]
            for trial in range(ticket.match.rollouts):
                if trial not in ticket.done and trial not in ticket.playing:
                    ticket.playing[trial] = environment
                    return Order(ticket, trial)
        return None

    def give(self, order: Order, episode: Episode, environment: str) -> bool:
        """Takes in a finished rollout; True if its group is complete now.

        Raises: BadInput from an environment that does not hold the order (its lease was taken away).
        """
        ticket = order.ticket
        if ticket.playing.get(order.trial) != environment or order.trial in ticket.done:
            raise BadInput(f"environment {environment} gives rollout {order.trial} of ticket {ticket.number}, which "
                           f"{ticket.playing.get(order.trial, 'nobody')} holds")
        del ticket.playing[order.trial]
        ticket.done[order.trial] = episode
        return ticket.complete

    def lost(self, environment: str) -> list[Order]:
        """The orders that a dead environment held; they are to be played again."""
        held = [
            Order(ticket, trial) for ticket in self.tickets.values() for trial, by in ticket.playing.items()
            if by == environment
        ]
        for order in held:
            del order.ticket.playing[order.trial]
        return held

    def offer(self, ticket: Ticket, group: Group) -> None:
        """Makes a complete group known to the learner, as the filters left it."""
        self._refuse_unknown(ticket)
        if not ticket.complete or ticket.leased:
            raise BadInput(f"ticket {ticket.number} has {len(ticket.done)} of {ticket.match.rollouts} rollouts"
                           f"{' and is leased' if ticket.leased else ''}; only a complete, free group is offered")
        ticket.offered = group

    def on_offer(self) -> list[Ticket]:
        """The groups that can be taken, oldest ticket first."""
        return [t for _, t in sorted(self.tickets.items()) if t.offered is not None and not t.leased]

    def lease(self, tickets: Sequence[Ticket]) -> Lease:
        """Takes offered groups for an update. Raises: BadInput for one that is not on offer."""
        for ticket in tickets:
            self._refuse_unknown(ticket)
            if ticket.offered is None or ticket.leased:
                raise BadInput(f"ticket {ticket.number} is {'leased' if ticket.leased else 'not on offer'}")
        for ticket in tickets:
            ticket.leased = True
        return Lease(tuple(tickets))

    def commit(self, lease: Lease) -> None:
        """Settles leased groups as used: called after the update that trained on them."""
        for ticket in lease.tickets:
            if not ticket.leased:
                raise BadInput(f"ticket {ticket.number} is not leased, so it cannot be committed")
            self.settle(ticket, "used")

    def release(self, lease: Lease) -> None:
        """Offers leased groups again: the update was not made."""
        for ticket in lease.tickets:
            self._refuse_unknown(ticket)
            ticket.leased = False

    def settle(self, ticket: Ticket, outcome: Outcome) -> None:
        """Ends a ticket. Raises: BadInput for one that is unknown, in play, or used without a lease."""
        self._refuse_unknown(ticket)
        if ticket.playing or ticket.leased != (outcome == "used"):
            raise BadInput(f"ticket {ticket.number} is {'leased' if ticket.leased else 'not leased'} with "
                           f"{len(ticket.playing)} rollouts in play; it cannot be settled as {outcome}")
        del self.tickets[ticket.number]
        self.settled[outcome] += 1

    def _refuse_unknown(self, ticket: Ticket) -> None:
        if self.tickets.get(ticket.number) is not ticket:
            raise BadInput(f"ticket {ticket.number} is settled, or of other books")

    def state(self) -> dict[str, Any]:
        """The tickets that are not settled, the next number, and the counts. Leased groups stand as offered: until
        their update is committed, they are not used."""
        return {"next": self.next, "settled": dict(self.settled),
                "tickets": [self.tickets[number].state() for number in sorted(self.tickets)]}

"""The books of decoupled training, by hand and against a slow twin on random histories."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from polyturn.errors import BadInput
from polyturn.protocols import Match
from polyturn.rollout.leases import Leases, Order, Ticket, as_it_was
from polyturn.types import Episode, Limits, Task


def match(name: str = "t", rollouts: int = 2) -> Match:
    return Match(None, Task(name, "f"), {}, seed=7, rollouts=rollouts)  # type: ignore[arg-type]


def episode(ticket: Ticket, trial: int) -> Episode:
    return Episode(f"e{ticket.number}.{trial}", ticket.match.task, 7, trial=trial)


def played(books: Leases, ticket: Ticket) -> None:
    """Plays a whole group by one environment."""
    while not ticket.complete:
        order = books.take_order("env")
        assert order is not None and order.ticket is ticket
        books.give(order, episode(ticket, order.trial), "env")


def test_a_group_from_its_ticket_to_its_update() -> None:
    books = Leases()
    first, second = books.open(match(), 0, 0), books.open(match("u", 1), 0, 1)
    orders = [books.take_order(name) for name in ("a", "b", "c", "d")]
    assert [(o.ticket.number, o.trial) for o in orders if o] == [(0, 0), (0, 1), (1, 0)] and orders[3] is None
    assert books.give(orders[1], episode(first, 1), "b") is False  # type: ignore[arg-type]
    assert books.give(orders[0], episode(first, 0), "a") is True  # type: ignore[arg-type]
    assert [e.id for e in first.group] == ["e0.0", "e0.1"]  # by trial, whatever came first
    books.offer(first, first.group)
    lease = books.lease([first])
    assert books.on_offer() == [] and lease.numbers == [0]
    assert books.state()["tickets"][0]["offered"] == ["e0.0", "e0.1"]  # not used until the update is committed
    books.release(lease)
    assert books.on_offer() == [first]
    books.commit(books.lease([first]))
    assert dict(books.settled) == {"used": 1} and list(books.tickets) == [1]
    assert books.give(orders[2], episode(second, 0), "c") is True  # type: ignore[arg-type]
    books.settle(second, "dead")
    assert books.tickets == {} and books.next == 2


def test_what_would_lose_or_double_a_rollout_is_refused() -> None:
    books = Leases()
    ticket = books.open(match(), 0, 0)
    order = books.take_order("a")
    assert order is not None
    with pytest.raises(BadInput, match="which a holds"):
        books.give(order, episode(ticket, 0), "b")
    with pytest.raises(BadInput, match="1 rollouts in play"):
        books.settle(ticket, "dead")
    with pytest.raises(BadInput, match="0 of 2 rollouts"):
        books.offer(ticket, ())
    assert [(o.ticket.number, o.trial) for o in books.lost("a")] == [(0, 0)]
    with pytest.raises(BadInput, match="which nobody holds"):  # it was given to others in between
        books.give(order, episode(ticket, 0), "a")
    played(books, ticket)
    with pytest.raises(BadInput, match="not on offer"):
        books.lease([ticket])
    books.offer(ticket, ticket.group)
    lease = books.lease([ticket])
    with pytest.raises(BadInput, match="is leased"):
        books.lease([ticket])
    with pytest.raises(BadInput, match="cannot be settled as stale"):
        books.settle(ticket, "stale")
    books.commit(lease)
    for late in (books.commit, books.release):
        with pytest.raises(BadInput, match=r"settled|not leased"):
            late(lease)
    with pytest.raises(BadInput, match="settled"):
        books.offer(ticket, ticket.group)
    with pytest.raises(BadInput, match="open already"):
        books.put_back(replace(books.open(match(), 0, 0)))


def test_a_ticket_comes_back_as_it_was() -> None:
    books = Leases()
    books.open(replace(match(), rollouts=3, limits=Limits(env_steps=4, seconds=2.5)), 5, 1)
    state = books.state()["tickets"][0]
    again = as_it_was(state, match(rollouts=9))
    assert (again.match.rollouts, again.match.limits) == (3, Limits(env_steps=4, seconds=2.5))
    assert (again.number, again.proposal, again.place) == (0, 5, 1)
    with pytest.raises(BadInput, match="is now other"):
        as_it_was(state, match("other"))


class Slow:
    """The twin: one list of facts, and every question answered by going through all of them."""

    def __init__(self) -> None:
        self.facts: list[tuple[Any, ...]] = []

    def status(self, number: int, trial: int) -> str:
        found = "waits"
        for fact in self.facts:
            if fact[:3] == ("take", number, trial):
                found = f"held by {fact[3]}"
            elif fact[:3] == ("give", number, trial):
                found = "done"
            elif fact[0] == "lost" and found == f"held by {fact[1]}":
                found = "waits"
        return found

    def rollouts(self, number: int) -> int:
        return next(fact[2] for fact in self.facts if fact[:2] == ("open", number))

    def over(self, number: int) -> bool:
        return any(fact[0] in ("commit", "settle") and fact[1] == number for fact in self.facts)

    def leased(self, number: int) -> bool:
        last = [fact[0] for fact in self.facts if fact[0] in ("lease", "release") and fact[1] == number]
        return last[-1:] == ["lease"]

    def numbers(self) -> list[int]:
        return [fact[1] for fact in self.facts if fact[0] == "open" and not self.over(fact[1])]

    def next_order(self) -> tuple[int, int] | None:
        every = [(n, t) for n in sorted(self.numbers()) for t in range(self.rollouts(n))]
        return next((pair for pair in every if self.status(*pair) == "waits"), None)

    def on_offer(self) -> list[int]:
        offered = {fact[1] for fact in self.facts if fact[0] == "offer"}
        return [n for n in sorted(self.numbers()) if n in offered and not self.leased(n)]


def step(draw: random.Random, books: Leases, slow: Slow) -> None:
    """One random act, in both."""
    kind = draw.choice(("open", "take", "take", "give", "give", "give", "lost", "offer", "lease", "end"))
    name = draw.choice("abc")
    held = [(t, trial, by) for t in books.tickets.values() for trial, by in t.playing.items()]
    if kind == "open" and len(books.tickets) < 4:
        ticket = books.open(match(rollouts=draw.randint(1, 3)), 0, 0)
        slow.facts.append(("open", ticket.number, ticket.match.rollouts))
    elif kind == "take":
        expected, order = slow.next_order(), books.take_order(name)
        assert (None if order is None else (order.ticket.number, order.trial)) == expected
        if order is not None:
            slow.facts.append(("take", order.ticket.number, order.trial, name))
    elif kind == "give" and held:
        ticket, trial, by = draw.choice(held)
        complete = books.give(Order(ticket, trial), episode(ticket, trial), by)
        slow.facts.append(("give", ticket.number, trial))
        every = [slow.status(ticket.number, t) for t in range(slow.rollouts(ticket.number))]
        assert complete == (set(every) == {"done"})
    elif kind == "lost":
        before = [(n, t) for n in slow.numbers() for t in range(slow.rollouts(n))
                  if slow.status(n, t) == f"held by {name}"]
        assert sorted((o.ticket.number, o.trial) for o in books.lost(name)) == sorted(before)
        slow.facts.append(("lost", name))
    elif kind == "offer":
        whole = [t for t in books.tickets.values() if t.complete and t.offered is None]
        if whole:
            books.offer(whole[0], whole[0].group)
            slow.facts.append(("offer", whole[0].number))
    elif kind in ("lease", "end") and books.on_offer():
        ticket = draw.choice(books.on_offer())
        if kind == "end" and draw.random() < 0.3:
            books.settle(ticket, "stale")
            slow.facts.append(("settle", ticket.number))
            return
        lease = books.lease([ticket])
        slow.facts.append(("lease", ticket.number))
        end = draw.choice(("commit", "release"))
        getattr(books, end)(lease)
        slow.facts.append((end, ticket.number))


def test_a_thousand_random_histories() -> None:
    draw, orders, other, used_twice = random.Random(0), 0, 0, 0
    for _ in range(1000):
        books, slow = Leases(), Slow()
        for _ in range(draw.randint(1, 60)):
            step(draw, books, slow)
            assert sorted(books.tickets) == sorted(slow.numbers())
            assert [ticket.number for ticket in books.on_offer()] == slow.on_offer()
        used = [fact[1] for fact in slow.facts if fact[0] == "commit"]
        used_twice += len(used) - len(set(used))
        assert len(used) == books.settled["used"]
        orders += sum(fact[0] == "give" for fact in slow.facts)
        forgetful = Slow()
        forgetful.facts = [fact for fact in slow.facts if fact[0] != "lost"]
        other += forgetful.next_order() != slow.next_order()
    assert orders > 2000 and used_twice == 0
    assert other > 50  # a twin that forgets what dead environments held would order other rollouts

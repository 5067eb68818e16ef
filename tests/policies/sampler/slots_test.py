"""Slots: longest beginnings, forks, the coldest first, a byte budget that changes nothing but time."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
import torch

from polyturn.policies.sampler.request import Request, drawn_request
from polyturn.policies.sampler.slots import Slots
from polyturn.types import Sampling, system, user
from tests.policies.tiny import talks, tiny_local, tiny_model, worst_gap


def made(ids: list[int], order: int = 0) -> Request:
    request = drawn_request(np.array(ids, np.int32), Sampling(max_tokens=200), seed=0, limit=999, stop_ids=())
    request.order = order
    return request


def filled(slots: Slots, request: Request) -> None:
    """Writes each id as its own key and value into the request's slot, as a forward would."""
    new = torch.from_numpy(request.path[request.fed : request.length].astype(np.float32))
    keys, values = slots.layer(0, torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1))
    keys[request.slot, 0, request.fed : request.length, 0] = new
    values[request.slot, 0, request.fed : request.length, 0] = -new
    slots.advance(request, request.pending)


def held(slots: Slots, request: Request) -> list[float]:
    keys, _ = slots.layer(0, torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1))
    return [float(x) for x in keys[request.slot, 0, : request.fed, 0]]


def two_tokens_a_slot(slots_wanted: int) -> Slots:
    """Slots whose budget holds so many of 64 ids: a token takes 4 bytes for its key and 4 for its value."""
    slots = Slots(slots_wanted * 64 * 8)
    slots.token_bytes = 8
    return slots


def test_a_path_goes_on_in_its_own_slot() -> None:
    slots = two_tokens_a_slot(4)
    first = made([1, 2, 3])
    assert slots.admit(first) and (first.fed, first.cached) == (0, 0)
    filled(slots, first)
    slots.release(first)
    later = made([1, 2, 3, 4, 5])
    assert slots.admit(later)
    assert (later.slot, later.fed, later.cached) == (0, 3, 3)


def test_a_branch_copies_what_it_shares_and_spoils_nothing() -> None:
    slots = two_tokens_a_slot(4)
    first = made([1, 2, 3, 4])
    slots.admit(first)
    filled(slots, first)
    slots.release(first)
    branch = made([1, 2, 9, 9])
    assert slots.admit(branch)
    assert (branch.slot, branch.fed) == (1, 2) and held(slots, branch) == [1.0, 2.0]
    filled(slots, branch)
    assert held(slots, branch) == [1.0, 2.0, 9.0, 9.0]
    again = made([1, 2, 3, 4, 5])
    assert slots.admit(again) and (again.slot, again.fed) == (0, 4) and held(slots, again) == [1.0, 2.0, 3.0, 4.0]


def test_the_last_id_is_always_fed() -> None:
    slots = two_tokens_a_slot(4)
    first = made([1, 2, 3])
    slots.admit(first)
    filled(slots, first)
    slots.release(first)
    same = made([1, 2, 3])
    assert slots.admit(same) and same.fed == 2  # its logits are not in the cache


def test_the_coldest_free_slot_is_given_away_first() -> None:
    slots = two_tokens_a_slot(2)
    for ids in ([1, 1], [2, 2], [1, 1, 1]):  # the last one warms slot 0 again
        request = made(ids)
        assert slots.admit(request)
        filled(slots, request)
        slots.release(request)
    fresh = made([3, 3])
    assert slots.admit(fresh) and fresh.slot == 1
    other = made([4, 4])
    assert slots.admit(other) and other.slot == 0
    assert not slots.admit(made([5, 5]))  # both have owners now


def test_a_request_waits_for_a_long_beginning_that_another_computes() -> None:
    slots = two_tokens_a_slot(8)
    first, second, short = made([7] * 40 + [1]), made([7] * 40 + [2]), made([7] * 5 + [3])
    assert slots.admit(first) and not slots.admit(second) and slots.admit(short)
    filled(slots, first)
    assert slots.admit(second) and second.fed == 40 and held(slots, second) == [7.0] * 40


def test_longer_slots_push_out_the_cold_and_then_the_latest() -> None:
    slots = two_tokens_a_slot(4)
    free, early, late = made([1, 1]), made([2, 2], order=1), made([3, 3], order=2)
    for request in (free, early, late):
        slots.admit(request)
        filled(slots, request)
    slots.release(free)
    assert slots.hold(128) == []  # two of 128 fit: the free one goes
    assert slots.owners == [early, late]
    assert (held(slots, early), held(slots, late)) == ([2.0, 2.0], [3.0, 3.0])
    assert slots.hold(256) == [late]  # one of 256 fits
    assert (late.slot, late.fed, early.slot) == (-1, 0, 0) and held(slots, early) == [2.0, 2.0]


def test_a_broken_slot_is_wiped() -> None:
    slots = two_tokens_a_slot(2)
    request = made([1, 2])
    slots.admit(request)
    filled(slots, request)
    slots.release(request, broken=True)
    keys, _ = slots.layer(0, torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1))
    assert float(keys.abs().sum()) == 0
    again = made([1, 2])
    assert slots.admit(again) and again.fed == 0


@pytest.mark.parametrize("cache_bytes", [1, 200_000])
async def test_a_tiny_budget_changes_nothing_but_time(cache_bytes: int) -> None:
    # one slot of 64 ids: 2 layers x 2 heads x 8 numbers x keys and values x 4 bytes x 64 = 16,384 bytes
    model = tiny_model()
    policy = tiny_local(model, cache_bytes=cache_bytes)
    said = await talks(policy, range(10, 16), 3, Sampling(max_tokens=30), at_once=6)
    assert worst_gap(model, said) < 1e-4
    roomy = tiny_local(model)
    same = await talks(roomy, range(10, 16), 3, Sampling(max_tokens=30), at_once=6)
    assert [[c.ids.tolist() for c in d] for d in said] == [[c.ids.tolist() for c in d] for d in same]
    assert policy.stats.cached < roomy.stats.cached
    policy.close()
    roomy.close()


async def test_a_group_shares_its_prompt_and_forks() -> None:
    policy = tiny_local()
    messages = (system("A long common opening. " * 8), user("Go."))
    sampled = await asyncio.gather(*(
        policy.sample(messages, sampling=Sampling(seed=seed, max_tokens=6)) for seed in range(8)
    ))
    length = sampled[0].usage.prompt_tokens
    cached = sorted(c.usage.cached_tokens for c in sampled)
    assert cached == [0, *[length - 1] * 7]  # computed once, copied seven times
    assert len({tuple(c.ids.tolist()) for c in sampled if c.ids is not None}) > 1
    policy.close()

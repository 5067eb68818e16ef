"""Attention over slots against plain attention written out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from polyturn.policies.sampler.attention import Rows, Shared, attention, pieces_of, runs_of, shared_of
from polyturn.policies.sampler.slots import Slots


def test_neighbours_make_one_run_and_far_or_longer_ones_their_own() -> None:
    runs = runs_of([(0, 300), (1, 310), (2, 290)])
    assert [(r.row, r.count, r.low, r.high, r.longest) for r in runs] == [(0, 3, 0, 3, 310)]
    # joined: 2 slots of 3,000 keys; apart: 3,000 + 100 + 600 for the call
    runs = runs_of([(0, 3000), (1, 100)])
    assert [(r.row, r.low, r.high, r.longest) for r in runs] == [(0, 0, 1, 3000), (1, 1, 2, 100)]
    # a hole of one slot costs 150 keys, a call 600; a hole of ten costs 1,500
    assert len(runs_of([(0, 150), (2, 150)])) == 1
    assert len(runs_of([(0, 150), (11, 150)])) == 2


def test_a_hole_is_skipped_and_shorter_slots_are_masked() -> None:
    (run,) = runs_of([(3, 4), (5, 2)])
    assert run.place is not None and run.place.tolist() == [0, 2] and run.mask is not None
    open_keys = (run.mask == 0).sum(1).tolist()
    assert open_keys == [4, 1, 2]  # the slot in the hole sees one key, so that nothing becomes NaN


class Layer(torch.nn.Module):
    layer_idx = 0


@pytest.mark.parametrize(("dtype", "together"), [(torch.float32, 64), (torch.bfloat16, 64), (torch.bfloat16, 0)])
def test_rows_attend_to_their_own_slots_only(
    dtype: torch.dtype, together: int, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("polyturn.policies.sampler.attention.TOGETHER", together)
    noise = torch.Generator().manual_seed(0)
    heads, groups, size, before = 2, 3, 8, {0: 5, 1: 9, 3: 2, 4: 0, 5: 3}
    slots = Slots(0)
    slots._allocated = 6
    like = torch.zeros(1, heads, 1, size, dtype=dtype)
    for tensor in slots.layer(0, like, like):
        tensor.copy_(torch.randn(tensor.shape, generator=noise))
    old = [tensor.clone() for tensor in slots.layer(0, like, like)]
    slot_T = torch.tensor([0, 1, 3, 4, 4, 4, 5, 5])  # single ids of slots 0, 1, 3; three of slot 4, two of slot 5
    position_T = torch.tensor([5, 9, 2, 0, 1, 2, 3, 4])
    rows = Rows(
        slots, 8, slot_T, position_T, runs_of([(0, 6), (1, 10), (3, 3)]),
        pieces_of([(4, 0, 3), (5, 3, 2)], 3),
    )
    query = torch.randn(1, heads * groups, 8, size, generator=noise).to(dtype)
    key, value = (torch.randn(1, heads, 8, size, generator=noise).to(dtype) for _ in range(2))
    out, _ = attention(Layer(), query, key, value, None, polyturn_rows=rows, scaling=0.3)
    for row in range(8):
        slot = int(slot_T[row])
        mine = [r for r in range(row + 1) if int(slot_T[r]) == slot]
        for head in range(heads * groups):
            k = torch.cat([old[0][slot, head // groups, : before[slot]], key[0, head // groups, mine]]).double()
            v = torch.cat([old[1][slot, head // groups, : before[slot]], value[0, head // groups, mine]]).double()
            weights = [math.exp(0.3 * float(query[0, head, row].double() @ k[i])) for i in range(len(k))]
            expected = sum(w * v[i] for i, w in enumerate(weights)) / sum(weights)
            loose = 1e-5 if dtype == torch.float32 else 0.03
            assert (out[0, row, head].double() - expected).abs().max() < loose


def test_pieces_of_as_many_ids_are_joined_where_little_is_read_in_vain() -> None:
    pieces = pieces_of([(3, 100, 31), (1, 120, 31), (2, 0, 31), (5, 7, 8), (4, 0, 90), (6, 0, 90)], 10)
    assert [(p.row, p.count, p.slots, p.longest) for p in pieces] == [
        (10, 31, (3, 1, 2), 151), (103, 8, (5,), 15), (111, 90, (4,), 90), (201, 90, (6,), 90)]
    assert pieces[0].rows == slice(10, 103) and pieces[2].hidden is None and pieces[0].hidden is not None
    seen = (pieces[0].hidden == 0).sum(2)
    assert seen[:, 0].tolist() == [101, 121, 1] and seen[:, 30].tolist() == [131, 151, 31]
    # two slots of 2,000 keys where they have 2,000 and 1,400: 600 in vain, as much as a call; 601 are too many
    assert len(pieces_of([(0, 1990, 10), (1, 1390, 10)], 0)) == 1
    assert len(pieces_of([(0, 1990, 10), (1, 1389, 10)], 0)) == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_joined_pieces_see_what_each_of_them_sees_alone(dtype: torch.dtype) -> None:
    noise, heads, group, size = torch.Generator().manual_seed(1), 2, 3, 8
    slots, like = Slots(0), torch.zeros(1, heads, 1, size, dtype=dtype)
    slots._allocated = 5
    for tensor in slots.layer(0, like, like):
        tensor.copy_(torch.randn(tensor.shape, generator=noise))
    places = [(3, 20, 4), (0, 0, 4), (4, 33, 4)]
    slot_T = torch.tensor([slot for slot, _, count in places for _ in range(count)])
    position_T = torch.tensor([start + i for _, start, count in places for i in range(count)])
    joined = pieces_of(places, 0)
    apart = tuple(piece for at, place in enumerate(places) for piece in pieces_of([place], 4 * at))
    assert len(joined) == 1 and len(apart) == 3
    query = torch.randn(1, heads * group, 12, size, generator=noise).to(dtype)
    key, value = (torch.randn(1, heads, 12, size, generator=noise).to(dtype) for _ in range(2))
    one, other = (
        attention(Layer(), query, key, value, None, polyturn_rows=Rows(slots, 12, slot_T, position_T, (), pieces))[0]
        for pieces in (joined, apart)
    )
    assert (one.double() - other.double()).abs().max() < (1e-5 if dtype == torch.float32 else 0.03)


def test_other_forms_of_attention_are_refused() -> None:
    x = torch.zeros(1, 1, 1, 1)
    rows = Rows(Slots(0), 0, torch.zeros(0), torch.zeros(0), (), ())
    with pytest.raises(TypeError, match="softcap"):
        attention(Layer(), x, x, x, None, polyturn_rows=rows, softcap=30.0)


def plain(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
    """Attention [heads, size] of one row [heads, size] over keys [key heads, keys, size], in doubles."""
    group = len(query) // len(key)
    asked = query.double().view(len(key), group, -1) * scale
    return (torch.softmax(asked @ key.double().transpose(1, 2), -1) @ value.double()).view(len(query), -1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("seed", range(6))
def test_what_slots_have_in_common_is_read_once_and_changes_nothing(dtype: torch.dtype, seed: int) -> None:
    noise, draw = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    heads, group, size, slots = 2, 3, 8, Slots(0)
    slots.capacity, slots._allocated = 256, 12
    used = sorted(draw.choice(12, 9, replace=False).tolist())
    beginning_of = {slot: int(draw.integers(2)) for slot in used}
    paths = {slot: np.concatenate([np.full(150, beginning_of[slot]), draw.integers(2, 99, 60)]) for slot in used}
    lengths = {slot: int(draw.integers(151, 200)) for slot in used}
    like = torch.zeros(1, heads, 1, size, dtype=dtype)
    keys, values = slots.layer(0, like, like)
    for held in (keys, values):
        held.copy_(torch.randn(held.shape, generator=noise))
        for slot in used:
            held[slot, :, :150] = held[next(s for s in used if beginning_of[s] == beginning_of[slot]), :, :150]
    before = keys.clone(), values.clone()

    def share(places: Sequence[tuple[int, int]]) -> Shared | None:
        return shared_of(places, paths.__getitem__, worth=1)

    (run,) = runs_of([(slot, lengths[slot] + 1) for slot in used], share=share)
    assert run.shared is not None and run.shared.length == 128 and run.shared.first.tolist() == [
        next(s for s in used if beginning_of[s] == which) for which in dict.fromkeys(beginning_of.values())]
    rows = Rows(slots, 9, torch.tensor(used), torch.tensor([lengths[slot] for slot in used]), (run,), ())
    query = torch.randn(1, heads * group, 9, size, generator=noise).to(dtype)
    key, value = (torch.randn(1, heads, 9, size, generator=noise).to(dtype) for _ in range(2))
    for slot in used:  # nobody may see what stands behind its end
        keys[slot, :, lengths[slot] + 1 :] = values[slot, :, lengths[slot] + 1 :] = 1e4
    out, _ = attention(Layer(), query, key, value, None, polyturn_rows=rows, scaling=0.3)
    for row, slot in enumerate(used):
        end = lengths[slot]
        k, v = (torch.cat([old[slot, :, :end], new[0, :, row : row + 1]], 1)
                for old, new in zip(before, (key, value), strict=True))
        apart = (out[0, row].double() - plain(query[0, :, row], k, v, 0.3)).abs().max()
        assert apart < (1e-5 if dtype == torch.float32 else 0.03)


def test_a_beginning_is_shared_where_it_saves_reading() -> None:
    paths = {slot: np.concatenate([np.full(200, slot // 8), np.full(100, slot)]) for slot in range(32)}

    def found(places: Sequence[tuple[int, int]], worth: int) -> int | None:
        shared = shared_of(places, paths.__getitem__, worth=worth)
        return None if shared is None else shared.length

    places = [(slot, 301) for slot in range(32)]
    assert found(places, worth=3839) == 192  # (32 - 3 * 4) * 192 = 3840 keys
    assert found(places, worth=3840) is None
    assert found(places[:3], worth=1) is None  # 3 - 3 * 1 slots
    assert found([*places, (31, 60)], worth=1) is None  # one that is shorter
    assert found([(slot, 301) for slot in range(0, 32, 8)], worth=1) is None  # nothing in common

"""Attention over slots against plain attention written out."""

from __future__ import annotations

import math

import pytest
import torch

from polyturn.policies.sampler.attention import Piece, Rows, attention, runs_of
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


def test_half_full_slots_are_read_as_a_whole() -> None:
    assert [r.longest for r in runs_of([(0, 33), (1, 40)], capacity=64)] == [64]
    assert [r.longest for r in runs_of([(0, 13), (1, 20)], capacity=64)] == [20]


class Layer(torch.nn.Module):
    layer_idx = 0


@pytest.mark.parametrize(("dtype", "capacity", "together"), [
    (torch.float32, 0, 64), (torch.bfloat16, 0, 64), (torch.bfloat16, 64, 64), (torch.bfloat16, 64, 0),
])
def test_rows_attend_to_their_own_slots_only(
    dtype: torch.dtype, capacity: int, together: int, monkeypatch: pytest.MonkeyPatch,
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
    mask = torch.ones(2, 5, dtype=torch.bool).tril(3)
    rows = Rows(
        slots, 8, slot_T, position_T, runs_of([(0, 6), (1, 10), (3, 3)], capacity),
        (Piece(3, 3, 4, 0), Piece(6, 2, 5, 3, mask)),
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


def test_other_forms_of_attention_are_refused() -> None:
    x = torch.zeros(1, 1, 1, 1)
    rows = Rows(Slots(0), 0, torch.zeros(0), torch.zeros(0), (), ())
    with pytest.raises(TypeError, match="softcap"):
        attention(Layer(), x, x, x, None, polyturn_rows=rows, softcap=30.0)

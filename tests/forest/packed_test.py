"""What a GPU's kernel is given, computed piece by piece, against plain attention of each path."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch.nn.functional import scaled_dot_product_attention

from polyturn.forest.packed import fits, pack
from tests.forest.attention_test import by_paths, made

CPU = torch.device("cpu")


def test_pieces_stand_side_by_side_each_with_the_keys_of_its_path() -> None:
    # The second piece leaves the first after two rows, the third after its first.
    found = pack([(0, 4, ()), (4, 5, ((0, 2),)), (5, 8, ((0, 1),))], CPU)
    assert found.row_K.tolist() == [0, 1, 2, 3, 0, 1, 4, 0, 5, 6, 7]
    assert found.query_P1.tolist() == [0, 4, 5, 8]
    assert found.key_P1.tolist() == [0, 4, 7, 11]
    assert found.longest == (4, 4)


def test_queries_against_copies_of_their_keys_give_what_paths_give() -> None:
    # The kernel's mask: the last row of a piece sees all of its keys, each row before it one less.
    for seed in range(20):
        (query, key, value), layout = made(seed)
        found = pack(layout.pieces(), query.device)
        rows = []
        bounds = zip(pairwise(found.query_P1.tolist()), pairwise(found.key_P1.tolist()), strict=True)
        for (first, end), (first_key, end_key) in bounds:
            of, count = found.row_K[first_key:end_key], end_key - first_key
            seen = torch.ones(end - first, count, dtype=torch.bool, device=query.device).tril(count - (end - first))
            k, v = (x[:, :, of].repeat_interleave(3, 1) for x in (key, value))
            rows.append(scaled_dot_product_attention(query[:, :, first:end], k, v, attn_mask=seen, scale=0.3))
        torch.testing.assert_close(torch.cat(rows, 2), by_paths(query, key, value, layout, 0.3))


def test_every_row_is_in_one_piece_and_copies_are_no_more_than_the_paths() -> None:
    for seed in range(20):
        layout = made(seed)[1]
        pieces = layout.pieces()
        assert [row for start, stop, _ in pieces for row in range(start, stop)] == list(range(len(layout.order_U)))
        leaves = [chain for chain in layout.chains if chain.end == chain.stop]
        whole = sum(chain.stop - chain.start + sum(b - a for a, b in chain.above) for chain in leaves)
        assert len(pack(pieces, CPU).row_K) == whole


def test_a_processor_and_wide_numbers_are_left_to_others() -> None:
    assert fits(torch.device("cuda"), torch.bfloat16, 64)
    assert not fits(torch.device("cuda"), torch.float64, 64)
    assert not fits(torch.device("cuda"), torch.float32, 20)
    assert not fits(CPU, torch.float32, 64)

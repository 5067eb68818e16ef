"""The reference work: fixed by its seed, and the same for whoever takes it as a tree and whoever takes it as rows."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.reference import Shape, Work, advantages, episodes, rows, tokens

SMALL = Work(groups=2, rollouts=3, turns=4, prompt=5, observation=3, reply=(2, 4), window=1, summary_every=2,
             summary_tokens=3)  # fmt: skip


def made(shape: Shape) -> Work:
    return Work(**{**{name: getattr(SMALL, name) for name in Work.__slots__}, "shape": shape})


def test_the_size_that_the_tables_are_made_with() -> None:
    # 8 groups: 200 shared, then 8 rollouts of 6 turns of 30 and 8..16 tokens, 12 on average.
    laid = tokens(episodes(Work()))
    assert len(laid.tree.id_U) == 8 * 200 + 64 * 6 * 30 + len(laid)
    assert len(laid) == pytest.approx(64 * 6 * 12, rel=0.05)
    assert len(rows(episodes(Work()))) == 64


def test_a_seed_fixes_every_token() -> None:
    one, same = (tokens(episodes(SMALL)) for _ in range(2))
    other = tokens(episodes(Work(**{**{name: getattr(SMALL, name) for name in Work.__slots__}, "seed": 1})))
    assert one.tree.id_U.tolist() == same.tree.id_U.tolist() != other.tree.id_U.tolist()


@pytest.mark.parametrize("shape", ["full", "window", "summary"])
def test_rows_train_the_tokens_of_the_tree_each_once_in_the_same_context(shape: Shape) -> None:
    groups = episodes(made(shape))
    laid, found = tokens(groups), rows(groups)
    by_tree = sorted(tuple(laid.tree.path(node).tolist()) for node in laid.node_N)
    by_rows = sorted(tuple(row.ids[: t + 1].tolist()) for row in found for t in np.flatnonzero(row.trained_T))
    assert by_tree == by_rows
    assert all(not row.trained_T[: row.prompt].any() for row in found)


def test_a_window_shows_the_prompt_and_the_last_turns_only() -> None:
    found = [row for row in rows(episodes(made("window"))) if row.rollout == 0]
    # Turns 0 and 1 are one path; each later one begins again: 5 of the prompt, one earlier turn, its own.
    assert len(found) == 3
    assert max(len(row.ids) for row in found) <= 5 + 2 * (3 + 4)


def test_a_summary_is_trained_where_it_is_written_and_read_where_it_is_shown() -> None:
    found = [row for row in rows(episodes(made("summary"))) if row.rollout == 0]
    assert len(found) == 2
    written, shown = found
    assert written.trained_T[-3:].all() and not shown.trained_T[5:8].any()
    assert written.ids[-3:].tolist() == shown.ids[5:8].tolist()


def test_one_advantage_for_each_rollout() -> None:
    laid = tokens(episodes(SMALL))
    advantage_N = advantages(laid)
    assert len({(int(b), float(a)) for b, a in zip(laid.trajectory_N, advantage_N, strict=True)}) == 6

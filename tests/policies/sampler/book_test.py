"""The book of slots against plain lists, through random work."""

from __future__ import annotations

import numpy as np

from polyturn.policies.sampler.book import Book


def common(first: list[int], second: list[int]) -> int:
    most = min(len(first), len(second))
    return next((i for i in range(most) if first[i] != second[i]), most)


def test_random_work_leaves_what_plain_lists_hold() -> None:
    rng = np.random.default_rng(0)
    book = Book()
    paths: list[list[int]] = []
    known: list[int] = []
    for turn in range(600):
        kind = rng.integers(5)
        if not paths or (kind == 0 and len(paths) < 40):
            assert book.add() == len(paths)
            paths.append([])
            known.append(0)
        slot = int(rng.integers(len(paths)))
        if kind == 1:
            paths[slot] = rng.integers(0, 2, rng.integers(1, 200 if turn % 50 == 0 else 12)).tolist()
            known[slot] = int(rng.integers(0, len(paths[slot])))
            book.seat(slot, np.array(paths[slot], np.int32), known[slot], turn)
        if kind == 2 and book.owned_S[slot]:
            known[slot] = len(paths[slot])
            paths[slot] = [*paths[slot], *rng.integers(0, 2, 3).tolist()]
            book.follow(slot, np.array(paths[slot], np.int32), known[slot])
        if kind == 3:
            known[slot] = min(known[slot], len(paths[slot]))
            paths[slot] = paths[slot][: known[slot]]
            book.leave(slot, known[slot], turn)
        if kind == 4 and turn % 20 == 0:
            order = rng.permutation(len(paths))[: max(1, len(paths) - 2)].tolist()
            book.keep(order)
            paths, known = [paths[i] for i in order], [known[i] for i in order]
        asked = rng.integers(0, 2, rng.integers(0, 300 if turn % 40 == 0 else 15)).tolist()
        found = book.common_S(np.array(asked, np.int32))
        assert found.tolist() == [common(path, asked) for path in paths]
        assert book.known_S.tolist() == known and book.length_S.tolist() == [len(path) for path in paths]
        assert len(book) == len(paths)


def test_a_slot_that_was_given_on_does_not_remember_its_longer_path() -> None:
    book = Book()
    book.add()
    book.seat(0, np.array([5, 6, 7, 8], np.int32), 4, 1)
    book.leave(0, 4, 2)
    book.seat(0, np.array([5], np.int32), 0, 3)
    assert book.common_S(np.array([5, 6, 7], np.int32)).tolist() == [1]
    assert (book.known_S.tolist(), book.used_S.tolist(), book.owned_S.tolist()) == ([0], [3], [True])


def test_an_empty_book_can_be_kept_and_grow_again() -> None:
    book = Book()
    book.keep([])
    assert len(book) == 0 and book.common_S(np.array([1], np.int32)).tolist() == []
    assert [book.add() for _ in range(9)] == list(range(9))

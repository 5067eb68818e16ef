"""BM25 by hand and against its formula in plain Python; cosine by hand."""

from __future__ import annotations

import math
import random
import subprocess
import sys

import numpy as np
import pytest

from polyturn.errors import BadInput
from polyturn.retrieval import WordIndex, best, nearest, words


def plain_scores(documents: list[str], query: str, k1: float, b: float) -> list[float]:
    """The formula, word by word."""
    texts = [words(document) for document in documents]
    mean = sum(len(text) for text in texts) / len(texts)
    found = []
    for text in texts:
        score = 0.0
        for word in words(query):
            holding = sum(word in other for other in texts)
            often = text.count(word)
            if holding and often:
                rarity = math.log(1 + (len(texts) - holding + 0.5) / (holding + 0.5))
                score += rarity * often / (often + k1 * (1 - b + b * len(text) / mean))
        found.append(score)
    return found


def test_two_documents_by_hand() -> None:
    index = WordIndex(["red fox", "red red dog"], k1=1.0, b=0.0)
    # "fox" stands in one of two: log(1 + 1.5 / 1.5) = log 2, once: 1 / (1 + 1). "red" in both: log(1 + 0.5 / 2.5).
    assert index.scores("fox").tolist() == pytest.approx([math.log(2) / 2, 0.0])
    assert index.scores("red").tolist() == pytest.approx([math.log(1.2) / 2, math.log(1.2) * 2 / 3])
    assert index.scores("RED, red!").tolist() == pytest.approx([math.log(1.2), math.log(1.2) * 4 / 3])


def test_equal_to_the_formula_on_random_documents() -> None:
    for seed in range(100):
        draw = random.Random(seed)
        made = [" ".join(draw.choices("abcdefgh", k=draw.randint(1, 12))) for _ in range(draw.randint(1, 8))]
        k1, b = draw.choice((0.9, 1.5)), draw.choice((0.0, 0.75, 1.0))
        index = WordIndex(made, k1=k1, b=b)
        query = " ".join(draw.choices("abcdefghxyz", k=draw.randint(1, 5)))
        assert index.scores(query).tolist() == pytest.approx(plain_scores(made, query, k1, b), rel=1e-4, abs=1e-6)


def test_a_search_gives_only_what_shares_a_word_best_first() -> None:
    index = WordIndex(["one two", "two", "three", ""])
    assert [place for place, _ in index.search("two", 9)] == [1, 0]
    assert index.search("nothing", 3) == [] and index.search("", 3) == []
    assert [place for place, _ in index.search("two", 1)] == [1]
    assert WordIndex(["", "!"]).search("two", 2) == []
    with pytest.raises(BadInput, match="at least one document"):
        WordIndex([])
    with pytest.raises(BadInput, match="count is 0"):
        index.search("two", 0)


def test_equal_scores_keep_the_order_of_the_documents() -> None:
    assert best(np.array([1.0, 2.0, 1.0, 2.0]), 3) == [(1, 2.0), (3, 2.0), (0, 1.0)]


def test_nearest_by_hand() -> None:
    rows = np.array([[0.0, 2.0], [3.0, 4.0], [0.0, 0.0], [-1.0, 0.0]])
    # cosines with (1, 0): 0, 3/5, 0 for the zero vector, -1
    assert nearest(np.array([1.0, 0.0]), rows, 4) == [(1, 0.6), (0, 0.0), (2, 0.0), (3, -1.0)]
    with pytest.raises(BadInput, match=r"expected \[D\], \[I, D\]"):
        nearest(np.zeros(3), rows, 1)


def test_an_index_leaves_no_thread_behind() -> None:
    made = ("import threading\nfrom polyturn.retrieval import WordIndex\n"
            "WordIndex(['a b'])\nprint(threading.active_count())")
    done = subprocess.run([sys.executable, "-c", made], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"

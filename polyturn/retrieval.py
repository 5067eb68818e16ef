"""Finding texts: by words (BM25) and by vectors (cosine). Exact, deterministic, ties in the order of the documents.

>>> index = WordIndex(["Kastrel lies on the Ovenna.", "Mira Dolen was born in Kastrel."])
>>> [place for place, _ in index.search("Where was Mira born?", 2)]
[1]
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from polyturn.errors import BadInput, MissingPackage
from polyturn.types import FloatArray

_WORD = re.compile(r"\w+")
Hit = tuple[int, float]
"""(index of the document, score)."""


def words(text: str) -> list[str]:
    """The lower-case words of a text: runs of letters, digits and underscores, none left out.

    >>> words("Mira's town: KASTREL-2")
    ['mira', 's', 'town', 'kastrel', '2']
    """
    return _WORD.findall(text.lower())


class WordIndex:
    """BM25 over documents (package ``bm25s``, in the variant of Lucene).

    ``score(q, d) = sum over words w of q of log(1 + (n - n_w + 0.5) / (n_w + 0.5)) f / (f + k1 (1 - b + b |d| / m))``
    with f how often w stands in d, n_w in how many of the n documents, m the mean length. Raises: BadInput for none;
    MissingPackage.
    """

    def __init__(self, documents: Sequence[str], *, k1: float = 1.5, b: float = 0.75) -> None:
        if not documents:
            raise BadInput("an index needs at least one document; got none")
        try:
            import bm25s
        except ImportError as error:
            raise MissingPackage("bm25s", "search") from error
        self.size = len(documents)
        texts = [words(document) for document in documents]
        self._ids = {word: index for index, word in enumerate(sorted({word for text in texts for word in text}))}
        self._index = bm25s.BM25(method="lucene", k1=k1, b=b)
        ids = [[self._ids[word] for word in text] for text in texts]
        if self._ids:
            with _no_progress_thread():
                self._index.index((ids, dict(self._ids)), show_progress=False)

    def scores(self, query: str) -> FloatArray:
        """The score of every document, 0 where no word of the query stands in it; a word said twice counts twice."""
        ids = [self._ids[word] for word in words(query) if word in self._ids]
        if not ids:
            return np.zeros(self.size)
        return np.asarray(self._index.get_scores_from_ids(ids), np.float64)

    def search(self, query: str, count: int) -> list[Hit]:
        """At most ``count`` documents that share a word with the query, best first."""
        found = self.scores(query)
        return [hit for hit in best(found, count) if hit[1] > 0]


@contextmanager
def _no_progress_thread() -> Iterator[None]:
    """bm25s makes its progress bars also when they are not shown, and the first bar of a process starts a thread."""
    bars: Any = getattr(sys.modules.get("tqdm.std"), "tqdm", None)
    before = None if bars is None else bars.monitor_interval
    try:
        if bars is not None:
            bars.monitor_interval = 0
        yield
    finally:
        if bars is not None:
            bars.monitor_interval = before


def nearest(query_D: FloatArray, document_ID: FloatArray, count: int) -> list[Hit]:
    """At most ``count`` rows by cosine with the query, best first; a zero vector has cosine 0.

    Raises: BadInput for other shapes than [D] and [I, D].

    >>> nearest(np.array([1.0, 0.0]), np.array([[0.0, 2.0], [3.0, 4.0]]), 1)
    [(1, 0.6)]
    """
    if query_D.ndim != 1 or document_ID.ndim != 2 or document_ID.shape[1] != len(query_D):
        raise BadInput(f"the query is {query_D.shape} and the documents are {document_ID.shape}; expected [D], [I, D]")
    length_I = np.linalg.norm(document_ID, axis=1) * np.linalg.norm(query_D)
    return best((document_ID @ query_D) / np.where(length_I > 0, length_I, 1.0), count)


def best(score_I: FloatArray, count: int) -> list[Hit]:
    """The ``count`` highest scores, equal ones in their order. Raises: BadInput unless ``count`` >= 1."""
    if count < 1:
        raise BadInput(f"count is {count}; expected at least 1")
    order = np.argsort(-score_I, kind="stable")[:count]
    return [(int(place), float(score_I[place])) for place in order]

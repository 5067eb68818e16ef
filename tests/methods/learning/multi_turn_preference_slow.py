"""Slow twins of M-DPO and M-KTO: floats and loops over trajectories, straight from the definitions."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Word:
    """One token of a trajectory behind its prompt: who wrote it, and its log-probabilities."""

    mine: bool
    logprob: float
    reference: float


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def implicit(words: list[Word], *, masked: bool = True) -> float:
    """u: the sum over the policy's own words; not ``masked``: over all of them."""
    found = 0.0
    for word in words:
        if word.mine or not masked:
            found += word.logprob - word.reference
    return found


def m_dpo(
    pairs: list[tuple[list[Word], list[Word]]], beta: float, *, nll: float = 0.0, masked: bool = True,
    mean: bool = False,
) -> float:
    """The mean over pairs, plus ``nll`` times the mean ``-logprob`` of all chosen words. ``mean``: a wrong unit,
    margins as means over tokens."""
    loss, spoken, count = 0.0, 0.0, 0
    for right, wrong in pairs:
        u = []
        for words in (right, wrong):
            size = sum(1 for word in words if word.mine or not masked)
            u.append(implicit(words, masked=masked) / (size if mean else 1))
        loss += -math.log(sigmoid(beta * (u[0] - u[1])))
        for word in right:
            if word.mine or not masked:
                spoken -= word.logprob
                count += 1
    return loss / len(pairs) + (nll * spoken / count if nll else 0.0)


def m_kto(
    sides: list[tuple[list[Word], bool]], beta: float, z: float, desirable: float, undesirable: float
) -> float:
    """The mean over trajectories."""
    loss = 0.0
    for words, right in sides:
        u = implicit(words)
        loss += desirable * (1 - sigmoid(beta * (u - z))) if right else undesirable * (1 - sigmoid(beta * (z - u)))
    return loss / len(sides)


def mismatch_point(pairs: list[list[Word]], *, by_token: bool = False) -> float:
    """z of mismatched pairs. ``by_token``: a wrong unit, the mean over words."""
    size = sum(1 for words in pairs for word in words if word.mine) if by_token else len(pairs)
    return max(0.0, sum(implicit(words) for words in pairs) / size)


def gemma_mask(ids: list[int]) -> list[bool]:
    """The released mask of Gemma: from (106, 1645, 108), a user turn's begin, to (107, 108), its end, both inclusive,
    nothing is learned; all else is, the model turns' headers and ends too."""
    learned = [True] * len(ids)
    inside = False
    for place in range(len(ids)):
        if ids[place:place + 3] == [106, 1645, 108]:
            inside = True
        if inside:
            learned[place] = False
        if inside and ids[place - 1:place + 1] == [107, 108]:
            inside = False
    return learned

"""The slow twin of EPO's loss and history: lists, floats and loops."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp


@dataclass(frozen=True)
class Word:
    """One trained token."""

    row: int
    turn: int
    entropy: float
    weight: float


@dataclass(frozen=True)
class Band:
    low: float
    high: float
    alpha: float
    beta: float
    official: bool
    by_turn: bool


def history(batches: list[list[Word]]) -> list[float | None]:
    """Per turn: the mean over batches of the batch's mean entropy there; None where no batch has the turn."""
    longest = max((word.turn + 1 for batch in batches for word in batch), default=0)
    found: list[float | None] = []
    for turn in range(longest):
        means = []
        for batch in batches:
            here = [word.entropy for word in batch if word.turn == turn]
            if here:
                means.append(sum(here) / len(here))
        found.append(sum(means) / len(means) if means else None)
    return found


def left_padded_history(batches: list[list[float]], longest: int) -> list[float]:
    """As released: each batch's means by turn, zeros on its left up to ``longest``, then the mean over batches."""
    padded = [[0.0] * (longest - len(batch)) + batch for batch in batches]
    return [sum(row[turn] for row in padded) / len(padded) for turn in range(longest)]


def level(words: list[Word], word: Word, band: Band) -> tuple[float, int]:
    """What is compared with the band, and over how many tokens it is a mean."""
    if not band.by_turn:
        return word.entropy, 1
    same = [other.entropy for other in words if (other.row, other.turn) == (word.row, word.turn)]
    return sum(same) / len(same), len(same)


def penalty(words: list[Word], word: Word, mean: float | None, band: Band) -> float:
    if mean is None:
        return 0.0
    value, _ = level(words, word, band)
    low, high = band.low * mean, band.high * mean
    if band.official:
        return 0.0 if low < value < high else band.alpha
    return band.alpha * (max(low - value, 0.0) + max(value - high, 0.0))


def mean_at(means: list[float | None], turn: int) -> float | None:
    return means[turn] if turn < len(means) else None


def loss(words: list[Word], means: list[float | None], band: Band) -> float:
    """``sum of weight (beta P - h)``."""
    total = 0.0
    for word in words:
        if word.weight:
            known = [other for other in words if other.weight]
            p = penalty(known, word, mean_at(means, word.turn), band)
            total += word.weight * (band.beta * p - word.entropy)
    return total


def gradient(words: list[Word], means: list[float | None], band: Band) -> list[float]:
    """``d loss / d entropy`` of each token, by the rules of the hinge written out."""
    known = [word for word in words if word.weight]
    found = []
    for word in words:
        slope = 0.0
        for other in known:
            mean = mean_at(means, other.turn)
            if not word.weight or mean is None or band.official:
                continue
            value, count = level(known, other, band)
            together = (other.row, other.turn) == (word.row, word.turn) if band.by_turn else other is word
            if together:
                sign = (value > band.high * mean) - (value < band.low * mean)
                slope += other.weight * band.beta * band.alpha * sign / count
        found.append(slope - word.weight)
    return found


def released_weight(epoch: float) -> float:
    """The released phase weight, for its 150 epochs."""
    if epoch <= 75:
        return 1.0 - 0.2 * (1.0 - exp(-2.0 * epoch / 75.0))
    return 0.8 * exp(-3.0 * (epoch - 75.0) / 75.0)

"""How far judges agree with each other and with labels, and what a judge's rate says after its errors are allowed for.

A verdict is a label; None = the judge abstained, which is left out and counted, never taken for a verdict.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan, sqrt
from statistics import NormalDist
from typing import TypeAlias

from polyturn.errors import BadInput
from polyturn.evaluate.stats import CONFIDENCE, wilson

Verdict: TypeAlias = str | bool | int | None


@dataclass(frozen=True, slots=True)
class Agreement:
    """Two judges on the same items; NaN where too few items were judged by both, or only one verdict was ever given."""

    items: int
    """Judged by both."""
    abstained: tuple[int, int]
    """Items that the first and the second gave no verdict on."""
    raw: float
    low: float
    """Of Wilson's 95 % interval for ``raw``."""
    high: float
    kappa: float
    """Cohen's: collapses where one verdict is rare."""
    ac1: float
    """Gwet's: does not."""
    confusion: Mapping[str, Mapping[str, int]]
    """First judge's verdict -> second judge's -> items."""


def agreement(first: Sequence[Verdict], second: Sequence[Verdict]) -> Agreement:
    """How two judges agree, item by item.

    With p_o the share of equal verdicts and a_k, b_k the judges' shares of verdict k among q of them:
    kappa = (p_o - p_e) / (1 - p_e) with p_e = sum_k a_k b_k; AC1 the same with p_e = sum_k m_k (1 - m_k) / (q - 1) and
    m_k = (a_k + b_k) / 2.

    >>> found = agreement([1, 1, 1, 0], [1, 1, 0, 0])            # p_o 3/4; kappa p_e 3/4 * 1/2 + 1/4 * 1/2 = 1/2
    >>> found.raw, found.kappa, round(found.ac1, 4)              # m = 5/8: p_e 2 * 15/64
    (0.75, 0.5, 0.5294)
    """
    pairs = [(one, two) for one, two in zip(first, second, strict=True) if one is not None and two is not None]
    count = len(pairs)
    table: dict[str, dict[str, int]] = {}
    for one, two in pairs:
        row = table.setdefault(str(one), {})
        row[str(two)] = row.get(str(two), 0) + 1
    missing = (sum(v is None for v in first), sum(v is None for v in second))
    if not count:
        return Agreement(0, missing, nan, nan, nan, nan, nan, table)
    equal = sum(one == two for one, two in pairs)
    ones, twos = Counter(one for one, _ in pairs), Counter(two for _, two in pairs)
    labels = sorted(ones.keys() | twos.keys(), key=str)
    chance = sum(ones[k] * twos[k] for k in labels) / count**2
    shares = [(ones[k] + twos[k]) / (2 * count) for k in labels]
    skewed = sum(m * (1 - m) for m in shares) / (len(labels) - 1) if len(labels) > 1 else 1.0
    raw = equal / count
    return Agreement(count, missing, raw, *wilson(equal, count), _beyond(raw, chance), _beyond(raw, skewed), table)


def _beyond(observed: float, chance: float) -> float:
    return (observed - chance) / (1 - chance) if chance < 1 else nan


def krippendorff_alpha(items: Sequence[Sequence[Verdict]]) -> float:
    """Krippendorff's alpha for labels: any number of judges, verdicts may be missing; NaN where nothing can differ.

    ``items[i]`` = the verdicts on item i. Over items with two or more, with n verdicts in all and n_k of label k:
    alpha = 1 - D_o / D_e, D_o = sum_i (ordered pairs of unequal verdicts) / (m_i - 1) / n,
    D_e = sum_{k != l} n_k n_l / (n (n - 1)).

    >>> round(krippendorff_alpha([[1, 1], [1, 1], [1, 0], [0, 0]]), 4)   # D_o 2/8, D_e 2 * 5 * 3 / 56
    0.5333
    """
    judged = [[v for v in item if v is not None] for item in items]
    judged = [item for item in judged if len(item) > 1]
    counts = Counter(v for item in judged for v in item)
    n = sum(counts.values())
    if len(counts) < 2:
        return nan
    unequal = 0.0
    for item in judged:
        own = Counter(item)
        unequal += sum(c * (len(item) - c) for c in own.values()) / (len(item) - 1)
    expected = sum(c * (n - c) for c in counts.values()) / (n * (n - 1))
    return 1 - unequal / n / expected


@dataclass(frozen=True, slots=True)
class Corrected:
    """A judge's rate of positive verdicts, and the rate behind it."""

    observed: float
    sensitivity: float
    specificity: float
    rate: float
    low: float
    high: float


def corrected_rate(
    positive: int, judged: int, labelled: Sequence[tuple[bool, bool]], confidence: float = CONFIDENCE
) -> Corrected:
    """The true rate behind ``positive`` of ``judged`` verdicts, from labelled items as (label, verdict).

    rate = (observed + specificity - 1) / (sensitivity + specificity - 1), clipped to 0..1 (Rogan and Gladen 1978), with
    the interval of Lang and Reiczigel (2014), which allows for the labelled items being few. Raises: BadInput without
    both labels, and where the verdicts are no better than chance: then they say nothing about the rate.

    >>> found = corrected_rate(60, 100, [(True, True)] * 18 + [(True, False)] * 2 + [(False, False)] * 16
    ...                        + [(False, True)] * 4)
    >>> found.sensitivity, found.specificity, round(found.rate, 4)      # (0.6 + 0.8 - 1) / (0.9 + 0.8 - 1)
    (0.9, 0.8, 0.5714)
    """
    trues = [verdict for label, verdict in labelled if label]
    falses = [not verdict for label, verdict in labelled if not label]
    if not (0 <= positive <= judged and judged and trues and falses):
        raise BadInput(f"{positive} positive of {judged} verdicts, {len(trues)} labelled true and {len(falses)} false; "
                       "a corrected rate needs some of each")
    observed = positive / judged
    sensitivity, specificity = sum(trues) / len(trues), sum(falses) / len(falses)
    if sensitivity + specificity <= 1:
        raise BadInput(f"sensitivity {sensitivity:.3g} and specificity {specificity:.3g}: the verdicts are no better "
                       "than chance on the labelled items")
    rate = (observed + specificity - 1) / (sensitivity + specificity - 1)
    low, high = _lang_reiczigel(positive, judged, trues, falses, confidence)
    return Corrected(observed, sensitivity, specificity, min(max(rate, 0.0), 1.0), low, high)


def _lang_reiczigel(
    positive: int, judged: int, trues: Sequence[bool], falses: Sequence[bool], confidence: float
) -> tuple[float, float]:
    """The ends of the interval: a success and a failure added to each labelled share, z^2 / 2 of each to the rate."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    n, n_true, n_false = judged + z * z, len(trues) + 2, len(falses) + 2
    p, se, sp = (positive + z * z / 2) / n, (sum(trues) + 1) / n_true, (sum(falses) + 1) / n_false
    better = se + sp - 1
    rate = min(max((p + sp - 1) / better, 0.0), 1.0) if better > 0 else 0.5
    of_se, of_sp = se * (1 - se) / n_true, sp * (1 - sp) / n_false
    spread = sqrt(p * (1 - p) / n + rate**2 * of_se + (1 - rate) ** 2 * of_sp) / better if better > 0 else 1.0
    shift = 2 * z * z * (rate * of_se - (1 - rate) * of_sp)
    return max(0.0, rate + shift - z * spread), min(1.0, rate + shift + z * spread)

"""The gap between sampler and learner at the same weights: what the ratio of an update begins with.

Where the weights that wrote a token are those that learn from it, both must give it the same log-probability. A sampler
that draws from the likeliest ids (top-p, top-k) and reports what it renormalised over them is always the surer of the
two (TRL issue 6789, vLLM issue 42259): the gap is minus the logarithm of the mass that it kept, one-sided. Kernels and
number types give a gap of both signs.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from polyturn.audit.found import fault
from polyturn.audit.update import Update
from polyturn.types import Finding

FEWEST = 20
LEAST = 2e-3
"""A mean gap, in nats, below which nothing is said."""
UNDECLARED = 0.03
"""The same where the sampling names no top-p or top-k: half a number type's noise may fall on one side by chance."""
LARGE = 0.1
"""A mean absolute gap, in nats, beyond what number types explain."""
LOPSIDED = 20
"""How many times the gaps of one sign must outweigh those of the other."""


def sampler_gap(update: Update) -> Iterator[Finding]:
    """At most one finding for an update, at the token with the largest gap: ``renormalised_logprob`` where the sampler
    is the surer of the two throughout and no record says which ids it kept, else ``sampler_gap`` where the gap is
    large. Tokens drawn by older weights are not compared, nor updates after the first of a version."""
    tokens = update.tokens
    if update.version is None or not update.first:
        return
    same_N = (update.weight_N != 0) & tokens.sampled_N & (tokens.version_N == update.version)
    gap_N = np.where(same_N, tokens.behavior_N - update.old_N, np.nan)
    index = np.flatnonzero(np.isfinite(gap_N))
    if len(index) < FEWEST:
        return
    gap = gap_N[index]
    above, below = float(gap[gap > 0].sum()), float(-gap[gap < 0].sum())
    n = int(index[np.abs(gap).argmax()])
    sampling = update.turn_of(n).sampling
    least = LEAST if sampling.top_p < 1 or sampling.top_k else UNDECLARED
    if gap.mean() > least and above > LOPSIDED * below and not set(tokens.support) & set(index.tolist()):
        yield fault("renormalised_logprob", update.place(n), float(gap.mean()), "the sampler's log-probabilities are "
                    f"above the learner's by {gap.mean():.3g} nats on average and hardly ever below: renormalised over "
                    f"the ids it kept (top_p {sampling.top_p:g}, top_k {sampling.top_k}), which the record does not "
                    "name")
    elif np.abs(gap).mean() > LARGE:
        yield fault("sampler_gap", update.place(n), float(np.abs(gap).mean()), "sampler and learner give the same "
                    f"tokens log-probabilities {np.abs(gap).mean():.3g} nats apart at the same weights")

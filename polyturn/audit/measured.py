"""Faults that were measured while a step was made, and stand in the metrics: the audit only judges them.

``audit/split``: how far the loss of two parts of the batch is from that of the whole; ``audit/accumulated``: how far
what the learner accumulated pass by pass is from it (both by :mod:`polyturn.learn.split`, in parts of the loss's size);
``audit/borrowed``: episodes whose score falls when what others said is blanked (:mod:`polyturn.rollout.borrowed`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from polyturn.audit.found import fault
from polyturn.learn.rounding import MOST as MOST_ROUNDING
from polyturn.types import Finding

MOST = {**MOST_ROUNDING, "audit/borrowed": 0.0}
MEANS = {
    "audit/split": ("loss_depends_on_split", "the loss of two parts does not add up to that of the whole: it divides "
                    "by what it sees, so that micro-batches change what is learned"),
    "audit/accumulated": ("loss_depends_on_split", "what the learner accumulated over its passes is not the loss of "
                          "the batch: how the batch was cut changed what was learned"),
    "audit/borrowed": ("borrowed_score", "the score falls when what tools, users and the environment said is blanked: "
                       "it was earned by words that the model did not say"),
}


def measured_faults(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Finding]]:
    """The check and a finding for each measurement of the metrics that is beyond rounding, at its iteration."""
    for row in rows:
        for name, most in MOST.items():
            value = row["values"].get(name)
            if value is not None and value > most:
                fault_name, reason = MEANS[name]
                yield name, fault(fault_name, {"iteration": row["iteration"], "stage": row["stage"]}, value, reason)


def measurements(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Name -> how many rows hold it."""
    return {name: sum(name in row["values"] for row in rows) for name in MOST}

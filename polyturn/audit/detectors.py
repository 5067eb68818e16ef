"""What the audit looks for, in one table: the name of each check, and in a phrase what it would have found."""

from __future__ import annotations

from collections.abc import Mapping

from polyturn.audit.credit_reset import credit_reset
from polyturn.audit.ends import beyond_end, untrained_end
from polyturn.audit.equal import noise_in_equal_groups
from polyturn.audit.gap import sampler_gap
from polyturn.audit.last_turn import last_turn_only
from polyturn.audit.lost_reward import lost_reward
from polyturn.audit.placeholder import placeholder_logprobs
from polyturn.audit.rows import rows_for_rollouts
from polyturn.audit.twice import normalised_twice
from polyturn.audit.update import Detector

BY_UPDATE: Mapping[str, Detector] = {
    "credit_reset": credit_reset,
    "lost_reward": lost_reward,
    "normalised_twice": normalised_twice,
    "rows_for_rollouts": rows_for_rollouts,
    "noise_in_equal_groups": noise_in_equal_groups,
    "placeholder_logprobs": placeholder_logprobs,
    "sampler_gap": sampler_gap,
    "untrained_end": untrained_end,
    "beyond_end": beyond_end,
    "last_turn_only": last_turn_only,
}
"""Detectors of one update that is laid out again from the record, by the name of their function."""
LOOKS_FOR: Mapping[str, str] = {
    "paths": "turns, spans or owners that contradict each other, media that are missing",
    "credit": "trained tokens that were not sampled, once, by the seat and policy that learned from them",
    "credit_reset": "credit that ends at an observation",
    "lost_reward": "reward on tokens that are not trained",
    "normalised_twice": "advantages divided by a deviation twice",
    "rows_for_rollouts": "a baseline over turns or contexts in place of rollouts",
    "noise_in_equal_groups": "groups that all scored alike, blown up",
    "no_signal": "stages in which every group of every update scored alike",
    "placeholder_logprobs": "log-probabilities that were filled in",
    "sampler_gap": "log-probabilities renormalised by the sampler, or far from the learner's",
    "untrained_end": "an end of the reply outside the mask",
    "beyond_end": "what others said, trained as the model's",
    "last_turn_only": "dialogues of which only the last turn is compared",
    "audit/split": "a loss that depends on how the batch is split",
    "audit/accumulated": "an update that depended on how the batch was split",
    "audit/borrowed": "scores earned by what others said",
}
"""Every check, in the order in which the command lists them."""

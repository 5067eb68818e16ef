"""How a decoupled stage is run: environments, replicas, staleness, and in which order groups are learned from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from polyturn.errors import BadInput
from polyturn.types import Episode, Group


@dataclass(frozen=True, slots=True)
class Schedule:
    """The settings of decoupled training.

    Free, a finished group is judged as it comes and an update takes the oldest ``groups`` of those on offer; weights
    reach the replicas while episodes are played. ``by_ticket``, an update takes the groups of its own proposal, all
    played by the weights of exactly ``max_lag`` updates before (fewer at the beginning): nothing depends on what is
    quick, so that a run is repeated to the bit, and staleness can be studied. A slow group then holds its update up.
    """

    environments: int = 8
    """Episodes at once; one that ends begins the next at once."""
    groups: int = 4
    """Groups of an update, after the filters. Free only: by ticket it is the size of a proposal."""
    max_lag: int = 2
    """The most updates between the weights that sampled a token and those that learn from it."""
    by_ticket: bool = False
    replicas: int = 1
    """Copies of the model that sample. By ticket there are ``max_lag + 1``, one for each version."""
    at_once: int = 1
    """Of these, how many are given new weights at a time."""
    deadline_s: float = 3600.0
    """The longest that the learner waits for a group."""
    tell_after_s: float = 10.0
    """When it waits longer, the run says for what, and again each time that as many seconds have passed."""

    def __post_init__(self) -> None:
        least = {"environments": 1, "groups": 1, "max_lag": 0, "replicas": 1, "at_once": 1}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise BadInput(f"{name} is {getattr(self, name)}; expected at least {low}")
        if self.by_ticket and (self.groups, self.replicas, self.at_once) != (4, 1, 1):
            raise BadInput("by ticket, groups, replicas and at_once do nothing: an update takes its own proposal, and "
                           "there is one replica for each version; leave them out")

    @property
    def ahead(self) -> int:
        """How many groups may be open, in play, on offer or leased: what will be learned from within ``max_lag``."""
        return self.groups * (self.max_lag + 1)

    def played_by(self, proposal: int) -> int:
        """By ticket: after how many updates the weights stood that play a proposal."""
        return max(0, proposal - self.max_lag)


def oldest_version(episode: Episode, policy: str) -> int | None:
    """The oldest weights that wrote a token of ``policy`` in an episode; None where it wrote none."""
    versions = [
        span.version for t in episode.trajectories if t.policy == policy for span in t.spans if span.sampled
    ]
    return min(versions, default=None)


def fresh(group: Group, policy: str, version: int, max_lag: int, *, own: str) -> Group:
    """The episodes of a group that no more than ``max_lag`` updates separate from ``version``, by their oldest token.

    Episodes of other groups than ``own`` (a stored success that a filter put in) stay, whatever their age.
    """
    def is_fresh(episode: Episode) -> bool:
        oldest = oldest_version(episode, policy)
        return episode.group != own or oldest is None or version - oldest <= max_lag

    return tuple(episode for episode in group if is_fresh(episode))


def lags(groups: Sequence[Group], policy: str, version: int) -> dict[str, float]:
    """``decoupled/lag`` (mean over tokens) and ``decoupled/lag_most`` of what an update learns from."""
    pairs = [
        (version - span.version, len(span.ids)) for group in groups for episode in group
        for t in episode.trajectories if t.policy == policy for span in t.spans if span.sampled
    ]
    if not pairs:
        return {"decoupled/lag": 0.0, "decoupled/lag_most": 0.0}
    lag_N, count_N = np.array(pairs, np.float64).T
    return {"decoupled/lag": float((lag_N * count_N).sum() / count_N.sum()), "decoupled/lag_most": float(lag_N.max())}

"""Credit by turn: comparison of turns within a group, and from turns to tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from polyturn.advantages.group import Centre, Scale, Singleton, live_BK, normalise_BK
from polyturn.advantages.returns import inherit_BK, returns_BK
from polyturn.arrays import Turns
from polyturn.errors import BadInput, NotFinite
from polyturn.types import FloatArray


def alike(turns: Turns) -> FloatArray:
    """``advantage_BK`` of ones: every turn counts alike, as when a model imitates demonstrations."""
    return np.ones(turns.kept_BK.shape)


def as_tokens(advantage: FloatArray, turns: Turns) -> FloatArray:
    """``advantage_N``: each token takes its turn's advantage (of ``advantage_BK``); an ``advantage_N`` stays as it is.
    0 where the turn was dropped or the trajectory not scored.

    Raises: BadInput for another shape, NotFinite for an advantage that is no number, with its place.
    """
    tokens = turns.tokens
    place_N = (tokens.trajectory_N, tokens.turn_N)
    if advantage.shape == turns.kept_BK.shape:
        advantage_N = advantage[place_N]
    elif advantage.shape == (len(tokens),):
        advantage_N = advantage
    else:
        raise BadInput(
            f"the advantage has shape {advantage.shape}; expected {turns.kept_BK.shape} (trajectories, turns) or "
            f"({len(tokens)},) (tokens)"
        )
    advantage_N = np.where(live_BK(turns)[place_N], advantage_N, 0.0)
    for n in np.flatnonzero(~np.isfinite(advantage_N))[:1].tolist():
        source = tokens.trajectories[tokens.trajectory_N[n]]
        raise NotFinite(
            f"the advantage of token {n} is {advantage_N[n]} (episode {source.episode.id}, seat "
            f"{source.trajectory.seat}, turn {tokens.turn_N[n]} of its trajectory)"
        )
    return advantage_N


def turn_relative(
    turns: Turns, *, channels: Sequence[str] = ("score",), key: Sequence[str] = ("group", "seat", "turn"),
    gamma: float = 1.0, centre: Centre = "mean", scale: Scale = "population", epsilon: float = 1e-6,
    singleton: Singleton = "zero",
) -> FloatArray:
    """``advantage_BK``: each turn's discounted return against that of the turns it is compared with: accumulate
    (gamma by turn), normalise (unit: turn), inherit.

    ``key`` says which turns are compared: ("group", "seat", "turn") the k-th turns of a group's rollouts, ("group",
    "anchor") those that answered the same observation. A sub-seat's turn takes the advantage of the root's turn that
    it served.
    """
    normal_BK = normalise_BK(
        returns_BK(turns, channels=channels, gamma=gamma), turns, key=key, unit="turn", centre=centre, scale=scale,
        epsilon=epsilon, singleton=singleton,
    )
    return inherit_BK(normal_BK, turns)

"""What a loss sees, on one flat axis of tokens, and how it declares which tokens must come together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, TypeAlias, cast, get_args

from torch import Tensor

from polyturn.errors import BadInput, UnknownName


@dataclass(frozen=True, slots=True)
class Learned:
    """Trained tokens with what was measured before the update, the credit given, and the policy's present values.

    Tensors of one type and device, all with the axis N. ``logprob_N``, ``entropy_N`` and ``heads`` carry gradients.
    """

    logprob_N: Tensor
    """Present log-probability at the temperature and support of the sampling."""
    old_N: Tensor
    """The same at the weights before the update."""
    behavior_N: Tensor
    """As recorded when the token was drawn; NaN = unknown."""
    advantage_N: Tensor
    weight_N: Tensor
    turn_N: Tensor
    """Index of the turn within its trajectory."""
    trajectory_N: Tensor
    group_N: Tensor
    version_N: Tensor
    entropy_N: Tensor | None = None
    """Entropy in nats of the distribution that each token was drawn from."""
    reference_N: Tensor | None = None
    """Log-probability under the reference model."""
    target_N: Tensor | None = None
    """What a head is to predict."""
    heads: Mapping[str, Tensor] = field(default_factory=dict)
    """name -> value_N, read at the token before."""
    old_heads: Mapping[str, Tensor] = field(default_factory=dict)
    """The same at the weights before the update; without gradients."""
    targets: Mapping[str, Tensor] = field(default_factory=dict)
    """head -> target_N, where several heads learn; NaN where a head learns nothing from a token."""


Metrics: TypeAlias = dict[str, float]
"""Sums over tokens: the metrics of two halves of a batch add up to those of the whole."""
Loss: TypeAlias = Callable[[Learned], tuple[Tensor, Metrics]]
"""``sum(weight_N * term)`` as a scalar, never divided, so that the halves of a batch add up to the whole."""
Unit: TypeAlias = Literal["token", "turn", "trajectory", "group"]


def unit_of(loss: Loss) -> Unit:
    """The tokens that a loss needs together: the attribute ``unit`` of the function, ``"token"`` without one.

    ``functools.partial`` is looked through. Raises: UnknownName for another unit.

    >>> def preference(learned): ...
    >>> preference.unit = "group"
    >>> unit_of(partial(preference, beta=0.1)), unit_of(lambda learned: ...)
    ('group', 'token')
    """
    found = getattr(loss, "unit", None)
    while found is None and isinstance(loss, partial):
        loss = loss.func
        found = getattr(loss, "unit", None)
    if found is None:
        return "token"
    if not isinstance(found, str):
        raise BadInput(f"a loss declares its unit as {found!r}; expected one of {', '.join(get_args(Unit))}")
    if found not in get_args(Unit):
        raise UnknownName("unit of a loss", found, get_args(Unit))
    return cast(Unit, found)

"""What loss terms share: their unit, the trained tokens, sums over segments, and how terms add up.

A loss returns ``sum(weight_N * term_N)`` and metrics. Metrics are sums over trained tokens (or turns, trajectories,
pairs), so that the learner adds up those of the parts of a batch. A mean is taken by the reader, as
``policy/clipped / policy/count``; ``.../loss`` is the weighted sum itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar, get_args

import torch
from torch import Tensor

from polyturn.arrays import Turns
from polyturn.errors import BadInput
from polyturn.losses.learned import Learned, Loss, Metrics, Unit, unit_of

AnyLoss = TypeVar("AnyLoss", bound=Callable[..., tuple[Tensor, Metrics]])


def of_unit(unit: Unit) -> Callable[[AnyLoss], AnyLoss]:
    """Declares the tokens that a loss needs together, as its attribute ``unit``; the function itself is unchanged."""

    def declare(loss: AnyLoss) -> AnyLoss:
        vars(loss)["unit"] = unit
        return loss

    return declare


def trained(learned: Learned) -> Learned:
    """Only the tokens whose weight is not 0; the others then cannot matter, not even as NaN."""
    keep_N = learned.weight_N != 0

    def cut(value: Tensor | None) -> Tensor | None:
        return None if value is None else value[keep_N]

    def cut_all(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: value[keep_N] for name, value in values.items()}

    maps = ("heads", "old_heads", "targets")
    columns: dict[str, Any] = {f.name: cut(getattr(learned, f.name)) for f in fields(learned) if f.name not in maps}
    columns.update({name: cut_all(getattr(learned, name)) for name in maps})
    return replace(learned, **columns)


def segments(*key_N: Tensor) -> tuple[Tensor, int]:
    """A number per token, equal where all keys are (0, 1, 2 ...), and how many there are."""
    if not len(key_N[0]):
        return torch.zeros_like(key_N[0], dtype=torch.long), 0
    _, segment_N = torch.unique(torch.stack([key.long() for key in key_N]), dim=1, return_inverse=True)
    return segment_N, int(segment_N.max()) + 1


def sum_by(value_N: Tensor, segment_N: Tensor, count: int) -> Tensor:
    """The sum of each segment; carries gradients."""
    return torch.zeros(count, dtype=value_N.dtype, device=value_N.device).index_add(0, segment_N, value_N)


def total(value: Tensor) -> float:
    """A metric: the sum as a number, without a gradient."""
    return float(value.detach().sum())


def needed(value: Tensor | None, what: str, remedy: str) -> Tensor:
    """``value``. Raises: BadInput if it is missing, with what to do."""
    if value is None:
        raise BadInput(f"this loss needs {what}, and the batch has none; {remedy}")
    return value


@dataclass(frozen=True, slots=True, init=False)
class Sum:
    """``sum of coefficient * loss``, as in ``Sum((1.0, policy_gradient), (0.01, kl), (0.001, entropy))``.

    Metrics are those of the terms; where two terms use one name, they add up. ``unit`` is the coarsest of the terms'.
    A coefficient of 0 is refused: it would be an option that does nothing. Terms with memory are told of each batch
    through :meth:`observe`.
    """

    terms: tuple[tuple[float, Loss], ...]

    def __init__(self, *terms: tuple[float, Loss]) -> None:
        if not terms:
            raise BadInput("Sum() has no terms; expected pairs of a coefficient and a loss")
        for coefficient, loss in terms:
            if not (coefficient != 0 and abs(coefficient) < float("inf")):
                raise BadInput(f"the coefficient of {loss!r} is {coefficient}; expected a finite number other than 0")
        object.__setattr__(self, "terms", tuple(terms))

    @property
    def unit(self) -> Unit:
        """The coarsest unit of the terms."""
        order = get_args(Unit)
        return max((unit_of(loss) for _, loss in self.terms), key=order.index)

    def observe(self, turns: Turns) -> None:
        """Tells each term with memory of the batch."""
        for _, term in self.terms:
            observe = getattr(term, "observe", None)
            if observe is not None:
                observe(turns)

    def __call__(self, learned: Learned) -> tuple[Tensor, Metrics]:
        loss = learned.logprob_N.new_zeros(())
        metrics: Metrics = {}
        for coefficient, term in self.terms:
            value, named = term(learned)
            loss = loss + coefficient * value
            for name, amount in named.items():
                metrics[name] = metrics.get(name, 0.0) + amount
        return loss, metrics

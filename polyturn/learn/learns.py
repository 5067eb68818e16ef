"""What a loop asks of a learner: of one in this process, and of one on several (``learn/ranks``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from polyturn.arrays import Measured, Tokens
from polyturn.losses.learned import Loss, Metrics
from polyturn.types import FloatArray


class Published(Protocol):
    """A policy that is told that its weights have changed."""

    def publish(self, version: int) -> None:
        """Samples by the new weights from now on, and calls them so."""
        ...


class Learns(Protocol):
    """A learner. :class:`polyturn.learn.learner.Learner` has the details: shapes, equations, errors."""

    version: int
    lr: float
    last: Measured | None

    def measure(self, tokens: Tokens) -> Measured:
        """Log-probabilities, entropies and what else the loss needs, by the weights as they are."""
        ...

    def values(self, tokens: Tokens, *, reference: bool = False) -> dict[str, FloatArray]:
        """What each value head says of the tokens, by its name."""
        ...

    def update(
        self, tokens: Tokens, measured: Measured | None, advantage_N: FloatArray, weight_N: FloatArray, loss: Loss, *,
        target_N: FloatArray | None = None, targets: Mapping[str, FloatArray] | None = None,
    ) -> Metrics:
        """One update; its numbers by name."""
        ...

    def publish(self, policy: Published) -> None:
        """Counts the version up and tells the policy of it."""
        ...

    def renew_reference(self, share: float = 1.0) -> None:
        """Moves the reference towards the weights as they are, by a share of 0..1."""
        ...

    def reset_optimizer(self) -> None:
        """Forgets the optimizer's moments."""
        ...

    def state(self) -> dict[str, Any]:
        """All that it remembers: weights, optimizer, version."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state."""
        ...

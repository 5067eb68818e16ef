"""What a loop asks of a learner: of one in this process, and of one on several (``learn/ranks``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from polyturn.arrays import Measured, Tokens
from polyturn.losses.learned import Loss, Metrics
from polyturn.types import FloatArray


class Published(Protocol):
    """A policy that is told that its weights have changed."""

    def publish(self, version: int) -> None: ...


class Learns(Protocol):
    """A learner; :class:`polyturn.learn.learner.Learner` says what each of these does."""

    version: int
    lr: float
    last: Measured | None

    def measure(self, tokens: Tokens) -> Measured: ...

    def values(self, tokens: Tokens, *, reference: bool = False) -> dict[str, FloatArray]: ...

    def update(
        self, tokens: Tokens, measured: Measured | None, advantage_N: FloatArray, weight_N: FloatArray, loss: Loss, *,
        target_N: FloatArray | None = None, targets: Mapping[str, FloatArray] | None = None,
    ) -> Metrics: ...

    def publish(self, policy: Published) -> None: ...

    def renew_reference(self, share: float = 1.0) -> None: ...

    def state(self) -> dict[str, Any]: ...

    def restore(self, state: Mapping[str, Any]) -> None: ...

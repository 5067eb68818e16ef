"""A pool of replicas of one model: sampling goes on while new weights are handed round.

:class:`Replicas` is one policy over several copies. A request goes to the serving copy with the fewest requests; new
weights reach the copies a few at a time, so that the others go on serving, and versions may mix in an episode: each
span says which weights wrote it. :class:`Pinned` keeps one copy for each of the newest versions, for play whose weights
are fixed beforehand, so that a run can be repeated to the bit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any

from torch import Tensor, nn

from polyturn.errors import BadInput
from polyturn.policies.local import CACHE_BYTES, Local
from polyturn.protocols import Completion, Written
from polyturn.types import Message, PolicyInfo, Sampling, Tool
from polyturn.waits import Waiting

Weights = Mapping[str, Tensor]
"""Parameter -> value, of the parameters that learn."""


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the parameters of a model that learn."""
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def replica_of(model: Local, *, cache_bytes: int = CACHE_BYTES) -> Local:
    """A copy of a policy with weights of its own; those that do not learn are shared. It stands at the same version."""
    shared: dict[int, Any] = {id(p): p for p in model.model.parameters() if not p.requires_grad}
    copy = deepcopy(model.model, shared)
    made = Local(
        copy, model.chat, name=model.name, dtype=model.dtype, deterministic=model.deterministic,
        cache_bytes=cache_bytes, device=str(model.device), engine=model.engine,
    )
    made.publish(model.version)
    return made


class Replicas:
    """A :class:`polyturn.protocols.Policy` over ``count`` copies of ``model``. Raises: BadInput for none."""

    def __init__(self, model: Local, count: int = 1, *, cache_bytes: int = CACHE_BYTES) -> None:
        if count < 1:
            raise BadInput(f"{count} replicas; expected at least 1")
        self.name, self.limit = model.name, model.limit
        self.every = [replica_of(model, cache_bytes=cache_bytes // count) for _ in range(count)]
        self.at_work = [0] * count
        self.serving = [True] * count
        self.fewest_serving = count
        """The least number of copies that served at any moment since the last :meth:`roll` began."""
        self._info = self.every[0].info()
        self._changed = asyncio.Condition()
        self._rolling = asyncio.Lock()

    def info(self) -> PolicyInfo:
        """That of the newest weights that serve."""
        return self._info

    def count(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> int:
        """Tokens of the prompt that these messages make."""
        return self.every[0].count(messages, tools)

    async def sample(
        self, messages: Sequence[Message], *, tools: Sequence[Tool] = (), sampling: Sampling = Sampling(),
        written: Written = lambda message: None,
    ) -> Completion:
        """One reply, by the serving copy with the fewest requests at work; waits while none serves."""
        async with self._changed:
            with Waiting("a request", f"a replica of {self.name}", "one that serves"):
                await self._changed.wait_for(lambda: any(self.serving))
            index = min((i for i, serves in enumerate(self.serving) if serves), key=self.at_work.__getitem__)
            self.at_work[index] += 1
        try:
            return await self.every[index].sample(messages, tools=tools, sampling=sampling, written=written)
        finally:
            self.at_work[index] -= 1

    async def roll(self, version: int, weights: Weights, *, at_once: int = 1) -> None:
        """Hands new weights round, ``at_once`` copies at a time; each finishes its requests first.

        One copy alone stops for the moment of copying, and requests wait. Raises: BadInput for ``at_once`` below 1.
        """
        async with self._rolling:
            self.fewest_serving = len(self.every)
            for batch in batches(len(self.every), at_once):
                await self._serve(batch, False)
                try:
                    await asyncio.gather(*(asyncio.to_thread(self.every[i].publish, version, weights) for i in batch))
                    self._info = await asyncio.to_thread(self.every[batch[0]].info)
                finally:
                    await self._serve(batch, True)

    async def _serve(self, batch: Sequence[int], serves: bool) -> None:
        async with self._changed:
            for index in batch:
                self.serving[index] = serves
            self.fewest_serving = min(self.fewest_serving, sum(self.serving))
            self._changed.notify_all()

    def close(self) -> None:
        """Ends the engines."""
        for replica in self.every:
            replica.close()


def batches(count: int, at_once: int) -> Iterator[range]:
    """The copies in the order in which they are swapped.

    >>> [list(batch) for batch in batches(5, 2)]
    [[0, 1], [2, 3], [4]]
    """
    if at_once < 1:
        raise BadInput(f"{at_once} copies at once; expected at least 1")
    for start in range(0, count, at_once):
        yield range(start, min(start + at_once, count))


class Pinned:
    """Copies for the newest ``count`` versions of ``model``; version v is kept by copy ``v % count``.

    Raises: BadInput for none.
    """

    def __init__(self, model: Local, count: int, *, cache_bytes: int = CACHE_BYTES) -> None:
        if count < 1:
            raise BadInput(f"{count} versions to keep; expected at least 1")
        self.every = [replica_of(model, cache_bytes=cache_bytes // count) for _ in range(count)]
        for replica in self.every:
            replica.version = -1
        self.weights: dict[int, Weights] = {}

    def of(self, version: int) -> Local:
        """The copy that samples as this version. Raises: BadInput for one that is not kept."""
        replica = self.every[version % len(self.every)]
        if replica.version != version:
            raise BadInput(f"version {version} is not kept; kept are {sorted(self.weights)}")
        return replica

    async def keep(self, version: int, weights: Weights) -> None:
        """Keeps a version, in the place of the one that is ``count`` older."""
        await asyncio.to_thread(self.every[version % len(self.every)].publish, version, weights)
        self.weights[version] = weights
        self.weights = {v: w for v, w in self.weights.items() if v > version - len(self.every)}

    def state(self) -> dict[str, Any]:
        """The weights of every version that is kept."""
        return {str(version): dict(weights) for version, weights in self.weights.items()}

    async def restore(self, state: Mapping[str, Any]) -> None:
        """Takes back what :meth:`state` gave."""
        for version in sorted(int(name) for name in state):
            await self.keep(version, state[str(version)])

    def close(self) -> None:
        """Ends the engines."""
        for replica in self.every:
            replica.close()

"""A rank other than 0: it waits for orders of the driver, computes its part, and ends when the driver does."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Mapping
from typing import Any, NoReturn

from numpy.typing import NDArray
from torch import Tensor

from polyturn.errors import BadInput, LearnerFailed
from polyturn.learn.memory import FreedMemory, keep_freed_memory
from polyturn.learn.ranks.group import DEADLINE, FOR_EVER_S, Joined, join_from_environment, tensors_of
from polyturn.learn.ranks.part import IDLE, Part
from polyturn.learn.ranks.shard import Shard

Found = dict[str, NDArray[Any]]


def serve(joined: Joined) -> None:
    """Does what rank 0 says until it says ``end``. Raises: what an order raises; rank 0 learns of it when this process
    ends, and at once, for it waits for the connection."""
    keep_freed_memory()
    server, freed = Server(joined), FreedMemory()
    while True:
        head, arrays = joined.receive(0, FOR_EVER_S)
        if head["do"] == "end":
            return
        answer = server.obey(head, arrays)
        if answer is not None:
            joined.send(0, *answer)
        if head["do"] in ("build", "fetch"):
            freed.give_back()


class Server:
    """What a rank holds between orders."""

    def __init__(self, joined: Joined) -> None:
        self.joined = joined
        self._shard: Shard | None = None

    @property
    def shard(self) -> Shard:
        """What was built last. Raises: LearnerFailed before anything was."""
        if self._shard is None:
            raise LearnerFailed("an order came before any model was built")
        return self._shard

    def obey(self, head: Mapping[str, Any], arrays: Found) -> tuple[dict[str, Any], Found] | None:
        """Carries an order out; the answer that rank 0 waits for, None where it waits for none."""
        match head["do"]:
            case "build":
                self._shard = None
                self._shard = Shard(head["told"], self.joined.mesh, self.joined.device)
                return {}, {}
            case "read":
                return {}, _numbers(self.shard.read(_part(arrays), reference=head["reference"]))
            case "learn":
                return {}, _numbers(self.shard.learn(_part(arrays)))
            case "push":
                self.shard.push(tensors_of(arrays, self.joined.device))
            case "step":
                norm, broken = self.shard.step(head["lr"], head["max_norm"], head["unused"])
                return {"norm": norm, "broken": broken}, {}
            case _:
                self._turn(head)
        return None

    def _turn(self, head: Mapping[str, Any]) -> None:
        """The orders about whole weights."""
        match head["do"]:
            case "drop":
                self.shard.drop()
            case "fetch":
                for _ in self.shard.fetch(head["kind"]):
                    pass
            case "put":
                self.shard.put(head["kind"], head["names"])
            case "renew":
                self.shard.renew(head["share"])
            case "reset":
                self.shard.reset_optimizer()
            case other:
                raise BadInput(f"no order is named {other!r}")


def _part(arrays: Found) -> Part:
    return Part.of(arrays) if arrays else IDLE


def _numbers(found: Mapping[str, Tensor]) -> Found:
    return {name: value.cpu().numpy() for name, value in found.items()}


def main(device: str = "") -> NoReturn:
    """Joins the group that the environment names, serves, and leaves: at once, so that rank 0 learns of it at once."""
    status = 1
    try:
        serve(join_from_environment(deadline_s=float(os.environ.get(DEADLINE, "600")), device=device))
        status = 0
    except BaseException:
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main(*sys.argv[1:2])

"""Streams of tasks: numbered ones for environments that are drawn from a seed, and those of a user's file."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import TYPE_CHECKING

from polyturn.errors import UnknownName
from polyturn.types import Limits, Task

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any


def numbered(
    family: str, split: str, *, test: int, limits: Limits = Limits(),
    payload: Callable[[int], Mapping[str, Any]] = lambda index: {},
) -> Iterator[Task]:
    """Tasks ``family/train/0, 1, ...`` without end, or ``family/test/0 .. test - 1``.

    Environments draw their world from the task's id and the seed, so the two splits share no draw.
    Raises: UnknownName for any other split.

    >>> [task.id for task in numbered("guess", "test", test=2)]
    ['guess/test/0', 'guess/test/1']
    """
    if split not in ("train", "test"):
        raise UnknownName("split", split, ("train", "test"))
    indices = count() if split == "train" else iter(range(test))
    return (Task(f"{family}/{split}/{index}", family, payload(index), limits) for index in indices)

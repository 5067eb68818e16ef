"""Which engine drives a model: the one that was named, else the first that gives the model's own numbers."""

from __future__ import annotations

import os
from typing import Any, Literal, TypeAlias

import torch
from transformers import PreTrainedModel

from polyturn.errors import BadInput
from polyturn.policies.sampler.check import check
from polyturn.policies.sampler.continuous import Continuous, captured
from polyturn.policies.sampler.driven import Driven, check_driven
from polyturn.policies.sampler.engine import Stepper
from polyturn.policies.sampler.plain import Plain

EngineName: TypeAlias = Literal["", "slots", "continuous", "plain"]
ENGINES: tuple[EngineName, ...] = ("slots", "continuous", "plain")
"""In the order in which they are tried, but see :func:`order_of`."""
TOLD = {
    "slots": "over slots", "continuous": "by continuous batching of transformers",
    "plain": "one request at a time, without shared caches",
}
VARIABLE = "POLYTURN_ENGINE"
"""The environment variable that names the engine of models that are not told theirs; processes inherit it."""


def engine_of(named: str = "", *, deterministic: bool = False) -> EngineName:
    """The engine ``named``, else that of ``POLYTURN_ENGINE``, else "": the first that fits.

    Raises: BadInput for an engine that there is not, or that gives no fixed bits where these are asked for.

    >>> engine_of("continuous")
    'continuous'
    """
    wanted: Any = named or os.environ.get(VARIABLE, "")
    if wanted and wanted not in ENGINES:
        raise BadInput(f"engine is {wanted!r}; expected {', '.join(ENGINES)}, or nothing for the first that fits")
    if deterministic and wanted not in ("", "slots"):
        raise BadInput(f"deterministic sampling is done by the engine 'slots' alone; got {wanted!r}")
    return wanted  # type: ignore[no-any-return]


def name_engine(named: str) -> None:
    """Makes ``named`` the engine of every model of this process, and of those that it starts, that is not told its own.

    Raises: BadInput as :func:`engine_of`.
    """
    engine_of(named)
    os.environ[VARIABLE] = named


def order_of(model: PreTrainedModel, *, deterministic: bool = False) -> tuple[EngineName, ...]:
    """The engines that are tried for a model that is not told its own, the fastest first."""
    if deterministic:
        return ("slots",)
    return ("continuous", "slots", "plain") if captured(model) else ENGINES


def stepper_of(
    model: PreTrainedModel, plain: PreTrainedModel, engine: EngineName, *, cache_bytes: int, deterministic: bool,
) -> tuple[Stepper, str]:
    """The engine that is to drive ``model``, a twin of ``plain`` (which is in its eval mode), and why not those before.

    Raises: BadInput where the one that was named cannot, or none gives fixed bits where these are asked for.
    """
    reasons: list[str] = []
    for name in (engine,) if engine else order_of(model, deterministic=deterministic):
        model.config._attn_implementation = plain.config._attn_implementation
        try:
            with torch.inference_mode():
                return _driving(name, model, plain, cache_bytes, deterministic), "; ".join(reasons)
        except Exception as error:  # whatever a foreign model does with our arguments
            reasons.append(f"not {TOLD[name]}: {type(error).__name__}: {error}")
    how = "deterministically with others" if deterministic else f"by engine {engine!r}"
    raise BadInput(f"this model cannot be sampled {how}: {reasons[0]}")


def _driving(
    name: EngineName, model: PreTrainedModel, plain: PreTrainedModel, cache_bytes: int, deterministic: bool
) -> Stepper:
    if name == "slots":
        driven = Driven(model, cache_bytes=cache_bytes, deterministic=deterministic)
        check_driven(driven, plain)
        return driven
    if name == "continuous":
        batching = Continuous(model, cache_bytes=cache_bytes)
        check(batching, model, plain)
        batching.drop()
        return batching
    return Plain(model)

"""Where the time of a piece of work goes: products with weights, attention, vocabulary, drawing, the rest, Python."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.report import Report

SCOPE = "share of "
"""What the name of a region begins with whose operations are told together."""
PRODUCTS, ATTENTION, VOCABULARY, DRAWING = "products with weights", "attention", "vocabulary", "drawing ids"
REST, OUTSIDE = "norms, rotation, gates, copies", "Python, and waiting"
ORDER = (PRODUCTS, ATTENTION, VOCABULARY, DRAWING, REST, OUTSIDE)
MULTIPLIES = ("mm", "linear", "matmul", "bmm")
"""How the names of operations end that multiply matrices, one of them with a weight unless attention is around it."""


@dataclass(frozen=True, slots=True)
class Done:
    """An operation: its name, the names of what it was called in (the nearest first), its own seconds."""

    name: str
    inside: tuple[str, ...]
    seconds: float


def category(done: Done) -> str:
    """What an operation counts to.

    >>> category(Done("aten::mm", ("aten::matmul", "share of attention"), 1.0)), category(Done("aten::mm", (), 1.0))
    ('attention', 'products with weights')
    """
    for name in done.inside:
        if name.startswith(SCOPE):
            return name.removeprefix(SCOPE)
    return PRODUCTS if done.name.rstrip("_").endswith(MULTIPLIES) or "linear" in done.name else REST


def shared(operations: Iterable[Done], seconds: float) -> dict[str, float]:
    """Category -> seconds, in the order of :data:`ORDER`; what no operation took of ``seconds`` is :data:`OUTSIDE`.

    >>> shared([Done("aten::mm", (), 3.0), Done("aten::add", (), 1.0)], 5.0)
    {'products with weights': 3.0, 'norms, rotation, gates, copies': 1.0, 'Python, and waiting': 1.0}
    """
    found = dict.fromkeys(ORDER, 0.0)
    for done in operations:
        found[category(done)] += done.seconds
    found[OUTSIDE] = seconds - sum(found.values())
    return {name: value for name, value in found.items() if value}


def profiled(work: Callable[[], object]) -> tuple[dict[str, float], float]:
    """(category -> seconds, seconds without the profiler) of a call, after one call to warm up.

    One thread of torch, so that seconds of operations add up to those of the clock; operations of all Python threads
    count. The profiler makes small operations slower, and so Python's share larger: the second number tells how much.
    """
    from torch._C._profiler import _ExperimentalConfig

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        work()
        began = time.perf_counter()
        work()
        plain = time.perf_counter() - began
        config = _ExperimentalConfig(profile_all_threads=True)
        with profile(activities=[ProfilerActivity.CPU], experimental_config=config) as seen:
            began = time.perf_counter()
            work()
            seconds = time.perf_counter() - began
    finally:
        torch.set_num_threads(threads)
    return shared(operations_of(seen.events()), seconds), plain


def operations_of(events: Any) -> Iterator[Done]:
    """The operations among a profiler's events; Python's own functions and the steps of autograd around them are
    none."""
    for event in events:
        if "::" in event.name and not event.name.startswith(("autograd::", SCOPE)):
            yield Done(event.name, _inside(event), event.self_cpu_time_total / 1e6)


def _inside(event: Any) -> tuple[str, ...]:
    names = []
    above = event.cpu_parent
    while above is not None:
        names.append(above.name)
        above = above.cpu_parent
    return tuple(names)


# ---------------------------------------------------------------- what is told together


def told(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, its operations told together."""

    @functools.wraps(function)
    def call(*args: Any, **more: Any) -> Any:
        with record_function(SCOPE + name):
            return function(*args, **more)

    return call


@contextmanager
def telling(owner: Any, attribute: str, name: str) -> Iterator[None]:
    """While it is entered, operations of a function of a module, class or object are told together."""
    own = vars(owner).get(attribute)
    static = isinstance(own, staticmethod)
    made = told(name, own.__func__ if isinstance(own, staticmethod) else getattr(owner, attribute))
    setattr(owner, attribute, staticmethod(made) if static else made)
    try:
        yield
    finally:
        if own is None:
            delattr(owner, attribute)
        else:
            setattr(owner, attribute, own)


@contextmanager
def of_learner() -> Iterator[None]:
    """The learner's attention and vocabulary, forward and backward."""
    from polyturn.forest import attention, head, layers

    with ExitStack() as all_of:
        for module in (layers, attention):
            for function in ("attend", "attend_back"):
                all_of.enter_context(telling(module, function, ATTENTION))
        all_of.enter_context(telling(attention, "_masked", ATTENTION))
        for function in ("forward", "backward"):
            all_of.enter_context(telling(head._Read, function, VOCABULARY))
        yield


@contextmanager
def of_sampler(model: nn.Module) -> Iterator[None]:
    """The sampler's attention, the projection of ``model`` on the vocabulary, and drawing."""
    from transformers import AttentionInterface

    from polyturn.policies.sampler import engine
    from polyturn.policies.sampler.attention import NAME, attention

    head: Any = model.get_output_embeddings()  # type: ignore[operator]
    AttentionInterface.register(NAME, told(ATTENTION, attention))
    try:
        with telling(head, "forward", VOCABULARY), telling(engine, "draw", DRAWING):
            yield
    finally:
        AttentionInterface.register(NAME, attention)


def add(report: Report, case: str, found: Mapping[str, float], plain: float) -> None:
    """Rows of a profile, and its shares among the details."""
    whole = sum(found.values())
    heading = f"{case}: where the time goes"
    report.row(heading, "what", "ms", "share")
    for name, seconds in found.items():
        report.row(heading, name, 1e3 * seconds, seconds / whole)
    report.row(heading, "with the profiler", 1e3 * whole, 1.0)
    report.row(heading, "without it", 1e3 * plain, plain / whole)
    report.details[f"{case} profile"] = {"seconds": dict(found), "seconds_without_profiler": plain}

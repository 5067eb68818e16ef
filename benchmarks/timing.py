"""Seconds of contenders that take turns, so that what else the machine does falls on all of them alike."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any


@dataclass(frozen=True, slots=True)
class Timing:
    """The repeats of one contender, in seconds of the wall clock, and of all cores together.

    >>> Timing((3.0, 1.0, 2.0), (6.0, 2.0, 4.0)).median, Timing((3.0, 1.0, 2.0), (6.0, 2.0, 4.0)).worst
    (2.0, 3.0)
    """

    seconds: tuple[float, ...]
    cpu_seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median of the wall clock's seconds."""
        return median(self.seconds)

    @property
    def worst(self) -> float:
        """The slowest repeat."""
        return max(self.seconds)

    def told(self) -> dict[str, float | list[float]]:
        """As JSON holds it."""
        return {
            "median_s": self.median, "worst_s": self.worst, "cpu_median_s": median(self.cpu_seconds),
            "all_s": list(self.seconds),
        }  # fmt: skip


def once(work: Callable[[], object]) -> tuple[float, float]:
    """(wall, processor) seconds of one call; what earlier calls left behind is collected before."""
    gc.collect()
    began, spent = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - began, time.process_time() - spent


def interleaved(
    contenders: Mapping[str, Callable[[], object]], *, repeats: int = 5, warm: int = 1
) -> dict[str, Timing]:  # fmt: skip
    """Name -> timing. Each round runs every contender once, in an order that turns round by round.

    ``warm``: rounds that are run and not counted.
    """
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    names = list(contenders)
    for r in range(warm + repeats):
        turned = names[r % len(names) :] + names[: r % len(names)]
        for name in turned:
            found = once(contenders[name])
            if r >= warm:
                seen[name].append(found)
    return {name: Timing(tuple(s for s, _ in rounds), tuple(c for _, c in rounds)) for name, rounds in seen.items()}


def peak_bytes(work: Callable[[], object]) -> int:
    """The most memory that this process held in RAM during a call, on Linux."""
    gc.collect()
    forget_peak()
    work()
    return peak()


def forget_peak() -> None:
    """Sets the kernel's mark of :func:`peak` back to what the process holds now."""
    Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """The most bytes that this process held in RAM since :func:`forget_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM:")))


def fastest(
    settings: Sequence[Any], work: Callable[[Any], object], *, most: float = float("inf"),
    per: Callable[[Any], float] = lambda setting: 1.0, holds: float = float("inf"),
) -> tuple[Any, dict[Any, tuple[float, float]]]:
    """The setting of the fewest seconds for a unit of work among those that took at most ``most`` GiB, and setting ->
    (seconds, GiB at most) of one call each, after one call of the first to warm up.

    ``per``: units that a setting's call does. ``holds``: GiB that there are, for settings that are rising numbers in
    whose proportion memory grows: one that would take more, judged by the one before, is not tried, nor any after it.
    Raises: ValueError where no setting takes so little.
    """
    work(settings[0])
    found: dict[Any, tuple[float, float]] = {}
    for setting in settings:
        if found and holds < float("inf"):
            before = next(reversed(found))
            if found[before][1] * setting / before > holds:
                break
        forget_peak()
        seconds, _ = once(lambda s=setting: work(s))  # type: ignore[misc]
        found[setting] = (seconds, peak() / 2**30)
    within = [setting for setting in found if found[setting][1] <= most]
    return min(within, key=lambda setting: found[setting][0] / per(setting)), found


def sweep(settings: Sequence[Any], work: Callable[[Any], object], *, repeats: int = 1) -> dict[Any, float]:
    """Setting -> the best of ``repeats`` seconds, after one call to warm up; settings take turns."""
    timings = interleaved({str(i): (lambda s=s: work(s)) for i, s in enumerate(settings)}, repeats=repeats)  # type: ignore[misc]
    return {setting: min(timings[str(i)].seconds) for i, setting in enumerate(settings)}

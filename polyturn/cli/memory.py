"""The most memory that a process and its children held together."""

from __future__ import annotations

import threading
from types import TracebackType


class PeakMemory:
    """Watches the process tree from a thread: ``with PeakMemory() as peak: ...; peak.bytes``.

    Memory that two processes share is counted twice, so the figure is never too small for a tree of forks; a peak
    shorter than ``every_s`` may be missed.
    """

    def __init__(self, every_s: float = 0.5) -> None:
        self.bytes = 0
        self._every_s = every_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peak-memory", daemon=True)

    def _watch(self) -> None:
        while True:
            self.bytes = max(self.bytes, tree_bytes())
            if self._over.wait(self._every_s):
                return

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()
        self.bytes = max(self.bytes, tree_bytes())


def tree_bytes() -> int:
    """Resident bytes of this process and all its descendants now."""
    import psutil

    own = psutil.Process()
    total = 0
    for process in [own, *own.children(recursive=True)]:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total

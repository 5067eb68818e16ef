"""Memory of large passes: kept by the process from pass to pass, given back after the last one."""

from __future__ import annotations

import ctypes
import platform
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
"""Option numbers of glibc's ``mallopt``."""


def keep_freed_memory() -> bool:
    """True if the C library was told to keep freed blocks for the next allocation; False where it cannot be told (it is
    not glibc).

    A training pass allocates and frees many blocks of megabytes. glibc by default maps each afresh, and the kernel
    fills it with zeros page by page: up to a fifth of the processor time of a pass on a CPU. Blocks up to 32 MiB (the
    most that glibc takes) are kept; larger ones come and go. It holds for the whole process and changes no result.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    wanted = ((_MMAP_THRESHOLD, 32 * 2**20), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 64 * 2**20))
    return all(mallopt(option, value) == 1 for option, value in wanted)


@dataclass
class FreedMemory:
    """Gives freed blocks back to the system, once the process has grown by ``above`` bytes since it last did, or
    ``every_s`` seconds have gone.

    What one thread keeps (the learner after an update) another cannot use (the sampler's engine), so that a run would
    come to hold the peak of both, and over hours more: blocks lie scattered. To fetch blocks again after every update
    costs a tenth of a small model's run, so little growth is left for half a minute.
    """

    above: int = 192 * 2**20
    every_s: float = 30.0
    clock: Callable[[], float] = time.monotonic
    resident: int = 0
    """Bytes in memory after the last time."""
    at: float = 0.0
    """When that was."""

    def give_back(self) -> bool:
        """True if freed blocks of all threads went back; False where it is not yet time, or the C library has no such
        call. Costs some milliseconds for each gigabyte."""
        if platform.libc_ver()[0] != "glibc":
            return False
        if resident_bytes() - self.resident <= self.above and self.clock() - self.at < self.every_s:
            return False
        ctypes.CDLL(None).malloc_trim(0)
        self.resident, self.at = resident_bytes(), self.clock()
        return True


def resident_bytes() -> int:
    """The memory of this process that is in RAM, on Linux."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

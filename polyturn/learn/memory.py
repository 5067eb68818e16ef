"""Memory of large passes: kept by the process instead of being given back and fetched again."""

from __future__ import annotations

import ctypes
import platform

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

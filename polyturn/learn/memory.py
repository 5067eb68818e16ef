"""Memory of large passes: kept by the process instead of being given back and fetched again."""

from __future__ import annotations

import ctypes
import platform

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
"""Option numbers of glibc's ``mallopt``."""


def keep_freed_memory() -> bool:
    """True if the C library was told to keep freed blocks for the next allocation; False where it cannot be told (it is
    not glibc).

    A training pass allocates and frees hundreds of megabytes in large blocks. glibc by default maps each afresh, and
    the kernel fills it with zeros page by page: a fifth of the processor time of a pass on a CPU. It holds for the
    whole process and changes no result; memory in use at the peak stays, and is reused.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    wanted = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 64 * 2**20))
    return all(mallopt(option, value) == 1 for option, value in wanted)

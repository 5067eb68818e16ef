"""A command that is killed with the process that started it, however that one ends.

Run by itself as ``python -I -S tethered.py PARENT NOTE COMMAND ARGUMENT...``, with the standard library: it writes
its process number into the file NOTE, asks the kernel for the signal and becomes the command, so that no process stands
between the two. Where the kernel has no such signal (not Linux) the command is started without.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Final

SET_DEATH_SIGNAL: Final = 1


def main(parent: str, note: str, command: list[str]) -> None:
    """Becomes ``command``; ends at once where ``parent``, a process number, is gone already."""
    with open(note, "w", encoding="ascii") as file:
        file.write(str(os.getpid()))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SET_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() != int(parent):
            os._exit(1)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])

"""Namespaces without a helper program: own users, mounts, processes, network; then the child interpreter.

This file is run by itself (``python -I -S -c <its text> <settings as JSON>``), as Python 3.11 has no ``os.unshare``.
What it changes is seen by no process but its child: a new root of read-only system folders and a work folder in memory,
process number 1, a network without interfaces.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from typing import Any

NEW_MOUNTS, NEW_CGROUP, NEW_NAME, NEW_IPC, NEW_USER, NEW_PROCESSES, NEW_NETWORK = (
    0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000)
READ_ONLY, NO_SUID, NO_DEVICES, NO_EXEC, REMOUNT, BIND, RECURSIVE, PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18
RELATIVE_TIMES = 1 << 21
DETACH = 2
SET_DEATH_SIGNAL = 1
NOBODY = 65534
LIBC = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    texts = [None if text is None else text.encode() for text in (source, target, kind, data)]
    _checked(LIBC.mount(texts[0], texts[1], texts[2], ctypes.c_ulong(flags), texts[3]), f"mount {source} on {target}")


def enter() -> None:
    """New namespaces for this process, in which it is nobody and may mount; its children are in a process namespace."""
    user, group = os.getuid(), os.getgid()
    spaces = NEW_USER | NEW_MOUNTS | NEW_PROCESSES | NEW_NETWORK | NEW_IPC | NEW_NAME | NEW_CGROUP
    _checked(LIBC.unshare(spaces), "unshare")
    for name, text in (("setgroups", "deny"), ("uid_map", f"{NOBODY} {user} 1"), ("gid_map", f"{NOBODY} {group} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)


def _show(root: str, path: str) -> None:
    """The same path below the new root: a link as a link, a folder or file bound read-only."""
    target = root + path
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.islink(path):
        os.symlink(os.readlink(path), target)
        return
    if os.path.isdir(path):
        os.makedirs(target, exist_ok=True)
    else:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    _mount(path, target, None, BIND | RECURSIVE)
    kept = os.statvfs(target).f_flag
    flags = kept & (NO_SUID | NO_DEVICES | NO_EXEC | 1024 | 2048) | (RELATIVE_TIMES if kept & 4096 else 0)
    _mount(None, target, None, BIND | REMOUNT | READ_ONLY | NO_SUID | flags)


def build(settings: dict[str, Any]) -> None:
    """The new root, and into it. There is no ``/proc``: through it, root without capabilities still sets the kernel."""
    root = settings["root"]
    _mount(None, "/", None, RECURSIVE | PRIVATE)
    _mount("tmpfs", root, "tmpfs", NO_SUID | NO_DEVICES, "size=1m,mode=755")
    for path in settings["readable"]:
        _show(root, path)
    os.mkdir(f"{root}/dev")
    for name in ("null", "zero", "full", "random", "urandom"):
        os.close(os.open(f"{root}/dev/{name}", os.O_CREAT | os.O_WRONLY, 0o666))
        _mount(f"/dev/{name}", f"{root}/dev/{name}", None, BIND)
    work = root + settings["work"]
    os.mkdir(work)
    bounds = f"size={settings['disk_bytes']},nr_inodes={settings['files']},mode=700"
    _mount("tmpfs", work, "tmpfs", NO_SUID | NO_DEVICES, bounds)
    os.symlink(settings["work"], f"{root}/tmp")
    os.chdir(root)
    _checked(LIBC.syscall(ctypes.c_long(settings["pivot_root"]), b".", b"."), "pivot_root")
    _checked(LIBC.umount2(b".", DETACH), "umount of the old root")
    os.chdir("/")
    _mount(None, "/", None, BIND | REMOUNT | READ_ONLY | NO_SUID | NO_DEVICES)


def main() -> None:
    """Enters, starts the child as process 1, and ends with it."""
    settings = json.loads(sys.argv[1])
    LIBC.prctl(SET_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    enter()
    child = os.fork()
    if child == 0:
        LIBC.prctl(SET_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
        build(settings)
        os.execv(settings["command"][0], settings["command"])
    for descriptor in (0, 1):
        os.close(descriptor)
    os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 0xFF)


if __name__ == "__main__":
    main()

"""The system calls that untrusted code may not make, as a program for the kernel's seccomp filter.

No new process or thread, no new program, no network, no signal to others, no look into others, no mounts, no
namespaces, no kernel objects that outlive the process or escape its memory limit. A refused call fails with EPERM.
"""

from __future__ import annotations

import platform
import struct
from typing import Final

EPERM: Final = 1
ALLOW: Final = 0x7FFF0000
REFUSE: Final = 0x00050000 | EPERM
KILL: Final = 0x80000000
LOAD: Final = 0x20
"""Load the 32-bit word at an absolute offset of ``struct seccomp_data``."""
EQUAL: Final = 0x15
AT_LEAST: Final = 0x35
RETURN: Final = 0x06
NUMBER, ARCHITECTURE, ARGUMENT = 0, 4, 16
"""Offsets in ``struct seccomp_data``: the call's number, the architecture, the low half of its first argument."""

ARCHITECTURES: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
OTHER_ABI: Final = 0x40000000
"""x86-64 numbers from here on are the x32 ABI, a second way to every call."""
REFUSED: Final[dict[str, tuple[int | None, int | None]]] = {
    # processes, threads, programs
    "clone": (56, 220), "clone3": (435, 435), "fork": (57, None), "vfork": (58, None), "execve": (59, 221),
    "execveat": (322, 281),
    # network
    "socket": (41, 198), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201), "accept": (43, 202),
    "accept4": (288, 242),
    # other processes, and leaving the group that is killed at the deadline
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "pidfd_open": (434, 434), "pidfd_send_signal": (424, 424),
    "pidfd_getfd": (438, 438), "setpriority": (141, 140), "ioprio_set": (251, 30), "sched_setaffinity": (203, 122),
    "setsid": (112, 157), "setpgid": (109, 154),
    # mounts and namespaces
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "unshare": (272, 97),
    "setns": (308, 268), "move_mount": (429, 429), "open_tree": (428, 428), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "fanotify_init": (300, 262),
    # kernel objects
    "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218), "bpf": (321, 280),
    "perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "memfd_create": (319, 279),
    "memfd_secret": (447, 447), "shmget": (29, 194), "shmat": (30, 196), "msgget": (68, 186), "semget": (64, 190),
    "mq_open": (240, 180),
    # the machine
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106), "kexec_load": (246, 104),
    "kexec_file_load": (320, 294), "reboot": (169, 142), "swapon": (167, 224), "swapoff": (168, 225),
    "acct": (163, 89), "quotactl": (179, 60), "settimeofday": (164, 170), "clock_settime": (227, 112),
    "adjtimex": (159, 171), "clock_adjtime": (305, 266), "personality": (135, 92), "sethostname": (170, 161),
    "setdomainname": (171, 162), "syslog": (103, 116), "iopl": (172, None), "ioperm": (173, None),
    "modify_ldt": (154, None),
}
"""Name -> number on x86-64 and on 64-bit ARM; None where it does not exist."""
OWN_LIMITS: Final = {"x86_64": 302, "aarch64": 261}
"""prlimit64: allowed for the calling process alone."""
PRCTL: Final = {"x86_64": 157, "aarch64": 167}
SET_DEATH_SIGNAL: Final = 1
"""Of prctl: what ends a process with its parent; it may not be taken off."""
PIVOT_ROOT: Final = {"x86_64": 155, "aarch64": 41}


def machine() -> str | None:
    """The architecture's name, None where this module knows none of its numbers."""
    name = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
    return name if name in ARCHITECTURES else None


def numbers(name: str) -> list[int]:
    """The refused calls' numbers on an architecture."""
    column = list(ARCHITECTURES).index(name)
    found = (pair[column] for pair in REFUSED.values())
    return sorted(number for number in found if number is not None)


def program(name: str) -> bytes:
    """The filter for an architecture, in the kernel's format: 8 bytes for each instruction (code, jt, jf, k).

    >>> len(program("x86_64")) % 8
    0
    """
    refused = numbers(name)
    checks = [(EQUAL, number) for number in refused]
    if name == "x86_64":
        checks.insert(0, (AT_LEAST, OTHER_ABI))
    lines = [(LOAD, 0, 0, ARCHITECTURE), (EQUAL, 1, 0, ARCHITECTURES[name]), (RETURN, 0, 0, KILL),
             (LOAD, 0, 0, NUMBER)]
    tail = [(EQUAL, 3, 0, PRCTL[name]), (EQUAL, 0, 4, OWN_LIMITS[name]), (LOAD, 0, 0, ARGUMENT), (EQUAL, 2, 3, 0),
            (LOAD, 0, 0, ARGUMENT), (EQUAL, 1, 0, SET_DEATH_SIGNAL), (RETURN, 0, 0, ALLOW), (RETURN, 0, 0, REFUSE)]
    for place, (code, value) in enumerate(checks):
        to_the_last = len(checks) - place - 1 + len(tail) - 1
        lines.append((code, to_the_last, 0, value))
    return b"".join(struct.pack("<HBBI", *line) for line in lines + tail)

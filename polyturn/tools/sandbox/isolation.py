"""The levels of isolation, and the command that starts the child interpreter at each.

| level | files | network | processes | needs |
|---|---|---|---|---|
| ``bubblewrap`` | read-only system, a work folder in memory | none | its own | the Debian package bubblewrap |
| ``namespaces`` | the same | none | its own | user namespaces that the kernel lets this user make |
| ``limits`` | **all that this user may read and write** | no sockets | none can be started | Linux |

There is no ``/proc`` in the isolated ones: through ``/proc/sys``, root sets the kernel even without capabilities.

At every level: limits of memory, files and processor time, no capabilities, and the filter of system calls
(:mod:`polyturn.tools.sandbox.seccomp`), tried out by the child before it takes the first line of code.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from polyturn.tools.sandbox.seccomp import PIVOT_ROOT, machine, program

Level: TypeAlias = Literal["bubblewrap", "namespaces", "limits"]
LEVELS: Final[tuple[Level, ...]] = ("bubblewrap", "namespaces", "limits")
"""The strongest first."""
MIB: Final = 2**20
WORK: Final = "/work"
INSTALL: Final = "install bubblewrap (Debian: apt-get install bubblewrap), or allow unprivileged user namespaces " \
                 "(sysctl kernel.unprivileged_userns_clone=1; in a container: --security-opt seccomp=unconfined)"
SYSTEM: Final = ("/usr", "/lib", "/lib32", "/lib64", "/libx32", "/bin", "/sbin", "/etc/ld.so.cache")
"""What an interpreter needs of the system, where it is there."""
ENVIRONMENT: Final = {
    "PATH": "/usr/bin:/bin", "HOME": WORK, "TMPDIR": WORK, "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


@dataclass(frozen=True, slots=True)
class Bounds:
    """What code may use: ``Bounds(run_s=2.0, output_chars=2000)``."""

    run_s: float = 10.0
    """Seconds of one run; those that a tool call waits for its answer are not counted."""
    grace_s: float = 0.5
    """Seconds between the interruption of a run and the end of its interpreter."""
    memory_bytes: int = 512 * MIB
    file_bytes: int = 16 * MIB
    """The largest file."""
    disk_bytes: int = 64 * MIB
    """All files of the work folder together; at level ``limits`` only each file is bounded."""
    files: int = 4096
    """Files and folders of the work folder at level ``namespaces``; bubblewrap cannot bound their number."""
    open_files: int = 64
    processor_s: int = 600
    """Processor time of an interpreter's whole life, waiting for orders included."""
    output_chars: int = 2000
    """What is kept of the output of a run, and of its traceback."""
    code_chars: int = 100_000
    calls: int = 1000
    """Tool calls of one run."""

    def limits(self) -> dict[str, int]:
        """Names of :mod:`resource` and their values."""
        return {
            "RLIMIT_AS": self.memory_bytes, "RLIMIT_FSIZE": self.file_bytes, "RLIMIT_NOFILE": self.open_files,
            "RLIMIT_CPU": self.processor_s, "RLIMIT_CORE": 0, "RLIMIT_MEMLOCK": 0, "RLIMIT_MSGQUEUE": 0,
            "RLIMIT_STACK": min(8 * MIB, self.memory_bytes),
        }


@dataclass(frozen=True, slots=True)
class Start:
    """How one child is started."""

    command: Sequence[str]
    folder: Path
    """An empty folder of this child's: mount point, or work folder at level ``limits``."""


def missing(level: Level) -> str:
    """What this machine plainly lacks for a level; empty = it is worth trying."""
    if sys.platform != "linux":
        return f"code is isolated on Linux only; this is {sys.platform}"
    if machine() is None:
        return f"no table of system calls for processors of the kind {os.uname().machine}"
    if level == "bubblewrap" and shutil.which("bwrap") is None:
        return "the command bwrap is not installed"
    return ""


def start(
    level: Level, folder: Path, *, canary: str, bounds: Bounds, tools: Mapping[str, str],
    packages: Sequence[str] = (),
) -> Start:
    """The command for a level. ``canary`` is a file that only an unisolated child can see."""
    architecture = machine()
    assert architecture is not None
    work = str(folder) if level == "limits" else WORK
    settings = {
        "limits": _lowered(bounds.limits()), "filter": program(architecture).hex(), "canary": canary, "work": work,
        "tools": dict(tools), "output_chars": bounds.output_chars, "paths": list(packages),
        "isolated": level != "limits",
    }
    inner = [_python(), "-I", "-S", "-B", "-X", "utf8", "-c", _text("child"), json.dumps(settings)]
    readable = [path for path in (*SYSTEM, *_outside_system((_prefix(), *packages))) if os.path.lexists(path)]
    if level == "limits":
        return Start(inner, folder)
    if level == "bubblewrap":
        return Start([*_bubblewrap(readable, bounds), *inner], folder)
    outer = {
        "root": str(folder), "readable": readable, "work": WORK, "disk_bytes": bounds.disk_bytes,
        "files": bounds.files, "command": inner,
        "pivot_root": PIVOT_ROOT[architecture],
    }
    return Start([_python(), "-I", "-S", "-B", "-c", _text("launch"), json.dumps(outer)], folder)


def refused(level: Level, ready: Mapping[str, Any]) -> str:
    """Why what a child says of itself is not enough for its level; empty = it is."""
    barred = ["capable", "fork", "network"] + ([] if level == "limits" else ["outside", "system", "processes"])
    open_ = [name for name in barred if ready.get(name) is not False]
    return f"the child could still do: {', '.join(open_)}" if open_ else ""


def _lowered(limits: Mapping[str, int]) -> dict[str, int]:
    """Limits no higher than this process's own, which a child may not pass."""
    found = {}
    for name, most in limits.items():
        hard = resource.getrlimit(getattr(resource, name))[1]
        found[name] = most if hard == resource.RLIM_INFINITY else min(most, hard)
    return found


def _text(name: str) -> str:
    return Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")


def _prefix() -> str:
    return os.path.realpath(sys.base_prefix)


def _python() -> str:
    """The interpreter itself, not a virtual environment's link to it."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


def _outside_system(paths: Sequence[str]) -> list[str]:
    return [path for path in dict.fromkeys(paths) if not path.startswith("/usr/") and path != "/usr"]


def _bubblewrap(readable: Sequence[str], bounds: Bounds) -> list[str]:
    command = [
        shutil.which("bwrap") or "bwrap", "--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-net",
        "--unshare-uts", "--unshare-cgroup-try", "--uid", "65534", "--gid", "65534", "--cap-drop", "ALL",
        "--die-with-parent", "--new-session", "--hostname", "sandbox",
    ]
    for path in readable:
        link = os.path.islink(path)
        command += ["--symlink", os.readlink(path), path] if link else ["--ro-bind", path, path]
    return [
        *command, "--dev", "/dev", "--size", str(bounds.disk_bytes), "--tmpfs", WORK,
        "--symlink", WORK, "/tmp", "--chdir", WORK, "--remount-ro", "/dev", "--remount-ro", "/", "--",
    ]

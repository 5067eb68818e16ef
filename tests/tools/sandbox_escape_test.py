"""Code that means harm, at every level of isolation that this machine offers."""

from __future__ import annotations

import asyncio
import os
import pickle
import socket
from ast import literal_eval
from pathlib import Path
from typing import Any

import psutil
import pytest

from polyturn.tools.sandbox.interpreter import Ran, Sandbox
from polyturn.tools.sandbox.isolation import Bounds, Level
from tests.tools.levels import HERE, ISOLATED

MIB = 2**20
OWN_LIBRARY = os.path.realpath(os.__file__)
TIGHT = Bounds(run_s=2.0, memory_bytes=256 * MIB, file_bytes=2 * MIB, disk_bytes=8 * MIB)


async def ran(level: Level, *codes: str, bounds: Bounds = TIGHT) -> Ran:
    """How the last of the codes went."""
    async with Sandbox(only=level, bounds=bounds) as sandbox:
        found = Ran("ok")
        for code in codes:
            found = await sandbox.run(code)
        return found


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("level", ISOLATED)
async def test_files_outside_cannot_be_read(
    level: Level, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("key")
    for path in (str(secret), "/etc/passwd", "/etc/shadow", __file__, "/proc/self/environ", "/proc/1/root/etc/passwd"):
        assert "FileNotFoundError" in (await ran(level, f"open({path!r}).read()")).error
    monkeypatch.setenv("SECRET", "key")
    seen = await ran(level, "import os\nos.getcwd(), os.listdir('.'), os.environ.get('SECRET')")
    assert seen.output == "('/work', [], None)\n"


@pytest.mark.parametrize("level", ISOLATED)
async def test_files_outside_cannot_be_written(level: Level) -> None:
    for path in ("/x", "/usr/x", "/dev/x", "/etc/ld.so.preload", OWN_LIBRARY):
        assert "Read-only file system" in (await ran(level, f"open({path!r}, 'w')")).error
    inside = await ran(level, "open('own', 'w').write('kept')", "open('/tmp/own').read()")
    assert inside.output == "'kept'\n"


@pytest.mark.parametrize("level", ISOLATED)
async def test_the_kernel_cannot_be_set_through_proc(level: Level) -> None:
    """Root without capabilities may write /proc/sys by its file mode; so there is no /proc."""
    code = "open('/proc/sys/kernel/core_pattern', 'w')"
    assert "FileNotFoundError" in (await ran(level, code)).error
    mount = ("import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"
             "libc.mount(b'proc', b'/work', b'proc', 0, None)\nos.strerror(ctypes.get_errno())")
    assert "Operation not permitted" in (await ran(level, mount)).output


@pytest.mark.parametrize("level", ISOLATED)
async def test_the_disk_cannot_be_filled(level: Level) -> None:
    fill = "for n in range(1000):\n    with open(f'{n}', 'wb') as file: file.write(b'a' * 1_000_000)"
    full = await ran(level, fill)
    assert "No space left on device" in full.error and not full.lost
    code = "import os\nprint(sum(os.path.getsize(name) for name in os.listdir('.')) <= 8 * 2**20)"
    assert (await ran(level, fill, code)).output == "True\n"


@pytest.mark.parametrize("level", HERE)
async def test_no_file_grows_past_its_limit(level: Level) -> None:
    assert "File too large" in (await ran(level, "open('big', 'wb').write(b'a' * 3 * 2**20)")).error
    lift = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))"
    assert "not allowed to raise maximum limit" in (await ran(level, lift)).error


@pytest.mark.parametrize("level", ISOLATED)
async def test_links_lead_nowhere(level: Level, tmp_path: Path) -> None:
    """Symbolic and hard links, folders above the root, and the mounts of the machine."""
    (tmp_path / "secret").write_text("key")
    for target in (tmp_path / "secret", "/etc/passwd", "../" * 40 + "etc/passwd", "/proc/self/root/etc/passwd"):
        code = f"import os\nos.symlink({str(target)!r}, 'link')\nopen('link').read()"
        assert "FileNotFoundError" in (await ran(level, code)).error
    hard = f"import os\nos.link({OWN_LIBRARY!r}, 'own')\nopen('own', 'w')"
    assert "Error" in (await ran(level, hard)).error
    up = "import os\nfor _ in range(40): os.chdir('..')\nsorted(os.listdir('.'))"
    seen = set(literal_eval((await ran(level, up)).output))
    assert seen <= {"usr", "lib", "lib32", "lib64", "libx32", "bin", "sbin", "etc", "dev", "work", "tmp", "root", "opt",
                    "home"} and not seen & {"proc", "sys", "var", "mnt", "boot"}
    roots = "import os\nos.path.exists('/sys'), os.path.exists('/dev/shm/x'), os.path.exists('/var')"
    assert (await ran(level, roots)).output == "(False, False, False)\n"


@pytest.mark.parametrize("level", HERE)
async def test_no_device_is_made_and_no_right_is_raised(level: Level) -> None:
    code = ("import os, stat\nfor make in (lambda: os.mknod('disk', 0o600 | stat.S_IFBLK, os.makedev(8, 0)), "
            "lambda: os.chroot('.'), lambda: os.setuid(0), lambda: os.nice(-5), lambda: os.setresuid(0, 0, 0)):\n"
            "    try: make()\n    except OSError as error: print('no')\n    else: print('yes', os.getuid())")
    seen = (await ran(level, code)).output.splitlines()
    assert seen[0] == seen[1] == "no"
    assert all(line == "no" or (level == "limits" and line == "yes 0") for line in seen[2:])  # root stays root there


@pytest.mark.parametrize("level", HERE)
async def test_nothing_is_inherited(level: Level, tmp_path: Path) -> None:
    """Neither open files and sockets of the parent nor its environment variables."""
    with (tmp_path / "open").open("w+") as file, socket.create_server(("127.0.0.1", 0)) as server:
        os.set_inheritable(file.fileno(), True)
        os.set_inheritable(server.fileno(), True)
        code = ("import os, stat\nfound = []\nfor n in range(256):\n    try: found.append(os.fstat(n).st_mode)\n"
                "    except OSError: pass\nprint(len(found), any(map(stat.S_ISSOCK, found)), any(map(stat.S_ISREG, "
                "found)))\nsorted(os.environ)")
        counted, names = (await ran(level, code)).output.splitlines()
    assert counted == "5 False False"  # three to nowhere, and the two pipes
    told = {"HOME", "LANG", "LC_CTYPE", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PATH", "PWD", "TMPDIR"}
    assert set(literal_eval(names)) <= told


async def test_the_kernel_is_not_filled_with_empty_files() -> None:
    """A file of no bytes takes no disk, and a kilobyte of the kernel's memory."""
    if "namespaces" not in ISOLATED:
        return
    code = ("import os\ncount = 0\ntry:\n    while count < 6000:\n"
            "        os.close(os.open(f'{count}', os.O_CREAT | os.O_WRONLY)); count += 1\n"
            "except OSError as error: print(error.strerror, 4000 < count < 4100)")
    assert (await ran("namespaces", code)).output == "No space left on device True\n"


# ---------------------------------------------------------------- network


@pytest.mark.parametrize("level", HERE)
async def test_no_socket_opens(level: Level) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code = f"import socket\nsocket.create_connection(('127.0.0.1', {port}), timeout=1)"
        assert "Operation not permitted" in (await ran(level, code)).error
        server.settimeout(0.1)
        with pytest.raises(TimeoutError):
            server.accept()
    raw = "import ctypes\nctypes.CDLL(None).socket(1, 1, 0)"
    assert (await ran(level, raw)).output == "-1\n"


# ---------------------------------------------------------------- processes


@pytest.mark.parametrize("level", HERE)
@pytest.mark.parametrize("code", [
    "import os\nwhile True: os.fork()", "import os\nassert os.system('true') == 0",
    "import subprocess\nsubprocess.run(['/bin/true'])", "import threading\nthreading.Thread(target=print).start()",
    "import os\nos.execv('/bin/true', ['true'])",
    "import multiprocessing\nmultiprocessing.Process(target=print).start()",
])
async def test_no_fork_bomb_no_thread_no_program(level: Level, code: str) -> None:
    found = await ran(level, code, bounds=Bounds(run_s=1.0))
    assert (found.status, found.output) == ("error", "")


@pytest.mark.parametrize("level", HERE)
async def test_no_signal_reaches_the_parent(level: Level) -> None:
    for code in (f"import os\nos.kill({os.getpid()}, 9)", "import os\nos.kill(os.getppid(), 9)",
                 "import os\nos.kill(-1, 9)",
                 f"import ctypes\nassert ctypes.CDLL(None).tgkill({os.getpid()}, {os.getpid()}, 9) == 0"):
        assert "Error" in (await ran(level, code)).error
    limit = f"import resource\nresource.prlimit({os.getpid()}, resource.RLIMIT_NOFILE, (1, 1))"
    assert "PermissionError" in (await ran(level, limit)).error


@pytest.mark.parametrize("level", HERE)
async def test_nobody_leaves_the_group_that_is_killed(level: Level) -> None:
    """A session of its own, and no signal when the parent ends: the kill at the deadline would then miss it."""
    leave = ("import os, ctypes\nlibc = ctypes.CDLL(None)\ndone = []\n"
             "for way in (os.setsid, lambda: os.setpgid(0, 0), os.setpgrp):\n    try: way(); done.append(way)\n"
             "    except OSError: pass\ndone, libc.prctl(1, 0, 0, 0, 0), libc.prctl(1, 15, 0, 0, 0)")
    stay = ("import signal\nfor n in range(1, 65):\n    try: signal.signal(n, signal.SIG_IGN)\n"
            "    except (OSError, ValueError): pass\nwhile True: pass")
    async with Sandbox(only=level, bounds=Bounds(run_s=0.4)) as sandbox:
        assert (await sandbox.run(leave)).output == "([], -1, -1)\n"
        assert sandbox._process is not None
        root = psutil.Process(sandbox._process.pid)
        family = [root, *root.children(recursive=True)]
        assert (await asyncio.wait_for(sandbox.run(stay), 60)).status == "timeout"
        gone, alive = psutil.wait_procs(family, timeout=5)
        assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] and gone


# ---------------------------------------------------------------- time and memory


@pytest.mark.parametrize("level", HERE)
@pytest.mark.parametrize("code", [
    "while True:\n    try:\n        while True: pass\n    except BaseException: continue\n    while True: pass",
    "import signal\nfor n in range(1, 65):\n    try: signal.signal(n, signal.SIG_IGN)\n"
    "    except (OSError, ValueError): pass\nwhile True: pass",
    "import signal\nsignal.setitimer(signal.ITIMER_REAL, 0)\nwhile True: pass",
    "class Slow(Exception):\n    def __str__(self):\n        while True: pass\nraise Slow",
])
async def test_what_ignores_the_time_is_killed(level: Level, code: str) -> None:
    """Catches the exception of the deadline, ignores signals, stops the clock, or is slow where nobody looks."""
    bounds = Bounds(run_s=0.4)
    async with Sandbox(only=level, bounds=bounds) as sandbox:
        await sandbox.run("x = 1")
        stopped = await asyncio.wait_for(sandbox.run(code), 60)  # none of these would ever end
        assert stopped.status == "timeout"
        after = await sandbox.run("x")
        assert after.output == "1\n" if not stopped.lost else "NameError" in after.error


@pytest.mark.parametrize("level", HERE)
async def test_memory_cannot_be_filled(level: Level) -> None:
    bomb = "hoard = []\nwhile True: hoard.append(bytearray(2**20))"
    assert "MemoryError" in (await ran(level, bomb)).text()
    assert (await ran(level, bomb, "del hoard\nprint('alive')")).output == "alive\n"
    lift = "import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))"
    assert "not allowed to raise maximum limit" in (await ran(level, lift)).error
    shared = "import ctypes\nlibc = ctypes.CDLL(None)\nlibc.memfd_create(b'x', 0), libc.shmget(0, 2**20, 0o1600)"
    assert (await ran(level, shared)).output == "(-1, -1)\n"


@pytest.mark.parametrize("level", HERE)
async def test_a_crash_is_an_observation(level: Level) -> None:
    for code in ("import ctypes\nctypes.string_at(0)", "import os\nos._exit(0)"):
        found = await ran(level, code)
        assert (found.status, found.lost) == ("died", True) and "ended by itself" in found.error
    assert (await ran(level, "import os\nos._exit(0)", "print('again')")).output == "again\n"


# ---------------------------------------------------------------- the border


@pytest.mark.parametrize("level", HERE)
async def test_a_gigabyte_of_output_costs_nothing(level: Level) -> None:
    code = "line = 'x' * 1_000_000\nfor _ in range(1074): print(line)"
    found = await ran(level, code, bounds=Bounds(run_s=20.0))
    assert (found.status, len(found.output)) == ("ok", 2000)
    assert found.dropped == 1074 * 1_000_001 - 2000
    straight = "import os\nfor _ in range(1074): os.write(1, line.encode())"
    assert (await ran(level, "line = 'x' * 1_000_000", straight, bounds=Bounds(run_s=20.0))).output == ""


ANSWERS = "import os\nfor n in range(3, 60):\n    try: os.write(n, {payload!r})\n    except OSError: pass"


class Harm:
    """Unpickled, it would leave a trace."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("level", HERE)
async def test_a_pickle_over_the_border_is_never_read(level: Level, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    payload = pickle.dumps(Harm(str(trace)), protocol=0)
    assert b"touch" in payload
    found = await ran(level, ANSWERS.format(payload=payload + b"\n"))
    assert (found.status, found.error) == ("died", "the interpreter broke its protocol")
    printed = await ran(level, f"import sys\nsys.stdout.write({payload!r}.decode('latin-1'))")
    assert printed.status == "ok" and not trace.exists()


@pytest.mark.parametrize("payload", [
    b"[" * 100_000 + b"\n", b'{"done": NaN}\n', b"[1]\n", b'{"done": 1, "status": "ok", "output": 5, "error": ""}\n',
    b'{"done": 7, "status": "ok", "output": "", "error": "", "dropped": 0}\n', b'{"call": "unknown", "args": []}\n',
    b'{"call": ["f"], "args": 1, "kwargs": 2, "run": 1}\n', b"\xff\xfe\n", b"1" * 5000 + b"\n", b"x" * (2 * MIB),
], ids=range(10))
async def test_nonsense_over_the_border_ends_the_child(payload: bytes) -> None:
    bounds = Bounds(run_s=2.0, code_chars=10 * MIB)
    found = await ran(ISOLATED[0], ANSWERS.format(payload=payload), bounds=bounds)
    assert (found.status, found.lost) == ("died", True)
    assert "protocol" in found.error or "line of more than" in found.error


async def test_an_answer_of_its_own_is_bounded_like_any() -> None:
    payload = b'{"done": 1, "status": "ok", "output": "' + b"y" * 9000 + b'", "error": "", "dropped": -5}\n'
    found = await ran(ISOLATED[0], ANSWERS.format(payload=payload))
    assert (found.status, len(found.output), found.dropped) == ("ok", 2000, 7000)


async def test_half_a_surrogate_pair_does_not_leave() -> None:
    assert (await ran(ISOLATED[0], "print('\\ud800')")).output == "?\n"

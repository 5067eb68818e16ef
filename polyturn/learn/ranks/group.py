"""The processes of one learner: started on this machine or by torchrun, joined into a group, ended with one another."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from torch._C._distributed_c10d import TCPStore
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from polyturn.errors import BadInput, LearnerFailed
from polyturn.learn.ranks.part import Arrays, packed, unpacked
from polyturn.policies.device import device_of
from polyturn.waits import Waiting

LOOPBACK = "127.0.0.1"
JOIN_S = 120.0
"""The longest that starting and joining may take."""
FOR_EVER_S = 365 * 86400.0
"""The wait for the next order: as long as the driver plays. It ends when the driver does."""
LARGEST = 2**32
"""Bytes of a message at most: parts of batches and what was read of them."""
DEADLINE = "POLYTURN_RANKS_DEADLINE"
"""The environment variable that hands the deadline to the other processes."""


@dataclass
class Joined:
    """This process in the group. All ranks compute on devices of one kind."""

    rank: int
    size: int
    device: torch.device
    mesh: DeviceMesh
    orders: Any
    """The group that messages go through, which waits as long as it must."""
    deadline_s: float

    def send(self, rank: int, head: Mapping[str, Any], arrays: Arrays | None = None) -> None:
        """Sends a message. Raises: RuntimeError where the rank is gone or does not listen in time."""
        data = packed(head, arrays or {})
        for tensor in (torch.tensor([len(data)]), data):
            _wait(dist.isend(tensor, rank, group=self.orders), self.deadline_s)

    def receive(self, rank: int, seconds: float) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """The next message of a rank. Raises: RuntimeError where it is gone or says nothing in time."""
        size = torch.zeros(1, dtype=torch.int64)
        _wait(dist.irecv(size, rank, group=self.orders), seconds)
        if not 0 < int(size) <= LARGEST:
            raise RuntimeError(f"rank {rank} announced a message of {int(size)} bytes; expected at most {LARGEST}")
        data = torch.empty(int(size), dtype=torch.uint8)
        _wait(dist.irecv(data, rank, group=self.orders), self.deadline_s)
        return unpacked(data)


def _wait(work: Any, seconds: float) -> None:
    if not work.wait(timedelta(seconds=seconds)):
        raise RuntimeError("the other process is gone")


def join(rank: int, size: int, store: Any, *, deadline_s: float, device: str = "") -> Joined:
    """Enters the group that meets at ``store``.

    The backend goes by the device: gloo between processors, nccl between GPUs, one for each rank of a machine.
    Raises: BadInput for a machine with fewer GPUs than ranks, or a device that has no backend.
    """
    _refuse_joined()
    place = device_of(device)
    if place.type not in ("cpu", "cuda"):
        raise BadInput(f"a learner on several ranks computes on cpu or cuda, not on {place.type}")
    if place.type == "cuda":
        place = _own_gpu(int(os.environ.get("LOCAL_RANK", rank)))
    wait = timedelta(seconds=deadline_s)
    dist.init_process_group(
        "gloo" if place.type == "cpu" else "cpu:gloo,cuda:nccl", store=store, rank=rank, world_size=size, timeout=wait)
    mesh = init_device_mesh(place.type, (size,))
    orders = dist.new_group(backend="gloo", timeout=timedelta(seconds=FOR_EVER_S))
    return Joined(rank, size, place, mesh, orders, deadline_s)


def _refuse_joined() -> None:
    if dist.is_initialized():
        raise BadInput("this process is in a torch.distributed group already, and a learner on several ranks makes its "
                       "own; end that one with torch.distributed.destroy_process_group()")


def _own_gpu(number: int) -> torch.device:
    if number >= torch.cuda.device_count():
        raise BadInput(f"rank {number} of this machine has no GPU: there are {torch.cuda.device_count()}; take as many "
                       "ranks as GPUs, or --device cpu")
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


class Ranks:
    """The driver's side: rank 0 in a group of ``size``. Ends with :meth:`close`, or with the first rank that ends.

    ``deadline_s``: the longest that a rank may leave the others waiting within an order; waiting for the next order has
    none.
    """

    def __init__(self, joined: Joined, started: list[subprocess.Popen[bytes]], log: Path | None) -> None:
        self.joined, self.size = joined, joined.size
        self._started, self._log = started, log
        self.failed = ""
        self.built: object = None
        """Whose weights the ranks hold now."""

    def __enter__(self) -> Ranks:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    @property
    def processes(self) -> list[int]:
        """Process numbers of the ranks that were started here, from rank 1 on."""
        return [process.pid for process in self._started]

    def tell(self, head: Mapping[str, Any], arrays: Mapping[int, Arrays] | None = None) -> None:
        """Sends every other rank the same order, with arrays of its own by rank."""
        for rank in range(1, self.size):
            self.joined.send(rank, head, (arrays or {}).get(rank))

    def answers(self) -> list[tuple[dict[str, Any], dict[str, NDArray[Any]]]]:
        """What ranks 1, 2 ... answer. Raises: RuntimeError for one that is gone or says nothing in time."""
        found = []
        for rank in range(1, self.size):
            with Waiting("the learner", f"rank {rank}", "its part", self.joined.deadline_s):
                found.append(self.joined.receive(rank, self.joined.deadline_s))
        return found

    @contextmanager
    def order(self, what: str) -> Iterator[None]:
        """The time of one order. What a lost rank raises in it ends the group and becomes LearnerFailed, with the rank
        that ended first, so far as it is known here."""
        if self.failed:
            raise LearnerFailed(f"this learner's ranks have ended: {self.failed}")
        try:
            yield
        except (RuntimeError, TimeoutError) as error:
            self.failed = f"{self._ended() or 'the ranks came apart'}, while {what} was made ({_short(error)})"
            self.close()
            raise LearnerFailed(
                f"{self.failed}; all ranks of this learner are ended. A run goes on from its checkpoint: polyturn run "
                "--resume RUN") from error
        except BaseException as error:
            self.failed = f"{what} was broken off ({_short(error)})"
            self.close()
            raise

    def _ended(self) -> str:
        """Which processes have ended by themselves, how, and their last words."""
        until = time.monotonic() + 2.0  # its connection may close before it has ended
        while time.monotonic() < until and all(process.poll() is None for process in self._started):
            time.sleep(0.02)
        gone = [f"rank {rank} (process {process.pid}) ended {_how(process.returncode)}"
                for rank, process in enumerate(self._started, 1) if process.poll() is not None]
        words = self._log.read_text("utf-8", "replace").strip().splitlines() if gone and self._log else []
        return ", ".join(gone) + (f", its last words: {words[-1][:300]}" if words else "")

    def close(self) -> None:
        """Ends the other ranks: tells them, or where that failed kills those that were started here."""
        if not self.failed:
            try:
                self.tell({"do": "end"})
                self.failed = "they were closed"
            except RuntimeError as error:
                self.failed = _short(error)
        for process in self._started:
            try:
                process.wait(10.0 if self.failed == "they were closed" else 0.2)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._started.clear()
        if self._log is not None:
            self._log.unlink(missing_ok=True)
        if dist.is_initialized():
            dist.destroy_process_group()


def open_ranks(count: int, *, deadline_s: float = 600.0, device: str = "") -> Ranks:
    """A group of ``count`` processes with this one as rank 0, which drives; the others only compute.

    Under torchrun (the environment names ``RANK``) the processes are those that it started: in a rank other than 0 this
    call serves rank 0 and then leaves the program. Otherwise ``count - 1`` are started here, on this machine, and all
    of them bind to the loopback address. Raises: BadInput for one process, or another number than torchrun started;
    LearnerFailed where they do not come together.
    """
    if count < 2:
        raise BadInput(f"{count} ranks; expected at least 2, or a Learner for one process")
    if "RANK" in os.environ:
        return _under_torchrun(count, deadline_s, device)
    _refuse_joined()
    if device_of(device).type == "cuda" and count > torch.cuda.device_count():
        _own_gpu(count - 1)
    listening = socket.create_server((LOOPBACK, 0))
    port = int(listening.getsockname()[1])
    handle, name = tempfile.mkstemp(prefix="polyturn-ranks-", suffix=".log")
    started: list[subprocess.Popen[bytes]] = []
    try:
        with loopback():
            store = TCPStore(LOOPBACK, port, count, is_master=True, wait_for_workers=False,
                                  timeout=timedelta(seconds=JOIN_S), master_listen_fd=listening.detach())
            started += [_start(rank, count, port, handle, deadline_s, device) for rank in range(1, count)]
            _await(store, started, Path(name))
            joined = join(0, count, store, deadline_s=deadline_s, device=device)
    except BaseException:
        for process in started:
            process.kill()
            process.wait()
        Path(name).unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)
    return Ranks(joined, started, Path(name))


def _start(rank: int, count: int, port: int, log: int, deadline_s: float, device: str) -> subprocess.Popen[bytes]:
    """One more process of this Python."""
    threads = str(max(1, torch.get_num_threads() // count))
    package = str(Path(__file__).parents[3])
    path = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH", "")])])
    more = {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "MASTER_ADDR": LOOPBACK,
        "MASTER_PORT": str(port), DEADLINE: str(deadline_s), "OMP_NUM_THREADS": threads, "PYTHONPATH": path,
    }  # fmt: skip
    command = [sys.executable, "-m", "polyturn.learn.ranks.serve", device or device_of().type]
    return subprocess.Popen(command, env={**os.environ, **more}, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                            start_new_session=True)  # an interrupt is for the driver, which then ends them


def _await(store: Any, started: list[subprocess.Popen[bytes]], log: Path) -> None:
    """Waits until every process is there. Raises: LearnerFailed for one that ends before, or in the end."""
    until = time.monotonic() + JOIN_S
    missing = {rank: process for rank, process in enumerate(started, 1)}
    while missing:
        for rank, process in list(missing.items()):
            if store.check([f"here/{rank}"]):
                del missing[rank]
            elif process.poll() is not None or time.monotonic() > until:
                words = log.read_text("utf-8", "replace").strip().splitlines()[-1:]
                how = "has not come" if process.poll() is None else f"ended {_how(process.returncode)}"
                raise LearnerFailed(f"rank {rank} {how} within {JOIN_S:.0f} s of its start: {''.join(words)[:300]}")
        time.sleep(0.02)


def join_from_environment(*, deadline_s: float, device: str = "") -> Joined:
    """Joins as torchrun and :func:`open_ranks` tell it: ``RANK``, ``WORLD_SIZE``, ``MASTER_ADDR``, ``MASTER_PORT``.

    Raises: BadInput for a variable that is missing.
    """
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    missing = [name for name in names if name not in os.environ]
    if missing:
        raise BadInput(f"the environment lacks {', '.join(missing)}; start with torchrun, or with open_ranks alone")
    rank, size, address, port = (os.environ[name] for name in names)
    hosts = int(rank) == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"  # else torchrun has it open
    own = socket.create_server((LOOPBACK, int(port))).detach() if hosts and address == LOOPBACK else None
    with loopback(address):
        store = TCPStore(address, int(port), int(size), is_master=hosts, wait_for_workers=False,
                              timeout=timedelta(seconds=JOIN_S), master_listen_fd=own)
        store.set(f"here/{rank}", "1")
        return join(int(rank), int(size), store, deadline_s=deadline_s, device=device)


def _under_torchrun(count: int, deadline_s: float, device: str) -> Ranks:
    size = int(os.environ.get("WORLD_SIZE", "0"))
    if size != count:
        raise BadInput(f"{count} ranks were asked for, and torchrun started {size}; give both the same number")
    joined = join_from_environment(deadline_s=deadline_s, device=device)
    if joined.rank:
        from polyturn.learn.ranks.serve import serve

        serve(joined)
        sys.exit(0)
    return Ranks(joined, [], None)


@contextmanager
def loopback(address: str = LOOPBACK) -> Iterator[None]:
    """While groups are made: processes that meet on the loopback address also talk on it alone."""
    name = "GLOO_SOCKET_IFNAME"
    before = os.environ.get(name)
    if before is None and address in (LOOPBACK, "localhost"):
        os.environ[name] = "lo" if sys.platform == "linux" else "lo0"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)


def _how(code: int | None) -> str:
    return f"by signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"with exit status {code}"


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"


def tensors_of(arrays: Arrays, device: torch.device) -> dict[str, Tensor]:
    """The arrays of a message as tensors."""
    return {name: torch.as_tensor(array, device=device) for name, array in arrays.items()}

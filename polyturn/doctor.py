"""What is installed, how fast this machine is, and what will fit: the facts behind ``polyturn doctor``."""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from polyturn.types import Finding

GIB = 2**30
MODELS = {"135M": 135e6, "360M": 362e6, "0.5B": 494e6, "1.7B": 1.71e9, "3B": 3.1e9, "7B": 7.6e9}
"""Name -> parameters of common sizes."""
QUICKSTART_BYTES = 8 * GIB


@dataclass(frozen=True, slots=True)
class Package:
    """One dependency: what is wanted and what is there."""

    name: str
    wanted: str
    found: str | None
    extra: str = ""
    """Empty for the core; else the extra that brings it."""
    fits: bool = True


@dataclass(frozen=True, slots=True)
class Machine:
    """Where the process runs. Memory and disk in bytes."""

    python: str
    system: str
    processor: str
    cores: int
    memory: int
    memory_free: int
    disk_free: int
    devices: tuple[str, ...]
    """What torch can compute on; ``cpu`` always."""
    torch_threads: int
    torch_build: str


@dataclass(frozen=True, slots=True)
class Speed:
    """Products of square matrices, in 10^9 floating-point operations a second (a product and a sum are two)."""

    float32: float
    bfloat16: float


def packages() -> list[Package]:
    """The dependencies that the installed distribution declares, the core first.

    Raises: nothing; a distribution without metadata (a bare checkout) gives an empty list.
    """
    from packaging.requirements import Requirement

    try:
        declared = [Requirement(line) for line in requires("polyturn") or ()]
    except PackageNotFoundError:
        return []
    found = []
    for need in declared:
        extra = str(need.marker).rpartition("extra ==")[2].strip(" \"'") if need.marker else ""
        have = _version(need.name)
        fits = have is not None and need.specifier.contains(have.split("+")[0], prereleases=True)
        found.append(Package(need.name, str(need.specifier), have, extra, fits))
    return sorted(found, key=lambda package: (package.extra, package.name))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def free_bytes(folder: Path) -> int:
    """Free bytes on the disk that a folder is, or will be, on."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free


def machine(folder: Path = Path()) -> Machine:
    """What this process may use; loads torch to ask for devices."""
    import psutil
    import torch

    devices = ["cpu"]
    devices += [f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    devices += ["mps"] if torch.backends.mps.is_available() else []
    memory = psutil.virtual_memory()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Machine(
        platform.python_version(), platform.platform(), platform.machine(), cores, memory.total, memory.available,
        free_bytes(folder), tuple(devices), torch.get_num_threads(), torch.__version__,
    )


def speed(size: int = 768, seconds: float = 0.4) -> Speed:
    """The best of the products that fit into ``seconds`` for each number type, with torch's threads as they are."""
    import torch

    def measure(dtype: torch.dtype) -> float:
        left = torch.rand(size, size).to(dtype)
        left @ left
        best, until = float("inf"), time.perf_counter() + seconds
        while time.perf_counter() < until:
            begun = time.perf_counter()
            left @ left
            best = min(best, time.perf_counter() - begun)
        return float(2 * size**3 / best / 1e9)

    return Speed(measure(torch.float32), measure(torch.bfloat16))


def bytes_for(parameters: float, *, train: str) -> float:
    """Memory for the weights of a model of this many parameters.

    ``full``: float32 weights, gradients and two moments, and a bfloat16 copy to sample from: 4+4+8+2 = 18 bytes each.
    ``lora``: bfloat16 weights and one percent of trained ones at 16: 2.16. ``sample``: bfloat16, 2. What the
    activations take comes on top and depends on the batch.

    >>> bytes_for(1e9, train="full") / 1e9, bytes_for(1e9, train="sample") / 1e9
    (18.0, 2.0)
    """
    return parameters * {"full": 18.0, "lora": 2.16, "sample": 2.0}[train]


def fits(memory: float, share: float = 0.7) -> dict[str, dict[str, bool]]:
    """Model size -> use -> whether its weights take at most ``share`` of ``memory`` bytes."""
    uses = ("sample", "lora", "full")
    return {name: {use: bytes_for(parameters, train=use) <= share * memory for use in uses}
            for name, parameters in MODELS.items()}


def findings(found: Sequence[Package], where: Machine) -> list[Finding]:
    """What stands in the way: missing or untested packages of the core, CUDA companions without a GPU, little room."""
    said = []
    for package in found:
        if package.extra or package.fits:
            continue
        reason = f"{package.name} {package.found or 'is not installed'}; wanted {package.wanted}: pip install polyturn"
        said.append(Finding("package", {}, package.found or "missing", reason, "doctor"))
    companions = "+cpu" not in where.torch_build and any(_version(n) for n in ("nvidia-cublas", "nvidia-cublas-cu12"))
    if companions and len(where.devices) == 1:
        reason = "torch came with CUDA companions, but there is no GPU; its CPU build is smaller (README, Install)"
        said.append(Finding("cuda", {}, where.torch_build, reason, "doctor"))
    if where.memory < QUICKSTART_BYTES:
        said.append(Finding("memory", {}, where.memory / GIB, "less than the 8 GiB of the quickstart", "doctor"))
    if where.disk_free < 4 * GIB:
        said.append(Finding("disk", {}, where.disk_free / GIB, "less than 4 GiB free for a run folder", "doctor"))
    return said


def examine(folder: Path = Path()) -> Mapping[str, Any]:
    """Everything as one mapping of JSON values: ``packages, machine, speed, fits, findings``."""
    found, where = packages(), machine(folder)
    return {
        "packages": [asdict(package) for package in found], "machine": asdict(where), "speed": asdict(speed()),
        "fits": fits(where.memory), "findings": [asdict(finding) for finding in findings(found, where)],
    }

"""Where a model computes: the device that was named, else the first GPU, else the processor."""

from __future__ import annotations

import os

import torch

from polyturn.errors import BadInput

VARIABLE = "POLYTURN_DEVICE"
"""The environment variable that names the device of models that are not told theirs; processes inherit it."""
KINDS = ("cpu", "cuda", "mps")


def device_of(named: str = "", *, deterministic: bool = False) -> torch.device:
    """The device ``named``, else that of ``POLYTURN_DEVICE``, else ``cuda`` where there is one, else ``cpu``.

    ``deterministic``: without a name it is the processor; on a GPU that was named torch is told, for the whole process,
    to take only operations that give the same bits every time.
    Raises: BadInput for a name that is no device, or one that this machine lacks.

    >>> device_of("cpu")
    device(type='cpu')
    """
    wanted = named or os.environ.get(VARIABLE, "")
    if not wanted:
        return torch.device("cuda" if torch.cuda.is_available() and not deterministic else "cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError:
        device = None
    if device is None or device.type not in KINDS:
        raise BadInput(f"device is {wanted!r}; expected cpu, cuda, cuda:1 or mps (polyturn doctor lists those here)")
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}[device.type]
    if (device.index or 0) >= there:
        raise BadInput(f"device is {wanted!r}, which this machine lacks: it has {there} of type {device.type}, torch "
                       f"{torch.__version__} (polyturn doctor lists what there is)")
    if deterministic and device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    return device


def name_device(named: str) -> None:
    """Makes ``named`` the device of every model of this process, and of those that it starts, that is not told its own.

    Raises: BadInput as :func:`device_of`.
    """
    device_of(named)
    os.environ[VARIABLE] = named

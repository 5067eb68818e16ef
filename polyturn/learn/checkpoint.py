"""Checkpoints: nested mappings of JSON values and arrays, in safetensors and one JSON manifest; never pickle.

A folder holds ``manifest.json`` and files ``arrays-<sha256 begins>.safetensors``. The manifest names the data files
with length and hash, and is replaced in one step after they are safely on disk: at any moment, also after a kill or on
a full disk, the folder holds one whole checkpoint.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from polyturn.errors import BadInput

FORMAT = 1
MANIFEST = "manifest.json"
PART_BYTES = 128 * 2**20
_DATA = re.compile(r"arrays-[0-9a-f]{16}\.safetensors")
MARK = "$array"
"""The key that stands in the manifest for an array; no state may use it."""


def save(folder: str | Path, states: Mapping[str, Any]) -> None:
    """Writes states into ``folder``, in the place of what it held.

    Values: None, bool, int, float, str, lists and mappings of them by str, numpy arrays of numbers, torch tensors;
    tuples come back as lists, numpy numbers as Python's.

    Raises: BadInput for anything else, with its place; OSError where the disk is full, with the old checkpoint intact.
    """
    folder = Path(folder)
    arrays: dict[str, Tensor] = {}
    tree = _packed(states, "", arrays)
    staging = folder.with_name(f".{folder.name}.saving")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        staging.mkdir(parents=True)
        _write(staging, tree, arrays)
        _install(staging, folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(staging, ignore_errors=True)
        raise OSError(f"no checkpoint could be written to {folder}: {error}; what it held before is intact. Free "
                      "some space first") from error


def _write(staging: Path, tree: Any, arrays: Mapping[str, Tensor]) -> None:
    files = {}
    for part in _parts(_unshared(arrays)):
        data = staging / "arrays.safetensors"
        save_file(part, data)
        _sync(data)
        digest = _digest(data)
        named = data.rename(staging / f"arrays-{digest[:16]}.safetensors")
        files[named.name] = {"sha256": digest, "bytes": named.stat().st_size}
    text = json.dumps({"format": FORMAT, "files": files, "states": tree}, sort_keys=True)
    manifest = {"sha256": sha256(text.encode()).hexdigest(), "content": text}
    (staging / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    _sync(staging / MANIFEST)
    _sync(staging)


def _parts(arrays: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The arrays in parts of about ``PART_BYTES``: safetensors copies what it writes, and a copy of everything would
    be the most memory that a run takes."""
    part: dict[str, Tensor] = {}
    size = 0
    for name, tensor in arrays.items():
        if part and size + tensor.nbytes > PART_BYTES:
            yield part
            part, size = {}, 0
        part[name] = tensor
        size += tensor.nbytes
    yield part


def _install(staging: Path, folder: Path) -> None:
    """Puts a finished checkpoint in its place; each step leaves a whole checkpoint there."""
    if not folder.exists():
        staging.rename(folder)
        _sync(folder.parent)
        return
    new = {path.name for path in staging.iterdir()}
    for name in sorted(new - {MANIFEST}):
        (staging / name).replace(folder / name)
    _sync(folder)
    (staging / MANIFEST).replace(folder / MANIFEST)
    _sync(folder)
    for path in folder.glob("arrays-*.safetensors"):
        if path.name not in new:
            path.unlink()
    staging.rmdir()


def load(folder: str | Path) -> dict[str, Any]:
    """The states that :func:`save` was given.

    Raises: BadInput for a folder that holds no whole checkpoint, naming the file that is missing or damaged.
    """
    folder = Path(folder)
    manifest = folder / MANIFEST
    if not manifest.exists():
        raise BadInput(f"{folder} holds no checkpoint: {MANIFEST} is missing; give a folder that a run wrote")
    content = _manifest(manifest)
    arrays: dict[str, Tensor] = {}
    for name, file in content["files"].items():
        path = folder / name
        if _DATA.fullmatch(name) is None or path.is_symlink():
            raise BadInput(f"the checkpoint {folder} names the file {name[:80]!r}; expected "
                           "arrays-<16 digits>.safetensors in its own folder, and no link")
        if not path.exists():
            raise BadInput(f"the checkpoint {folder} is broken: {name} is missing")
        if path.stat().st_size != file["bytes"]:
            raise BadInput(
                f"the checkpoint {folder} is broken: {name} has {path.stat().st_size} bytes, expected {file['bytes']}"
            )
        if _digest(path) != file["sha256"]:
            raise BadInput(f"the checkpoint {folder} is broken: {name} was changed after it was written")
        try:
            arrays.update(load_file(path))
        except (SafetensorError, ValueError, KeyError) as error:
            raise BadInput(f"the checkpoint {folder} is broken: {name} is no safetensors file ({error})") from None
    try:
        states: dict[str, Any] = _unpacked(content["states"], arrays)
    except (KeyError, TypeError, RecursionError) as error:
        raise BadInput(f"the checkpoint {folder} is broken: its states name what no file holds ({error!r})") from None
    return states


def _manifest(path: Path) -> dict[str, Any]:
    try:
        outer = json.loads(path.read_text(encoding="utf-8"))
        text, digest = str(outer["content"]), outer["sha256"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadInput(f"the checkpoint {path.parent} is broken: {path.name} cannot be read ({error})") from error
    if sha256(text.encode()).hexdigest() != digest:
        raise BadInput(f"the checkpoint {path.parent} is broken: {path.name} was changed after it was written")
    try:
        content: dict[str, Any] = json.loads(text)
        right = isinstance(content["states"], dict) and all(
            isinstance(file["bytes"], int) and isinstance(file["sha256"], str) for file in content["files"].values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        right = False
    if not right:
        raise BadInput(f"the checkpoint {path.parent} is broken: {path.name} holds no format, files and states")
    if content.get("format") != FORMAT:
        raise BadInput(f"the checkpoint {path.parent} has format {content.get('format')}; this version reads {FORMAT}")
    return content


def check_names(parts: Iterable[str], found: Iterable[str]) -> None:
    """Passes if a checkpoint's states are those of the parts. Raises: BadInput with what is missing or left over."""
    missing, extra = sorted(set(parts) - set(found)), sorted(set(found) - set(parts))
    if missing or extra:
        raise BadInput(
            f"the checkpoint is of other parts: it lacks {missing or 'nothing'} and holds {extra or 'nothing'} "
            "besides; resume with the settings that the run was started with"
        )


def _packed(value: Any, place: str, arrays: dict[str, Tensor]) -> Any:
    """The value as JSON, with arrays moved into ``arrays`` under their place."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return _packed(value.item(), place, arrays)
    if isinstance(value, Tensor | np.ndarray):
        arrays[place] = _tensor(value, place)
        return {MARK: place, "kind": "torch" if isinstance(value, Tensor) else "numpy"}
    if isinstance(value, list | tuple):
        return [_packed(item, f"{place}/{i}", arrays) for i, item in enumerate(value)]
    if isinstance(value, Mapping):
        bad = [key for key in value if not isinstance(key, str) or key == MARK]
        if bad:
            raise BadInput(f"the state at {place or 'the top'} has the key {bad[0]!r}; expected str, and not {MARK!r}")
        return {key: _packed(item, f"{place}/{key}", arrays) for key, item in value.items()}
    raise BadInput(
        f"the state at {place or 'the top'} is a {type(value).__name__}; expected JSON values, numpy arrays or tensors"
    )


def _tensor(value: Any, place: str) -> Tensor:
    """A contiguous tensor on the CPU."""
    try:
        tensor = value.detach().cpu() if isinstance(value, Tensor) else torch.from_numpy(np.array(value))
    except TypeError as error:
        raise BadInput(f"the state at {place} is an array of {value.dtype}; expected numbers or booleans") from error
    return tensor.contiguous()


def _unshared(arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, none of which shares memory with another."""
    held: set[int] = set()
    found = {}
    for name, tensor in arrays.items():
        start = tensor.untyped_storage().data_ptr()
        found[name] = tensor.clone() if start in held else tensor
        held.add(start)
    return found


def _unpacked(tree: Any, arrays: Mapping[str, Tensor]) -> Any:
    if isinstance(tree, list):
        return [_unpacked(item, arrays) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if MARK in tree:
        found = arrays[tree[MARK]]
        return found if tree["kind"] == "torch" else found.numpy()
    return {key: _unpacked(item, arrays) for key, item in tree.items()}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Waits until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

"""Checkpoints: exact round trips, damage named, and the old one kept when the disk is full."""

from __future__ import annotations

import json
import os
import pickle
import resource
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from polyturn.errors import BadInput
from polyturn.learn.checkpoint import check_names, load, save

STATES: dict[str, Any] = {
    "stage": "warm start", "done": 7, "none": None, "odd": {"": [], "a/b": {"a": 1}, "a": {"b/a": 2}},
    "parts": {
        "learner": {
            "weights": {"w": torch.tensor([[0.1, float("nan")], [float("inf"), -0.0]]),
                        "half": torch.tensor([1.5, 2.5], dtype=torch.bfloat16), "step": torch.tensor(3.0)},
        },
        "estimator": {"mean": np.array([1 / 3, 2.0]), "count": np.int64(5), "flags": np.array([True, False]),
                      "seen": [np.array([2**62], np.int64), "x"], "empty": np.zeros((0, 3), np.float32)},
    },
}  # fmt: skip


def bits(value: Any) -> Any:
    """Comparable with ``==``, to the bit."""
    if isinstance(value, torch.Tensor):
        return "torch", str(value.dtype), tuple(value.shape), value.contiguous().reshape(-1).view(torch.uint8).tolist()
    if isinstance(value, np.ndarray):
        return "numpy", str(value.dtype), value.shape, value.tobytes()
    if isinstance(value, dict):
        return {key: bits(item) for key, item in value.items()}
    return [bits(item) for item in value] if isinstance(value, list | tuple) else value


def test_everything_comes_back_to_the_bit(tmp_path: Path) -> None:
    save(tmp_path / "c", STATES)
    found = load(tmp_path / "c")
    assert bits(found) == bits({**STATES, "parts": {**STATES["parts"], "estimator": {
        **STATES["parts"]["estimator"], "count": 5}}})  # fmt: skip
    assert type(found["parts"]["estimator"]["count"]) is int


def test_a_second_checkpoint_replaces_the_first_and_leaves_no_litter(tmp_path: Path) -> None:
    for i in range(3):
        save(tmp_path / "c", {"w": torch.full((4,), float(i))})
    assert load(tmp_path / "c")["w"].tolist() == [2.0] * 4
    assert len(list((tmp_path / "c").iterdir())) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_tensors_that_share_memory_come_back_apart(tmp_path: Path) -> None:
    whole = torch.arange(6.0)
    save(tmp_path / "c", {"a": whole, "b": whole, "part": whole[2:4], "turned": whole.reshape(2, 3).T})
    found = load(tmp_path / "c")
    assert found["part"].tolist() == [2, 3]
    assert found["turned"].tolist() == [[0, 3], [1, 4], [2, 5]]
    found["a"][0] = 9
    assert found["b"][0] == 0


@pytest.mark.parametrize(("state", "message"), [
    ({"a": {"b": {1, 2}}}, "state at /a/b is a set"),
    ({"a": {3: 1}}, "state at /a has the key 3"),
    ({"a": np.array(["x"])}, "state at /a is an array of <U1"),
    ({"a": np.array([None])}, "state at /a is an array of object"),
    ({"$array": 1}, "state at the top has the key"),
    ({"a": lambda: 1}, "state at /a is a function"),
])  # fmt: skip
def test_what_cannot_be_kept_is_named(tmp_path: Path, state: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message.replace("$", r"\$")):
        save(tmp_path / "c", state)
    assert not list(tmp_path.iterdir())


def test_damage_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    with pytest.raises(BadInput, match=r"holds no checkpoint: manifest.json is missing"):
        load(folder)
    save(folder, STATES)
    data = next(folder.glob("arrays-*"))
    whole, manifest = data.read_bytes(), (folder / "manifest.json").read_text()
    data.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(BadInput, match=rf"{data.name} was changed"):
        load(folder)
    data.write_bytes(whole[:-5])
    with pytest.raises(BadInput, match=rf"{data.name} has {len(whole) - 5} bytes, expected {len(whole)}"):
        load(folder)
    data.unlink()
    with pytest.raises(BadInput, match=rf"{data.name} is missing"):
        load(folder)
    data.write_bytes(whole)
    (folder / "manifest.json").write_text(manifest.replace("warm start", "cold start"))
    with pytest.raises(BadInput, match=r"manifest.json was changed"):
        load(folder)
    (folder / "manifest.json").write_text(manifest[: len(manifest) // 2])
    with pytest.raises(BadInput, match=r"manifest.json cannot be read"):
        load(folder)
    (folder / "manifest.json").write_text(manifest)
    assert load(folder)["stage"] == "warm start"


def signed(folder: Path, content: Any) -> None:
    """A manifest that fits its own checksum, as somebody who means harm would write it."""
    text = content if isinstance(content, str) else json.dumps(content)
    manifest = {"sha256": sha256(text.encode()).hexdigest(), "content": text}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_a_checkpoint_of_others_names_files_of_its_own_only(tmp_path: Path) -> None:
    folder, outside = tmp_path / "c", tmp_path / "outside.safetensors"
    save(folder, STATES)
    content = json.loads(json.loads((folder / "manifest.json").read_text())["content"])
    (name, file), = content["files"].items()
    outside.write_bytes((folder / name).read_bytes())
    for wrong in (str(outside), "../outside.safetensors", "./" + name, name + "/../" + name, "arrays-0.safetensors",
                  "arrays-\u0661" + "1" * 15 + ".safetensors", "", "\0"):
        signed(folder, {**content, "files": {wrong: file}})
        with pytest.raises(BadInput, match="in its own folder"):
            load(folder)
    signed(folder, content)
    (folder / name).unlink()
    (folder / name).symlink_to(outside)
    with pytest.raises(BadInput, match="and no link"):
        load(folder)


@pytest.mark.parametrize("content", [
    "[]", "3", "null", "no json", "[" * 100_000, {}, {"format": 1, "files": [], "states": {}},
    {"format": 1, "files": {"a": 3}, "states": {}}, {"format": 1, "files": {}, "states": {"a": {"$array": "gone"}}},
    {"format": 1, "files": {}, "states": {"a": {"$array": ["x"], "kind": "torch"}}}, {"files": {}, "states": {}},
    {"format": 1, "files": {}, "states": []},
])
def test_manifests_that_are_none_are_named(tmp_path: Path, content: Any) -> None:
    (tmp_path / "c").mkdir()
    signed(tmp_path / "c", content)
    with pytest.raises(BadInput, match="checkpoint"):
        load(tmp_path / "c")


def test_a_data_file_that_is_a_pickle_is_not_read(tmp_path: Path) -> None:
    trace = tmp_path / "trace"

    class Harm:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {trace}",)

    data = pickle.dumps({"a": Harm()})
    name = f"arrays-{sha256(data).hexdigest()[:16]}.safetensors"
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / name).write_bytes(data)
    signed(tmp_path / "c", {"format": 1, "states": {}, "files": {
        name: {"sha256": sha256(data).hexdigest(), "bytes": len(data)}}})
    with pytest.raises(BadInput, match="is no safetensors file"):
        load(tmp_path / "c")
    assert not trace.exists()


def test_nothing_is_pickled(tmp_path: Path) -> None:
    save(tmp_path / "c", STATES)
    outer = json.loads((tmp_path / "c" / "manifest.json").read_text())
    assert json.loads(outer["content"])["states"]["stage"] == "warm start"
    header = next((tmp_path / "c").glob("arrays-*")).read_bytes()
    assert header[8:9] == b"{"


def in_child(work: Callable[[], None]) -> int:
    """The exit code of a forked process that does ``work``: 0 done, 3 it raised the promised error, 9 killed."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except OSError as error:
            os._exit(3 if "what it held before is intact" in str(error) else 4)
        except BaseException:
            os._exit(5)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize(("limit", "floats"), [(100_000, 250_000), (0, 10), (150, 10)])
def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path: Path, limit: int, floats: int) -> None:
    save(tmp_path / "c", {"w": torch.zeros(3), "note": "old"})

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        save(tmp_path / "c", {"w": np.ones(floats, np.float32)})

    assert in_child(work) == 3
    assert load(tmp_path / "c")["note"] == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


@pytest.mark.parametrize(("moves", "note"), [(0, "old"), (1, "old"), (2, "new")])
def test_a_kill_between_any_two_moves_leaves_a_whole_checkpoint(tmp_path: Path, moves: int, note: str) -> None:
    save(tmp_path / "c", {"w": torch.zeros(3), "note": "old"})

    def work() -> None:
        real, left = Path.replace, [moves]

        def replace(path: Path, target: Path) -> Path:
            left[0] -= 1
            return os._exit(9) if left[0] < 0 else real(path, target)

        Path.replace = replace  # type: ignore[assignment, method-assign]
        save(tmp_path / "c", {"w": np.ones(5), "note": "new"})

    assert in_child(work) == (9 if moves < 2 else 0)
    assert load(tmp_path / "c")["note"] == note
    save(tmp_path / "c", {"note": "next"})
    assert load(tmp_path / "c") == {"note": "next"}
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_parts_of_another_run_are_named() -> None:
    check_names(["learner", "curriculum"], {"curriculum": 1, "learner": 2})
    with pytest.raises(BadInput, match=r"lacks \['baseline'\] and holds \['critic'\]"):
        check_names(["learner", "baseline"], ["learner", "critic"])

"""Facts about the machine, and what is made of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from polyturn.doctor import (
    GIB,
    Machine,
    Package,
    bytes_for,
    examine,
    findings,
    fits,
    free_bytes,
    machine,
    packages,
    speed,
)

GOOD = Machine("3.11.7", "Linux", "x86_64", 2, 24 * GIB, 20 * GIB, 50 * GIB, ("cpu",), 2, "2.13.0+cpu")


def test_bytes_by_hand() -> None:
    # 135 million parameters: float32 weights 0.54 GB, gradients 0.54, two moments 1.08, a bfloat16 copy 0.27
    assert bytes_for(135e6, train="full") == pytest.approx(0.54e9 + 0.54e9 + 1.08e9 + 0.27e9)
    # bfloat16 weights 2, one percent of them in float32 with gradient and moments: 0.01 * 16
    assert bytes_for(1e9, train="lora") == pytest.approx(2e9 + 0.16e9)


def test_what_fits_leaves_room() -> None:
    found = fits(4 * GIB)
    assert found["135M"] == {"sample": True, "lora": True, "full": True}  # 2.4 GB of at most 3.0
    assert found["360M"] == {"sample": True, "lora": True, "full": False}  # 6.5 GB
    assert found["7B"] == {"sample": False, "lora": False, "full": False}


def test_the_declared_packages_are_found_and_fit() -> None:
    found = {package.name: package for package in packages() if not package.extra}
    assert {"torch", "transformers", "textarena", "open-spiel", "rich"} <= found.keys()
    assert all(package.fits for package in found.values()), [p for p in found.values() if not p.fits]
    assert {package.extra for package in packages()} >= {"", "dev", "gym", "pettingzoo"}


def test_nothing_stands_in_the_way_of_a_good_machine() -> None:
    assert findings([Package("torch", ">=2", "2.13.0")], GOOD) == []


@pytest.mark.parametrize(("package", "where", "name"), [
    (Package("torch", ">=2", None, fits=False), GOOD, "package"),
    (Package("torch", ">=2", "1.0", fits=False), GOOD, "package"),
    (Package("torch", ">=2", "2.13.0"), replace(GOOD, memory=4 * GIB), "memory"),
    (Package("torch", ">=2", "2.13.0"), replace(GOOD, disk_free=GIB), "disk"),
])
def test_what_stands_in_the_way_is_named(package: Package, where: Machine, name: str) -> None:
    assert [finding.name for finding in findings([package], where)] == [name]


def test_a_missing_extra_is_no_fault() -> None:
    assert findings([Package("gymnasium", ">=1", None, "gym", fits=False)], GOOD) == []


def test_the_machine() -> None:
    where = machine()
    assert where.cores >= 1 and 0 < where.memory_free <= where.memory
    assert where.devices[0] == "cpu" and where.torch_threads >= 1


def test_free_bytes_of_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "a" / "b") > 0


def test_speed_is_a_rate() -> None:
    found = speed(size=128, seconds=0.05)
    assert found.float32 > 0.1 and found.bfloat16 > 0.1


def test_everything_is_json() -> None:
    found = examine()
    assert json.loads(json.dumps(found)).keys() == {"packages", "machine", "speed", "fits", "findings"}

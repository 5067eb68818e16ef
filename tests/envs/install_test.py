"""Pinned data of other packages, fetched by the real pip from a folder of wheels made here; no network."""

from __future__ import annotations

import hashlib
import sys
import threading
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from polyturn.cache import cache_folder
from polyturn.envs.install import install, installed, is_installed, pinned
from polyturn.envs.pins import INSTALLABLE, Pinned, Wheel
from polyturn.errors import BadInput, EnvironmentFailed, MissingPackage, UnknownName

FILES = {"thing/__init__.py": "raise SystemExit('the package was run')\n", "thing/data/a.json": "{}",
         "thing/data/deep/b.txt": "b", "thing/other/c.txt": "c"}


def wheel(folder: Path, files: Mapping[str, str] = FILES, name: str = "thing") -> Pinned:
    """A wheel of ``name`` 1.0, which declares a dependency that does not exist; and its pin."""
    info = f"{name}-1.0.dist-info"
    meta = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nRequires-Dist: no-such-dependency\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/licenses/LICENSE": "MIT",
    }
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inside, text in {**files, **meta}.items():
            archive.writestr(inside, text)
        archive.writestr(f"{info}/RECORD", "".join(f"{inside},,\n" for inside in (*files, *meta, f"{info}/RECORD")))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Pinned(name, "1.0", digest, "MIT", 1, ("thing/data",), ("thing/data/a.json",))


@pytest.fixture
def thing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Pinned]:
    """One package that pip finds in a folder, and an empty cache."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    monkeypatch.setenv("POLYTURN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    return {"thing": wheel(wheels)}


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_the_data_and_the_licence_are_kept_and_nothing_is_run(thing: dict[str, Pinned]) -> None:
    told: list[str] = []
    assert not is_installed("thing", thing)
    folder = install("thing", told.append, thing)
    assert folder == thing["thing"].folder == installed("thing", thing) and is_installed("thing", thing)
    kept = everything(folder)
    assert {"thing/data/a.json", "thing/data/deep/b.txt", "thing-1.0.dist-info/licenses/LICENSE"} <= kept
    assert not [name for name in kept if name.startswith(("thing/__init__", "thing/other", "no_such"))]
    assert told[0].startswith("fetching thing 1.0 (MIT, 1 MB) into") and "thing" not in sys.modules
    assert [path.name for path in (cache_folder() / "packages").iterdir()] == [folder.name]


def test_only_what_was_damaged_is_fetched_again(thing: dict[str, Pinned]) -> None:
    folder = install("thing", lambda line: None, thing)
    told: list[str] = []
    assert install("thing", told.append, thing) == folder and told == []
    (folder / "thing/data/a.json").unlink()
    assert not is_installed("thing", thing)
    assert install("thing", told.append, thing) == folder and is_installed("thing", thing) and told


def test_another_wheel_of_the_same_version_is_refused(thing: dict[str, Pinned]) -> None:
    other = {"thing": replace(thing["thing"], sha256="0" * 64)}
    with pytest.raises(EnvironmentFailed, match="HASHES"):
        install("thing", lambda line: None, other)
    assert not is_installed("thing", other) and list((cache_folder() / "packages").iterdir()) == []


def test_a_package_that_cannot_be_found_gives_pip_s_words(
    thing: dict[str, Pinned], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", "/no/such/folder")
    with pytest.raises(EnvironmentFailed, match=r"could not fetch thing 1\.0.*No matching distribution"):
        install("thing", lambda line: None, thing)


def test_a_pin_that_names_a_missing_file_says_which(thing: dict[str, Pinned]) -> None:
    wrong = {"thing": replace(thing["thing"], needs=("thing/data/z.json",))}
    with pytest.raises(EnvironmentFailed, match=r"has no thing/data/z\.json"):
        install("thing", lambda line: None, wrong)


def test_without_pip_it_says_what_to_do(thing: dict[str, Pinned], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polyturn.envs.install.find_spec", lambda name: None)
    with pytest.raises(BadInput, match="python -m ensurepip"):
        install("thing", lambda line: None, thing)


def test_two_at_once_leave_one_whole_folder(thing: dict[str, Pinned]) -> None:
    found: list[Path] = []
    both = [threading.Thread(target=lambda: found.append(install("thing", lambda line: None, thing))) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert found == [thing["thing"].folder] * 2
    assert [path.name for path in (cache_folder() / "packages").iterdir()] == [found[0].name]


def test_what_is_not_installed_names_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("POLYTURN_CACHE", str(tmp_path))
    with pytest.raises(MissingPackage, match=r"inspect-evals 0\.26\.0 is not installed.*polyturn envs --install tau"):
        installed("tau")
    with pytest.raises(UnknownName, match="did you mean 'tau'"):
        pinned("taux")
    assert {"tau", "bfcl", "agentdojo", "reasoning", "minigrid", "miniwob"} == set(INSTALLABLE)


def test_packages_beside_it_are_fetched_with_it_by_their_hashes(
    thing: dict[str, Pinned], tmp_path: Path
) -> None:
    beside = wheel(tmp_path / "wheels", {"helper/__init__.py": "X = 1\n"}, "helper")
    both = {"thing": replace(
        thing["thing"], keep=("thing/data", "helper"), needs=("thing/data/a.json", "helper/__init__.py"),
        beside=(Wheel("helper", "1.0", ("0" * 64, beside.sha256)),),
    )}
    folder = install("thing", lambda line: None, both)
    assert (folder / "helper/__init__.py").is_file() and folder != thing["thing"].folder
    wrong = {"thing": replace(both["thing"], beside=(Wheel("helper", "1.0", ("0" * 64,)),))}
    with pytest.raises(EnvironmentFailed, match="HASHES"):
        install("thing", lambda line: None, wrong)

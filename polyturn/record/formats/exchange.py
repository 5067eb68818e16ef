"""Importing files of foreign formats into runs, and exporting runs to them."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from polyturn.errors import BadInput
from polyturn.media import Media
from polyturn.record.formats.catalogue import Give, entry, format_named, part
from polyturn.record.formats.chat import Store
from polyturn.record.formats.check import Field
from polyturn.record.formats.exact import difference, patched
from polyturn.record.formats.files import read_records, write_records
from polyturn.record.query import open_tables
from polyturn.record.read import read_plays
from polyturn.record.rules import check_rules
from polyturn.record.run import RunInfo, versions
from polyturn.record.write import RunRecorder
from polyturn.types import Episode


@dataclass(frozen=True, slots=True)
class Moved:
    """What an import or an export did."""

    path: Path
    records: int
    episodes: int
    bad: list[str] = field(default_factory=list)
    """Why a record was passed over, one line each."""


def import_file(path: Path | str, format: str, folder: Path | str, *, skip_bad: bool = False) -> Moved:
    """A new run in ``folder`` with the episodes of a file, or of a folder of documents; made whole or not at all.

    Each record is checked, then written back and compared: what differs is kept with its episode, so that an export to
    the same format gives the record as it was. ``skip_bad`` passes over records that cannot be read, and says which.
    Raises: BadInput with file, line and field; UnknownName for a format.
    """
    source, target = Path(path), Path(folder)
    module_name = entry(format)["module"]
    if target.exists() and any(target.iterdir()):
        raise BadInput(f"{target} exists and is not empty; choose another folder with --run")
    beside = target.with_name(f".{target.name}.importing")
    if beside.exists():
        shutil.rmtree(beside)
    target.parent.mkdir(parents=True, exist_ok=True)
    settings = {"file": source.name, "format": format, "module": module_name, "sha256": _sha256(source)}
    info = RunInfo(target.name, "import", settings=settings, versions=versions(), started=time.time())
    bad: list[str] = []
    records = episodes = 0
    try:
        with RunRecorder(beside, info=info) as recorder:
            for found in _read(source, format, Store(recorder.media), bad if skip_bad else None):
                records, episodes = records + 1, episodes + len(found)
                for episode in found:
                    recorder.episode(episode)
        if not records:
            raise BadInput(f"{source} holds no record of {format}{': ' + bad[0] if bad else ''}")
        if target.exists():
            target.rmdir()
        beside.rename(target)
    finally:
        if beside.exists():
            shutil.rmtree(beside)
    return Moved(target, records, episodes, bad)


def read_foreign(path: Path | str, format: str, *, media: Media | None = None) -> Iterator[Episode]:
    """The episodes of a file of a foreign format, without making a run. Raises: as :func:`import_file`."""
    for found in _read(Path(path), format, Store(media), None):
        yield from found


def write_foreign(
    episodes: Sequence[Episode], format: str, *, media: Media | None = None, seats: Sequence[str] = (),
    bare: bool = False,
) -> Iterator[Any]:
    """The records of episodes in a foreign format, as JSON values. Raises: UnknownName for a format."""
    give = Give(Store(media), tuple(seats), bare)
    found = (record for group in _units(iter(episodes), format) for record in _records(group, format, give))
    joined = part(format, "joined")
    yield from found if joined is None else joined(list(found))


def export_run(
    folder: Path | str, format: str, out: Path | str | None = None, *, where: str | None = None,
    seats: Sequence[str] = (), bare: bool = False,
) -> Moved:
    """Writes a run's episodes to a file of a foreign format; ``out`` defaults to the run's name, here.

    ``where``: an SQL condition on the table ``episodes``. ``seats``: whose dialogues are written (the seats that learn,
    or all where none does). ``bare``: without the whole episode, which formats with room for it carry.
    Raises: BadInput for a file that exists, a condition that is none, or nothing to write.
    """
    folder = Path(folder)
    ending = entry(format)["files"].split()[0]
    path = Path(out) if out is not None else Path(f"{folder.resolve().name}.{format}{ending if ending != '/' else ''}")
    count = Counter[str]()
    only = None if where is None else _chosen(folder, where)

    media, named = Media(folder / "media"), set[str]()

    def counted() -> Iterator[Episode]:
        for _, episode in read_plays(folder, only=only):
            count["episodes"] += 1
            named.update(_media(episode) if part(format, "OWN") else ())
            yield episode

    give = Give(Store(media), tuple(seats), bare)
    found = (record for group in _units(counted(), format) for record in _records(group, format, give))
    joined = part(format, "joined")
    made = found if joined is None else joined(list(found))
    of = part(format, "schema")
    records = write_records(path, _some(made, folder, format), one_document=entry(format)["unit"] in _DOCUMENTS,
                            of=None if of is None else of())
    beside = Media(path.parent / "media")
    for name in sorted(named):
        beside.put(media.get(name))
    return Moved(path, records, count["episodes"])


_DOCUMENTS = ("log", "document")


def _some(records: Iterator[Any], folder: Path, format: str) -> Iterator[Any]:
    empty = True
    for record in records:
        empty = False
        yield record
    if empty:
        raise BadInput(f"{folder} gives no record of {format}: {_WHY.get(entry(format)['unit'], 'it has no episode')}")


_WHY = {"pair": "no group has two attempts of different worth that part at a reply",
        "path": "no trained seat has sampled tokens", "dialogue": "no seat that was asked for said anything"}


def _chosen(folder: Path, where: str) -> set[tuple[int, int]]:
    with open_tables([folder], asked=where) as tables:
        rows = tables.ask(f"SELECT attempt, play FROM episodes WHERE ({where})").rows
    return {(int(attempt), int(play)) for attempt, play in rows}


def _read(path: Path, format: str, store: Store, bad: list[str] | None) -> Iterator[list[Episode]]:
    """The episodes of each record, checked, with what they have no place for."""
    split, opened = part(format, "split"), part(format, "opened")
    seen = Counter[str]()
    documents = None if opened is None else opened(path, bad)
    for document in read_records(path, bad=bad) if documents is None else documents:
        for record in [document] if split is None else split(document):
            try:
                found = _episodes(record, format, store, seen, path.parent / "media")
            except BadInput as error:
                said = " ".join(str(error).split())  # keys of the record may hold lines of their own
                if bad is None:
                    raise BadInput(said) from None
                bad.append(said)
                continue
            yield found


def _episodes(record: Field, format: str, store: Store, seen: Counter[str], beside: Path) -> list[Episode]:
    module = format_named(format)
    found = [_numbered(episode, seen) for episode in module.episodes(record, store)]
    for episode in found:
        check_rules(episode, record.where)
    if part(format, "OWN"):
        for episode in found:
            _fetch(episode, store, beside, record.where)
        return found
    made = list(module.records(found, Give(store)))
    residual = difference(record.value, made[0] if len(made) == 1 else None)
    source = {**(found[0].source or {}), "residual": residual}
    first = replace(found[0], source=source)
    check_rules(first, record.where)
    return [first, *found[1:]]


def _media(episode: Episode) -> Iterator[str]:
    """The media that an episode's messages name."""
    yield from (part.media for t in episode.trajectories for m in t.messages for part in m.parts if part.media)


def _fetch(episode: Episode, store: Store, folder: Path, where: str) -> None:
    """Takes the media of an episode from the folder ``media`` beside its file, where the store lacks them."""
    for name in _media(episode):
        if store.media is not None and name not in store.media:
            beside = Media(folder)
            if name not in beside:
                raise BadInput(f"{where}: names media {name[:80]!r}; expected them in {folder}")
            store.media.put(beside.get(name))


def _numbered(episode: Episode, seen: Counter[str]) -> Episode:
    """The episode under an id that no earlier one of the file has: equal records are told apart by a number."""
    seen[episode.id] += 1
    return episode if seen[episode.id] == 1 else replace(episode, id=f"{episode.id}-{seen[episode.id]}")


def _units(episodes: Iterator[Episode], format: str) -> Iterator[list[Episode]]:
    """What the records of a format are made of: single episodes, or the attempts of one group."""
    if entry(format)["unit"] != "pair":
        yield from ([episode] for episode in episodes)
        return
    groups: dict[str, list[Episode]] = {}
    for episode in episodes:
        groups.setdefault(episode.group or episode.id, []).append(episode)
    yield from groups.values()


def _records(group: Sequence[Episode], format: str, give: Give) -> Iterator[Any]:
    made = list(format_named(format).records(group, give))
    source: Mapping[str, Any] = group[0].source or {}
    if source.get("format") == format and "residual" in source:
        yield patched(made[0] if len(made) == 1 else None, source["residual"])
    else:
        yield from made


def _sha256(path: Path) -> str:
    found = sorted(path.glob("*.json")) if path.is_dir() else [path]
    files = [file for file in found if file.is_file() and (file == path or not file.is_symlink())]
    total = hashlib.sha256()
    for file in files:
        with file.open("rb") as data:
            while block := data.read(2**20):
                total.update(block)
    return total.hexdigest()

"""Any bytes under any ending: an import makes a whole run that gives the records back, or says in one line what came;
and nothing is left of an import that failed."""

from __future__ import annotations

import io
import json
import random
import re
import struct
import zipfile
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyturn.errors import PolyturnError
from polyturn.media import Media
from polyturn.record.formats.catalogue import FORMATS
from polyturn.record.formats.check import parsed
from polyturn.record.formats.exchange import export_run, import_file, read_foreign, write_foreign
from polyturn.record.read import read_episodes
from tests.fuzz import json_values, long, mutated, quick, seeds
from tests.record.formats.foreign import drawn

NAMES = [row["name"] for row in FORMATS]
KEYS = st.sampled_from([*(  # noqa: SIM905
    "messages role content conversations from value prompt completion chosen rejected steps step_id source message "
    "nodes schema_version agent name version task data samples eval model id epoch input target scores history "
    "mistake_step resourceSpans scopeSpans spans tools function arguments tool_calls type text image_url url reward "
    "traj trial info prompt_ids completion_ids logprobs env_mask trajectories").split(), "", "\ud83d"])
TEXTS = st.sampled_from([
    "assistant", "user", "tool", "system", "agent", "ATIF-v1.6", "text", "{", "x", "/etc/passwd", "file:///etc/passwd",
    "../../x", '{"a": 1}', "\0", "data:image/png;base64,iVBORw0KGgo="])


def kept(name: str, path: Path) -> bool:
    """Imports a file and exports it again; whether it could be read. Fails for anything but a Polyturn error."""
    folder = path.parent / "run"
    try:
        moved = import_file(path, name, folder)
    except PolyturnError as error:
        assert str(error) and "\n" not in str(error), str(error)
        assert not folder.exists() and not list(path.parent.glob(".*"))
        return False
    assert len(list(read_episodes(folder))) == moved.episodes > 0
    if path.suffix == ".json" and name not in ("otel", "polyturn", "inspect"):
        export_run(folder, name, path.parent / "out.jsonl")
        value = parsed(path.read_bytes(), "")
        again = [json.loads(line) for line in (path.parent / "out.jsonl").read_text().splitlines()]
        assert again == (value if isinstance(value, list) else [value])
    return True


def tried(name: str, data: bytes, ending: str) -> bool:
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"in{ending}"
        path.write_bytes(data)
        return kept(name, path)


def values(name: str) -> Callable[[Any], None]:
    def check(value: Any) -> None:
        tried(name, json.dumps(value).encode("utf-8", "surrogatepass"), ".json")

    return check


@pytest.mark.parametrize("name", NAMES)
def test_any_json_is_exact_or_named(name: str) -> None:
    quick(12)(given(json_values(KEYS, TEXTS))(values(name)))()


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_any_json_is_exact_or_named_many_times(name: str) -> None:
    long(4000)(given(json_values(KEYS, TEXTS))(values(name)))()


def broken_bytes(name: str, count: int, folder: Path) -> tuple[int, int]:
    """How many of so many files with broken bytes were read, and how many named."""
    records = [json.dumps(record).encode() for record in drawn(name, 12)]
    found = []
    for plain in seeds(count):
        data = mutated(plain.choice(records), plain)
        path = folder / "in.json"
        path.write_bytes(data)
        found.append(read_and_written(name, path))
        if len(found) % 6 == 0:
            tried(name, data, ".json")
    return found.count(True), found.count(False)


def read_and_written(name: str, path: Path) -> bool:
    """As :func:`kept`, without a run on disk."""
    media = Media(path.parent / "media")
    try:
        episodes = list(read_foreign(path, name, media=media))
        list(write_foreign(episodes, name, media=media))
    except PolyturnError as error:
        assert str(error) and "\n" not in str(error)
        return False
    return True


@pytest.mark.parametrize("name", NAMES)
def test_broken_bytes_are_read_or_named(name: str, tmp_path: Path) -> None:
    read, named = broken_bytes(name, 60, tmp_path)
    assert read and named


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_broken_bytes_are_read_or_named_many_times(name: str, tmp_path: Path) -> None:
    broken_bytes(name, 20_000, tmp_path)


HUGE = ("9" * 31, "9" * 400, "-" + "9" * 5000)


@pytest.mark.parametrize("name", NAMES)
def test_numbers_beyond_64_bits_are_read_or_named(name: str, tmp_path: Path) -> None:
    """In the place of each number of a record, and of each text of digits."""
    text = json.dumps(drawn(name, 1)[0])
    found = list(re.finditer(r'(?<=[ "])\d+(?=[,}"\]])', text))
    for place in found[:: 1 + len(found) // 8]:
        for digits in HUGE:
            (tmp_path / "in.json").write_text(text[: place.start()] + digits + text[place.end():])
            read_and_written(name, tmp_path / "in.json")


def test_what_differs_in_one_attempt_stays_out_of_the_other(tmp_path: Path) -> None:
    """Both attempts of a pair begin with the same words, and one calls an id otherwise."""
    begin = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    other = [{**begin[0], "odd": 1}, begin[1]]
    said = [[{"role": "assistant", "content": text}] for text in "cd"]
    (tmp_path / "in.json").write_text(json.dumps({"chosen": begin + said[0], "rejected": other + said[1]}))
    assert kept("trl-preference", tmp_path / "in.json")


# ---------------------------------------------------------------- files of other kinds


def archive(plain: random.Random) -> bytes:
    """A log as inspect packs it, in one of the ways that zip knows."""
    (record,) = drawn("inspect", 1)
    samples = record.pop("samples")
    out = io.BytesIO()
    packing = plain.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    with zipfile.ZipFile(out, "w", packing) as file:
        file.writestr("header.json", json.dumps(record))
        for number, sample in enumerate(samples):
            file.writestr(f"samples/{number}_epoch_1.json", json.dumps(sample))
    return out.getvalue()


def table(plain: random.Random) -> bytes:
    """Rows of messages as a hub keeps them."""
    import pyarrow
    from pyarrow import parquet

    rows = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}] * 3
    out = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), out, compression=plain.choice(("none", "snappy", "zstd")))
    return out.getvalue()


def files(name: str, ending: str, made: Callable[[random.Random], bytes], count: int) -> None:
    whole = random.Random(0)
    assert tried(name, made(whole), ending)
    for plain in seeds(count):
        tried(name, mutated(made(plain), plain), ending)
    for plain in seeds(8):
        tried(name, plain.randbytes(plain.choice((0, 1, 30, 300))), ending)


@pytest.mark.parametrize(("name", "ending", "made"), [("inspect", ".eval", archive), ("chatml", ".parquet", table)])
def test_broken_archives_and_tables_are_read_or_named(name: str, ending: str, made: Any) -> None:
    files(name, ending, made, 40)


@pytest.mark.long
@pytest.mark.parametrize(("name", "ending", "made"), [("inspect", ".eval", archive), ("chatml", ".parquet", table)])
def test_broken_archives_and_tables_many_times(name: str, ending: str, made: Any) -> None:
    files(name, ending, made, 5000)


def test_columns_that_are_no_json_are_named(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    good = {"messages": messages, "weight": float("nan")}
    for number, value in enumerate((b"\xff", datetime(2026, 1, 1), Decimal("1.5"), {"a": [b"x"]})):
        path = tmp_path / f"{number}.parquet"
        parquet.write_table(pyarrow.Table.from_pylist([{**good, "extra": value}]), path)
        with pytest.raises(PolyturnError, match=r"row 0\.extra: is no JSON value"):
            import_file(path, "chatml", tmp_path / "run")
    parquet.write_table(pyarrow.Table.from_pylist([good]), tmp_path / "in.parquet")
    assert kept("chatml", tmp_path / "in.parquet")  # a weight that is not known is a text, as in a line of JSON


def test_an_archive_that_unpacks_to_too_much_is_not_unpacked(tmp_path: Path) -> None:
    """By what it says, and by what it holds: a length that lies gives bytes with a wrong checksum, and no more."""
    data = bytearray(archive(random.Random(3)))
    at = data.rfind(b"PK\x01\x02")
    said, lies = bytes(data), bytearray(data)
    data[at + 24: at + 28] = struct.pack("<I", 2**32 - 2)
    (tmp_path / "a.eval").write_bytes(bytes(data))
    with pytest.raises(PolyturnError, match="would unpack to"):
        import_file(tmp_path / "a.eval", "inspect", tmp_path / "run")
    lies[at + 24: at + 28] = struct.pack("<I", 3)
    assert bytes(lies) != said
    (tmp_path / "b.eval").write_bytes(bytes(lies))
    with pytest.raises(PolyturnError, match=r"b\.eval"):
        import_file(tmp_path / "b.eval", "inspect", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", [
    "../../evil.json", "/tmp/evil.json", "samples/../../evil.json", "samples/\0.json", "samples/" + "a" * 300 + ".json",
    "samples/\u202e.json",
])
def test_members_of_archives_write_nothing(tmp_path: Path, name: str) -> None:
    """They are read in memory, so their names lead nowhere."""
    (record,) = drawn("inspect", 1)
    samples = record.pop("samples")
    with zipfile.ZipFile(tmp_path / "in.eval", "w") as file:
        file.writestr("header.json", json.dumps(record))
        file.writestr("samples/1_epoch_1.json", json.dumps(samples[0]))
        file.writestr(zipfile.ZipInfo(name), orjson.dumps(samples[0]))
    kept("inspect", tmp_path / "in.eval")
    assert {path.name for path in tmp_path.iterdir()} <= {"in.eval", "run"} and not Path("/tmp/evil.json").exists()


def test_folders_and_links_of_documents(tmp_path: Path) -> None:
    """A folder of documents may hold links out, folders that end like files, and names of any letters."""
    (document,) = drawn("who-and-when", 1)
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / "\u202etxt.json").write_text(json.dumps(document))
    assert kept("who-and-when", folder)
    (folder / "a.json").mkdir()
    with pytest.raises(PolyturnError):
        import_file(folder, "who-and-when", tmp_path / "again")
    (folder / "a.json").rmdir()
    (folder / "b.json").symlink_to("/etc/passwd")
    with pytest.raises(PolyturnError, match="leads out of the folder"):
        import_file(folder, "who-and-when", tmp_path / "again")

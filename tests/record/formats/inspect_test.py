"""``.eval`` archives are checked before they are unpacked, and what inspect says of scores and limits is understood."""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pyarrow
import pytest

from polyturn.errors import BadInput
from polyturn.record.formats.exchange import read_foreign
from polyturn.record.formats.inspect import joined
from tests.record.formats.foreign import drawn


def archive(path: Path, log: dict[str, Any], how: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", how) as out:
        out.writestr("header.json", json.dumps({key: value for key, value in log.items() if key != "samples"}))
        for number, sample in enumerate(log["samples"]):
            out.writestr(f"samples/{number}_epoch_1.json", json.dumps(sample))
    return path


def in_zstd(path: Path, name: str, data: bytes) -> Path:
    """An archive of one member packed as inspect packs, which ``zipfile`` cannot do."""
    packed = pyarrow.compress(data, "zstd", asbytes=True)
    sizes = struct.pack("<3I", zlib.crc32(data), len(packed), len(data))
    local = (b"PK\x03\x04" + struct.pack("<5H", 20, 0, 93, 0, 33) + sizes + struct.pack("<2H", len(name), 0)
             + name.encode())
    central = (b"PK\x01\x02" + struct.pack("<6H", 20, 20, 0, 93, 0, 33) + sizes
               + struct.pack("<5H2I", len(name), 0, 0, 0, 0, 0, 0) + name.encode())
    end = b"PK\x05\x06" + struct.pack("<4H2IH", 0, 0, 1, 1, len(central), len(local) + len(packed), 0)
    path.write_bytes(local + packed + central + end)
    return path


def test_an_archive_says_what_the_document_says(tmp_path: Path) -> None:
    log = drawn("inspect", 1)[0]
    (tmp_path / "a.json").write_text(json.dumps(log))
    for how in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        path = archive(tmp_path / f"a{how}.eval", log, how)
        assert repr(list(read_foreign(path, "inspect"))) == repr(list(read_foreign(tmp_path / "a.json", "inspect")))


def test_what_is_packed_with_zstd_is_read(tmp_path: Path) -> None:
    """The header alone is read so far that its missing samples are named."""
    header = {key: value for key, value in drawn("inspect", 1)[0].items() if key != "samples"}
    path = in_zstd(tmp_path / "a.eval", "header.json", json.dumps(header).encode())
    with pytest.raises(BadInput, match=r"a\.eval\.samples: is empty"):
        list(read_foreign(path, "inspect"))
    data = bytearray(path.read_bytes())
    data[60] ^= 1
    path.write_bytes(data)
    with pytest.raises(BadInput, match="cannot be unpacked"):
        list(read_foreign(path, "inspect"))


def test_archives_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "a.eval"
    path.write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(BadInput, match="cannot be unpacked"):
        list(read_foreign(path, "inspect"))
    with zipfile.ZipFile(path, "w") as out:
        out.writestr("samples/a.json", "{}")
    with pytest.raises(BadInput, match=r"holds no header\.json"):
        list(read_foreign(path, "inspect"))


@pytest.mark.parametrize("how", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_member_that_is_broken_is_named(tmp_path: Path, how: int) -> None:
    """Wherever one byte of the second member's packed data is another; the first nine may say what does not matter."""
    path = archive(tmp_path / "a.eval", drawn("inspect", 1)[0], how)
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as file:
        member = next(one for one in file.infolist() if one.filename.startswith("samples/"))
    begin = member.header_offset + 30 + len(member.filename)
    for at in range(begin + 9, begin + member.compress_size, 1 + member.compress_size // 40):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1:])
        with pytest.raises(BadInput, match=rf"a\.eval, {member.filename}: cannot be unpacked \(."):
            list(read_foreign(path, "inspect"))


@pytest.mark.parametrize(("offset", "value", "why"), [(8, b"\x01\x00", "password"), (10, b"\x61\x00", "compression")])
def test_a_member_that_is_locked_or_packed_in_another_way_is_named(
    tmp_path: Path, offset: int, value: bytes, why: str
) -> None:
    path = archive(tmp_path / "a.eval", drawn("inspect", 1)[0])
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\x01\x02") + offset
    data[at: at + 2] = value
    if offset == 8:
        data[6:8] = value
    path.write_bytes(data)
    with pytest.raises(BadInput, match=rf"a\.eval, header\.json: cannot be unpacked \(.*{why}"):
        list(read_foreign(path, "inspect"))


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    """The archive's own table says 3 GB; nothing of it is read."""
    path = in_zstd(tmp_path / "a.eval", "header.json", b"{}")
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\x01\x02") + 24
    data[at: at + 4] = struct.pack("<I", 3 * 2**30)
    path.write_bytes(data)
    with pytest.raises(BadInput, match="would unpack to 3221225472 bytes"):
        list(read_foreign(path, "inspect"))


@pytest.mark.parametrize(("given", "value", "success"), [
    ("C", 1.0, True), ("I", 0.0, False), ("P", 0.5, False), ("N", 0.0, False), (0.25, 0.25, False), (1, 1.0, True),
    (True, 1.0, True), ("odd", None, None), ({"a": 1}, None, None),
])
def test_scores(given: Any, value: float | None, success: bool | None, tmp_path: Path) -> None:
    log = drawn("inspect", 1)[0]
    sample = {key: item for key, item in log["samples"][0].items() if key not in ("error", "limit")}
    sample["scores"] = {"s": {"value": given}}
    (tmp_path / "a.json").write_text(json.dumps({**log, "samples": [sample]}))
    score = next(read_foreign(tmp_path / "a.json", "inspect")).scores["s"]["agent"]
    assert (score.value, score.success) == (value, success)


@pytest.mark.parametrize(("more", "kind", "reason"), [
    ({"error": {"message": "boom", "traceback": "", "traceback_ansi": ""}}, "error", "boom"),
    ({"limit": {"type": "token", "limit": 5}}, "budget", "tokens"), ({}, "done", ""),
])
def test_how_a_sample_ended(more: dict[str, Any], kind: str, reason: str, tmp_path: Path) -> None:
    """A sample that broke has no score, whatever was written beside the error."""
    log = drawn("inspect", 1)[0]
    sample = {key: item for key, item in log["samples"][0].items() if key not in ("error", "limit")}
    sample["scores"] = {"s": {"value": 0.0}}
    (tmp_path / "a.json").write_text(json.dumps({**log, "samples": [{**sample, **more}]}))
    episode = next(read_foreign(tmp_path / "a.json", "inspect"))
    assert (episode.stop.kind, episode.stop.reason) == (kind, reason)
    assert bool(episode.scores) == (kind != "error")


def test_the_means_of_a_log_are_over_what_was_scored() -> None:
    def sample(value: Any, **more: Any) -> dict[str, Any]:
        return {"log": {"version": 2}, "made": True, "sample": {"scores": {"s": {"value": value}}, **more}}

    (log,) = joined([sample(1.0), sample(0.0), sample("N"), sample(0.9, error={})])
    assert log["results"] == {"total_samples": 4, "completed_samples": 3, "scores": [
        {"name": "s", "scorer": "s", "metrics": {"mean": {"name": "mean", "value": 0.5}}}]}

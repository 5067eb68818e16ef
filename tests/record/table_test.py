"""Lines, checksums, marks and rewinds."""

from __future__ import annotations

from pathlib import Path
from zlib import crc32

import pytest

from polyturn.errors import BadInput, UnknownName
from polyturn.record.table import Table, as_line, check_mark, is_whole, read_lines


def filled(path: Path, *rows: dict[str, object]) -> Path:
    table = Table(path)
    table.append([as_line(row) for row in rows])
    table.close()
    return path


def numbers(path: Path, *, skip_corrupt: bool = False) -> list[int]:
    return [line.row()["n"] for line in read_lines(path, skip_corrupt=skip_corrupt)]


def test_a_line_by_hand() -> None:
    """The sum is that of the object without its checksum."""
    assert as_line({"n": 1}) == b'{"crc32":"%08x","n":1}\n' % crc32(b'{"n":1}')


def test_every_changed_byte_is_seen() -> None:
    """Each single-bit change of a line makes it no line, also in its own checksum."""
    line = as_line({"n": 1, "text": "hé"})
    assert is_whole(line)
    for place in range(len(line)):
        for bit in range(8):
            broken = bytearray(line)
            broken[place] ^= 1 << bit
            assert not is_whole(bytes(broken)), (place, bit)


def test_a_table_that_was_never_written_has_no_rows(tmp_path: Path) -> None:
    assert list(read_lines(tmp_path / "none.jsonl")) == []


def test_reopening_goes_on_after_the_last_whole_line(tmp_path: Path) -> None:
    path = filled(tmp_path / "t.jsonl", {"n": 1}, {"n": 2})
    with path.open("ab") as file:
        file.write(as_line({"n": 3, "long": "x" * 200_000})[:-1])
    assert numbers(path) == [1, 2]
    assert numbers(filled(path, {"n": 4})) == [1, 2, 4]
    assert path.read_bytes() == as_line({"n": 1}) + as_line({"n": 2}) + as_line({"n": 4})


def test_only_a_torn_first_line(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(b'{"crc32"')
    assert numbers(filled(path, {"n": 4})) == [4]


def test_a_whole_last_line_that_is_wrong_is_damage(tmp_path: Path) -> None:
    """It ends in a newline, so it was written whole and changed later."""
    path = filled(tmp_path / "t.jsonl", {"n": 1}, {"n": 2})
    path.write_bytes(path.read_bytes().replace(b'"n":2', b'"n":3'))
    with pytest.raises(BadInput, match="line 2: the checksum does not match"):
        numbers(path)
    assert numbers(path, skip_corrupt=True) == [1]


def test_rewinds(tmp_path: Path) -> None:
    """1 [a] 2 [b] 3 | back to a: 2 3 void | 4 [b] 5 | back to b: 5 void | 6 | back to a: 4 6 void | 7."""
    path = tmp_path / "t.jsonl"
    steps: list[tuple[dict[str, object], list[int]]] = [
        ({"n": 1}, [1]), ({"mark": "a"}, [1]), ({"n": 2}, [1, 2]), ({"mark": "b"}, [1, 2]), ({"n": 3}, [1, 2, 3]),
        ({"rewind": "a"}, [1]), ({"n": 4}, [1, 4]), ({"mark": "b"}, [1, 4]), ({"n": 5}, [1, 4, 5]),
        ({"rewind": "b"}, [1, 4]), ({"n": 6}, [1, 4, 6]), ({"rewind": "a"}, [1]), ({"n": 7}, [1, 7]),
        ({"rewind": None}, []), ({"n": 8}, [8]),
    ]
    for row, expected in steps:
        assert numbers(filled(path, row)) == expected, row


def test_marks_of_void_stretches_are_gone(tmp_path: Path) -> None:
    path = filled(tmp_path / "t.jsonl", {"mark": "a"}, {"mark": "b"}, {"rewind": "a"})
    check_mark(path, "a")
    with pytest.raises(UnknownName, match=r"no mark in .* named 'b'; known: a"):
        check_mark(path, "b")


def test_damage_in_a_void_stretch_does_not_matter(tmp_path: Path) -> None:
    path = filled(tmp_path / "t.jsonl", {"mark": "a"}, {"n": 2}, {"rewind": "a"}, {"n": 3})
    path.write_bytes(path.read_bytes().replace(b'"n":2', b'"n":9'))
    assert numbers(path) == [3]


def test_what_the_last_rewind_made_void_can_be_read(tmp_path: Path) -> None:
    """1 | mark | 2 | rewind | 3 | rewind | 4: the first rewind made 2 void, the second 3."""
    lines = ({"n": 1}, {"mark": "m"}, {"n": 2}, {"rewind": "m"}, {"n": 3}, {"rewind": "m"}, {"n": 4})
    path = filled(tmp_path / "t.jsonl", *lines)
    assert numbers(path) == [1, 4]
    assert [line.row()["n"] for line in read_lines(path, void="only")] == [3]
    assert [line.row()["n"] for line in read_lines(path, void="too")] == [1, 3, 4]
    assert list(read_lines(filled(tmp_path / "u.jsonl", {"n": 1}), void="only")) == []

"""The closed view holds every field of every noun, and gives back the very episodes."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, make_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pyarrow
import pyarrow.parquet
import pytest

from polyturn.errors import BadInput
from polyturn.record.closed import read_closed, schema
from polyturn.record.read import read_episodes
from polyturn.record.shards import close_shards
from polyturn.record.write import RunRecorder
from polyturn.types import Episode
from tests.record.generated import Drawn, ended, live, same


def dataclasses_in(kind: Any) -> Iterator[type]:
    """The dataclasses that a type mentions."""
    if is_dataclass(kind) and isinstance(kind, type):
        yield kind
    for inner in get_args(kind):
        yield from dataclasses_in(inner)


def struct_in(arrow: Any) -> Any:
    """The struct inside lists and maps, or the type itself."""
    while pyarrow.types.is_list(arrow) or pyarrow.types.is_map(arrow):
        arrow = arrow.item_type if pyarrow.types.is_map(arrow) else arrow.value_type
    return arrow


def without_column(cls: type, arrow: dict[str, Any], place: str) -> list[str]:
    """The fields of a dataclass, and of those inside it, that no column stands for."""
    missing = []
    hints = get_type_hints(cls)
    for field in fields(cls):
        column = arrow.get(field.name, arrow.get(f"{field.name}_json"))
        if column is None:
            missing.append(f"{place}.{field.name}")
            continue
        if f"{field.name}_json" not in arrow:
            inner = struct_in(column)
            for found in dataclasses_in(hints[field.name]):
                names = {inner.field(i).name: inner.field(i).type for i in range(inner.num_fields)}
                missing += without_column(found, names, f"{place}.{field.name}")
    return missing


def test_every_field_has_a_column() -> None:
    top = {field.name: field.type for field in schema()}
    assert without_column(Episode, top, "Episode") == []
    assert list(top) == [
        "schema_version", "run_id", "attempt", "play", "id", "task", "seed", "group", "trial", "parent", "iteration",
        "train", "cast", "trajectories", "events", "final_json", "final_sha256", "stop", "error", "scores", "started",
        "ended", "source_json",
    ]


def test_a_field_without_a_column_is_seen() -> None:
    """The walk above fails where it should: at the top, and three levels down."""
    top = {field.name: field.type for field in schema()}
    longer = make_dataclass("Longer", [("kind", str), ("mood", str)], frozen=True)
    assert without_column(longer, {"kind": pyarrow.string()}, "Stop") == ["Stop.mood"]
    del top["events"]
    turn = struct_in(struct_in(top["trajectories"]).field("turns").type)
    names = {turn.field(i).name for i in range(turn.num_fields)}
    assert {"at", "prompt", "rewards", "dropped"} <= names
    assert without_column(Episode, top, "Episode") == ["Episode.events"]


def test_both_encodings_give_the_episodes_back(tmp_path: Path) -> None:
    """30 random episodes in shards of 12: tables, Parquet and JSON Lines agree to the bit."""
    with RunRecorder(tmp_path) as recorder:
        for seed in range(30):
            drawn = Drawn(seed)
            episode = drawn.episode(f"e{seed}")
            for _ in live(episode, recorder):
                pass
            recorder.episode(ended(episode, drawn))
    closed = close_shards(tmp_path, rows_per_shard=12, encodings=("parquet", "jsonl"))
    recorded = list(read_episodes(tmp_path))
    for encoding in ("parquet", "jsonl"):
        files = sorted(closed.glob(f"*.{encoding}"))
        assert [file.name for file in files] == [f"episodes-0000{i}.{encoding}" for i in range(3)]
        found = [episode for file in files for episode in read_closed(file)]
        assert len(found) == 30
        assert all(same(a, b) for a, b in zip(recorded, found, strict=True))
    index = json.loads((closed / "index.json").read_text())
    assert index["rows"] == 30 and len(index["files"]) == 6
    name = "episodes-00002.parquet"
    whole = hashlib.sha256((closed / name).read_bytes()).hexdigest()
    assert index["files"][name] == {"rows": 6, "sha256": whole, "bytes": (closed / name).stat().st_size}


def test_unknown_columns_are_passed_over_and_bad_lines_named(tmp_path: Path) -> None:
    with RunRecorder(tmp_path) as recorder:
        recorder.episode(Drawn(0).episode("e"))
    path = close_shards(tmp_path, encodings=("jsonl",)) / "episodes-00000.jsonl"
    row = json.loads(path.read_text())
    path.write_text(json.dumps({**row, "mood": "good"}) + "\n{\n")
    rows = read_closed(path)
    assert next(rows).id == "e"
    with pytest.raises(BadInput, match=r"line 2: not a JSON object"):
        next(rows)
    path.write_text(json.dumps({name: value for name, value in row.items() if name != "task"}) + "\n")
    with pytest.raises(BadInput, match="an Episode on disk lacks the column task"):
        next(read_closed(path))
    with pytest.raises(BadInput, match=r"expected \.parquet or \.jsonl"):
        next(read_closed(tmp_path / "a.csv"))
    with pytest.raises(BadInput, match="no encoding"):
        close_shards(tmp_path, encodings=("csv",))


def test_token_columns_alone_can_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RunRecorder(tmp_path) as recorder:
        for seed in range(60):
            recorder.episode(Drawn(seed).episode(f"e{seed}"))
    start = time.perf_counter()
    path = close_shards(tmp_path) / "episodes-00000.parquet"
    closed_s = time.perf_counter() - start
    columns = ["trajectories.list.element.spans.list.element.ids"]
    start = time.perf_counter()
    table = pyarrow.parquet.ParquetFile(path).read(columns=columns)
    with capsys.disabled():
        print(f"\n  closed: {60 / closed_s:.0f} episodes a second; ids alone read in "
              f"{1e3 * (time.perf_counter() - start):.1f} ms")
    assert table.num_rows == 60 and table.column_names == ["trajectories"]

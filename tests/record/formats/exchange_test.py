"""Every format: what is imported comes back as it was, bad input is named and loses nothing, runs export to all."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from polyturn.errors import BadInput, UnknownName
from polyturn.media import Media
from polyturn.record.formats.catalogue import FORMATS, entry, part
from polyturn.record.formats.exchange import export_run, import_file, read_foreign, write_foreign
from polyturn.record.read import read_episodes
from polyturn.record.rules import broken_rules
from tests.record.formats.foreign import WRITERS, drawn
from tests.record.formats.probe import PICTURE, probe_run
from tests.record.generated import same
from tests.record.sample_run import Plan, sample_run

NAMES = [row["name"] for row in FORMATS]
DRAWN = 60


def write(path: Path, format: str, records: list[Any]) -> Path:
    """The records in a file of the first ending that the format has (documents: a folder)."""
    ending = entry(format)["files"].split()[0]
    if entry(format)["unit"] in ("log", "document"):
        path.mkdir()
        for number, record in enumerate(records):
            (path / f"{number:05d}.json").write_text(json.dumps(record))
        return path
    path = path.with_suffix(ending)
    text = json.dumps(records) if ending == ".json" else "".join(f"{json.dumps(record)}\n" for record in records)
    path.write_text(text)
    return path


def read(path: Path) -> list[Any]:
    if path.is_dir():
        return [json.loads(file.read_text()) for file in sorted(path.iterdir())]
    if path.suffix == ".json":
        found = json.loads(path.read_text())
        return found if isinstance(found, list) else [found]
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_format_is_tried_here() -> None:
    assert sorted(WRITERS) == sorted(NAMES)


@pytest.mark.parametrize("format", NAMES)
def test_import_export_import_is_a_fixed_point(format: str, tmp_path: Path) -> None:
    """60 random records: the export equals the source, the second import equals the first, all rules hold."""
    records = drawn(format, DRAWN)
    first = import_file(write(tmp_path / "in", format, records), format, tmp_path / "a")
    assert first.records >= len(records) and not first.bad
    folder = entry(format)["unit"] in ("log", "document")
    out = tmp_path / ("out" if folder else f"out{entry(format)['files'].split()[0]}")
    moved = export_run(tmp_path / "a", format, out)
    assert read(out) == json.loads(json.dumps(records))
    import_file(out, format, tmp_path / "b")
    before, after = list(read_episodes(tmp_path / "a")), list(read_episodes(tmp_path / "b"))
    assert len(before) == first.episodes == moved.episodes
    assert all(same(a, b) for a, b in zip(before, after, strict=True))
    assert not [found for episode in before for found in broken_rules(episode)]
    assert len({episode.id for episode in before}) == len(before)


@pytest.mark.parametrize("format", NAMES)
def test_what_is_kept_aside_is_little(format: str, tmp_path: Path) -> None:
    """A record is read, not merely carried: whatever text its messages hold is in the episode's messages."""
    media = Media(tmp_path)
    said = 0
    path = write(tmp_path / "in", format, drawn(format, 20))
    for episode in read_foreign(path, format, media=media):
        residual = {} if format == "polyturn" else (episode.source or {}).get("residual", {})
        assert "" not in residual.get("set", {}), "the whole record was put aside"
        said += sum(len(m.text) + len(m.calls) for t in episode.trajectories for m in t.messages)
    assert said > 100


@pytest.mark.parametrize("format", NAMES)
@pytest.mark.parametrize("bad", [
    "{", "[]", "null", "3", '"text"', "{}", '{"messages": []}', '{"messages": [{"role": "alien", "content": "x"}]}',
    '{"messages": [{"role": "user"}, 3]}', '{"messages": {"role": "user"}}', '{"a": 1, "a": 2}',
    '{"conversations": [{"from": "human", "value": 3}]}', '{"input": [], "preferred_output": []}', "[" * 5000,
    '{"traj": [{"content": "x"}]}', '{"history": "x"}', '{"steps": [{"step_id": 1}]}', '{"nodes": [{"parent": 5}]}',
])
def test_bad_input_is_named_and_nothing_is_made(format: str, bad: str, tmp_path: Path) -> None:
    path = tmp_path / ("in.jsonl" if ".jsonl" in entry(format)["files"] else "in.json")
    path.write_text(f"{bad}\n")
    with pytest.raises(BadInput, match=r"in\.jsonl?"):
        import_file(path, format, tmp_path / "run")
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


def test_a_bad_line_is_passed_over_only_on_request(tmp_path: Path) -> None:
    good = drawn("openai", 3)
    lines = [json.dumps(good[0]), "{", json.dumps({"messages": [{"role": "user", "content": 7}]}), json.dumps(good[1])]
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join(lines))
    with pytest.raises(BadInput, match=r"in\.jsonl, line 2: not JSON"):
        import_file(path, "openai", tmp_path / "run")
    moved = import_file(path, "openai", tmp_path / "run", skip_bad=True)
    assert (moved.records, moved.episodes, len(moved.bad)) == (2, 2, 2)
    assert "line 3.messages[0].content: is 7; expected a list" in moved.bad[1]
    export_run(tmp_path / "run", "openai", tmp_path / "out.jsonl")
    assert read(tmp_path / "out.jsonl") == good[:2]


def test_numbers_that_are_not_finite_are_kept_as_texts(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"messages": [{"role": "assistant", "content": "x"}], "a": NaN, "b": -Infinity, "c": 1e999}\n')
    import_file(path, "chatml", tmp_path / "run")
    found = next(read_episodes(tmp_path / "run")).source or {}
    assert found["residual"]["set"] == {"/a": "NaN", "/b": "-Infinity", "/c": "1e999"}


def test_media_stay_in_their_folder(tmp_path: Path) -> None:
    """Data in a message become files named by their hash; addresses, of files too, are never opened."""
    (tmp_path / "secret.txt").write_text("secret")
    urls = ["data:image/png;base64,aGVsbG8=", f"file://{tmp_path}/secret.txt", "../secret.txt", "/etc/passwd",
            "https://example.org/x.png", "data:image/png;base64,***", "data:../../x;base64,aGVsbG8="]
    record = {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": u}} for u in urls]},
                           {"role": "assistant", "content": "ok"}]}
    import_file(write(tmp_path / "in", "openai", [record]), "openai", tmp_path / "run")
    parts = next(read_episodes(tmp_path / "run")).trajectories[0].messages[0].parts
    assert [part.media is not None for part in parts] == [True] + [False] * 6
    stored = [path for path in (tmp_path / "run" / "media").rglob("*") if path.is_file()]
    assert [path.read_bytes() for path in stored] == [b"hello"]
    export_run(tmp_path / "run", "openai", tmp_path / "out.jsonl")
    assert read(tmp_path / "out.jsonl") == [record]


def test_an_edited_episode_is_exported_as_it_is_now(tmp_path: Path) -> None:
    """What was put aside goes back; what the episode holds is what it says now."""
    record = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "x": 1}], "y": 2}
    episode = next(read_foreign(write(tmp_path / "in", "openai", [record]), "openai"))
    trajectory = episode.trajectories[0]
    messages = (trajectory.messages[0], trajectory.messages[1].edited(parts="b"))
    edited = replace(episode, trajectories=(replace(trajectory, messages=messages),))
    assert list(write_foreign([edited], "openai")) == [
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "b", "x": 1}], "y": 2}]


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    path = write(tmp_path / "in", "chatml", drawn("chatml", 2))
    import_file(path, "chatml", tmp_path / "run")
    with pytest.raises(BadInput, match="is not empty"):
        import_file(path, "chatml", tmp_path / "run")
    with pytest.raises(BadInput, match="exists; remove it"):
        export_run(tmp_path / "run", "chatml", path)
    with pytest.raises(UnknownName, match="did you mean 'chatml'"):
        import_file(path, "chatm", tmp_path / "other")
    with pytest.raises(BadInput, match=r"no record of chatml"):
        export_run(tmp_path / "run", "chatml", tmp_path / "x.jsonl", where="task.family = 'none'")
    assert not (tmp_path / "x.jsonl").exists()


def test_formats_of_one_document_are_whole(tmp_path: Path) -> None:
    """Where a module splits a document, it joins it again."""
    for name in NAMES:
        assert (part(name, "split") is None) == (part(name, "joined") is None), name


@pytest.mark.parametrize("format", NAMES)
def test_runs_of_our_own_go_out_and_come_in(format: str, tmp_path: Path) -> None:
    """Summaries, sub-seats, pictures and tools export to every format, and what was exported is a fixed point."""
    run = probe_run(tmp_path / "run")
    out, again = (tmp_path / (name if entry(format)["unit"] == "document" else
                              f"{name}{entry(format)['files'].split()[0]}") for name in ("out", "again"))
    assert export_run(run, format, out, bare=True).records > 0
    assert import_file(out, format, tmp_path / "b").episodes > 0
    export_run(tmp_path / "b", format, again, bare=True)
    assert read(again) == read(out)


@pytest.mark.parametrize("format", ["inspect", "atif"])
def test_what_carries_the_whole_episode_gives_it_back(format: str, tmp_path: Path) -> None:
    """To the bit, pictures included; but where somebody changed the record, the record counts."""
    for number, run in enumerate((probe_run(tmp_path / "probe"), sample_run(tmp_path / "run", Plan(1, 1, 1, 2)))):
        out = tmp_path / (f"out{number}.json" if format == "inspect" else f"out{number}")
        export_run(run, format, out)
        import_file(out, format, tmp_path / f"again{number}")
        pairs = list(zip(read_episodes(run), read_episodes(tmp_path / f"again{number}"), strict=True))
        assert all(same(before, replace(after, source=None)) for before, after in pairs)
    document = json.loads((out if format == "inspect" else out / "00000.json").read_text())
    if format == "inspect":
        next(m for m in document["samples"][0]["messages"] if m["role"] == "assistant")["content"] = "No."
    else:
        next(step for step in document["steps"] if step["source"] == "agent")["message"] = "No."
    (tmp_path / "changed.json").write_text(json.dumps(document))
    episode = next(read_foreign(tmp_path / "changed.json", format, media=Media(tmp_path / "m")))
    assert not episode.events and "No." in {m.text for t in episode.trajectories for m in t.messages}


def test_carried_media_are_checked(tmp_path: Path) -> None:
    """A name that its bytes do not have is not believed."""
    export_run(probe_run(tmp_path / "run"), "inspect", tmp_path / "out.json")
    whole = json.loads((tmp_path / "out.json").read_text())
    picture = whole["samples"][0]["messages"][1]["content"][1]
    picture["image"] = "data:image/png;base64,aGVsbG8="
    (tmp_path / "bad.json").write_text(json.dumps(whole))
    first = next(read_foreign(tmp_path / "bad.json", "inspect", media=Media(tmp_path / "m")))
    assert not (first.source or {}).get("carried")


def test_rows_of_our_own_lose_nothing_in_either_encoding(tmp_path: Path) -> None:
    """A run, its rows as Parquet and as JSON Lines, and runs of these: the same episodes to the bit."""
    run = sample_run(tmp_path / "run", Plan(1, 2, 1, 2))
    for ending in ("parquet", "jsonl"):
        export_run(run, "polyturn", tmp_path / f"rows.{ending}")
        import_file(tmp_path / f"rows.{ending}", "polyturn", tmp_path / ending)
        pairs = list(zip(read_episodes(run), read_episodes(tmp_path / ending), strict=True))
        assert len(pairs) == 18 and all(same(before, after) for before, after in pairs)
    row = json.loads((tmp_path / "rows.jsonl").read_text().splitlines()[0])
    (tmp_path / "new.jsonl").write_text(json.dumps({**row, "mood": "good"}))
    import_file(tmp_path / "new.jsonl", "polyturn", tmp_path / "new")
    assert same(next(read_episodes(tmp_path / "new")), pairs[0][0]), "a column of a later version is passed over"


def test_rows_bring_their_media_along(tmp_path: Path) -> None:
    """In a folder beside the file, named by their hash; a name that is none, or whose bytes are gone, is an error."""
    run = probe_run(tmp_path / "run")
    export_run(run, "polyturn", tmp_path / "out" / "rows.jsonl")
    import_file(tmp_path / "out" / "rows.jsonl", "polyturn", tmp_path / "again")
    pairs = zip(read_episodes(run), read_episodes(tmp_path / "again"), strict=True)
    assert all(same(before, after) for before, after in pairs)
    (stored,) = [path for path in (tmp_path / "again" / "media").rglob("*") if path.is_file()]
    assert stored.read_bytes() == PICTURE
    text = (tmp_path / "out" / "rows.jsonl").read_text()
    for name in ("../../../etc/passwd", "ab" * 32):
        (tmp_path / "out" / "bad.jsonl").write_text(text.replace(stored.name, name))
        with pytest.raises(BadInput, match=r"bad\.jsonl, line 1: names media"):
            import_file(tmp_path / "out" / "bad.jsonl", "polyturn", tmp_path / "bad")
    (tmp_path / "out" / "media" / stored.name[:2] / stored.name).write_bytes(b"other")
    with pytest.raises(BadInput, match="was changed"):
        import_file(tmp_path / "out" / "rows.jsonl", "polyturn", tmp_path / "bad")


@pytest.mark.parametrize("format", ["chatml", "trl-sft", "trl-grpo"])
def test_tables_say_what_lines_say(format: str, tmp_path: Path) -> None:
    """Parquet gives every message all keys, and tools as JSON text; what comes in is the same."""
    run = sample_run(tmp_path / "run", Plan(0, 2, 1, 2))
    for ending in ("parquet", "jsonl"):
        export_run(run, format, tmp_path / f"rows.{ending}")
        import_file(tmp_path / f"rows.{ending}", format, tmp_path / ending)
    pairs = zip(read_episodes(tmp_path / "parquet"), read_episodes(tmp_path / "jsonl"), strict=True)
    for table, line in pairs:
        assert same(table.trajectories, line.trajectories) and same(table.scores, line.scores)

"""SQL gives the same answer from live tables, from shards and from both, and can do nothing but read."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from polyturn.errors import BadInput, DeadlinePassed
from polyturn.record.query import VIEWS, Tables, described, open_tables
from polyturn.record.read import read_credit, read_episodes
from polyturn.record.shards import close_shards, read_index
from polyturn.record.write import RunRecorder, open_run
from polyturn.types import Episode, Score, all_turns
from tests.record.generated import Drawn, ended, live
from tests.record.sample_run import Plan, sample_run


def play(recorder: RunRecorder, numbers: range) -> None:
    """Records whole random episodes, with a score for each."""
    for seed in numbers:
        drawn = Drawn(seed)
        episode = drawn.episode(f"e{seed}")
        for _ in live(episode, recorder):
            pass
        recorder.episode(ended(episode, drawn))
        recorder.scores("late", {episode.id: {"seat.0": Score(float(seed), seed % 2 == 0)}})


def everything(tables: Tables) -> dict[str, list[str]]:
    """All rows of all views, in an order of their own."""
    return {name: sorted(map(repr, tables.ask(f"SELECT * FROM {name}").as_dicts())) for name in VIEWS}


def asked(folder: Path, sql: str, **how: Any) -> list[tuple[Any, ...]]:
    with open_tables([folder], **how) as tables:
        return tables.ask(sql).rows


def test_counts_are_those_of_the_record(tmp_path: Path) -> None:
    folder = sample_run(tmp_path / "run", Plan(2, 2, 1, 2))
    found = list(read_episodes(folder))
    turns = [turn for episode in found for turn in all_turns(episode)]
    ids = sum(len(span.ids) for e in found for t in e.trajectories for span in t.spans)
    sampled = [v for e in found for t in e.trajectories for s in t.spans if s.logprobs is not None for v in s.logprobs]
    weights = [w for row in read_credit(folder) for w in row["weight"]]
    with open_tables([folder]) as tables:
        for sql, value in (
            ("SELECT count(*) FROM episodes", len(found)), ("SELECT count(*) FROM turns", len(turns)),
            ("SELECT count(*) FROM tokens", ids), ("SELECT sum(logprob) FROM tokens WHERE sampled", sum(sampled)),
            ("SELECT sum(weight) FROM weights", sum(weights)),
            ("SELECT sum(value) FROM rewards", sum(e.paid(t.seat) for e in found for t in e.trajectories)),
            ("SELECT sum(value) FROM scores", sum(e.paid(t.seat) for e in found for t in e.trajectories)),
            ("SELECT sum(value) FROM metrics WHERE name = 'loop/seconds'", 4 * 12.5),
            ("SELECT recipe FROM runs", "quickstart"),
        ):
            assert tables.ask(sql).rows == [(pytest.approx(value) if isinstance(value, float) else value,)], sql
        replies = tables.ask('SELECT episode, "at", text FROM turns ORDER BY ALL').rows
    assert replies == sorted((e.id, turn.at, t.messages[turn.reply].text) for e in found for t in e.trajectories
                             for turn in t.turns)


def test_shards_and_tables_answer_alike(tmp_path: Path) -> None:
    """Tables alone, shards alone, shards with a live rest, and an episode that has not ended."""
    with open_run(tmp_path / "run", recipe="quickstart") as recorder:
        play(recorder, range(12))
        recorder.commit("one")
        with open_tables([tmp_path / "run"], close_at=1) as tables:
            assert tables.ask("SELECT count(*) FROM episodes").rows == [(12,)]
        index = read_index(tmp_path / "run")
        assert index is not None and index.rows == 12
        play(recorder, range(12, 20))
        open_episode = live(Drawn(50).episode("open"), recorder)
        begun = next(open_episode)
        with open_tables([tmp_path / "run"], close_at=None) as tables:
            both = everything(tables)
            assert tables.ask('SELECT episode, "at" FROM turns WHERE "open"').rows == [("open", begun.at)]
            assert tables.ask("SELECT count(*) FROM episodes").rows == [(20,)]
        (tmp_path / "run" / "closed" / "index.json").rename(tmp_path / "index.json")
        with open_tables([tmp_path / "run"], close_at=None) as tables:
            assert everything(tables) == both
        list(open_episode)
    with open_tables([tmp_path / "run"]) as tables:
        closed = everything(tables)
    index = read_index(tmp_path / "run")
    assert index is not None and index.rows == 20
    assert closed["episodes"] == both["episodes"] and closed["scores"] != []


def test_what_a_rewind_or_a_later_score_changes_is_seen(tmp_path: Path) -> None:
    """Random histories: after each step the answer is what the record says, whatever was closed before."""
    plain = random.Random(0)
    for trial in range(3):
        folder = tmp_path / f"run{trial}"
        marks: list[str] = []
        for step in range(5):
            with RunRecorder(folder) as recorder:
                if marks and plain.random() < 0.5:
                    recorder.rewind(plain.choice(marks))
                    marks = []
                play(recorder, range(100 * step, 100 * step + plain.randint(0, 4)))
                marks.append(f"{step}")
                recorder.commit(f"{step}")
                play(recorder, range(100 * step + 10, 100 * step + 12))
                check(folder, plain)
                if plain.random() < 0.3:
                    recorder.scores("later", {f"e{100 * step + 10}": {"seat.0": Score(0.5)}})
            check(folder, plain)


def check(folder: Path, plain: random.Random) -> None:
    recorded = list(read_episodes(folder))
    with open_tables([folder], close_at=plain.choice([None, 1, 3])) as tables:
        assert [row[0] for row in tables.ask("SELECT id FROM episodes ORDER BY id").rows] == sorted(
            episode.id for episode in recorded)
        given = sorted((e.id, verifier, seat) for e in recorded for verifier, by in e.scores.items() for seat in by)
        assert tables.ask("SELECT episode, verifier, seat FROM scores ORDER BY ALL").rows == given


def test_runs_stand_side_by_side(tmp_path: Path) -> None:
    for name, count in (("a", 2), ("b", 3)):
        with open_run(tmp_path / name) as recorder:
            play(recorder, range(count))
    with open_tables([tmp_path / "a", tmp_path / "b"]) as tables:
        assert tables.ask("SELECT run, count(*) FROM episodes GROUP BY run ORDER BY run").rows == [("a", 2), ("b", 3)]
    with pytest.raises(BadInput, match="the same name"), open_tables([tmp_path / "a", tmp_path / "a"]):
        pass


def test_a_run_without_anything_has_every_table(tmp_path: Path) -> None:
    open_run(tmp_path / "run").close()
    with open_tables([tmp_path / "run"]) as tables:
        assert list(described(tables)) == list(VIEWS)
        assert all(not tables.ask(f"SELECT * FROM {name}").rows for name in set(VIEWS) - {"runs"})


REFUSED = [
    "COPY (SELECT 1) TO '{0}/x.csv'", "SELECT * FROM read_csv('/etc/hostname')", "SELECT * FROM '/etc/hostname'",
    "SELECT * FROM glob('/etc/*')", "SET enable_external_access = true", "DROP VIEW turns", "INSTALL httpfs",
    "ATTACH '{0}/x.db'", "CREATE TABLE t AS SELECT 1", "SELECT 1; SELECT 2", "", "SELEC 1", "CALL pragma_version()",
    "EXPORT DATABASE '{0}'", "LOAD httpfs", "SELECT * FROM read_text('{0}/run/run.json')",
]


@pytest.mark.parametrize("sql", REFUSED)
def test_nothing_else_can_be_read_or_written(tmp_path: Path, sql: str) -> None:
    folder = sample_run(tmp_path / "run", Plan(1, 0, 1, 1))
    before = sorted(tmp_path.rglob("*"))
    close_shards(folder)
    with open_tables([folder]) as tables:
        with pytest.raises(BadInput):
            tables.ask(sql.format(tmp_path))
        assert tables.ask("SELECT count(*) FROM episodes").rows == [(3,)]
    assert {path.name for path in set(tmp_path.rglob("*")) - set(before)} <= {
        "closed", "lock", "index.json", "episodes-00000.parquet", "credit-00000.parquet"}


def test_values_and_deadlines(tmp_path: Path) -> None:
    folder = sample_run(tmp_path / "run", Plan(1, 0, 1, 1))
    with open_tables([folder]) as tables:
        found = tables.ask("SELECT task.family FROM episodes WHERE task.family = ?", ["kuhn_poker"])
        assert found.rows == [("kuhn_poker",)]
        answer = tables.ask("SELECT * FROM range(10)", most=4)
        assert (answer.columns, len(answer.rows), answer.cut) == (("range",), 4, True)
        with pytest.raises(DeadlinePassed, match=r"after its 0\.2 s"):
            tables.ask("SELECT sum(a.range * b.range) FROM range(1000000) a, range(1000000) b", timeout_s=0.2)
        assert tables.ask("SELECT 1").rows == [(1,)]


def test_damage_is_named_and_passed_over_only_on_request(tmp_path: Path) -> None:
    with open_run(tmp_path / "run") as recorder:
        play(recorder, range(3))
    path = tmp_path / "run" / "episodes.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1].replace(b"seat.0", b"seat.9", 1) + lines[2])
    with pytest.raises(BadInput, match=r"episodes\.jsonl, line 2: the checksum"):
        asked(tmp_path / "run", "SELECT 1")
    assert asked(tmp_path / "run", "SELECT id FROM episodes ORDER BY id", skip_corrupt=True) == [("e0",), ("e2",)]


def test_a_changed_shard_is_not_believed(tmp_path: Path) -> None:
    with open_run(tmp_path / "run") as recorder:
        play(recorder, range(3))
    path = close_shards(tmp_path / "run") / "episodes-00000.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(BadInput, match=r"episodes-00000\.parquet was changed or damaged; remove the folder"):
        asked(tmp_path / "run", "SELECT 1")


def test_an_episode_of_every_shape_can_be_asked_for(tmp_path: Path) -> None:
    episodes: list[Episode] = []
    with open_run(tmp_path / "run") as recorder:
        for seed in range(20):
            episodes.append(Drawn(seed).episode(f"e{seed}"))
            recorder.episode(episodes[-1])
    said = [(e.id, c.name, c.raw) for e in episodes for t in e.trajectories for m in t.messages for c in m.calls]
    assert asked(tmp_path / "run", "SELECT episode, name, raw FROM calls ORDER BY ALL") == sorted(said)
    findings = [f.name for e in episodes for by in e.scores.values() for s in by.values() for f in s.findings]
    assert len(asked(tmp_path / "run", "SELECT * FROM findings")) == len(findings) > 0


def test_the_page_names_every_table_and_its_example_works(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")
    assert [f"| `{name}` | {about} |" for name, (about, _) in VIEWS.items()] == [
        line for line in page.splitlines() if line.startswith("| `") and line.split("`")[1] in VIEWS]
    sql = page.split("```sql\n")[1].split("```")[0]
    folder = sample_run(tmp_path / "run", Plan(1, 1, 1, 2))
    rows = asked(folder, sql)
    assert len(rows) == 10 and all(row[4] for row in rows)

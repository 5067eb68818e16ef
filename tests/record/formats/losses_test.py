"""The table of what each format keeps is measured; ``python tests/record/formats/losses_test.py`` writes it anew."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import pytest

from polyturn.media import Media
from polyturn.record.formats.catalogue import FORMATS
from polyturn.record.formats.losses import FACTS, Verdict, kept
from tests.record.formats.probe import probe

PAGE = Path(__file__).parents[3] / "docs" / "formats.md"
BETWEEN = re.compile(r"(<!-- losses -->\n).*?(<!-- end of losses -->)", re.DOTALL)
SIGNS = {"kept": "yes", "partly": "part", "lost": "-"}
SHORT = {"openai-preference": "openai-pref.", "trl-preference": "trl-pref.", "who-and-when": "who&when"}


def measured(name: str, *, bare: bool = True) -> dict[str, Verdict]:
    """What becomes of two groups of two episodes that use everything."""
    with tempfile.TemporaryDirectory() as folder:
        media = Media(folder)
        episodes = [probe(number, value, media) for number in range(2) for value in (1.0, 0.0)]
        return kept(name, episodes, media, bare=bare)


def table() -> str:
    """A row a kind of fact, a column a format; two of them also with the whole episode that they carry."""
    columns = {SHORT.get(row["name"], row["name"]): measured(row["name"]) for row in FORMATS}
    columns |= {f"{name} (whole)": measured(name, bare=False) for name in ("inspect", "atif")}
    lines = [["", *columns], ["---"] * (len(columns) + 1)]
    lines += [[kind, *(SIGNS[found[kind]] for found in columns.values())] for kind in FACTS]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def test_the_page_has_the_table_that_is_measured() -> None:
    found = BETWEEN.search(PAGE.read_text(encoding="utf-8"))
    assert found is not None
    assert found.group() == f"{found[1]}{table()}{found[2]}", "run python tests/record/formats/losses_test.py"


def test_the_probe_says_something_of_every_kind(tmp_path: Path) -> None:
    episode = probe(0, 1.0, Media(tmp_path))
    assert not [kind for kind, facts in FACTS.items() if not list(facts(episode))]


@pytest.mark.parametrize("name", ["inspect", "atif"])
def test_what_carries_the_whole_loses_nothing(name: str) -> None:
    assert set(measured(name, bare=False).values()) == {"kept"}


def test_what_the_formats_are_for_is_kept() -> None:
    """The least that each of them must do, whatever else it loses."""
    least = {"trl-grpo": ("sampled token ids", "prompt token ids", "log-probabilities", "worth"),
             "verifiers": ("sampled token ids", "prompt token ids", "log-probabilities", "several contexts", "texts"),
             "otel": ("texts", "token counts", "times", "sampling settings", "scores by name"),
             "openai": ("texts", "tool definitions", "ids of calls", "which replies are learned")}
    for name, kinds in least.items():
        found = measured(name)
        assert [kind for kind in kinds if found[kind] != "kept"] == [], name


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(BETWEEN.sub(lambda m: f"{m[1]}{table()}{m[2]}", text), encoding="utf-8")

"""TextArena's own loop plays to its end; the other peers have other environments, where ``make peers`` is."""

from __future__ import annotations

import json

import pytest

from benchmarks.overhead_peers import main


def test_textarena_plays_to_the_end_and_is_timed(capsys: pytest.CaptureFixture[str]) -> None:
    main("textarena", 4, 3)
    assert json.loads(capsys.readouterr().out)["us_per_turn"] > 0

"""The measured play itself: ours records all that it says, TextArena's loop plays the same number of turns."""

from __future__ import annotations

import json

import pytest

from benchmarks.overhead import ALWAYS, Tokened, main, peer
from polyturn.types import user


async def test_the_policy_has_tokens_as_a_model_has() -> None:
    completion = await Tokened().sample([user("a"), user("b")])
    assert completion.message.text == ALWAYS
    assert sum(len(piece.ids) for piece in completion.prompt) == 16
    assert completion.ids is not None and completion.logprobs is not None
    assert len(completion.ids) == len(completion.logprobs) == 10


def test_ours_is_measured_and_every_turn_is_on_record(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--json", "--episodes", "5", "--turns", "3", "--repeats", "1", "--alone"])
    told = json.loads(capsys.readouterr().out)
    assert told["limits"]["200 us a turn"] > 0
    assert told["details"].keys() == {"ours, tokens and text", "ours, text alone"}


def test_a_peer_runs_in_a_process_of_its_own_and_says_when_it_cannot() -> None:
    import sys

    assert 0 < peer(sys.executable, "textarena", 5, 3) < 1e5
    with pytest.raises(RuntimeError, match="no-such-peer failed"):
        peer(sys.executable, "no-such-peer", 5, 3)

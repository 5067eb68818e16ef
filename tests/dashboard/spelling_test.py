"""Ids as text: by the right tokenizer or not at all."""

from __future__ import annotations

import json
from pathlib import Path

from polyturn.dashboard.spelling import Speller
from tests.dashboard.made import ids, keep_tokenizer


def test_tokens_join_to_the_text(tmp_path: Path) -> None:
    known = keep_tokenizer(tmp_path)
    spelled = Speller(tmp_path).spell(ids("I", "say", "ten", "<end>"), known)
    assert spelled is not None and len(spelled) == 4 and "".join(spelled).split() == ["I", "say", "ten<end>"]


def test_a_character_of_several_ids_stands_at_the_last(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    from polyturn.dashboard.spelling import _hash

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    (tmp_path / "tokenizers").mkdir()
    path = tmp_path / "tokenizers" / "bytes.json"
    path.write_text(made.to_str())
    spelled = Speller(tmp_path).spell(made.encode("aé🙂b").ids, _hash(str(path), 0))
    assert spelled == ["a", "", "é", "", "", "", "🙂", "b"]


def test_another_tokenizer_spells_nothing(tmp_path: Path) -> None:
    keep_tokenizer(tmp_path)
    assert Speller(tmp_path).spell([1, 2], "0" * 64) is None
    assert Speller(tmp_path).spell([1, 2], "") is None


def test_the_hash_is_the_one_that_chats_give(tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    from polyturn.chat import Chat
    from tests.dashboard.made import tokenizer

    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer(), eos_token="<end>")
    fast.save_pretrained(tmp_path / "checkpoints" / "learn")
    saved = json.loads((tmp_path / "checkpoints" / "learn" / "tokenizer.json").read_text())
    assert saved["model"]["type"] == "WordLevel"
    assert Speller(tmp_path).spell([5, 6], Chat(fast).tokenizer_sha256) is not None

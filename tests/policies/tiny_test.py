"""The tiny model: its tokenizer, its seeds, its way through chat, sampler and learner."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from polyturn.chat import Chat
from polyturn.errors import BadInput
from polyturn.policies.local import Local
from polyturn.policies.tiny import learned_tokenizer, open_model, tiny_model
from polyturn.types import Call, Message, Sampling, Tool, assistant, system, user

TEXTS = ["Guess a number between 1 and 16.", "too low", "too high", "12"] * 3
TALK = [system("You play."), user("Guess a number between 1 and 16."), assistant("12"), user("too low")]


def test_words_of_the_task_are_one_id_and_anything_else_can_be_spelled() -> None:
    tokenizer = learned_tokenizer(TEXTS)
    assert len(tokenizer.encode(" between")) == 1
    for text in ("too high", "naïve ☃ <|im_end|>x", "\ttabs\r\n"):
        assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=False) == text
    assert tokenizer.get_vocab() == learned_tokenizer(TEXTS).get_vocab()


def test_no_texts_are_refused() -> None:
    with pytest.raises(BadInput, match="there are none"):
        learned_tokenizer(["", " "])


def test_the_template_shows_roles_tools_calls_and_results() -> None:
    chat = Chat(learned_tokenizer(TEXTS))
    assert not chat.warning and not chat.fallback and chat.grammar.name == "hermes"
    called = Message("assistant", calls=(Call("a1b2c3d4e", "look", {"at": "box"}),), origin="policy")
    ids = chat.spell(called, tools=(Tool("look"),))
    read = chat.parse(ids, tools=(Tool("look"),))
    assert [(call.name, call.arguments) for call in read.calls] == [("look", {"at": "box"})]
    shown = [*TALK[:2], called, Message("tool", "empty", call_id="a1b2c3d4e", origin="tool")]  # type: ignore[arg-type]
    assert chat.count(shown, (Tool("look"),)) > chat.count(TALK[:2])


def test_the_seed_alone_fixes_the_weights_and_leaves_the_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, again, other = (tiny_model(300, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.rand(1), expected)
    pairs = list(zip(first.parameters(), again.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs) and not all(torch.equal(a, c) for a, _, c in pairs)
    assert 200_000 < sum(p.numel() for p in first.parameters()) < 400_000


@pytest.mark.parametrize("lora", [None, 4])
async def test_it_plays_and_is_saved_as_any_model(tmp_path: Path, lora: int | None) -> None:
    policy = open_model("tiny", lambda: TEXTS, seed=3, lora=lora)
    try:
        assert policy.engine == "slots"
        drawn = await policy.sample(TALK, sampling=Sampling(max_tokens=4, seed=1))
        assert drawn.ids is not None and drawn.logprobs is not None and len(drawn.ids) == len(drawn.logprobs)
        path = np.concatenate([*(piece.ids for piece in drawn.prompt), drawn.ids]).astype(np.int32)
        scored = (await policy.logprobs([path]))[0][-len(drawn.ids):]
        np.testing.assert_allclose(scored, drawn.logprobs, atol=1e-4)
        if lora is None:
            policy.save(tmp_path / "model")
            again = Local.load(tmp_path / "model")
            np.testing.assert_allclose((await again.logprobs([path]))[0][1:], (await policy.logprobs([path]))[0][1:])
            again.close()
    finally:
        policy.close()


def test_other_names_are_folders(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no model folder"):
        open_model(str(tmp_path / "missing"), lambda: TEXTS)


@pytest.mark.parametrize(("changes", "deviation"), [({}, 0.1), ({"initializer_range": 0.02}, 0.02)])
def test_first_weights_are_as_wide_as_the_configuration_says(changes: dict[str, float], deviation: float) -> None:
    weight = tiny_model(300, 0, **changes).model.layers[0].self_attn.q_proj.weight
    assert float(weight.std().detach()) == pytest.approx(deviation, rel=0.05)

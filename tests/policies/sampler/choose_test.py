"""Which engine drives a model: named by an argument, by a variable, or the first that fits."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from polyturn.errors import BadInput
from polyturn.policies.local import Local
from polyturn.policies.sampler.choose import ENGINES, VARIABLE, EngineName, engine_of, name_engine
from polyturn.types import Sampling, user
from tests.policies.tiny import every_engine, tiny_folder, tiny_local, tiny_model


def test_an_argument_goes_before_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert engine_of() == ""
    monkeypatch.setenv(VARIABLE, "plain")
    assert (engine_of(), engine_of("slots")) == ("plain", "slots")
    with pytest.raises(BadInput, match="'slots' alone; got 'plain'"):
        engine_of(deterministic=True)
    with pytest.raises(BadInput, match="engine is 'vllm'; expected slots, continuous, plain"):
        name_engine("vllm")
    assert engine_of() == "plain"
    name_engine("continuous")
    policy = tiny_local()
    assert policy.engine == "continuous"
    policy.close()


@every_engine
async def test_a_folder_s_model_runs_as_it_was_asked_for(engine: EngineName, tmp_path: Path) -> None:
    policy = Local.load(tiny_folder(tmp_path / "tiny"), engine=engine)
    reply = await policy.sample((user("hi"),), sampling=Sampling(seed=2, max_tokens=5))
    assert (policy.engine, policy.engine_reason, reply.usage.completion_tokens) == (engine, "", 5)
    policy.close()


def test_the_first_engine_that_gives_the_model_s_own_numbers_is_taken(caplog: pytest.LogCaptureFixture) -> None:
    policy = tiny_local()
    assert (policy.engine, policy.engine_reason, caplog.text) == (ENGINES[0], "", "")
    policy.close()
    model = tiny_model()
    own = model.model.layers[0].self_attn.forward

    def off(*given: Any, **named: Any) -> Any:
        """Where an engine drives it, the first layer's attention is a tenth more than it should be."""
        out, weights = own(*given, **named)
        return (1.1 * out if "polyturn_rows" in named or named.get("cache") is not None else out), weights

    model.model.layers[0].self_attn.forward = off
    with caplog.at_level(logging.WARNING):
        policy = tiny_local(model)
    assert policy.engine == "plain"
    assert "not over slots: BadInput: its logits differ from the model's own forward by" in policy.engine_reason
    assert "not by continuous batching of transformers: BadInput: its logits differ" in policy.engine_reason
    assert "is sampled one request at a time, without shared caches: not over slots" in caplog.text
    policy.close()

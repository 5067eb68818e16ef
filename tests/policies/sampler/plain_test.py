"""The fallback for models without replaceable attention."""

from __future__ import annotations

import pytest
import torch

from polyturn.errors import BadInput
from polyturn.types import Sampling, user
from tests.policies.tiny import talks, tiny_local, worst_gap


async def test_a_model_that_cannot_be_driven_runs_plainly_and_says_so() -> None:
    from transformers import MambaConfig, MambaForCausalLM

    torch.manual_seed(0)
    model = MambaForCausalLM(MambaConfig(
        vocab_size=258, hidden_size=16, num_hidden_layers=2, state_size=4, eos_token_id=257, bos_token_id=256,
        pad_token_id=257, initializer_range=0.5,
    ))
    policy = tiny_local(model)
    assert policy.engine == "plain" and policy.engine_reason
    said = await talks(policy, range(3), 2, Sampling(max_tokens=6), at_once=3)
    assert worst_gap(model, said) < 1e-3
    choice = await policy.sample((user("move"),), sampling=Sampling(choices=("[1]", "[2]"), seed=0))
    assert choice.message.text in {"[1]", "[2]"}
    policy.close()
    with pytest.raises(BadInput, match="deterministically"):
        tiny_local(model, deterministic=True)

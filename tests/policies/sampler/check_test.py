"""What is said of an engine that does not give the model's own numbers, or does not come to an end."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from polyturn.errors import BadInput
from polyturn.policies.sampler.check import check
from polyturn.policies.sampler.plain import Plain
from polyturn.policies.sampler.request import Request
from tests.policies.tiny import tiny_model


class Off(Plain):
    """Adds to one logit of each row."""

    name = "off"
    by = 0.0

    def step(self, requests: Sequence[Request]) -> tuple[list[Request], torch.Tensor, list[Request]]:
        ready, logits, lost = super().step(requests)
        logits[:, 7] += self.by
        return ready, logits, lost


class Full(Plain):
    """Takes nothing on."""

    name = "full"

    def admit(self, request: Request) -> bool:
        return False


class Slow(Plain):
    """Never comes to the end of any ids."""

    name = "slow"

    def step(self, requests: Sequence[Request]) -> tuple[list[Request], torch.Tensor, list[Request]]:
        return [], torch.zeros(0, 258), []


@torch.inference_mode()
def test_a_difference_in_one_logit_is_seen() -> None:
    model = tiny_model().eval()
    off = Off(model)
    check(off, model, model)
    off.by = 0.5
    with pytest.raises(BadInput, match=r"its logits differ from the model's own forward by 0\.\d+ of the largest one"):
        check(off, model, model)
    off.by = float("nan")
    with pytest.raises(BadInput, match="by nan of the largest one"):
        check(off, model, model)


@torch.inference_mode()
def test_an_engine_that_does_not_come_to_an_end_is_named() -> None:
    model = tiny_model().eval()
    with pytest.raises(BadInput, match="the full engine had no room for its own check"):
        check(Full(model), model, model)
    with pytest.raises(BadInput, match="the slow engine did not come to the end of 8 ids in one forward"):
        check(Slow(model), model, model)

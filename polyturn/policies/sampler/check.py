"""What every engine passes before it is used: the numbers of the model's own forward on a path read in parts."""

from __future__ import annotations

import numpy as np
import torch
from transformers import PreTrainedModel

from polyturn.errors import BadInput
from polyturn.policies.sampler.engine import Stepper
from polyturn.policies.sampler.request import drawn_request
from polyturn.types import Sampling

LOOSE = {torch.float32: 1e-3, torch.bfloat16: 0.1}
"""Difference over one more than the largest logit; both models in float32, or one in bfloat16."""


def check(stepper: Stepper, model: PreTrainedModel, plain: PreTrainedModel) -> None:
    """Reads a path in three parts through ``stepper``, which drives ``model``, and compares with ``plain``'s forward.

    Raises: BadInput where they differ, or where a part is not taken on.
    """
    vocabulary = plain.get_input_embeddings().weight.shape[0]
    ids = np.random.default_rng(0).integers(0, vocabulary, 14).astype(np.int32)
    fed = torch.from_numpy(ids.astype(np.int64))[None].to(plain.device)
    expected = plain(input_ids=fed, use_cache=False).logits[0, -1].float().cpu()
    for end in (8, 13, 14):
        request = drawn_request(ids[:end], Sampling(), seed=0, limit=99, stop_ids=())
        if not stepper.admit(request):
            raise BadInput(f"the {stepper.name} engine had no room for its own check")
        ready, logits, _ = stepper.step([request])
        if ready != [request]:
            raise BadInput(f"the {stepper.name} engine did not come to the end of {end} ids in one forward")
        stepper.release(request)
    apart = float((logits[0] - expected).abs().max() / (1 + expected.abs().max()))
    if not apart <= max(LOOSE.get(each.dtype, 0.1) for each in (plain, model)):
        raise BadInput(f"its logits differ from the model's own forward by {apart:.2g} of the largest one")

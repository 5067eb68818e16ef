"""From logits to drawn ids, each with its log-probability under exactly the distribution it was drawn from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from polyturn.errors import PolicyFailed
from polyturn.policies.sampler.request import Request
from polyturn.types import FloatArray

Drawn: TypeAlias = tuple[int, float, tuple[int, ...]]
"""Id, log-probability, support (``()`` = the whole vocabulary)."""
BLOCK = 256
"""A draw first finds its block of the vocabulary, then its place in it."""


def draw(logits_RV: torch.Tensor, requests: Sequence[Request]) -> list[Drawn | PolicyFailed]:
    """One id per request from its row of ``logits_RV`` (float32; rows beyond the requests are padding).

    p = softmax(logits / temperature) over the support; the id is the first whose cumulated p exceeds the request's own
    uniform number. Temperature 0: the most likely id, with its log-probability at temperature 1. A row whose
    logits are not finite gives the error in place of the id.
    """
    heat = [request.sampling.temperature or 1.0 for request in requests]
    heat_R = torch.tensor(heat + [1.0] * (len(logits_RV) - len(heat)))
    scaled_RV = logits_RV if all(h == 1.0 for h in heat) else logits_RV / heat_R[:, None]
    highest_R, best_R = scaled_RV.max(-1)
    weight_RV = _in_blocks(torch.exp(scaled_RV - highest_R[:, None]))
    block_RJ = weight_RV.sum(-1).double().numpy()
    total_R = block_RJ.sum(-1)
    found: list[Drawn | PolicyFailed] = []
    for row, request in enumerate(requests):
        if not np.isfinite(total_R[row]):
            found.append(_not_finite(request))
            continue
        if not _whole(request, logits_RV.shape[1]):
            drawn = _draw_masked(scaled_RV[row], request)
        else:
            place = int(best_R[row])
            if request.sampling.temperature > 0:
                place = _place(block_RJ[row], weight_RV[row].numpy(), request.uniform())
            log_total = float(highest_R[row]) + math.log(total_R[row])
            drawn = (place, float(scaled_RV[row, place]) - log_total, ())
        found.append(drawn if math.isfinite(drawn[1]) else _not_finite(request))
    return found


def _in_blocks(weight_RV: torch.Tensor) -> torch.Tensor:
    """The same numbers as [R, blocks, BLOCK], zeros added at the end."""
    padding = -weight_RV.shape[1] % BLOCK
    if padding:
        weight_RV = torch.nn.functional.pad(weight_RV, (0, padding))
    return weight_RV.view(len(weight_RV), -1, BLOCK)


def _place(block_J: FloatArray, weight_JB: NDArray[np.float32], uniform: float) -> int:
    """The place whose share of the whole ``uniform`` falls into, found by block and then within it."""
    above = block_J.cumsum()
    target = uniform * above[-1]
    block = _first_above(above, target)
    before = above[block - 1] if block else 0.0
    return block * BLOCK + _first_above(weight_JB[block].cumsum(dtype=np.float64), target - before)


def _first_above(cumulated: FloatArray, target: float) -> int:
    """The first place whose cumulated weight exceeds ``target``; its own weight is never zero."""
    place = int(np.searchsorted(cumulated, target, side="right"))
    return min(place, int(np.searchsorted(cumulated, cumulated[-1])))


def _not_finite(request: Request) -> PolicyFailed:
    return PolicyFailed(
        f"the model gave logits that are not finite after {request.length} ids; its weights are broken (a learning "
        "rate that is too high?) or the dtype overflows: load earlier weights, or sample in float32"
    )


def _whole(request: Request, vocabulary: int) -> bool:
    sampling = request.sampling
    return request.trie is None and sampling.top_p >= 1 and not 0 < sampling.top_k < vocabulary


def _draw_masked(scaled_V: torch.Tensor, request: Request) -> Drawn:
    """A draw over the ids that the trie allows, cut to the ``top_k`` likeliest and to mass ``top_p``."""
    sampling = request.sampling
    allowed = torch.arange(len(scaled_V)) if request.trie is None else torch.tensor(sorted(request.trie))
    kept = _kept(scaled_V[allowed], sampling.top_k, sampling.top_p)
    allowed = allowed[kept]
    logprob = torch.log_softmax(scaled_V[allowed], -1)
    if sampling.temperature > 0:
        cumulated = logprob.double().exp().cumsum(-1).numpy()
        place = _first_above(cumulated, request.uniform() * cumulated[-1])
    else:
        place = int(logprob.argmax())
    return int(allowed[place]), float(logprob[place]), tuple(allowed.tolist())


def _kept(scaled_A: torch.Tensor, top_k: int, top_p: float) -> torch.Tensor:
    """The places that survive, in rising order: the ``top_k`` likeliest, of them the fewest with mass ``top_p``."""
    if not top_k and top_p >= 1:
        return torch.arange(len(scaled_A))
    value, place = scaled_A.sort(descending=True, stable=True)
    if top_k:
        value, place = value[:top_k], place[:top_k]
    p = torch.softmax(value, -1)
    before = p.cumsum(-1) - p
    return place[before < top_p].sort().values

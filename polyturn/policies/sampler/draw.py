"""From logits to drawn ids, each with its log-probability under exactly the distribution it was drawn from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import torch

from polyturn.errors import PolicyFailed
from polyturn.policies.sampler.request import Request

Drawn: TypeAlias = tuple[int, float, tuple[int, ...]]
"""Id, log-probability, support (``()`` = the whole vocabulary)."""


def draw(logits_RV: torch.Tensor, requests: Sequence[Request]) -> list[Drawn | PolicyFailed]:
    """One id per request from its row of ``logits_RV`` (float32; rows beyond the requests are padding).

    p = softmax(logits / temperature) over the support; the id is the first whose cumulated p exceeds the request's own
    uniform number. Temperature 0: the most likely id, with its log-probability at temperature 1. A row whose
    logits are not finite gives the error in place of the id.
    """
    heat = torch.ones(len(logits_RV), 1)
    for row, request in enumerate(requests):
        heat[row] = request.sampling.temperature or 1.0
    scaled_RV = logits_RV / heat
    total_R = torch.logsumexp(scaled_RV, -1)
    finite = [math.isfinite(total) for total in total_R[: len(requests)].tolist()]
    whole = [row for row, request in enumerate(requests) if finite[row] and _whole(request, logits_RV.shape[1])]
    drawn = _draw_whole(scaled_RV, total_R, requests, whole) if whole else {}
    found: list[Drawn | PolicyFailed] = []
    for row, request in enumerate(requests):
        if finite[row] and row not in drawn:
            drawn[row] = _draw_masked(scaled_RV[row], request)
        found.append(drawn[row] if row in drawn and math.isfinite(drawn[row][1]) else _not_finite(request))
    return found


def _not_finite(request: Request) -> PolicyFailed:
    return PolicyFailed(
        f"the model gave logits that are not finite after {request.length} ids; its weights are broken (a learning "
        "rate that is too high?) or the dtype overflows: load earlier weights, or sample in float32"
    )


def _whole(request: Request, vocabulary: int) -> bool:
    sampling = request.sampling
    return request.trie is None and sampling.top_p >= 1 and not 0 < sampling.top_k < vocabulary


def _draw_whole(
    scaled_RV: torch.Tensor, total_R: torch.Tensor, requests: Sequence[Request], rows: Sequence[int]
) -> dict[int, Drawn]:
    """Draws of the rows without a mask; all rows are computed at once, whichever are asked for."""
    best_R = scaled_RV.argmax(-1).tolist()
    sampled = [row for row in rows if requests[row].sampling.temperature > 0]
    place_R = list(best_R)
    if sampled:
        cumulated_RV = torch.exp(scaled_RV - total_R[:, None]).cumsum(-1, dtype=torch.float64)
        for row in sampled:
            place_R[row] = _first_above(cumulated_RV[row], requests[row].uniform())
    place = torch.tensor([place_R[row] for row in rows])
    index = torch.tensor(rows)
    logprob = (scaled_RV[index, place] - total_R[index]).tolist()
    return {row: (place_R[row], value, ()) for row, value in zip(rows, logprob, strict=True)}


def _first_above(cumulated_V: torch.Tensor, uniform: float) -> int:
    """The first place whose cumulated probability exceeds ``uniform`` of the whole; its own is never zero."""
    whole = cumulated_V[-1]
    place = int(torch.searchsorted(cumulated_V, whole * uniform, right=True))
    return min(place, int(torch.searchsorted(cumulated_V, whole)))


def _draw_masked(scaled_V: torch.Tensor, request: Request) -> Drawn:
    """A draw over the ids that the trie allows, cut to the ``top_k`` likeliest and to mass ``top_p``."""
    sampling = request.sampling
    allowed = torch.arange(len(scaled_V)) if request.trie is None else torch.tensor(sorted(request.trie))
    kept = _kept(scaled_V[allowed], sampling.top_k, sampling.top_p)
    allowed = allowed[kept]
    logprob = torch.log_softmax(scaled_V[allowed], -1)
    if sampling.temperature > 0:
        place = _first_above(logprob.exp().cumsum(-1, dtype=torch.float64), request.uniform())
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

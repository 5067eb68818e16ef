"""What every model can do: its own forward and cache, one call at a time; the last resort."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from polyturn.policies.sampler.request import Request


class Plain:
    """Feeds each request by itself. Its cache is the model's own and lasts for the request; nothing is shared or
    continued over turns, so it is slow and always right. Where the model keeps no cache, all ids are read again."""

    name = "plain"
    width = 64

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        known = inspect.signature(model.forward).parameters
        self._keeps_cache = "past_key_values" in known
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in known else {}

    def admit(self, request: Request) -> bool:
        """There is room for every request."""
        request.own_cache, request.fed, request.cached = None, 0, 0
        return True

    def release(self, request: Request, broken: bool = False) -> None:
        """Drops the request's cache."""
        request.own_cache = None

    def drop(self) -> None:
        """Nothing is kept between requests."""

    def close(self) -> None:
        """Nothing is held."""

    def step(self, requests: Sequence[Request]) -> tuple[list[Request], torch.Tensor, list[Request]]:
        """One forward per request; see :meth:`polyturn.policies.sampler.driven.Driven.step`."""
        ready, rows = [], []
        for request in requests:
            logits = self._forward(request)
            if request.score is not None:
                request.score(request.first, logits[request.first :])
            else:
                ready.append(request)
                rows.append(logits[-1])
        empty = torch.zeros(0, self.model.get_input_embeddings().weight.shape[0])
        return ready, torch.stack(rows) if rows else empty, []

    def _forward(self, request: Request) -> torch.Tensor:
        if request.own_cache is None:
            request.fed = 0
        while True:  # forced ids go in one by one: some caches take a single new id only
            end = request.fed + 1 if request.fed else request.length
            ids = torch.from_numpy(request.path[request.fed : end].astype(np.int64))[None]
            keep: dict[str, Any] = {} if request.score is not None else dict(self._last_only)
            if self._keeps_cache:
                keep |= {"past_key_values": request.own_cache, "use_cache": True}
            out = self.model(input_ids=ids.to(self.model.device), **keep)
            request.own_cache = getattr(out, "past_key_values", None)
            request.fed = end
            if end == request.length:
                return torch.as_tensor(out.logits)[0].float().cpu()

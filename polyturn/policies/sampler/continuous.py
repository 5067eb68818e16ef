"""Continuous batching of transformers under our queue and our draws: its pages, its scheduler, its attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel
from transformers.generation.configuration_utils import ContinuousBatchingConfig
from transformers.generation.continuous_batching.cache_allocators import FullAttentionCacheAllocator
from transformers.generation.continuous_batching.model_runner import infer_max_single_request_tokens
from transformers.generation.continuous_batching.requests import FutureRequestState, RequestState, RequestStatus
from transformers.generation.continuous_batching.utils import find_head_dim, find_num_key_value_heads

from polyturn.errors import BadInput, PolicyFailed
from polyturn.policies.sampler.plain import Plain
from polyturn.policies.sampler.request import Request

PAGE = 32
"""Ids of a page. Beginnings are shared by whole pages."""
ROWS = {"cpu": 256, "cuda": 4096}
"""New ids in one forward at most. Without a flash kernel every row is compared with the keys of all requests, so more
of them are not faster on a processor."""
WIDTH = {"cpu": 64, "cuda": 256}
"""Requests at work at most."""
ATTENTION = ("sdpa", "flash_attention_2", "flash_attention_3")
"""Attention of the model itself that reads pages; others of transformers leave out what a model asks for."""


def captured(model: PreTrainedModel) -> bool:
    """Whether forwards are replayed from CUDA graphs: in bfloat16 twice as fast as without, in float32 a fifth slower,
    for a graph reads at least 16,384 keys (measured on an H200, docs/performance.md)."""
    return bool(model.device.type == "cuda" and model.dtype == torch.bfloat16)


class Continuous:
    """Feeds requests by way of transformers' scheduler and paged cache; the ids are drawn by us, as in every engine.

    Drives windows too, which slots do not; there nothing is shared between requests. ``cache_bytes`` are for pages and
    the mask. Paths that are only scored, and those that the pages cannot hold, go through :class:`Plain`.
    Raises: BadInput or what transformers says for a model that it cannot drive.
    """

    name = "continuous"

    def __init__(self, model: PreTrainedModel, *, cache_bytes: int) -> None:
        attention = model.config._attn_implementation
        if attention not in ATTENTION:
            raise BadInput(f"its attention is {attention!r}; pages are read by {', '.join(ATTENTION)}")
        kind = model.device.type
        self.model = model
        self.width = WIDTH.get(kind, WIDTH["cpu"])
        self._plain = Plain(model)
        self._kept = _Kept(model, self.width)
        self._paged: dict[str, Request] = {}
        self._alone: set[int] = set()
        self._count = 0
        rows = ROWS.get(kind, ROWS["cpu"])
        config = ContinuousBatchingConfig(
            page_size=PAGE, num_blocks=self._pages(cache_bytes, rows), max_batch_tokens=rows, seed=0,
            max_requests_per_batch=self.width, max_blocks_per_request=0, use_cuda_graph=(captured(model), False),
            use_async_batching=False, auto_switch_to_flash=False,
        )
        with torch.random.fork_rng(devices=[model.device] if kind == "cuda" else []):  # it seeds the whole process
            manager = model.init_continuous_batching(GenerationConfig(eos_token_id=-1), config)
            self._processor: Any = manager._create_batch_processor()
        self.capacity = infer_max_single_request_tokens(self._processor.cache)
        """Ids of the longest path that the pages hold."""

    def _pages(self, cache_bytes: int, rows: int) -> int:
        """As many as the bytes hold with their columns of the mask, which has a row for each new id; no more than all
        requests at work can fill, for the mask is written whole where the weights change."""
        text, dtype = self.model.config.get_text_config(), self.model.dtype
        layer = FullAttentionCacheAllocator.get_bytes_per_page(
            find_num_key_value_heads(text), find_head_dim(text), dtype, PAGE)
        most = self.width * int(getattr(text, "max_position_embeddings", 0) or 2**20) // PAGE
        return int(max(1, min(most, cache_bytes // (text.num_hidden_layers * layer + rows * PAGE * dtype.itemsize))))

    # -------------------------------------------------------- whose turn is it

    def admit(self, request: Request) -> bool:
        """Takes the request on with the pages of its beginning that are there; False while pages are short."""
        if request.score is not None or len(request.path) > self.capacity or request.order in self._alone:
            return self._plain.admit(request)
        scheduler = self._processor.scheduler
        if scheduler.block_new_requests and self._paged:
            return False
        self._count += 1
        request.slot = self._count
        state = RequestState(request_id=str(self._count), initial_tokens=request.path[: request.length].tolist())
        request.fed = self._processor.cache.search_prefix_match(state.request_id, state.initial_tokens)
        _prefill(state, state.initial_tokens[request.fed :])
        state.position_offset = request.fed
        scheduler.active_requests[state.request_id] = state
        self._paged[state.request_id] = request
        if request.cached < 0:
            request.cached = min(request.fed, request.prompt)
        return True

    def release(self, request: Request, broken: bool = False) -> None:
        """Ends the request's work; its whole pages stay for who continues the path, unless it is broken."""
        self._alone.discard(request.order)
        if request.slot < 0:
            return self._plain.release(request, broken)
        if broken:
            self._processor.cache.free_blocks(str(request.slot), no_cache=True)
        self._leave(request)
        self._processor.scheduler.block_new_requests = False

    def _leave(self, request: Request) -> Request:
        key = str(request.slot)
        del self._paged[key]
        self._processor.scheduler.set_request_cancellation(key)
        self._processor.scheduler.clear_cancelled_requests()
        request.slot, request.fed = -1, 0
        return request

    def drop(self) -> None:
        """Forgets all pages, for the weights changed."""
        self._paged.clear()
        self._alone.clear()
        self._processor.reset()
        self._processor.cache.reset()

    def close(self) -> None:
        """Gives pages and graphs back. (Their owner fails where it ends with the program.)"""
        del self._processor

    # -------------------------------------------------------- a forward

    def step(self, requests: Sequence[Request]) -> tuple[list[Request], torch.Tensor, list[Request]]:
        """One forward over pages and one for each plain request; see
        :meth:`polyturn.policies.sampler.driven.Driven.step`."""
        ready, logits, _ = self._plain.step([request for request in requests if request.slot < 0])
        if not self._paged:
            return ready, logits, []
        for key, known in self._paged.items():
            self._tell_drawn(self._processor.scheduler.active_requests[key], known)
        if not self._processor.prepare_next_batch():
            raise PolicyFailed(f"the scheduler of transformers took none of {len(self._paged)} requests")
        found = self._forward()
        batches = self._processor.inputs_and_outputs.requests_in_batch
        ended = [request for batch in batches if (request := self._advance(batch)) is not None]
        finite = torch.isfinite(found[: len(ended)]).all(-1).tolist()
        if not all(finite):
            return ready, logits, self._start_over([r.order for r, fine in zip(ended, finite, strict=True) if not fine])
        lost = [self._leave(self._paged[key]) for key in list(self._processor.scheduler.waiting_requests)]
        return ready + ended, torch.cat([logits, found]) if ready else found, lost

    def _start_over(self, broken: Sequence[int]) -> list[Request]:
        """Numbers that are not finite reach every request of a forward, for the keys of all are in one product. All
        begin again, and those that showed some each alone, so that the one they come from fails and no other."""
        lost = [self._leave(request) for request in list(self._paged.values())]
        alone = self._alone | set(broken)
        self.drop()
        self._alone = alone
        return lost

    def _tell_drawn(self, state: RequestState, request: Request) -> None:
        """Gives the scheduler the ids that were added since the last forward."""
        known = len(state.initial_tokens) + len(state.generated_tokens)
        fresh = request.path[known : request.length].tolist()
        state.generated_tokens += fresh
        if len(fresh) == 1:
            state.tokens_to_process = fresh
        elif fresh:  # some of them had no alternative; the scheduler reads more than one as a prompt
            _prefill(state, fresh)

    def _forward(self) -> torch.Tensor:
        """The logits of the last ids, in float32; rows may follow."""
        self._processor._generation_step(self._kept)
        return self._kept.rows_RV[: len(self._processor.inputs_and_outputs.requests_in_batch)].float().cpu()

    def _advance(self, batch: FutureRequestState) -> Request | None:
        """Notes what was read of a request; returns it where its ids have come to their end."""
        state = batch.state
        self._processor.cache.mark_complete_blocks(state, batch.complete_blocks)
        request = self._paged[state.request_id]
        request.fed = state.position_offset
        return request if batch.has_new_token else None


class _Kept:
    """The model as the runner of transformers calls it: it keeps the logits that we draw from. They are copied to where
    they stay, so that a graph that the runner has captured writes them there too."""

    def __init__(self, model: PreTrainedModel, width: int) -> None:
        self._model = model
        vocabulary = model.get_input_embeddings().weight.shape[0]
        self.rows_RV = torch.zeros(width, vocabulary, dtype=model.dtype, device=model.device)

    def _supports_logits_to_keep(self) -> bool:
        return bool(self._model._supports_logits_to_keep())

    def __call__(self, **given: Any) -> Any:
        out = self._model(**given)
        found = out.logits[0] if "logits_to_keep" in given else out.logits[0, given["logits_indices"]]
        self.rows_RV[: len(found)] = found
        return out


def _prefill(state: RequestState, ids: list[int]) -> None:
    state.status = RequestStatus.PREFILLING
    state.remaining_prefill_tokens = ids

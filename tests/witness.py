"""What a sampling model really saw: every id it was fed, and for each of them the ids it attended over.

The ids come from a forward hook at the embedding layer. What they attended over is read from the cache tensors that the
first layer's attention kernel is handed: a key and value there are a function of one id and its position, so each is
known again by its bits, through caches that were continued, forked, moved or padded. The ledger is not asked.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from transformers.modeling_utils import AttentionInterface

from polyturn.policies.local import Local
from polyturn.policies.sampler import attention as kernel
from polyturn.types import Episode, IntArray, Trajectory, Turn

Place = tuple[int, int]
"""An id and its position."""
_AT_WORK: dict[int, Witness] = {}
"""Thread -> whose first layer attends there now."""


class Witness:
    """Watches the model that a float32 :class:`Local` samples with; ``contexts`` = every id with all it attended over,
    as bytes of int32 (the id itself stands last)."""

    def __init__(self, policy: Local, patch: pytest.MonkeyPatch) -> None:
        self.fed = 0
        self.contexts: set[bytes] = set()
        self.errors: list[str] = []
        self._ids: list[int] = []
        self._positions: list[int] = []
        self._known: dict[bytes, Place] = {}
        self._asking: dict[bytes, Place] = {}
        self._answered = 0
        model: Any = policy.sampling_model
        model.get_input_embeddings().register_forward_hook(self._embedded)
        model.register_forward_pre_hook(self._called, with_kwargs=True)
        name = f"witnessed_{id(self)}"
        AttentionInterface.register(name, self._attention)
        model.config._attn_implementation = name
        patch.setattr(kernel, "scaled_dot_product_attention", _watched)
        patch.setattr(kernel, "_attend_run", _watched_run)

    def check(self) -> None:
        """Raises what was wrong: the engine's thread cannot."""
        assert not self.errors, self.errors[:3]
        assert self.fed > 0

    # ------------------------------------------------------------ hooks

    def _called(self, module: Any, args: Any, named: dict[str, Any]) -> None:
        self._positions = named["position_ids"][0].tolist()

    def _embedded(self, module: Any, args: tuple[torch.Tensor], out: torch.Tensor) -> None:
        self._ids = args[0][0].tolist()

    def _attention(
        self, module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **named: Any
    ) -> Any:
        if module.layer_idx != 0:
            return kernel.attention(module, query, key, value, mask, **named)
        count = named["polyturn_rows"].count
        self._asking, self._answered = {}, 0
        for row in range(count):
            place = (self._ids[row], self._positions[row])
            cached = _bits(key[0, :, row], value[0, :, row])
            if self._known.setdefault(cached, place) != place:
                self.errors.append(f"{place} and {self._known[cached]} cannot be told apart")
            self._asking[_bits(query[0, :, row])] = place
        _AT_WORK[threading.get_ident()] = self
        try:
            return kernel.attention(module, query, key, value, mask, **named)
        finally:
            del _AT_WORK[threading.get_ident()]
            self.fed += count
            if self._answered != count:
                self.errors.append(f"{count} ids were fed, {self._answered} were seen to attend")

    def see(self, asking: bytes, seen: Sequence[Place | None]) -> None:
        """Notes one query and the (id, position) of each key that it attends over, in order."""
        self._answered += 1
        places = [place for place in seen if place is not None]
        if len(places) < len(seen) or [at for _, at in places] != list(range(len(places))):
            self.errors.append(f"a key is unknown or out of its position: {list(seen)[-5:]}")
        elif places[-1] != self._asking.get(asking):
            self.errors.append(f"{self._asking.get(asking)} asked, its own place holds {places[-1]}")
        self.contexts.add(np.array([token for token, _ in places], np.int32).tobytes())

    def places(self, keys: torch.Tensor, values: torch.Tensor) -> list[Place | None]:
        """What the cached rows [heads, keys, size] were computed from."""
        both = torch.cat([keys.transpose(0, 1).flatten(1), values.transpose(0, 1).flatten(1)], 1).numpy()
        return [self._known.get(row.tobytes()) for row in both]


def _watched(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attn_mask: torch.Tensor | None = None,
    is_causal: bool = False, **named: Any,
) -> torch.Tensor:
    """The kernel, with its queries [calls, heads, queries, size] told to the witness, if one is at work here."""
    witness = _AT_WORK.get(threading.get_ident())
    if witness is not None and named.get("enable_gqa"):  # new ids of some paths: a query each
        count, keys = query.shape[2], key.shape[2]
        causal = torch.ones(1, 1, count, keys, dtype=torch.bool).tril_()
        visible = causal if attn_mask is None else attn_mask == 0
        for call in range(query.shape[0]):
            places = witness.places(key[call], value[call])
            for number in range(count):
                shown = visible[call, 0, number].tolist()
                seen = [place for place, is_shown in zip(places, shown, strict=True) if is_shown]
                witness.see(_bits(query[call, :, number]), seen)
    elif witness is not None:  # one new id of each of some paths
        for call in range(query.shape[0]):
            if query[call].any():  # slots between those that are asked for are asked with zeros
                shown = slice(None) if attn_mask is None else attn_mask[call, 0, 0] == 0
                places = witness.places(key[call][:, shown], value[call][:, shown])
                witness.see(_bits(query[call].flatten(0, 1)), places)
    return torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=attn_mask, is_causal=is_causal, **named
    )


_ATTEND_RUN = kernel._attend_run


def _watched_run(
    run: kernel.Run, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float | None
) -> torch.Tensor:
    """A run over several slots, whose products read views of the caches and no kernel; one slot goes by the kernel."""
    witness = _AT_WORK.get(threading.get_ident())
    if witness is not None and run.high - run.low > 1:
        begin = 0 if run.shared is None else run.shared.length
        for number in range(run.count):
            at = number if run.place is None else int(run.place[number])
            shown = torch.ones(run.longest - begin, dtype=torch.bool) if run.mask is None else run.mask[at] == 0
            own = [held[run.low + at, :, begin : run.longest][:, shown] for held in (keys, values)]
            if run.shared is not None:
                widest = len(run.shared.from_FM) // len(run.shared.first)
                first = int(run.shared.first[int(run.shared.at_W[at]) // widest])
                own = [torch.cat([held[first, :, :begin], part], 1)
                       for held, part in zip((keys, values), own, strict=True)]
            witness.see(_bits(query[0, :, run.row + number]), witness.places(own[0], own[1]))
    return _ATTEND_RUN(run, query, keys, values, scaling)


def _bits(*rows: torch.Tensor) -> bytes:
    return b"".join(np.ascontiguousarray(row.numpy()).tobytes() for row in rows)


# ---------------------------------------------------------------- what the ledger says


def stored(trajectory: Trajectory, turn: Turn) -> tuple[IntArray, int]:
    """The ids on the path of a turn's last span, and how many of them are its own."""
    path = np.concatenate([trajectory.spans[index].ids for index in trajectory.path(turn.spans[-1])])
    return path.astype(np.int32), sum(len(trajectory.spans[index].ids) for index in turn.spans)


def check_saw_what_is_stored(witness: Witness, episodes: Iterable[Episode], policy: str = "main") -> int:
    """Both ways: before each drawn id the model attended over exactly the stored path up to it, and it was fed nothing
    that is on no stored path. Ids that a mask forced are no draws. Returns the number of draws."""
    witness.check()
    draws = 0
    stored_contexts: set[bytes] = set()
    for trajectory in (t for episode in episodes for t in episode.trajectories if t.policy == policy):
        for turn in trajectory.turns:
            path, own = stored(trajectory, turn)
            (span,) = (trajectory.spans[index] for index in turn.spans)
            assert span.sampled and span.logprobs is not None and len(span.logprobs) == own
            stored_contexts.update(path[:end].tobytes() for end in range(1, len(path) + 1))
            for place in range(own):
                if span.support is None or len(span.support[place]) != 1:
                    context = path[: len(path) - own + place]
                    assert context.tobytes() in witness.contexts, (turn.at, place, context[-8:])
                    draws += 1
    assert draws > 0
    assert witness.contexts <= stored_contexts, f"{len(witness.contexts - stored_contexts)} contexts are on no path"
    return draws

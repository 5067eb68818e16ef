"""The driver of a learner over several processes: cuts batches, hands out parts, evaluates the loss, steps.

The loss, its memory, the episodes and what an error says of them stay in this process. The other ranks get token ids
and places of a tree and answer with log-probabilities; they are given the loss's derivative by each of these, ``g_N``,
and add the gradient of ``sum(g_N * logprob_N)``, which is the loss's. So a batch's normalisation is that of the whole
batch, whoever computes its parts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from polyturn.arrays import Measured, Tokens, Tree
from polyturn.errors import BadInput, LearnerFailed, NotFinite
from polyturn.forest.layout import Pass
from polyturn.forest.model import Forest
from polyturn.learn.gradient import (
    Batch,
    Tally,
    before,
    evaluate,
    make_batch,
    new_tally,
    reading_of,
    unit_numbers,
)
from polyturn.learn.learner import chosen, copy_into, refuse_broken, spread, told
from polyturn.learn.learns import Published
from polyturn.learn.memory import FreedMemory, keep_freed_memory
from polyturn.learn.ranks.group import Ranks, tensors_of
from polyturn.learn.ranks.part import Part, part_of
from polyturn.learn.ranks.plan import rounds, shares
from polyturn.learn.ranks.shard import Shard
from polyturn.losses.learned import Loss, Metrics, unit_of
from polyturn.paths import merged
from polyturn.policies.skeleton import built, described
from polyturn.types import FloatArray, IntArray
from polyturn.waits import waited

Found = dict[str, NDArray[Any]]


class RankedLearner:
    """A :class:`polyturn.learn.learner.Learner` over the processes of ``ranks``, with the same arguments and results.

    ``model`` stays whole in this process and plays; after each update it has the new weights. What learns are shards of
    a second copy, so it must be a model that its configuration describes. ``heads`` are names only. A state is that of
    a learner in one process, and either takes over the other's. The ranks hold one learner: another one made over them
    takes its place. Metrics also tell ``learner/ranks``.
    """

    def __init__(
        self, ranks: Ranks, model: nn.Module, *, lr: float, weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.95), max_grad_norm: float = 1.0, tokens_per_pass: int = 1024,
        trainable: str | None = None, reference: Literal["initial"] | None = None, heads: Sequence[str] = (),
        dtype: str | None = None, recompute: bool = False, clock: Callable[[], float] = time.perf_counter,
    ) -> None:  # fmt: skip
        if tokens_per_pass < 1:
            raise BadInput(f"tokens_per_pass is {tokens_per_pass}; expected at least 1")
        if isinstance(heads, Mapping) or reference not in (None, "initial"):
            raise BadInput("on several ranks heads are names of linear heads, and a reference is 'initial' or None: "
                           "the other processes build them anew")
        self.ranks, self.model, self.version = ranks, model, 0
        self.last: Measured | None = None
        self.lr, self.max_grad_norm, self.tokens_per_pass, self.clock = lr, max_grad_norm, tokens_per_pass, clock
        self.forest = Forest(model, dtype=dtype, recompute=recompute)
        self.heads = tuple(heads)
        learning = chosen(model, trainable)
        self._playing: dict[str, Tensor] = dict(learning)
        self._freed = FreedMemory()
        spec: dict[str, Any] = {
            "model": described(model), "heads": list(heads), "reference": reference == "initial",
            "verdict": [self.forest.exact, self.forest.reason], "dtype": dtype, "recompute": recompute,
            "betas": list(betas), "weight_decay": weight_decay,
        }  # fmt: skip
        built(spec["model"])  # what cannot be built is refused before the others are told
        keep_freed_memory()
        with ranks.order("the learner"):
            ranks.tell({"do": "build", "told": spec})
            self.shard = Shard(spec, ranks.joined.mesh, ranks.joined.device, model)
            ranks.answers()
        ranks.built = self

    def _check(self) -> None:
        if self.ranks.built is not self:
            raise BadInput("another learner was made over these ranks since; make this one anew")

    def reset_optimizer(self) -> None:
        """Forgets the optimizer's moments."""
        self._check()
        with self.ranks.order("an order"):
            self.ranks.tell({"do": "reset"})
            self.shard.reset_optimizer()

    # ------------------------------------------------------------ passes on all ranks

    def _together(self, do: str, parts: Sequence[Part], *, reference: bool = False) -> list[Found]:
        """What the ranks answer to one part each; those without one are idle. The first part is this process's."""
        arrays = {rank: part.arrays() for rank, part in enumerate(parts)}
        with self.ranks.order("a pass"):
            self.ranks.tell({"do": do, "reference": reference}, arrays)
            found = self.shard.learn(parts[0]) if do == "learn" else self.shard.read(parts[0], reference=reference)
            mine = {name: value.cpu().numpy() for name, value in found.items()}
            return [mine, *(answer for _, answer in self.ranks.answers())][: len(parts)]

    def _over(
        self, tree: Tree, node_R: IntArray, part: Callable[[IntArray], Part], *, reference: bool = False,
    ) -> Iterator[tuple[IntArray, Found]]:
        """(reads, what was read) over all reads of a tree, round by round; ``part`` makes the part of some reads."""
        passes = shares(tree, node_R, self.tokens_per_pass, self.ranks.size)
        for each in rounds(passes, self.ranks.size):
            answers = self._together("read", [part(one.index_R) for one in each], reference=reference)
            yield from ((one.index_R, found) for one, found in zip(each, answers, strict=True))

    # ------------------------------------------------------------ reading

    @waited("the loop", "the learner", "a measurement")
    def measure(self, tokens: Tokens) -> Measured:
        """As :meth:`polyturn.learn.learner.Learner.measure`."""
        self._check()
        ends = np.flatnonzero(tokens.end_B >= 0) if self.heads else np.zeros(0, np.int64)
        count, node_R = len(tokens), np.concatenate([before(tokens), tokens.end_B[ends]]).astype(np.int32)
        column = {name: np.full(count, np.nan) for name in ("old_N", "entropy_N", *self.heads)}
        end = {name: np.full(len(tokens.trajectories), np.nan) for name in self.heads}

        def part(index_R: IntArray) -> Part:
            return part_of(tokens, index_R[index_R < count], node_R[index_R[index_R >= count]])

        for index_R, found in self._over(tokens.tree, node_R, part):
            index_N, rows = index_R[index_R < count], index_R[index_R >= count] - count
            column["old_N"][index_N], column["entropy_N"][index_N] = found["logprob_N"], found["entropy_N"]
            for name in self.heads:
                column[name][index_N] = found[name][: len(index_N)]
                end[name][ends[rows]] = found[name][len(index_N) :]
        if self.shard.reference is not None:
            column["reference_N"] = self._reference_N(tokens)
        refuse_broken(tokens, column)
        return Measured(
            column["old_N"], column.get("reference_N"), column["entropy_N"], {n: column[n] for n in self.heads}, end
        )

    def _reference_N(self, tokens: Tokens) -> FloatArray:
        found_N = np.full(len(tokens), np.nan)
        for index_N, found in self._over(tokens.tree, before(tokens), lambda index: part_of(tokens, index),
                                         reference=True):  # fmt: skip
            found_N[index_N] = found["logprob_N"]
        return found_N

    def values(self, tokens: Tokens, *, reference: bool = False) -> dict[str, FloatArray]:
        """As :meth:`polyturn.learn.learner.Learner.values`."""
        self._check()
        if not self.heads or (reference and self.shard.reference is None):
            raise BadInput("there are no heads to read; pass heads=, and reference='initial' for those of a reference")
        node_N, none = before(tokens), np.zeros(0, np.int32)
        column = {name: np.full(len(tokens), np.nan) for name in self.heads}
        for index_N, found in self._over(
            tokens.tree, node_N, lambda index: part_of(tokens, none, node_N[index]), reference=reference
        ):
            for name in self.heads:
                column[name][index_N] = found[name]
        refuse_broken(tokens, column)
        return column

    def score(self, paths: Sequence[IntArray]) -> list[FloatArray]:
        """As :meth:`polyturn.learn.learner.Learner.score`."""
        self._check()
        tree, nodes = merged(paths)
        node_N = np.array([n for path in nodes for n in path[1:]], np.int32)
        found_N, before_N = np.zeros(len(node_N)), tree.parent_U[node_N]

        def part(index: IntArray) -> Part:
            return Part(tree, before_N[index], tree.id_U[node_N[index]], np.ones(len(index)))

        for index_N, found in self._over(tree, before_N, part):
            found_N[index_N] = found["logprob_N"]
        cuts = np.cumsum([max(len(path) - 1, 0) for path in nodes])[:-1]
        return [
            np.concatenate([[np.nan], part]) if len(path) else np.zeros(0)
            for path, part in zip(nodes, np.split(found_N, cuts), strict=True)
        ]

    # ------------------------------------------------------------ learning

    @waited("the loop", "the learner", "an update")
    def update(
        self, tokens: Tokens, measured: Measured | None, advantage_N: FloatArray, weight_N: FloatArray, loss: Loss, *,
        target_N: FloatArray | None = None, targets: Mapping[str, FloatArray] | None = None,
    ) -> Metrics:
        """As :meth:`polyturn.learn.learner.Learner.update`. Raises also: LearnerFailed where a rank is lost; the ranks
        have ended then, and ``model`` has the weights of the last update that was whole."""
        self._check()
        started = self.clock()
        columns = {"advantage_N": advantage_N, "weight_N": weight_N, "target_N": target_N}
        batch = make_batch(tokens, measured, columns, self.forest.head.weight, targets)  # type: ignore[arg-type]
        count = len(batch.tokens)
        self._freed.give_back()
        if measured is None and self.shard.reference is not None:
            like = batch.columns["weight_N"]
            batch.columns["reference_N"] = torch.as_tensor(
                self._reference_N(batch.tokens), dtype=like.dtype, device=like.device)
        tally, used = self._accumulate(batch, loss)
        norm = self._step(used) if count else 0.0
        if count:
            self._take_weights()
        self._freed.give_back()
        self.last = spread(tally, batch, len(tokens))
        more = {"grad_norm": norm, "lr": self.lr, "seconds": self.clock() - started, "ranks": self.ranks.size}
        return told(tally, count, more)

    def _accumulate(self, batch: Batch, loss: Loss) -> tuple[Tally, set[str]]:
        """As :func:`polyturn.learn.gradient.accumulate`, by all ranks; and what the loss depended on."""
        tally, node_N, size = new_tally(len(batch.tokens)), before(batch.tokens), self.ranks.size
        used: set[str] = set()
        passes = shares(batch.tokens.tree, node_N, self.tokens_per_pass, size,
                        unit_numbers(batch.tokens, unit_of(loss)))  # fmt: skip
        parts = {id(one): shares(batch.tokens.tree, node_N[one.index_R], self.tokens_per_pass, size)
                 for one in passes if one.nodes > self.tokens_per_pass}
        cut = [one for one in passes if len(parts.get(id(one), ())) > 1]
        rest = [one for one in passes if len(parts.get(id(one), ())) < 2]
        try:
            for each in rounds(rest, size):
                answers = self._together("learn", [part_of(batch.tokens, one.index_R) for one in each])
                slopes = [self._slopes(batch, loss, one.index_R, found, tally)
                          for one, found in zip(each, answers, strict=True)]
                self._push(slopes, used)
                tally.sums["nodes"] += sum(one.nodes for one in each)
            for one in cut:
                self._replay(batch, loss, one, parts[id(one)], tally, used)
        except LearnerFailed:
            raise
        except BaseException:
            with self.ranks.order("the end of an update"):
                self.ranks.tell({"do": "drop"})
                self.shard.drop()
            raise
        return tally, used

    def _slopes(self, batch: Batch, loss: Loss, index_N: IntArray, found: Found, tally: Tally) -> dict[str, Tensor]:
        """The loss's derivative by each thing that was read of some tokens."""
        like = batch.columns["weight_N"]
        leaves = {n: v.to(like.dtype).requires_grad_() for n, v in tensors_of(found, like.device).items()}
        evaluate(batch, loss, index_N, reading_of(leaves), tally).backward()
        return {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}

    def _push(self, slopes: Sequence[Mapping[str, Tensor]], used: set[str]) -> None:
        """Sends each rank the derivatives of its part, on which all go backwards."""
        for given in slopes:
            used.update(given)
        arrays = {
            rank: {name: slope.cpu().numpy() for name, slope in given.items()} for rank, given in enumerate(slopes)}
        with self.ranks.order("a gradient"):
            self.ranks.tell({"do": "push"}, arrays)
            self.shard.push(slopes[0])

    def _replay(self, batch: Batch, loss: Loss, one: Pass, parts: Sequence[Pass], tally: Tally,
                used: set[str]) -> None:  # fmt: skip
        """A unit that does not fit into one pass: read without a graph in parts, then part by part with it."""
        size = self.ranks.size
        whole: Found = {}
        for each in rounds(parts, size):
            answers = self._together("read", [part_of(batch.tokens, one.index_R[part.index_R]) for part in each])
            for part, found in zip(each, answers, strict=True):
                for name, values in found.items():
                    whole.setdefault(name, np.zeros(len(one.index_R), values.dtype))[part.index_R] = values
        slopes = self._slopes(batch, loss, one.index_R, whole, tally)
        for each in rounds(parts, size):
            self._together("learn", [part_of(batch.tokens, one.index_R[part.index_R]) for part in each])
            index = [torch.as_tensor(part.index_R.astype(np.int64)) for part in each]
            self._push([{name: slope[rows] for name, slope in slopes.items()} for rows in index], used)
            tally.sums["nodes"] += sum(part.nodes for part in each)

    def _step(self, used: set[str]) -> float:
        """Clips and steps on all ranks; returns the norm before clipping."""
        unused = sorted({"logprob_N", "entropy_N", *self.heads} - used)
        with self.ranks.order("a step"):
            self.ranks.tell({"do": "step", "lr": self.lr, "max_norm": self.max_grad_norm, "unused": unused})
            norm, broken = self.shard.step(self.lr, self.max_grad_norm, unused)
            for head, _ in self.ranks.answers():
                broken = [*broken, *head["broken"]]
        if norm - norm != 0:
            first = next((name for name in self.shard.parameters if name in broken), "the sum of all squares")
            raise NotFinite(f"the gradient is not finite, first in {first}; the step was not made")
        return norm

    @torch.no_grad()
    def _take_weights(self) -> None:
        """Gathers the weights that learn into the model that plays."""
        with self.ranks.order("a hand-over of weights"):
            self.ranks.tell({"do": "fetch", "kind": "weights"})
            for name, whole in self.shard.fetch("weights"):
                if name in self._playing:
                    self._playing[name].copy_(whole)

    def publish(self, policy: Published) -> None:
        """Counts the version up and tells the policy."""
        self.version += 1
        policy.publish(self.version)

    def renew_reference(self, share: float = 1.0) -> None:
        """As :meth:`polyturn.learn.learner.Learner.renew_reference`."""
        self._check()
        if self.shard.reference is None or not 0 < share <= 1:
            raise BadInput(f"share is {share}, and there is {'no' if self.shard.reference is None else 'a'} reference; "
                           "expected a number in (0, 1] and a learner made with reference='initial'")
        with self.ranks.order("a reference"):
            self.ranks.tell({"do": "renew", "share": share})
            self.shard.renew(share)

    # ------------------------------------------------------------ state

    def state(self) -> dict[str, Any]:
        """As :meth:`polyturn.learn.learner.Learner.state`, gathered: a copy of everything, whole."""
        self._check()
        kinds = ["weights", "moments", *(["reference"] if self.shard.reference is not None else [])]
        found = {kind: self._gathered(kind) for kind in kinds}
        moments: dict[str, dict[str, Tensor]] = {}
        for place, value in found.pop("moments").items():
            name, _, key = place.rpartition("/")
            moments.setdefault(name, {})[key] = value
        return {"version": self.version, "lr": self.lr, "optimizer": moments, **found}

    def _gathered(self, kind: str) -> dict[str, Tensor]:
        with self.ranks.order("a checkpoint"):
            self.ranks.tell({"do": "fetch", "kind": kind})
            return {name: whole.cpu().clone() for name, whole in self.shard.fetch(kind)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes over a state, of any number of ranks; the sampler sees the weights after the next publish.

        Raises: BadInput for other parameters or shapes than this learner's; nothing is changed then.
        """
        self._check()
        kinds = ["weights", *(["reference"] if self.shard.reference is not None else [])]
        given = {kind: {name: torch.as_tensor(value) for name, value in state[kind].items()} for kind in kinds}
        for kind in kinds:
            copy_into(given[kind], self.shard.tensors(kind), dry=True)
        given["moments"] = {
            f"{name}/{key}": torch.as_tensor(value)
            for name, moments in state["optimizer"].items() for key, value in moments.items()
        }  # fmt: skip
        with self.ranks.order("a restored checkpoint"):
            for kind, tensors in given.items():
                self.ranks.tell({"do": "put", "kind": kind, "names": list(tensors)})
                self.shard.put(kind, list(tensors), tensors)
        self.version, self.lr = int(state["version"]), float(state["lr"])
        with torch.no_grad():
            for name, target in self._playing.items():
                target.copy_(given["weights"][name])

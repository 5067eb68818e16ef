"""The learner: measuring, one step, nothing changed after an error, state to the bit, merging."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from polyturn.arrays import Measured, Tokens, Tree
from polyturn.errors import BadInput, NotFinite
from polyturn.learn import checkpoint
from polyturn.learn.learner import Learner, merge
from polyturn.losses.learned import Learned, Metrics
from tests.tiny import plain_logprobs, random_tokens, stirred, tiny_llama, tokens_of

TOKENS = random_tokens(np.random.default_rng(1))
COUNT = len(TOKENS)
ADVANTAGE = np.random.default_rng(2).normal(size=COUNT)
WEIGHT = np.full(COUNT, 1 / COUNT)


def policy_gradient(learned: Learned) -> tuple[Tensor, Metrics]:
    ratio = torch.exp(learned.logprob_N - learned.old_N)
    return -(learned.weight_N * ratio * learned.advantage_N).sum(), {"ratio": float((learned.weight_N * ratio).sum())}


def likelihood(learned: Learned) -> tuple[Tensor, Metrics]:
    return -(learned.weight_N * learned.logprob_N).sum(), {}


def value_loss(learned: Learned) -> tuple[Tensor, Metrics]:
    assert learned.target_N is not None
    return (learned.weight_N * (learned.heads["value"] - learned.target_N) ** 2).sum(), {}


def bits(model: Any) -> bytes:
    return b"".join(p.detach().numpy().tobytes() for p in model.parameters())


def adapted(dtype: torch.dtype = torch.float64) -> Any:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(tiny_llama(dtype), LoraConfig(r=4, target_modules=["q_proj", "down_proj"]))
    return model.to(dtype)


# ---------------------------------------------------------------- measure


@pytest.mark.parametrize("limit", [1000, 30, 1])
def test_measure_equals_plain_forwards(limit: int) -> None:
    model = tiny_llama()
    measured = Learner(model, lr=1e-3, tokens_per_pass=limit).measure(TOKENS)
    np.testing.assert_allclose(measured.old_N, plain_logprobs(model, TOKENS).detach().numpy(), atol=1e-9)
    assert measured.entropy_N is not None
    assert 0 < measured.entropy_N.min() < measured.entropy_N.max() < np.log(61)
    assert measured.reference_N is None


def test_values_are_read_before_each_token_and_at_the_end() -> None:
    # One path of six ids; tokens at nodes 2 and 4, the trajectory ends at node 4. Values by hand from hidden states.
    tree = Tree(np.array([5, 6, 7, 8, 9, 10], np.int32), np.arange(-1, 5, dtype=np.int32))
    tokens = tokens_of(tree, [2, 4])
    tokens.end_B[0] = 4
    model = tiny_llama()
    learner = Learner(model, lr=1e-3, heads=("value", "cost"))
    assert learner.measure(tokens).heads["value"].tolist() == [0.0, 0.0]
    with torch.no_grad():
        learner.heads["value"].weight.copy_(torch.linspace(-1, 1, 32))
        learner.heads["value"].bias.fill_(0.25)
        hidden = model.model(input_ids=torch.tensor([[5, 6, 7, 8, 9]])).last_hidden_state[0]
        value_T = (hidden @ torch.linspace(-1, 1, 32, dtype=torch.float64) + 0.25).numpy()
    measured = learner.measure(tokens)
    np.testing.assert_allclose(measured.heads["value"], value_T[[1, 3]], atol=1e-6)
    np.testing.assert_allclose(measured.end["value"], value_T[[4]], atol=1e-6)
    assert measured.end["cost"].tolist() == [0.0]


def test_score_equals_a_plain_forward_of_each_path() -> None:
    model = tiny_llama()
    paths = [np.array(ids, np.int32) for ids in ([5, 6, 7, 8], [5, 6, 9], [5, 6, 7], [11], [])]
    scored = Learner(model, lr=1e-3, tokens_per_pass=4).score(paths)
    for path, found in zip(paths, scored, strict=True):
        assert len(found) == len(path)
        if len(path):
            log = torch.log_softmax(model(input_ids=torch.tensor([path.tolist()])).logits[0], -1)
            expected = [log[t - 1, int(path[t])].item() for t in range(1, len(path))]
            assert np.isnan(found[0])
            np.testing.assert_allclose(found[1:], expected, atol=1e-9)


def test_references() -> None:
    other = stirred(tiny_llama(), 5)
    given = Learner(tiny_llama(), lr=1e-2, reference=other).measure(TOKENS)
    np.testing.assert_allclose(given.reference_N, plain_logprobs(other, TOKENS).detach().numpy(), atol=1e-9)
    for model in (tiny_llama(), adapted()):
        learner = Learner(model, lr=1e-2, reference="initial")
        before = learner.measure(TOKENS)
        learner.update(TOKENS, before, ADVANTAGE, WEIGHT, policy_gradient)
        after = learner.measure(TOKENS)
        np.testing.assert_array_equal(after.reference_N, before.old_N)
        assert np.abs(after.old_N - before.old_N).max() > 1e-3


def test_the_initial_reference_of_adapters_shares_the_frozen_weights() -> None:
    model = adapted()
    learner = Learner(model, lr=1e-2, reference="initial")
    assert learner.reference is not None
    own = {p.data_ptr() for n, p in model.named_parameters() if "lora" not in n}
    kept = {p.data_ptr() for n, p in learner.reference.model.named_parameters() if "lora" not in n}
    assert own == kept


# ---------------------------------------------------------------- update


def test_an_update_is_a_step_of_adamw_on_the_plain_gradient() -> None:
    model, twin = tiny_llama(), tiny_llama()
    learner = Learner(model, lr=1e-2, weight_decay=0.1, max_grad_norm=0.5, betas=(0.9, 0.95), tokens_per_pass=30)
    metrics = learner.update(TOKENS, None, ADVANTAGE, WEIGHT, likelihood)
    parameters = list(twin.parameters())
    loss = -plain_logprobs(twin, TOKENS).mean()
    grads = torch.autograd.grad(loss, parameters)
    norm = torch.cat([g.flatten() for g in grads]).norm().item()
    assert metrics["learner/loss"] == pytest.approx(loss.item())
    assert metrics["learner/grad_norm"] == pytest.approx(norm, rel=1e-6)
    with torch.no_grad():
        # First step of AdamW: both moments are corrected to g and g^2, so the step is lr * g / (|g| + 1e-8).
        for parameter, grad, found in zip(parameters, grads, model.parameters(), strict=True):
            clipped = grad * min(1.0, 0.5 / (norm + 1e-6))
            decayed = parameter * (1 - 1e-2 * 0.1) if parameter.ndim > 1 else parameter
            expected = decayed - 1e-2 * clipped / (clipped.abs() + 1e-8)
            sure = clipped.abs() > 1e-4
            assert float((found - expected)[sure].abs().max()) < 1e-5


def test_metrics_are_sums_and_means_of_the_whole_batch() -> None:
    learner = Learner(tiny_llama(), lr=0.0, tokens_per_pass=30, clock=iter([5.0, 7.5]).__next__)
    measured = learner.measure(TOKENS)
    old = Measured(measured.old_N - 0.1)
    metrics = learner.update(TOKENS, old, ADVANTAGE, WEIGHT, policy_gradient)
    assert metrics["learner/ratio"] == pytest.approx(np.exp(0.1))
    assert metrics["learner/kl_old"] == pytest.approx(np.exp(0.1) - 1 - 0.1)
    assert metrics["learner/loss"] == pytest.approx(-np.exp(0.1) * ADVANTAGE.mean())
    assert measured.entropy_N is not None
    assert metrics["learner/entropy"] == pytest.approx(measured.entropy_N.mean())
    assert (metrics["learner/tokens"], metrics["learner/steps"], metrics["learner/seconds"]) == (COUNT, 1, 2.5)


def test_the_split_changes_no_weight() -> None:
    found = []
    for limit in (1000, 30, 1):
        model = tiny_llama()
        learner = Learner(model, lr=1e-2, tokens_per_pass=limit)
        for _ in range(3):
            learner.update(TOKENS, learner.measure(TOKENS), ADVANTAGE, WEIGHT, policy_gradient)
        found.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert max(float((one - found[0]).abs().max()) for one in found) < 2e-4  # three steps of 1e-2 an entry


def test_without_measuring_the_update_reads_the_old_log_probabilities_itself() -> None:
    learner, twin = (Learner(tiny_llama(), lr=1e-2, reference="initial") for _ in range(2))
    weight_N = WEIGHT.copy()
    weight_N[3] = 0.0
    measured = learner.measure(TOKENS)
    one = learner.update(TOKENS, measured, ADVANTAGE, weight_N, policy_gradient)
    other = twin.update(TOKENS, None, ADVANTAGE, weight_N, policy_gradient)
    assert {**one, "learner/seconds": 0} == pytest.approx({**other, "learner/seconds": 0})
    last = twin.last
    assert last is not None
    assert last.reference_N is not None
    assert np.isnan(last.old_N[3])
    kept = weight_N != 0
    np.testing.assert_allclose(last.old_N[kept], measured.old_N[kept], atol=1e-9)
    np.testing.assert_allclose(last.reference_N[kept], measured.old_N[kept], atol=1e-9)


def test_weights_of_zero_make_no_step() -> None:
    model = tiny_llama()
    learner = Learner(model, lr=1e-2, weight_decay=0.1)
    before = bits(model)
    metrics = learner.update(TOKENS, None, ADVANTAGE, np.zeros(COUNT), policy_gradient)
    assert bits(model) == before
    assert (metrics["learner/steps"], metrics["learner/tokens"], metrics["learner/loss"]) == (0, 0, 0.0)
    empty = tokens_of(TOKENS.tree, [])
    assert learner.update(empty, None, np.zeros(0), np.zeros(0), policy_gradient)["learner/steps"] == 0
    assert learner.measure(empty).old_N.shape == (0,)


def test_value_heads_learn_their_target() -> None:
    learner = Learner(tiny_llama(), lr=3e-2, heads=("value",), trainable="lm_head")
    target_N = np.linspace(-1, 1, COUNT)
    losses = [
        learner.update(TOKENS, None, ADVANTAGE, WEIGHT, value_loss, target_N=target_N)["learner/loss"]
        for _ in range(60)
    ]
    assert losses[0] == pytest.approx((target_N**2).mean())
    assert losses[-1] < 0.3 * losses[0]


def test_only_the_chosen_parameters_learn() -> None:
    for model, pattern, inside in (
        (tiny_llama(), r"layers\.1\.", "layers.1."), (adapted(), None, "lora_"), (tiny_llama(), None, ""),
    ):  # fmt: skip
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        Learner(model, lr=1e-2, trainable=pattern).update(TOKENS, None, ADVANTAGE, WEIGHT, likelihood)
        changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
        assert changed
        assert all(inside in name for name in changed)
    with pytest.raises(BadInput, match="no parameter matches 'layer_7'"):
        Learner(tiny_llama(), lr=1e-2, trainable="layer_7")
    with pytest.raises(BadInput, match=r"is torch.bfloat16; weights that learn must be float32"):
        Learner(tiny_llama(torch.bfloat16), lr=1e-2)


def test_the_learning_rate_can_be_set_between_updates() -> None:
    model = tiny_llama()
    learner = Learner(model, lr=1e-2)
    before = bits(model)
    learner.lr = 0.0
    learner.update(TOKENS, None, ADVANTAGE, WEIGHT, likelihood)
    assert bits(model) == before
    learner.lr = 1e-2
    learner.update(TOKENS, None, ADVANTAGE, WEIGHT, likelihood)
    assert bits(model) != before


def test_a_gradient_that_is_not_finite_changes_nothing_and_names_the_parameter() -> None:
    model = tiny_llama()
    learner = Learner(model, lr=1e-2, weight_decay=0.1)
    learner.update(TOKENS, None, ADVANTAGE, WEIGHT, likelihood)
    before, state = bits(model), deepcopy(learner.state())

    def rooted(learned: Learned) -> tuple[Tensor, Metrics]:
        return (learned.weight_N * torch.sqrt(learned.logprob_N - learned.logprob_N.detach())).sum(), {}

    with pytest.raises(NotFinite, match=r"gradient is not finite, first in model.embed_tokens.weight; the step"):
        learner.update(TOKENS, None, ADVANTAGE, WEIGHT, rooted)
    with pytest.raises(NotFinite, match="advantage_N is nan at token 0"):
        learner.update(TOKENS, None, np.full(COUNT, np.nan), WEIGHT, likelihood)
    assert bits(model) == before
    assert all(p.grad is None for p in model.parameters())
    moments = learner.state()["optimizer"]["lm_head.weight"]
    assert all(torch.equal(moments[key], state["optimizer"]["lm_head.weight"][key]) for key in moments)


def test_a_broken_weight_is_found_when_measuring() -> None:
    model = tiny_llama()
    learner = Learner(model, lr=1e-2)
    with torch.no_grad():
        model.lm_head.weight[7] = float("nan")
    with pytest.raises(NotFinite, match=r"old_N measured as nan at token 0 \(id \d+, episode e0, seat agent"):
        learner.measure(TOKENS)
    with pytest.raises(NotFinite, match=r"logprob_N is nan at token 0 "):
        learner.update(TOKENS, None, ADVANTAGE, WEIGHT, likelihood)


def test_bfloat16_layers_are_near_and_learn() -> None:
    exact, rough = Learner(tiny_llama(torch.float32), lr=1e-2), Learner(
        tiny_llama(torch.float32), lr=1e-2, dtype="bfloat16")  # fmt: skip
    gap = np.abs(exact.measure(TOKENS).old_N - rough.measure(TOKENS).old_N)
    assert 0 < gap.max() < 0.1
    one, other = (learner.update(TOKENS, None, ADVANTAGE, WEIGHT, likelihood) for learner in (exact, rough))
    assert other["learner/grad_norm"] == pytest.approx(one["learner/grad_norm"], rel=0.05)
    assert all(p.dtype == torch.float32 for p in rough.parameters.values())


def test_likelihood_learns() -> None:
    learner = Learner(tiny_llama(torch.float32), lr=1e-2)
    losses = [learner.update(TOKENS, None, ADVANTAGE, WEIGHT, likelihood)["learner/loss"] for _ in range(15)]
    assert losses[-1] < 0.5 * losses[0]


# ---------------------------------------------------------------- state


class Told:
    """A policy that notes the versions that it is told."""

    def __init__(self) -> None:
        self.versions: list[int] = []

    def publish(self, version: int) -> None:
        self.versions.append(version)


def test_publish_counts_versions() -> None:
    learner, told = Learner(tiny_llama(), lr=1e-2), Told()
    learner.publish(told)
    learner.publish(told)
    assert told.versions == [1, 2]
    assert learner.version == 2


@pytest.mark.parametrize("kind", ["full", "lora", "heads"])
def test_a_restored_learner_goes_on_to_the_same_bits(kind: str, tmp_path: Path) -> None:
    def make() -> Learner:
        if kind == "lora":
            torch.manual_seed(0)
            return Learner(adapted(torch.float32), lr=1e-2, reference="initial")
        return Learner(tiny_llama(torch.float32), lr=1e-2, heads=("value",) if kind == "heads" else ())

    def step(learner: Learner) -> bytes:
        learner.update(TOKENS, learner.measure(TOKENS), ADVANTAGE, WEIGHT, policy_gradient)
        return bits(learner.model) + bits(learner.heads)

    learner = make()
    for _ in range(2):
        step(learner)
    learner.lr, learner.version = 5e-3, 7
    checkpoint.save(tmp_path / "c", {"learner": learner.state()})
    expected = [step(learner) for _ in range(2)]
    fresh = make()
    fresh.restore(checkpoint.load(tmp_path / "c")["learner"])
    assert (fresh.lr, fresh.version) == (5e-3, 7)
    assert [step(fresh) for _ in range(2)] == expected
    forgetful = make()
    forgetful.restore({**checkpoint.load(tmp_path / "c")["learner"], "optimizer": {}})
    assert step(forgetful) != expected[0]


def test_the_initial_reference_survives_a_restore() -> None:
    learner = Learner(stirred(tiny_llama(), 4), lr=1e-2, reference="initial")
    before = learner.measure(TOKENS).reference_N
    learner.update(TOKENS, None, ADVANTAGE, WEIGHT, likelihood)
    fresh = Learner(tiny_llama(), lr=1e-2, reference="initial")
    fresh.restore(learner.state())
    np.testing.assert_array_equal(fresh.measure(TOKENS).reference_N, before)


def test_a_state_takes_no_memory_and_a_learner_restored_from_it_goes_its_own_way() -> None:
    learner, other = Learner(tiny_llama(), lr=1e-2), Learner(tiny_llama(), lr=1e-2)
    learner.update(TOKENS, None, ADVANTAGE, WEIGHT, likelihood)
    state = learner.state()
    live = learner.parameters["lm_head.weight"]
    assert state["weights"]["lm_head.weight"].data_ptr() == live.data_ptr()
    other.restore(state)
    kept = live.detach().clone()
    learner.update(TOKENS, None, ADVANTAGE, WEIGHT, likelihood)
    assert torch.equal(other.parameters["lm_head.weight"], kept) and not torch.equal(live, kept)
    moments = [one.optimizer.state[one.parameters["lm_head.weight"]]["exp_avg"] for one in (learner, other)]
    assert not torch.equal(*moments)


def test_a_state_of_another_model_is_refused_and_changes_nothing() -> None:
    model = tiny_llama()
    learner = Learner(model, lr=1e-2)
    before = bits(model)
    with pytest.raises(BadInput, match=r"2 parameters differ, the first is 'heads.value.bias' with shape missing here"):
        Learner(tiny_llama(), lr=1e-2, heads=("value",)).restore(learner.state())
    with pytest.raises(BadInput, match=r"of another model: .* with shape \(61, 16\) here and \(61, 32\) expected"):
        learner.restore(Learner(tiny_llama(hidden_size=16), lr=1e-2).state())
    assert bits(model) == before


def test_merged_states() -> None:
    one, other = Learner(tiny_llama(), lr=1e-2), Learner(stirred(tiny_llama(), 9), lr=1e-2)
    other.version = 3
    mixed = merge([one.state(), other.state()], [0.25, 0.75])
    fresh = Learner(tiny_llama(), lr=1e-2)
    fresh.restore(mixed)
    assert fresh.version == 3
    for name, parameter in fresh.parameters.items():
        torch.testing.assert_close(parameter, 0.25 * one.parameters[name] + 0.75 * other.parameters[name])
    with pytest.raises(BadInput, match=r"expected one weight a state, with sum 1"):
        merge([one.state()], [0.5])


def test_the_optimizer_can_be_reset() -> None:
    learner = Learner(tiny_llama(), lr=1e-2)
    learner.update(TOKENS, None, ADVANTAGE, WEIGHT, likelihood)
    assert learner.state()["optimizer"]
    learner.reset_optimizer()
    assert learner.state()["optimizer"] == {}


def test_the_same_inputs_give_the_same_bits() -> None:
    def trained() -> bytes:
        model = tiny_llama(torch.float32)
        learner = Learner(model, lr=1e-2, tokens_per_pass=40)
        for _ in range(2):
            learner.update(TOKENS, learner.measure(TOKENS), ADVANTAGE, WEIGHT, policy_gradient)
        return bits(model)

    assert trained() == trained()


# ---------------------------------------------------------------- the embedded model


def talk(seed: int, *, group: int = 4, turns: int = 3) -> Tokens:
    """A group of rollouts of random ids after a shared prompt of 60."""
    draw = np.random.default_rng(seed)
    ids, parents = draw.integers(1000, 20000, 60).tolist(), list(range(-1, 59))
    nodes: list[int] = []
    rows: list[int] = []
    for b in range(group):
        last = 59
        for _ in range(turns):
            for i in range(10 + 8):
                ids.append(int(draw.integers(1000, 20000)))
                parents.append(last)
                last = len(ids) - 1
                if i >= 10:
                    nodes.append(last)
                    rows.append(b)
    return tokens_of(Tree(np.array(ids, np.int32), np.array(parents, np.int32)), nodes, trajectory_N=rows)


@pytest.mark.model
def test_smollm2_equals_plain_forwards() -> None:
    from transformers import AutoModelForCausalLM

    from polyturn.policies.embedded import embedded_model

    model = AutoModelForCausalLM.from_pretrained(embedded_model(), dtype=torch.float32)
    tokens = talk(0)
    found = Learner(model, lr=1e-5, tokens_per_pass=150).measure(tokens).old_N
    with torch.no_grad():
        for b in range(4):
            mine = np.flatnonzero(tokens.trajectory_N == b)
            path = tokens.tree.path(int(tokens.node_N[mine[-1]]))
            log = torch.log_softmax(model(input_ids=torch.tensor([path.tolist()])).logits[0], -1)
            depth_N = tokens.tree.depth_U()[tokens.node_N[mine]]
            expected = [log[t - 1, int(path[t])].item() for t in depth_N.tolist()]
            assert np.abs(found[mine] - expected).max() < 1e-4

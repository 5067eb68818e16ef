"""Which device models compute on: what was named, what the environment says, what is there."""

from __future__ import annotations

import pytest
import torch

from polyturn.errors import BadInput
from polyturn.policies.device import VARIABLE, device_of, name_device
from tests.policies.tiny import tiny_local


def test_the_named_device_comes_before_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "nonsense")
    assert device_of("cpu") == torch.device("cpu")
    with pytest.raises(BadInput, match="'nonsense'; expected cpu, cuda"):
        device_of()
    monkeypatch.setenv(VARIABLE, "cpu")
    assert device_of().type == "cpu"


def test_without_a_name_the_first_gpu_is_taken_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert device_of().type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_a_deterministic_run_takes_the_processor_unless_a_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    torch.use_deterministic_algorithms(False)
    assert device_of(deterministic=True).type == "cpu"
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("named", ["cuda:99", "tpu", "meta", "cpu:x", "cuda:-1"])
def test_a_device_that_is_not_there_is_refused(named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "cpu")
    with pytest.raises(BadInput, match=named):
        device_of(named)
    with pytest.raises(BadInput):
        name_device(named)
    assert device_of().type == "cpu"  # a refused name changes nothing


def test_a_policy_says_where_it_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "nonsense")
    monkeypatch.delenv(VARIABLE)
    name_device("cpu")
    policy = tiny_local()
    try:
        assert policy.info().sampling["device"] == "cpu" == str(policy.device)
    finally:
        policy.close()

"""Products by either library: equal to float64 to rounding, in every shape and stride that the learner asks for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from polyturn.forest import products
from polyturn.forest.products import WORTH, onednn_is_faster, product


def by_either(monkeypatch: pytest.MonkeyPatch, left: torch.Tensor, right: torch.Tensor) -> list[torch.Tensor]:
    found = []
    for faster in (False, True):
        monkeypatch.setattr(products, "onednn_is_faster", lambda faster=faster: faster)
        found.append(product(left, right))
    return found


@pytest.mark.parametrize("turned", [(False, False), (False, True), (True, False), (True, True)])
def test_both_equal_the_product_in_float64(turned: tuple[bool, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(sum(turned))
    for _ in range(20):
        rows, size, columns = (int(n) for n in draw.integers(80, 200, 3))
        left, right = (torch.from_numpy(draw.normal(size=(n, size))).float() for n in (rows, columns))
        left, right = (x.t().contiguous().t() if turn else x for x, turn in zip((left, right), turned, strict=True))
        exact = left.double() @ right.double().t()
        for found in by_either(monkeypatch, left, right):
            assert found.shape == (rows, columns) and found.dtype == torch.float32
            assert float((found - exact).norm() / exact.norm()) < 1e-6


def test_small_empty_and_low_products_are_torchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "onednn_is_faster", lambda: True)
    for rows, dtype in ((0, torch.float32), (3, torch.float32), (4000, torch.bfloat16), (4000, torch.float64)):
        left, right = torch.ones(rows, 16, dtype=dtype), torch.full((16, 16), 0.5, dtype=dtype)
        assert torch.equal(product(left, right), left @ right.t())
    assert WORTH < 4000 * 16 * 16


@pytest.mark.parametrize(("vendor", "vectors", "faster"), [
    ("AuthenticAMD", "AVX512", True), ("AuthenticAMD", "AVX2", False), ("GenuineIntel", "AVX512", False),
])
def test_onednn_is_for_wide_amd_processors(
    vendor: str, vectors: str, faster: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text(f"vendor_id\t: {vendor}\n")
    monkeypatch.setattr(products, "INFO", info)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: vectors)
    assert onednn_is_faster.__wrapped__() == faster
    info.unlink()
    assert not onednn_is_faster.__wrapped__()

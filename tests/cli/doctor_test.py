"""``polyturn doctor``: JSON, text, and an exit code that says whether something stands in the way."""

from __future__ import annotations

import json
from typing import Any

import pytest

from polyturn.cli.doctor import as_text, quickstart_seconds
from polyturn.cli.main import main


def test_json_and_exit_code_agree(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["doctor", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert code == (1 if found["findings"] else 0)
    assert found["speed"]["float32"] > 0 and found["quickstart_seconds"] > 0


def test_text_for_a_reader() -> None:
    found: dict[str, Any] = {
        "machine": {"python": "3.11.7", "system": "Linux", "processor": "x86_64", "torch_build": "2.13.0+cpu",
                    "cores": 2, "torch_threads": 2, "devices": ["cpu"], "memory": 24 * 2**30, "memory_free": 2**30,
                    "disk_free": 2**30},
        "speed": {"float32": 15.0, "bfloat16": 20.0}, "quickstart_seconds": 600.0,
        "packages": [{"name": "torch", "wanted": ">=2.13", "found": None, "extra": "", "fits": False}],
        "fits": {"135M": {"sample": True, "lora": True, "full": False}},
        "findings": [{"name": "package", "reason": "torch is not installed"}],
    }
    text = as_text(found)
    assert "memory 24.0 GiB, 1.0 free; disk 1.0 GiB free" in text
    assert "missing" in text and "! package: torch is not installed" in text
    assert "model of 135M" in text
    assert "nothing stands in the way" in as_text({**found, "findings": []})


def test_the_quickstart_says_what_it_takes() -> None:
    seconds = quickstart_seconds()
    assert seconds is not None and seconds > 60

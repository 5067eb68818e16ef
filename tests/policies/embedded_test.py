"""The embedded model: converted once, with its own chat template and end of turn."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest

from polyturn.errors import BadInput, MissingPackage
from polyturn.policies import embedded
from polyturn.policies.embedded import embedded_model, find_gguf


def test_a_missing_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "PACKAGE", "no_such_package_here")
    with pytest.raises(MissingPackage, match=r"pip install 'polyturn\[local\]'"):
        find_gguf()


def test_a_package_without_the_file_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "PACKAGE", "polyturn")
    with pytest.raises(BadInput, match=r"holds no \.gguf file"):
        find_gguf()


def _convert_in(folder: str, told: multiprocessing.Queue[str]) -> None:
    os.environ["POLYTURN_CACHE"] = folder
    told.put(str(embedded_model(lambda line: None)))


@pytest.mark.model
@pytest.mark.timeout(300)
def test_two_processes_convert_at_once_and_the_result_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    context = multiprocessing.get_context("spawn")
    told: multiprocessing.Queue[str] = context.Queue()
    both = [context.Process(target=_convert_in, args=(str(tmp_path), told)) for _ in range(2)]
    for process in both:
        process.start()
    folders = {told.get(timeout=280) for _ in both}
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert len(folders) == 1 and [str(p) for p in tmp_path.iterdir()] == list(folders)
    folder = Path(folders.pop())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.eos_token == "<|im_end|>" and tokenizer.eos_token_id == 2
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    assert text == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert str(model.dtype) == "torch.float32" and not hasattr(model.config, "quantization_config")
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    monkeypatch.setenv("POLYTURN_CACHE", str(tmp_path))
    said: list[str] = []
    assert embedded_model(said.append) == folder and said == []  # the second time nothing is done

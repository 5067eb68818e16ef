"""A policy that runs here: any causal language model of transformers, sampled by our engine or by transformers'."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch

from polyturn.chat import Chat
from polyturn.errors import BadInput, PolicyFailed
from polyturn.forest.threads import let_go
from polyturn.policies.device import device_of
from polyturn.policies.embedded import embedded_model
from polyturn.policies.sampler.choose import TOLD, EngineName, engine_of, stepper_of
from polyturn.policies.sampler.engine import Engine, Stats, Stepper
from polyturn.policies.sampler.request import Request, drawn_request, scored_request
from polyturn.policies.sampler.weights import base_of, refresh, twin_of
from polyturn.protocols import Completion, Written
from polyturn.seeds import derive
from polyturn.types import EMPTY, Finish, FloatArray, IntArray, Message, PolicyInfo, Sampling, Tool, Usage

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
LORA_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
CACHE_BYTES = 2**30
_log = logging.getLogger(__name__)


class Local:
    """A policy over a model in memory; also scores bare paths.

    ``model`` is the training model, which a learner may share; it is never changed here. Sampling uses a twin: in
    float32 it has the same parameters, in bfloat16 a copy that :meth:`publish` refreshes. ``engine`` is how it runs:
    ``"slots"`` (ours: caches continued, shared and forked), ``"continuous"`` (continuous batching of transformers) or
    ``"plain"`` (the model's own forward, one request at a time); empty: the one that ``POLYTURN_ENGINE`` names, else
    the fastest that gives the model's own numbers, and ``engine_reason`` says why not a faster one. All draw the same
    ids from the same seed, but for rounding. ``warning`` says what a user should know about the chat template.
    ``device``: as :func:`polyturn.policies.device.device_of` reads it. ``deterministic``: the same seed gives the same
    bits whatever else is sampled (float32; about a third slower with many requests at work, four times with one).
    """

    def __init__(
        self, model: Any, chat: Chat, *, name: str = "main", dtype: Literal["float32", "bfloat16"] = "float32",
        deterministic: bool = False, cache_bytes: int = CACHE_BYTES, device: str = "", tokenizer: Any = None,
        engine: EngineName = "",
    ) -> None:
        if dtype not in DTYPES:
            raise BadInput(f"dtype is {dtype!r}; expected one of {', '.join(DTYPES)}")
        if deterministic and dtype != "float32":
            raise BadInput(f"deterministic sampling needs dtype 'float32'; got {dtype!r}")
        engine_of(engine, deterministic=deterministic)
        self.device = device_of(device, deterministic=deterministic)
        self.model, self.chat, self.name, self.dtype = model.to(self.device), chat, name, dtype
        self.deterministic = deterministic
        self.limit = int(getattr(base_of(model).config, "max_position_embeddings", 0) or 2**20)
        self.version = 0
        self.warning = chat.warning
        self.sampling_model = twin_of(self.model, DTYPES[dtype], fixed=deterministic)
        self._tokenizer = tokenizer
        own = {id(parameter) for parameter in self.model.parameters()}
        self._shared = [parameter for parameter in self.sampling_model.parameters() if id(parameter) in own]
        self._published = self._changes()
        self._weights_sha256: tuple[int, str] | None = None
        self._calls = count()
        stepper, self.engine_reason = self._stepper(engine, cache_bytes)
        if self.warning:
            _log.warning("%s: %s", name, self.warning)
        if self.engine_reason:
            _log.warning("%s is sampled %s: %s", name, TOLD[stepper.name], self.engine_reason)
        self._engine = Engine(stepper, name=name)
        let_go()

    @classmethod
    def load(
        cls, path: Path | str | None = None, *, name: str = "main", dtype: Literal["float32", "bfloat16"] = "float32",
        deterministic: bool = False, lora: int | None = None, cache_bytes: int = CACHE_BYTES, device: str = "",
        progress: Callable[[str], None] | None = None, engine: EngineName = "",
    ) -> Local:
        """The model of a folder in the format of transformers (or of a peft adapter), or the embedded one.

        ``progress`` hears of the embedded model's conversion.
        ``lora`` = rank of a fresh adapter on the linear layers of attention and feed-forward; None trains all weights.
        Raises: BadInput for a folder that is missing or has no model, weights or tokenizer.
        """
        folder = embedded_model(progress) if path is None else Path(path)
        model, tokenizer = load_folder(folder)
        if lora is not None:
            model = with_lora(model, lora)
        return cls(
            model, Chat(tokenizer), name=name, dtype=dtype, deterministic=deterministic, cache_bytes=cache_bytes,
            device=device, tokenizer=tokenizer, engine=engine,
        )

    def _stepper(self, engine: str, cache_bytes: int) -> tuple[Stepper, str]:
        plain: Any = base_of(self.model)
        training = plain.training
        plain.eval()
        try:
            return stepper_of(
                self.sampling_model, plain, engine_of(engine, deterministic=self.deterministic),
                cache_bytes=cache_bytes, deterministic=self.deterministic,
            )
        finally:
            plain.train(training)

    # -------------------------------------------------------- Policy

    @property
    def engine(self) -> EngineName:
        """``"slots"``, ``"continuous"`` or ``"plain"``."""
        return cast(EngineName, self._engine.stepper.name)

    @property
    def stats(self) -> Stats:
        """What the engine did so far."""
        return self._engine.stats

    def info(self) -> PolicyInfo:
        """Name, version and hashes of weights, tokenizer and template."""
        return PolicyInfo(
            self.name, "model", self.version, self._hash_weights(), self.chat.tokenizer_sha256,
            self.chat.template_sha256,
            {"dtype": self.dtype, "engine": self.engine, "deterministic": self.deterministic,
             "device": str(self.device)},
            f"torch {torch.__version__}", tuple(sorted(self.chat.stop_ids)),
        )

    def _hash_weights(self) -> str:
        if self._weights_sha256 is None or self._weights_sha256[0] != self.version:
            digest = sha256()
            for name, tensor in self.sampling_model.named_parameters():
                digest.update(name.encode())
                digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
            self._weights_sha256 = (self.version, digest.hexdigest())
        return self._weights_sha256[1]

    def count(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> int:
        """Tokens of the prompt that these messages make."""
        return self.chat.count(messages, tools)

    async def sample(
        self, messages: Sequence[Message], *, tools: Sequence[Tool] = (), sampling: Sampling = Sampling(),
        written: Written = lambda message: None,
    ) -> Completion:
        """One reply with the prompt as it was fed, id by id.

        The reply ends with the end-of-turn id if that was drawn (finish ``stop``, or ``tool`` if it calls one), where
        one of ``sampling.stop`` was said (it stays in the text), or at the limit (``length``).
        Raises: PolicyFailed for a prompt that leaves no room, or logits that are not finite.
        """
        pieces = self.chat.encode(messages, tools=tools, written=written)
        prompt = np.concatenate([piece.ids for piece in pieces]).astype(np.int32)
        if len(prompt) >= self.limit:
            raise PolicyFailed(
                f"the prompt has {len(prompt)} tokens, but {self.name} reads and writes {self.limit} together: use a "
                "context that shortens (polyturn.contexts), or a model with a longer limit"
            )
        self._refuse_unpublished()
        seed = derive(self.name, "call", next(self._calls)) if sampling.seed is None else sampling.seed
        request = drawn_request(
            prompt, sampling, seed=seed, limit=self.limit, stop_ids=self.chat.stop_ids,
            choices=None if sampling.choices is None else self.chat.choices(sampling.choices),
            text=lambda ids: self.chat.parse(np.array(ids, np.int32), tools=tools).text,
        )
        outcome = await self._answered(request)
        message = self.chat.parse(outcome.ids, tools=tools)
        finish: Finish = "length" if outcome.finish == "length" else "tool" if message.calls else "stop"
        usage = Usage(len(prompt), outcome.cached, len(outcome.ids))
        return Completion(
            message, pieces, outcome.ids, outcome.logprobs, outcome.support, True, finish, outcome.version, usage
        )

    async def _answered(self, request: Request) -> Any:
        return await asyncio.wrap_future(self._engine.submit(request))

    # -------------------------------------------------------- Scoring

    async def logprobs(self, paths: Sequence[IntArray]) -> Sequence[FloatArray]:
        """Per path, log p(id_t | ids before t) at temperature 1, by the sampling weights; the first is NaN."""
        self._refuse_unpublished()
        found = [np.full(len(path), np.nan) for path in paths]
        await asyncio.gather(*(
            self._answered(scored_request(path, _gather(np.asarray(path), into)))
            for path, into in zip(paths, found, strict=True) if len(path) > 1
        ))
        return found

    async def distributions(self, path: IntArray, *, first: int = 0) -> FloatArray:
        """Log-probabilities [T - first, V] of the next id after each position from ``first`` on; the beginning of the
        path is read from a cache where one holds it. Raises: BadInput for ``first`` outside the path."""
        if not 0 <= first < len(path):
            raise BadInput(f"first is {first} of a path of {len(path)} ids; expected a position in it")
        self._refuse_unpublished()
        found: list[FloatArray] = []

        def keep(at: int, logits: torch.Tensor) -> None:
            rows = torch.log_softmax(logits, -1).double().numpy()
            if not found:
                found.append(np.full((len(path) - first, rows.shape[1]), np.nan))
            found[0][at - first : at - first + len(rows)] = rows

        await self._answered(scored_request(path, keep, first=first))
        return found[0]

    # -------------------------------------------------------- weights

    def publish(self, version: int, weights: Mapping[str, torch.Tensor] = EMPTY) -> None:
        """Samples from the model's weights of now on, as ``version``; requests at work finish with the old ones first.
        Caches of old weights are dropped. ``weights`` (parameter -> value) are written into the model before, in the
        same pause: of a model that no learner shares. Raises: BadInput for a parameter that it does not have."""
        own = dict(self.model.named_parameters()) if weights else {}
        strange = sorted(weights.keys() - own.keys())
        if strange:
            raise BadInput(f"{self.name} has no parameter {strange[0]!r}; these weights are of another model")

        def take_over() -> None:
            with torch.no_grad():
                for name, value in weights.items():
                    own[name].copy_(value)
            refresh(self.sampling_model, self.model)
            self._engine.stepper.drop()
            self._engine.version = self.version = version
            self._published = self._changes()

        let_go()  # who publishes has learned just now, and the sampler's turn comes
        self._engine.between(take_over)

    def _changes(self) -> int:
        """How often weights that the sampler shares with the training model were written."""
        return sum(parameter._version for parameter in self._shared)

    def _refuse_unpublished(self) -> None:
        if self._changes() != self._published:
            raise PolicyFailed(
                f"the weights of {self.name} changed after version {self.version} was published; call publish(version) "
                "before sampling, so that every token names the weights that wrote it"
            )

    def save(self, folder: Path | str) -> None:
        """Writes the model (of a LoRA model the adapter alone) and its tokenizer, as transformers or peft load them.

        Raises: OSError where the disk is full; what the folder held before is then whole.
        """
        from safetensors import SafetensorError

        folder = Path(folder)
        beside = folder.with_name(f".{folder.name}.saving")
        shutil.rmtree(beside, ignore_errors=True)
        try:
            self.model.save_pretrained(beside)
            if self._tokenizer is not None:
                self._tokenizer.save_pretrained(beside)
        except (OSError, SafetensorError) as error:
            raise OSError(f"the model could not be written to {folder}: {error}; what it held before is whole. Free "
                          "some space first") from error
        else:
            folder.mkdir(parents=True, exist_ok=True)
            for path in beside.iterdir():
                path.replace(folder / path.name)
        finally:
            shutil.rmtree(beside, ignore_errors=True)

    def close(self) -> None:
        """Ends the engine's thread; who still waits gets PolicyFailed."""
        self._engine.close()


def _gather(path: IntArray, into: FloatArray) -> Callable[[int, torch.Tensor], None]:
    """Takes logits in parts and writes the log-probabilities of the ids that followed."""

    def take(first: int, logits: torch.Tensor) -> None:
        following = torch.from_numpy(path[first + 1 : first + 1 + len(logits)].astype(np.int64))
        rows = torch.log_softmax(logits[: len(following)], -1)
        into[first + 1 : first + 1 + len(following)] = rows.gather(1, following[:, None])[:, 0].double().numpy()

    return take


def load_folder(folder: Path) -> tuple[Any, Any]:
    """The model in float32 and the tokenizer of a folder. Weights are read as safetensors and in no other form, and no
    code that the folder holds is run.

    Raises: BadInput that says what is missing.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if not folder.is_dir():
        raise BadInput(f"there is no model folder {folder}; expected a folder with config.json, weights and tokenizer")
    names = {path.name for path in folder.iterdir()}
    if "adapter_config.json" in names:
        return _load_adapter(folder)
    if "config.json" not in names:
        raise BadInput(f"{folder} has no config.json, so it is no model of transformers; it holds {sorted(names)[:8]}")
    if not any(name.endswith(".safetensors") for name in names):
        raise BadInput(f"{folder} has no weights (*.safetensors); it holds {sorted(names)[:8]}. A .bin file is a pickle"
                       ", which may run code: load it where you trust it, and save_pretrained writes safetensors")
    if not names & {"tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt"}:
        raise BadInput(f"{folder} has no tokenizer; save it there with tokenizer.save_pretrained")
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, use_safetensors=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        raise BadInput(f"{folder} cannot be loaded as a causal language model: {error}") from error
    return model, tokenizer


def _load_adapter(folder: Path) -> tuple[Any, Any]:
    from peft import PeftConfig, PeftModel

    if not (folder / "adapter_model.safetensors").is_file():
        raise BadInput(f"{folder} has no adapter_model.safetensors; a .bin file is a pickle, which may run code")
    try:
        base = Path(PeftConfig.from_pretrained(str(folder)).base_model_name_or_path or "")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{folder}/adapter_config.json is none of peft's: {error}") from error
    if (base / "adapter_config.json").exists():
        raise BadInput(f"{folder} is an adapter of {base}, which is an adapter itself; expected a whole model")
    model, tokenizer = load_folder(base)
    return PeftModel.from_pretrained(model, str(folder), is_trainable=True), tokenizer


def with_lora(model: Any, rank: int) -> Any:
    """The model with a fresh LoRA adapter (scaling alpha / rank = 2) on its linear layers.

    Raises: BadInput where the model has none of the expected layers.
    """
    from peft import LoraConfig, get_peft_model

    present = {name.rpartition(".")[2] for name, _ in model.named_modules()} & set(LORA_MODULES)
    if not present:
        raise BadInput(f"this model has none of the layers {', '.join(LORA_MODULES)}; train all its weights instead")
    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=sorted(present), task_type="CAUSAL_LM"
    )
    return get_peft_model(model, config)

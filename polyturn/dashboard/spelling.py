"""Token ids as the text they stand for, by the tokenizer that a run keeps beside its checkpoints."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any


class Speller:
    """Spells the tokens of one run. A policy is known by its tokenizer's hash; one that is not kept is not spelled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def spell(self, ids: Sequence[int], tokenizer_sha256: str) -> list[str] | None:
        """The text of each id, joined again the text of all; None where the tokenizer is not kept.

        An id that ends in the middle of a character is empty, and the id that completes it holds it.
        """
        from tokenizers.decoders import DecodeStream

        path = self._paths().get(tokenizer_sha256)
        if path is None:
            return None
        tokenizer = _loaded(path)
        stream = DecodeStream(skip_special_tokens=False)
        return [stream.step(tokenizer, int(i)) or "" for i in ids]

    def _paths(self) -> Mapping[str, str]:
        found = sorted(self.folder.glob("tokenizers/*.json")) + sorted(self.folder.glob("checkpoints/*/tokenizer.json"))
        return {_hash(str(path), path.stat().st_mtime_ns): str(path) for path in reversed(found)}


@lru_cache(maxsize=64)
def _hash(path: str, changed: int) -> str:
    """The hash by which a record names a tokenizer (:attr:`polyturn.chat.Chat.tokenizer_sha256`)."""
    known: dict[str, Any] = json.loads(Path(path).read_bytes())
    rest = {name: value for name, value in known.items() if name not in ("truncation", "padding")}
    return sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


@lru_cache(maxsize=8)
def _loaded(path: str) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(path)

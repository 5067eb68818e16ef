"""The media store: pictures and sounds as files named by their sha256, so that equal bytes stand once.

A message names its media (:class:`polyturn.types.Part`); the bytes lie here, in the folder ``media`` of a run. An
environment puts them, whatever shows or learns from them gets them.
"""

from __future__ import annotations

import os
import re
import tempfile
from hashlib import sha256
from pathlib import Path

from polyturn.errors import BadInput, UnknownName

_NAME = re.compile(r"[0-9a-f]{64}")


class Media:
    """Files ``<folder>/<first two digits>/<sha256>``; the folder is made with the first of them.

    >>> store = Media(tempfile.mkdtemp())
    >>> name = store.put(b"dots")
    >>> name[:8], store.get(name), name in store
    ('0517cf1a', b'dots', True)
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self._known: set[str] = set()

    def path(self, name: str) -> Path:
        """Where the bytes of this name lie, or would. Raises: BadInput for what is no sha256."""
        if _NAME.fullmatch(name) is None:
            raise BadInput(f"media are named by their sha256, 64 digits 0-9a-f; got {name[:80]!r}")
        return self.folder / name[:2] / name

    def put(self, data: bytes) -> str:
        """The sha256 of ``data``, which are on disk when this returns; written whole or not at all."""
        name = sha256(data).hexdigest()
        if name in self._known:
            return name
        path = self.path(name)
        self._refuse_links(path)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, part = tempfile.mkstemp(dir=path.parent, prefix=".part-")
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            Path(part).replace(path)
        self._known.add(name)
        return name

    def get(self, name: str) -> bytes:
        """The bytes. Raises: UnknownName where there are none; BadInput where the file was changed."""
        path = self.path(name)
        self._refuse_links(path)
        if not path.exists():
            raise UnknownName("media", name, (found.name for found in self.folder.glob("??/*")))
        data = path.read_bytes()
        if sha256(data).hexdigest() != name:
            raise BadInput(f"{path} was changed: its bytes no longer have the sha256 that it is named by")
        return data

    def _refuse_links(self, path: Path) -> None:
        """Raises: BadInput for a link in the folder of a run that came from others: it may lead anywhere."""
        for place in (path, path.parent):
            if place.is_symlink():
                raise BadInput(f"{place} is a link; media are files in their own folder")

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and _NAME.fullmatch(name) is not None and self.path(name).exists()

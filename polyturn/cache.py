"""Where Polyturn keeps what can be made or fetched again: converted weights, data of other packages."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_folder() -> Path:
    """``POLYTURN_CACHE``, else the user's cache folder."""
    chosen = os.environ.get("POLYTURN_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", "~/AppData/Local")).expanduser() / "polyturn"
    if sys.platform == "darwin":
        return Path("~/Library/Caches/polyturn").expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "polyturn"

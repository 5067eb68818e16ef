"""``python -m polyturn`` is the command ``polyturn``."""

from __future__ import annotations

import sys

from polyturn.cli.main import main

if __name__ == "__main__":
    sys.exit(main())

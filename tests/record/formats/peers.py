"""Reads what was exported with the packages that the formats are of; run by the Python of ``make peers``."""

from __future__ import annotations

import json
import sys
from pathlib import Path


def verifiers(path: Path) -> int:
    """Validates traces, and their branches: one mask entry and one log-probability a token."""
    from verifiers.v1 import WireTrace

    lines = path.read_text().splitlines()
    for line in lines:
        trace = WireTrace.model_validate_json(line)
        for branch in trace.branches:
            assert len(branch.token_ids) == len(branch.sampled_mask) == len(branch.logprobs)
    return len(lines)


def inspect(path: Path) -> int:
    """Reads logs, and writes each again as ``.eval``."""
    from inspect_ai.log import read_eval_log, write_eval_log

    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    for file in files:
        log = read_eval_log(str(file))
        assert log.samples
        write_eval_log(log, str(file.with_suffix(".eval")))
    return len(files)


def atif(path: Path) -> int:
    """Validates documents."""
    from harbor.models.trajectories import Trajectory

    files = sorted(path.glob("*.json"))
    for file in files:
        Trajectory.model_validate(json.loads(file.read_text()))
    return len(files)


if __name__ == "__main__":
    print(globals()[sys.argv[1]](Path(sys.argv[2])))

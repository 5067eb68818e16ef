"""What a user waits for before anything runs: imports, the command line, the model.

``python -m benchmarks.start``. Each is a fresh process, median and worst of the repeats; the limits are the fraction
of it that the interpreter alone, or torch and transformers without us, take.
"""

from __future__ import annotations

import subprocess
import sys
import time
from statistics import median

from benchmarks.report import Report, parser, show

BARE = "the interpreter alone"
LOADED = "torch and transformers load the model"
STARTS = {
    BARE: ["-c", ""],
    "import polyturn": ["-c", "import polyturn"],
    "polyturn --help": ["-m", "polyturn", "--help"],
    "polyturn envs": ["-m", "polyturn", "envs"],
    "polyturn methods": ["-m", "polyturn", "methods"],
    LOADED: ["-c", "from benchmarks.models import load, load_tokenizer; load(); load_tokenizer()"],
    "Local.load()": ["-c", "from polyturn.policies.local import Local; Local.load().close()"],
}
"""What is started -> its arguments."""
FLOORS = {"import polyturn": BARE, "polyturn --help": BARE, "Local.load()": LOADED}


def seconds(arguments: list[str]) -> float:
    """Seconds of one process from start to end. Raises: CalledProcessError where it fails."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True, timeout=300)
    return time.perf_counter() - began


def main(argv: list[str] | None = None) -> None:
    """Parses the command line, measures, prints."""
    arguments = parser(__doc__.splitlines()[0]).parse_args(argv)
    report = Report("start", "python -m benchmarks.start", ("transformers",))
    found: dict[str, list[float]] = {name: [] for name in STARTS}
    for _ in range(arguments.repeats + 1):
        for name, words in STARTS.items():
            found[name].append(seconds(words))
    report.row("seconds of a process", "what", "median", "worst")
    for name, all_of_it in found.items():
        counted = all_of_it[1:]
        report.row("seconds of a process", name, median(counted), max(counted))
        report.details[name] = counted
    for name, floor in FLOORS.items():
        report.limits[name] = median(found[floor][1:]) / median(found[name][1:])
    show(report, as_json=arguments.json)


if __name__ == "__main__":
    main()

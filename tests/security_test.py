"""SECURITY.md, held: nothing of others is unpickled or evaluated, and what starts programs is known by name."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*(ROOT / "polyturn").rglob("*.py"), *(ROOT / "docs").glob("*.py")])
FORBIDDEN_IMPORTS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle"}
FORBIDDEN_CALLS = {
    "torch.load", "torch.save", "torch.jit.load", "numpy.load", "np.load", "np.save", "np.savez", "pandas.read_pickle",
    "pd.read_pickle", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "os.system", "os.popen",
}
ALLOWED = {
    ("polyturn/rollout/worker.py", "import pickle"), ("polyturn/rollout/worker.py", "pickle.loads"),
    ("polyturn/rollout/crew/lines.py", "import pickle"), ("polyturn/rollout/crew/lines.py", "pickle.loads"),
    ("polyturn/tools/sandbox/child.py", "exec"), ("polyturn/tools/sandbox/child.py", "eval"),
}
"""An environment, and what a crew's workers play, is sent into a process of ours by its pickle, and unpickled there;
the sandbox's child runs code."""


def dotted(node: ast.expr) -> str:
    """``a.b.c`` of an attribute or a name; empty for anything else."""
    if isinstance(node, ast.Attribute):
        before = dotted(node.value)
        return f"{before}.{node.attr}" if before else ""
    return node.id if isinstance(node, ast.Name) else ""


def offences(tree: ast.AST) -> Iterator[str]:
    """What of a source may run what others wrote."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (f"import {a.name}" for a in node.names if a.name.split(".")[0] in FORBIDDEN_IMPORTS)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in FORBIDDEN_IMPORTS:
            yield f"import {node.module}"
        elif isinstance(node, ast.Call):
            name = dotted(node.func)
            if name in FORBIDDEN_CALLS or name in {"eval", "exec"} or name.endswith(("pickle.loads", "pickle.load")):
                yield name
            for keyword in node.keywords:
                on = isinstance(keyword.value, ast.Constant) and keyword.value.value is True
                if keyword.arg in {"allow_pickle", "trust_remote_code", "shell"} and on:
                    yield f"{keyword.arg}=True"
                if keyword.arg in {"weights_only", "use_safetensors"} and not on:
                    yield f"{keyword.arg} is not True"


@pytest.mark.parametrize("text", [
    "import pickle", "from joblib import load", "import torch\ntorch.load('x')", "np.load('x', allow_pickle=True)",
    "def f():\n    import dill", "eval('1')", "exec('1')", "import subprocess\nsubprocess.run('ls', shell=True)",
    "AutoModel.from_pretrained('x', trust_remote_code=True)", "os.system('x')",
    "m.from_pretrained(x, use_safetensors=None)",
])
def test_the_search_finds_what_it_is_for(text: str) -> None:
    assert list(offences(ast.parse(text)))


def test_nothing_of_others_is_unpickled_or_evaluated() -> None:
    found = {(path.relative_to(ROOT).as_posix(), offence) for path in SOURCES
             for offence in offences(ast.parse(path.read_text(encoding="utf-8")))}
    assert found == ALLOWED


def test_models_are_read_as_safetensors_only() -> None:
    """Every call that reads a model's weights says so, since transformers would fall back to a pickle; for adapters
    :func:`polyturn.policies.local.load_folder` looks first. GGUF is a format of numbers."""
    loose = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and (
                    node.func.attr == "from_pretrained") and not re.search(
                    r"Tokenizer|Config|Processor|PeftModel", ast.unparse(node.func)):
                names = {keyword.arg for keyword in node.keywords}
                if not names & {"use_safetensors", "gguf_file"}:
                    loose.append(f"{path.relative_to(ROOT)}:{node.lineno} {ast.unparse(node)}")
    assert not loose


def test_the_policy_says_what_runs_where() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    for path in set(re.findall(r"`(polyturn/[\w/]+(?:\.py)?|tests/[\w/]+\.py|docs/[\w-]+\.md)`", text)):
        assert (ROOT / path).exists(), path
    for need in ("Reporting", "sandbox", "bubblewrap", "namespaces", "pickle", "safetensors", "DNS rebinding"):
        assert need in text

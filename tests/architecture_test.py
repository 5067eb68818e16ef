"""The law of the house (docs/architecture.md), walked with ``ast``: layers, doors, names, sizes, mirrors.

Each rule is a function from one module to its offences, tried below on a source that breaks it.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "polyturn"


@dataclass(frozen=True)
class Module:
    """One source file: ``Module("polyturn.policies.local", tree, text)``."""

    name: str
    tree: ast.Module
    text: str

    @property
    def place(self) -> tuple[str, ...]:
        """The name without the package: ``("policies", "local")``."""
        return tuple(self.name.split(".")[1:])


def read(path: Path, top: Path = ROOT) -> Module:
    name = ".".join(path.relative_to(top).with_suffix("").parts).removesuffix(".__init__")
    text = path.read_text(encoding="utf-8")
    return Module(name, ast.parse(text), text)


def written(name: str, text: str) -> Module:
    """A module that exists only here, for trying a rule."""
    return Module(name, ast.parse(text), text)


MODULES = [read(path) for path in sorted(PACKAGE.rglob("*.py"))]
TESTS = [read(path) for path in sorted((ROOT / "tests").rglob("*.py"))]
BENCHMARKS = [read(path) for path in sorted((ROOT / "benchmarks").rglob("*.py"))]

# ---------------------------------------------------------------- imports

LAYER = {
    **dict.fromkeys(("types", "errors", "seeds", "paper", "cache", "json_numbers"), "0"),
    **dict.fromkeys(("protocols", "ledger", "arrays", "calls", "template", "chat", "desk", "programs", "paths"), "1"),
    **dict.fromkeys(("retrieval", "forest", "media", "told", "waits", "visitors"), "1"),
    **dict.fromkeys(("tools", "record", "progress"), "2a"),
    **dict.fromkeys(("policies", "contexts", "agents", "envs", "verifiers", "advantages", "losses"), "2b"),
    **dict.fromkeys(("rollout", "learn"), "3a"),
    **dict.fromkeys(("evaluate", "diagnose", "synthesize", "learn.loop"), "3b"),
    "learn.decoupled": "3bb",
    "control": "3c",
    "conformance": "3d",
    **dict.fromkeys(("methods", "conformance", "audit", "doctor"), "4"),
    "testing": "4b",
    **dict.fromkeys(("recipes", "cli", "dashboard", "verbs", "__main__"), "5"),
}
"""First name (or first two) -> layer, as in section 4."""
CONTROL_MAY = {
    "record", "progress", "advantages", "losses", "learn.population", "learn.curriculum", "learn.checkpoint",
    "evaluate.payoff",
}
DASHBOARD_MAY = {"record", "types", "errors", "media", "evaluate.stats", "visitors"}


def unit(place: tuple[str, ...]) -> str:
    """What stands in the table of layers: ``learn.loop`` by itself, everything else by its first name."""
    pair = ".".join(place[:2])
    return pair if pair in LAYER else place[0]


def may_import(place: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether the module at ``place`` may import the one at ``other``."""
    own, theirs = unit(place), unit(other)
    layer, low = LAYER[own], LAYER[theirs]
    pair = ".".join(other[:2])
    if layer == "5" and own != "dashboard":
        return True
    if own == "dashboard":
        return theirs == "dashboard" or theirs in DASHBOARD_MAY or pair in DASHBOARD_MAY
    if own == theirs:
        return own != "methods" or place == other
    if low == "3c":
        return layer in {"4", "4b"}
    if layer == "3c":
        return low in {"0", "1"} or theirs in CONTROL_MAY or pair in CONTROL_MAY
    if layer in {"0", "1"}:
        return low <= layer
    if layer == "2a":
        return low in {"0", "1"}
    if layer == "2b":
        return low in {"0", "1"} or theirs == "tools"
    return low < layer


def imported(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """(dotted name, line) of all that is imported, in functions too; ``from a import b`` gives ``a.b``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((f"{node.module or ''}.{alias.name}".lstrip("."), node.lineno) for alias in node.names)


def relative_imports(module: Module) -> list[str]:
    """An import path is a file path: relative imports are not used."""
    return [f"line {n.lineno}" for n in ast.walk(module.tree) if isinstance(n, ast.ImportFrom) and n.level]


def upward_imports(module: Module) -> list[str]:
    """Imports of a higher layer or of a sibling."""
    if not module.place:
        return []
    found = []
    for name, line in imported(module.tree):
        other = tuple(name.split(".")[1:])
        if name.split(".")[0] == "polyturn" and other and other[0].islower() and not may_import(module.place, other):
            found.append(f"line {line}: imports {name}")
    return found


ENVIRONMENTS = {"textarena": "textarena", "pyspiel": "openspiel", "open_spiel": "openspiel",
                "gymnasium": "gymnasium", "pettingzoo": "pettingzoo", "textworld": "textworld",
                "scienceworld": "scienceworld"}
DOORS = {
    "torch": {"forest", "losses", "learn", "policies", "control", "methods"},
    "transformers": {"policies", "forest", "chat", "template"},
    "peft": {"policies", "learn"},
    "safetensors": {"policies", "learn"},
    "ray": {"rollout.cluster"},
    "playwright": {"envs.browser", "envs.gui_lab", "envs.miniwob"},
    "bm25s": {"retrieval"},
    "mcp": {"tools.mcp"},
    **{package: {"record.trackers"} for package in ("tensorboard", "trackio", "wandb", "mlflow")},
    **{package: {f"envs.{adapter}"} for package, adapter in ENVIRONMENTS.items()},
}
"""Heavy package -> where it may be imported at all; a file ``x_more`` beside the file ``x`` shares its door."""
ALSO_INSIDE_FUNCTIONS = {"doctor", "cli", "testing", "conformance", "recipes", "verbs"}


def wrong_doors(module: Module) -> list[str]:
    """Heavy packages imported where they have no door; layers 4 and 5 may open one inside a function."""
    inside = {node for function in functions(module.tree) for node in ast.walk(function)}
    found = []
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        for name, line in imported(node):
            package = name.split(".")[0]
            allowed = DOORS.get(package)
            here = {module.place[0] if module.place else "", ".".join(module.place[:2])}
            late = node in inside and here & ALSO_INSIDE_FUNCTIONS
            own = any(place.startswith(f"{door}_") for place in here for door in allowed or ())
            if allowed is not None and not here & allowed and not own and not late:
                found.append(f"line {line}: {package} has no door here")
    return found


def functions(tree: ast.AST) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def classes(tree: ast.AST) -> list[ast.ClassDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]


# ---------------------------------------------------------------- style

BANNED = {"util", "utils", "common", "base", "manager", "managers", "helper", "helpers", "misc", "core"}


def empty_names(module: Module) -> list[str]:
    return [f"{part!r} says nothing about its content" for part in module.place if part in BANNED]


def full_inits(module: Module) -> list[str]:
    """``__init__`` files hold a docstring only; the root re-exports."""
    body = module.tree.body
    package = (ROOT.joinpath(*module.name.split(".")) / "__init__.py").exists()
    if not package or not module.place:
        return []
    return [] if len(body) == 1 and ast.get_docstring(module.tree) else ["an __init__ holds a docstring and no more"]


def code_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring."""
    docstring = node.body[0] if ast.get_docstring(node) is not None else None
    doc = docstring.end_lineno - docstring.lineno + 1 if docstring and docstring.end_lineno else 0
    return (node.end_lineno or node.lineno) - node.lineno + 1 - doc


def long_functions(module: Module) -> list[str]:
    sizes = [(code_lines(f), f) for f in functions(module.tree)]
    return [f"line {f.lineno}: {f.name} has {size} lines of code; at most 40" for size, f in sizes if size > 40]


def long_modules(module: Module) -> list[str]:
    count = module.text.count("\n")
    return [f"{count} lines; at most 400: split it into a folder of the same name"] if count > 400 else []


def many_parameters(module: Module) -> list[str]:
    found = []
    for f in functions(module.tree):
        names = [a.arg for a in (*f.args.posonlyargs, *f.args.args) if a.arg not in {"self", "cls"}]
        if len(names) > 6:
            found.append(f"line {f.lineno}: {f.name} has {len(names)} positional parameters; at most 6")
    return found


def loose_zips(module: Module) -> list[str]:
    """``zip`` without ``strict=True``."""
    def strict(call: ast.Call) -> bool:
        return any(k.arg == "strict" and isinstance(k.value, ast.Constant) and k.value.value is True
                   for k in call.keywords)

    calls = [n for n in ast.walk(module.tree) if isinstance(n, ast.Call)]
    return [f"line {c.lineno}" for c in calls if isinstance(c.func, ast.Name) and c.func.id == "zip" and not strict(c)]


PARENTS = {"Protocol", "Enum", "IntEnum", "StrEnum", "Exception", "NamedTuple", "TypedDict", "Module", "Generic",
           "Function"}
"""What may be inherited; ``Module`` and ``Function`` are torch's."""
DEMANDED: dict[str, set[str]] = {
    "polyturn.cli.parse": {"ArgumentParser"}, "benchmarks.overhead_peers": {"Env", "Client", "Harness"},
}
"""Where a library demands a subclass."""


def inherited(module: Module) -> list[str]:
    found = []
    for node in classes(module.tree):
        for parent in node.bases:
            name = ast.unparse(parent).split("[")[0].split(".")[-1]
            allowed = name in PARENTS or name in DEMANDED.get(module.name, set())
            if not allowed and not name.endswith(("Error", "Exception")) and module.place != ("errors",):
                found.append(f"line {node.lineno}: {node.name} inherits {name}")
    return found


MARK = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b|NotImplementedError|#\s*type:\s*ignore(?!\[)|#\s*noqa(?!: )")


def marks(module: Module) -> list[str]:
    """Stubs, and silenced checks that do not say which."""
    lines = enumerate(module.text.splitlines(), 1)
    return [f"line {number}: {line.strip()[:80]}" for number, line in lines if MARK.search(line)]


def swallowed_errors(module: Module) -> list[str]:
    """A handler of every exception whose body does nothing."""
    found = []
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ExceptHandler):
            broad = node.type is None or ast.unparse(node.type) in {"Exception", "BaseException"}
            quiet = all(isinstance(s, ast.Pass | ast.Continue) or (isinstance(s, ast.Return) and (
                s.value is None or isinstance(s.value, ast.Constant))) for s in node.body)
            if broad and quiet:
                found.append(f"line {node.lineno}: an error is swallowed")
    return found


def side_effects(module: Module) -> list[str]:
    """Statements at module level that do more than define."""
    quiet = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)
    found = []
    for node in module.tree.body:
        constant = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        guard = isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "__name__ == '__main__'"}
        if not isinstance(node, quiet) and not constant and not guard:
            found.append(f"line {node.lineno}: {ast.unparse(node)[:60]}")
    return found


def missing_docstrings(module: Module) -> list[str]:
    """Modules, public classes and public functions of more than six lines explain themselves; a method may leave that
    to its class or Protocol."""
    found = [] if ast.get_docstring(module.tree) else ["the module has no docstring"]
    top = [f for f in functions(module.tree) if f in module.tree.body]
    for node in [*top, *classes(module.tree)]:
        small = not isinstance(node, ast.ClassDef) and code_lines(node) <= 6
        if not node.name.startswith("_") and not small and ast.get_docstring(node) is None:
            found.append(f"line {node.lineno}: {node.name} has no docstring")
    return found


RULES: list[Callable[[Module], list[str]]] = [
    relative_imports, upward_imports, wrong_doors, empty_names, full_inits, long_functions, long_modules,
    many_parameters, loose_zips, inherited, marks, swallowed_errors, side_effects, missing_docstrings,
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_module_keeps(rule: Callable[[Module], list[str]]) -> None:
    offences = [f"{module.name}: {offence}" for module in MODULES for offence in rule(module)]
    assert not offences, "\n" + "\n".join(offences)


@pytest.mark.parametrize("rule", [r for r in RULES if r not in {upward_imports, wrong_doors}], ids=lambda r: r.__name__)
def test_benchmarks_keep(rule: Callable[[Module], list[str]]) -> None:
    """Benchmarks are no part of the package, and may import what they measure; their style is the same."""
    offences = [f"{module.name}: {offence}" for module in BENCHMARKS for offence in rule(module)]
    assert BENCHMARKS and not offences, "\n" + "\n".join(offences)


BREAKS: list[tuple[Callable[[Module], list[str]], str, str]] = [
    (relative_imports, "polyturn.ledger", "from .types import Span"),
    (upward_imports, "polyturn.types", "from polyturn.ledger import Ledger"),
    (upward_imports, "polyturn.ledger", "def f():\n    import polyturn.rollout.pool"),
    (upward_imports, "polyturn.policies.local", "from polyturn.losses import learned"),
    (upward_imports, "polyturn.record.write", "from polyturn.tools import files"),
    (upward_imports, "polyturn.learn.learner", "from polyturn.rollout.pool import play"),
    (upward_imports, "polyturn.learn.learner", "from polyturn.learn.loop import train"),
    (upward_imports, "polyturn.evaluate.benchmark", "from polyturn.learn.loop import train"),
    (upward_imports, "polyturn.methods.learning.spiral", "from polyturn.methods.learning.grpo import x"),
    (upward_imports, "polyturn.dashboard.page", "from polyturn.learn.loop import train"),
    (upward_imports, "polyturn.rollout.pool", "from polyturn.control.small import act"),
    (wrong_doors, "polyturn.ledger", "def f():\n    import torch"),
    (wrong_doors, "polyturn.doctor", "import torch"),
    (wrong_doors, "polyturn.envs.openspiel", "import textarena"),
    (empty_names, "polyturn.rollout.utils", ""),
    (full_inits, "polyturn.recipes", '"""Recipes."""\nfrom polyturn import types'),
    (long_functions, "polyturn.desk", "def f():\n" + "    pass\n" * 40),
    (long_modules, "polyturn.desk", "\n" * 401),
    (many_parameters, "polyturn.desk", "def f(a, b, c, d, e, f, g): pass"),
    (loose_zips, "polyturn.desk", "zip(a, b)"),
    (loose_zips, "polyturn.desk", "zip(a, b, strict=False)"),
    (inherited, "polyturn.desk", "class Other(Desk): pass"),
    (marks, "polyturn.desk", "x = 1  # type" + ": ignore"),
    (marks, "polyturn.desk", "# TO" + "DO: all"),
    (swallowed_errors, "polyturn.desk", "try:\n    f()\nexcept Exception:\n    pass"),
    (side_effects, "polyturn.desk", "print('hello')"),
    (missing_docstrings, "polyturn.desk", '"""Desk."""\nclass Desk: pass'),
]


@pytest.mark.parametrize(("rule", "name", "text"), BREAKS)
def test_the_rules_catch(rule: Callable[[Module], list[str]], name: str, text: str) -> None:
    assert rule(written(name, text))


@pytest.mark.parametrize(("rule", "name", "text"), [
    (upward_imports, "polyturn.learn.loop", "from polyturn.rollout.pool import play"),
    (upward_imports, "polyturn.envs.openspiel", "from polyturn.protocols import Ask"),
    (upward_imports, "polyturn.cli.main", "def f():\n    from polyturn.recipes import quickstart"),
    (upward_imports, "polyturn.control.small", "from polyturn.learn.population import payoff"),
    (wrong_doors, "polyturn.doctor", "def f():\n    import torch"),
    (wrong_doors, "polyturn.envs.openspiel", "import pyspiel"),
    (loose_zips, "polyturn.desk", "zip(a, b, strict=True)"),
    (inherited, "polyturn.losses.learned", "class Head(torch.nn.Module): pass"),
])
def test_the_rules_allow(rule: Callable[[Module], list[str]], name: str, text: str) -> None:
    assert not rule(written(name, text))


def test_every_module_has_a_layer() -> None:
    assert not {m.name for m in MODULES if m.place and unit(m.place) not in LAYER}


def test_imports_make_no_cycle() -> None:
    names = {m.name for m in MODULES}

    def owner(name: str) -> str | None:
        return name if name in names else owner(name.rpartition(".")[0]) if "." in name else None

    graph: dict[str, set[str]] = {}
    for module in MODULES:
        if not module.place:
            continue
        checked_only = {node for guard in ast.walk(module.tree) if isinstance(guard, ast.If)
                        and ast.unparse(guard.test) == "TYPE_CHECKING" for node in ast.walk(guard)}
        later = {node for function in functions(module.tree) for node in ast.walk(function)}
        nodes = [n for n in ast.walk(module.tree) if isinstance(n, ast.Import | ast.ImportFrom)]
        real = [n for n in nodes if n not in checked_only and n not in later]
        found = {owner(name) for node in real for name, _ in imported(node)} - {None, "polyturn", module.name}
        graph[module.name] = {name for name in found if name}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


# ---------------------------------------------------------------- tests, README

OWN_TESTS = {
    "architecture", "chat_ledger", "chat_smollm2", "conftest", "proof", "proof_model", "recipes/full_disk",
    "recipes/kill_chain", "recipes/ranks", "recipes/resume", "rollout/chaos", "rollout/deterministic", "security",
    "wheel",
}
"""Tests that mirror no module."""


def behaves(module: Module) -> bool:
    """Whether a module has a function to test: types and Protocols alone have none."""
    protocols = {f for c in classes(module.tree) for f in functions(c)
                 if any(ast.unparse(parent) == "Protocol" for parent in c.bases)}
    return bool(module.place) and any(f not in protocols for f in functions(module.tree))


def stems(name: str) -> list[str]:
    """A name and its beginnings: ``chat_ledger`` and ``chat``."""
    parts = name.split("_")
    return ["_".join(parts[:count]) for count in range(len(parts), 0, -1)]


def test_tests_mirror_the_package() -> None:
    """``a/b.py`` has ``tests/a/b_test.py``; more tests of it may stand in ``b_more_test.py``, and a file that became a
    folder may keep the one test of its name."""
    tests = {m.place for m in TESTS if m.name.endswith("_test")}
    mirrored = {(*place[:-1], place[-1].removesuffix("_test")) for place in tests}
    modules = {m.place for m in MODULES} | {("benchmarks", *m.place) for m in BENCHMARKS}
    missing = {m.name for m in MODULES if behaves(m) and not {m.place, m.place[:-1]} & mirrored}
    strange = {
        "/".join(p) for p in mirrored
        if p[0] != "docs" and "/".join(p) not in OWN_TESTS and not {(*p[:-1], stem) for stem in stems(p[-1])} & modules
    }
    assert not missing, f"no tests/..._test.py for {sorted(missing)}"
    assert not strange, f"tests that mirror no module: {sorted(strange)}"


def test_tests_use_no_mocks_and_skip_nothing_as_a_whole() -> None:
    bad = re.compile(r"unittest\.mock|import mock\b|MagicMock|importorskip|allow_module_level")
    read_here = [m for m in TESTS if m.name not in {"tests.conftest_test", "tests.architecture_test"}]
    offences = [f"{m.name}: {hit.group()}" for m in read_here for hit in bad.finditer(m.text)]
    assert not offences


def test_test_sources_are_clean() -> None:
    others = [m for m in TESTS if m.name != "tests.architecture_test"]
    offences = [f"{m.name}: {o}" for m in others for rule in (marks, loose_zips) for o in rule(m)]
    assert not offences, "\n" + "\n".join(offences)


def heavy_twins(module: Module) -> list[str]:
    """What a slow twin may not import: it is plain floats and loops, and knows nothing of what it is compared with."""
    names = {name.partition(".")[0] for node in ast.walk(module.tree) for name, _ in imported(node)
             if isinstance(node, ast.Import | ast.ImportFrom)}
    return [f"imports {name}" for name in sorted(names) if name != "__future__" and name not in PLAIN]


PLAIN = {"math", "hashlib", "string", "dataclasses", "collections", "typing"}
"""What a slow twin may import."""


def test_every_paper_has_a_slow_twin_that_imports_nothing_heavy() -> None:
    twins = [module for module in TESTS if module.name.endswith("_slow")]
    assert {module.name.rpartition(".")[2].removesuffix("_slow") for module in twins} >= {
        str(paper["name"]) for paper in papers()}
    assert not [f"{module.name}: {offence}" for module in twins for offence in heavy_twins(module)]
    for text in ("import numpy as np", "from torch import Tensor", "def f():\n    from polyturn.arrays import Turns"):
        assert heavy_twins(written("tests.methods.x_slow", text))


@pytest.mark.parametrize("script", ["tree.py", "tables.py"])
def test_generated_pages_are_fresh(script: str) -> None:
    command = [sys.executable, ROOT / "docs" / script, "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


# ---------------------------------------------------------------- start

HEAVY = ("torch", "transformers", "peft", "pyarrow", "duckdb", "textarena", "pyspiel", "httpx", "starlette", "tyro",
         "rich", "scipy", "pandas")


@pytest.mark.parametrize("statement", [
    "import polyturn",
    "from polyturn.cli.main import main; assert main(['--help']) == 0",
    "from polyturn.cli.main import main; assert main(['run', '--help']) == 0",
    "from polyturn.cli.main import main; assert main(['methods']) == 0",
    "from polyturn.cli.main import main; assert main(['envs']) == 0",
    "import polyturn.audit.report",
])
def test_starting_loads_nothing_heavy(statement: str) -> None:
    check = f"{statement}\nimport sys\nprint(*sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr, end='')"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# ---------------------------------------------------------------- papers


def papers() -> list[dict[str, object]]:
    from polyturn.cli.listing import methods

    return methods()


def test_every_paper_has_recipe_test_and_page() -> None:
    wants = {"recipe", "test", "claim", "arxiv", "adds", "axes"}
    missing = [f"{paper['name']} has no {want}" for paper in papers() for want in sorted(wants) if not paper[want]]
    missing += [f"{paper['name']} has no docs/methods/{paper['name']}.md" for paper in papers()
                if not (ROOT / "docs" / "methods" / f"{paper['name']}.md").is_file()]
    assert not missing, "\n".join(missing)


def test_every_papers_page_says_what_a_page_must_say() -> None:
    log = (ROOT / "docs" / "log.md").read_text(encoding="utf-8")
    missing = []
    for paper in papers():
        name = str(paper["name"])
        page = (ROOT / "docs" / "methods" / f"{name}.md").read_text(encoding="utf-8")
        wants = [str(paper["arxiv"]), f"polyturn run {name}", f"polyturn study {name}", "<!-- figure -->"]
        missing += [f"docs/methods/{name}.md lacks {want!r}" for want in wants if want not in page]
        if not re.search(r"^(## |\*\*)(Deviations|Where it differs)", page, re.MULTILINE):
            missing.append(f"docs/methods/{name}.md does not say where it deviates")
        if (ROOT / "docs" / "results" / f"{name}.json").exists() and f"polyturn study {name}" not in log:
            missing.append(f"docs/log.md has no entry on the study of {name}")
    assert not missing, "\n".join(missing)


def test_decision_notes_are_numbered_once_and_say_their_number() -> None:
    notes = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
    numbers = [path.name[:4] for path in notes]
    assert sorted(set(numbers)) == numbers, numbers
    for path in notes:
        assert path.read_text(encoding="utf-8").startswith(f"# {path.name[:4]}: "), path.name


def test_results_are_of_papers_and_have_their_plot() -> None:
    names = {str(paper["name"]) for paper in papers()}
    found = {path.stem for path in (ROOT / "docs" / "results").glob("*.json")}
    assert found <= names
    assert {path.stem for path in (ROOT / "docs" / "results").glob("*.svg")} == found

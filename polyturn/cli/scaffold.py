"""``polyturn new env|recipe NAME``: a file that works, with a test that passes, to be changed."""

from __future__ import annotations

import keyword
from pathlib import Path

from polyturn.cli.parse import Parser, print_json
from polyturn.errors import BadInput

TEMPLATES = Path(__file__).parent / "templates"
EXAMPLES = ("polyturn new env sums", "polyturn new recipe my_run --into experiments")


def command(name: str, arguments: list[str]) -> int:
    """Writes the files and says what to do next."""
    parser = Parser(name, "Write a new environment or recipe: a file that works and a test that passes.", EXAMPLES)
    parser.add_argument("kind", choices=("env", "recipe"))
    parser.add_argument("name", metavar="NAME", help="a Python name, such as word_chain")
    parser.add_argument("--into", default=".", metavar="FOLDER", help="where the files are written (here)")
    parser.add_argument("--json", action="store_true", help="one object with the list 'files'")
    asked = parser.all_known(arguments)
    files = write(asked.kind, asked.name, Path(asked.into))
    if asked.json:
        print_json({"files": [str(path) for path in files]})
        return 0
    print(f"wrote {' and '.join(map(str, files))}")
    print(f"check it:  python -m pytest {files[1]}")
    before, after = ("play", "--policy oracle") if asked.kind == "env" else ("run", "--dry-run")
    print(f"try it:    polyturn {before} {files[0]} {after}")
    return 0


def write(kind: str, name: str, folder: Path) -> tuple[Path, Path]:
    """The file and its test, written. Raises: BadInput for a name that is none, or files that exist."""
    if not name.isidentifier() or keyword.iskeyword(name) or name != name.lower():
        raise BadInput(f"{name!r} cannot name a module; use small letters, digits and underscores, such as word_chain")
    files = (folder / f"{name}.py", folder / f"{name}_test.py")
    taken = [str(path) for path in files if path.exists()]
    if taken:
        raise BadInput(f"{' and '.join(taken)} exists already; choose another name or remove it first")
    folder.mkdir(parents=True, exist_ok=True)
    for path, template in zip(files, (kind, f"{kind}_test"), strict=True):
        text = (TEMPLATES / f"{template}.txt").read_text(encoding="utf-8")
        path.write_text(text.replace("NAME", name), encoding="utf-8")
    return files

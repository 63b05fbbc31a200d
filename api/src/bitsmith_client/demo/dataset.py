"""The demo's data: what the Python standard library says about its own functions.

A prompt is a signature, the answer its docstring's first paragraph:

    What does this do? shutil.which(cmd, mode=os.F_OK | os.X_OK, path=None)
    Given a command, mode, and a PATH string, return the path which conforms to the given mode on the PATH, or None if
    there is no such file.

Sources are parsed, never imported, so nothing runs, nothing warns and nothing can fail to import. The split is by
top-level module: no module has examples on both sides. The same Python version always gives the same files.
"""

import ast
import hashlib
import inspect
import json
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SYSTEM = "You explain Python."  # short: every example pays for it
QUESTION = "What does this do? "

_LEFT_OUT = frozenset(
    {
        "antigravity",
        "ensurepip",
        "idlelib",
        "lib2to3",
        "pydoc_data",
        "site-packages",
        "test",
        "tests",
        "this",
        "turtledemo",
    }
)
_ANSWER_CHARACTERS = range(20, 241)
_SIGNATURE_CHARACTERS = range(4, 161)
_VALIDATION_SHARE = 10  # one module in this many is held out


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    training: int
    validation: int


@dataclass(frozen=True, slots=True)
class _Pair:
    module: str  # top level
    signature: str
    answer: str


def build(folder: Path, *, library: Path | None = None) -> Counts:
    """Write training.jsonl and validation.jsonl into folder, which is made if it is missing.

    Args:
        library: a folder of Python sources; the running interpreter's standard library unless given.
    """
    pairs = list(_distinct(_pairs(library or Path(sysconfig.get_paths()["stdlib"]))))
    folder.mkdir(parents=True, exist_ok=True)
    held_out = [pair for pair in pairs if _is_held_out(pair.module)]
    learned = [pair for pair in pairs if not _is_held_out(pair.module)]
    _write(folder / "training.jsonl", learned)
    _write(folder / "validation.jsonl", held_out)
    return Counts(training=len(learned), validation=len(held_out))


def _pairs(library: Path) -> Iterator[_Pair]:
    for path in sorted(library.rglob("*.py"), key=lambda path: path.relative_to(library).as_posix()):
        parts = path.relative_to(library).with_suffix("").parts
        if _LEFT_OUT & set(parts):
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # old sources have invalid escapes
                tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError, OSError):
            continue
        module = ".".join(part for part in parts if part != "__init__")
        for name, node in _definitions(tree, module):
            answer = _first_paragraph(node)
            signature = f"{name}({_arguments(node)})"
            if len(answer) in _ANSWER_CHARACTERS and len(signature) in _SIGNATURE_CHARACTERS:
                yield _Pair(parts[0], signature, answer)


_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def _definitions(tree: ast.Module | ast.ClassDef, path: str) -> Iterator[tuple[str, _Definition]]:
    """Public functions, classes and methods with their dotted names."""
    for node in tree.body:
        if not isinstance(node, _Definition) or node.name.startswith("_"):
            continue
        name = f"{path}.{node.name}"
        yield name, node
        if isinstance(node, ast.ClassDef):
            yield from _definitions(node, name)


def _first_paragraph(node: _Definition) -> str:
    docstring = inspect.cleandoc(ast.get_docstring(node) or "")
    return " ".join(docstring.partition("\n\n")[0].split())


def _arguments(node: _Definition) -> str:
    """Names and defaults without annotations; a class has those of its __init__."""
    if isinstance(node, ast.ClassDef):
        makers = [item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"]
        return _arguments(makers[0]) if makers else ""
    for argument in ast.walk(node.args):
        if isinstance(argument, ast.arg):
            argument.annotation = None
    words = ast.unparse(node.args).split(", ")
    return ", ".join(words[1:] if words[0] in ("self", "cls") else words)


def _distinct(pairs: Iterator[_Pair]) -> Iterator[_Pair]:
    """The first of each answer: many classes inherit or copy their docstrings."""
    seen: set[str] = set()
    for pair in pairs:
        key = pair.answer.lower().rstrip(".")
        if key not in seen:
            seen.add(key)
            yield pair


def _is_held_out(module: str) -> bool:
    return hashlib.sha256(module.encode()).digest()[0] % _VALIDATION_SHARE == 0


def _write(path: Path, pairs: list[_Pair]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for pair in pairs:
            messages = [
                {"role": "system", "content": SYSTEM},
                {"role": "user", "content": QUESTION + pair.signature},
                {"role": "assistant", "content": pair.answer},
            ]
            file.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")

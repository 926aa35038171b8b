"""Find the files that the results of a script depend on: modules that it imports, directly or not, and data files."""

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from tgems.provenance import digest_file, digest_json

PACKAGE = Path(__file__).parent


def import_closure(script: Path) -> list[Path]:
    """Return every file of tgems that running a script may read, in alphabetical order and without the script itself.

    These are the modules of all import statements, including those in functions, followed from module to module, and
    the data files beside a module that it names in a string. Imports for type checkers do not count, since they never
    run. Neither do imports in functions of a package's `__init__.py`, because importing a module of the package does
    not call these functions.

    Args:
        script: A Python file.
    """
    found: set[Path] = set()
    followed: set[Path] = set()
    waiting = [Path(script)]
    while waiting:
        modules, data = _needed_by(waiting.pop())
        waiting += modules - followed
        followed |= modules
        found |= modules | data
    return sorted(found)


def code_digest(files: Iterable[str | Path]) -> str:
    """Return a digest of source files that does not depend on comments, docstrings, formatting and paths."""
    return digest_json(sorted(_digest(Path(file)) for file in files))


def _digest(file: Path) -> str:
    if file.suffix != ".py":
        return digest_file(file)
    tree = ast.parse(file.read_bytes(), filename=str(file))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            node.body = [part for part in node.body if not _is_text(part)] or [ast.Pass()]
    return digest_json(ast.dump(tree))


def _is_text(node: ast.AST) -> bool:
    """Return whether a statement is only a string, such as a docstring."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


@cache
def _needed_by(file: Path) -> tuple[frozenset[Path], frozenset[Path]]:
    """Return the modules of tgems that one Python file imports, and the files beside it that it names."""
    found: set[Path] = set()
    data: set[Path] = set()
    for node in _running(ast.parse(file.read_bytes(), filename=str(file)), file.name != "__init__.py"):
        if isinstance(node, ast.Import):
            for name in node.names:
                found.update(_modules(name.name))
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.update(_modules(node.module))
            for name in node.names:
                found.update(_modules(f"{node.module}.{name.name}"))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _is_file_name(node.value):
            beside = file.parent / node.value
            data.update([beside] if beside.is_file() and file.is_relative_to(PACKAGE) else [])
    return frozenset(found), frozenset(data)


def _running(node: ast.AST, functions: bool) -> Iterator[ast.AST]:
    """Walk a syntax tree without `if TYPE_CHECKING:`, and without the bodies of functions unless `functions` is set."""
    yield node
    for child in ast.iter_child_nodes(node):
        typing = isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING"
        if not typing and (functions or not isinstance(child, ast.FunctionDef)):
            yield from _running(child, functions)


def _modules(name: str) -> list[Path]:
    """Return the files that importing a module of tgems runs: the module, and the `__init__.py` of its packages."""
    parts = name.split(".")
    if parts[0] != PACKAGE.name:
        return []
    folders = [PACKAGE.joinpath(*parts[1:i]) for i in range(1, len(parts) + 1)]
    own = folders.pop().with_suffix(".py") if len(parts) > 1 else folders[-1] / "__init__.py"
    candidates = [own, *(folder / "__init__.py" for folder in [*folders, own.with_suffix("")])]
    return [path for path in candidates if path.is_file()]


def _is_file_name(text: str) -> bool:
    """Return whether a string can be the name of a data file."""
    return 2 < len(text) < 100 and "." in text and "/" not in text and "\0" not in text

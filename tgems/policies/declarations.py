"""Read the class attributes of policies from their source, without importing torch or running any code.

Dry runs need to know which gates a policy requires, and figures how to label and draw it.
"""

import ast
from functools import cache
from pathlib import Path
from typing import Any

from tgems.costs.exit_costs import GATES
from tgems.errors import UserError, nearest

SOURCES = ("interface.py", "reference.py", "confidence.py", "trained_gates.py")
BUILT_IN = tuple(Path(__file__).with_name(name) for name in SOURCES)


def declared(word: str) -> dict[str, Any]:
    """Return the class attributes of a policy, inherited ones included (`tgems.policies.interface.Policy`).

    Args:
        word: Name of a policy of tgems, or `FILE.py:CLASS` for one of your own.

    Raises:
        UserError: There is no such policy or file, the file is not valid Python, or an attribute has a value that it
            cannot have.
    """
    place = f"config: policies: {word!r}"
    if ":" not in word:
        known = {own["name"]: own for own in _attributes(BUILT_IN).values() if "name" in own}
        if word not in known:
            raise UserError(f"{place} is not a policy; {nearest(word, [*known, 'shuffled'])}")
        return known[word]
    path, _, name = word.rpartition(":")
    if not path.endswith(".py"):
        raise UserError(f"{place}: {path!r} is not a Python file; write FILE.py:CLASS")
    try:
        own = _own_classes(Path(path))
    except OSError as error:
        raise UserError(f"{place}: {path!r} cannot be read from {Path.cwd()} ({error.strerror})") from None
    except (SyntaxError, ValueError) as error:
        where = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        raise UserError(f"{place}: {path}{where} is not valid Python ({error}); fix it") from None
    if name not in own:
        raise UserError(f"{place}: {path} defines no class {name!r}; {nearest(name, own)}")
    found = _resolved(name, _classes(BUILT_IN) | own)
    if found.get("gates") not in (None, *GATES):
        kinds = ", ".join(map(repr, GATES))
        raise UserError(f"{place}: gates of class {name!r} is {found['gates']!r}; write None or one of {kinds}")
    if not isinstance(found.get("name"), str):
        raise UserError(f"{place}: class {name!r} has no name; write name = '...' in it")
    return found


@cache
def _attributes(files: tuple[Path, ...]) -> dict[str, dict[str, Any]]:
    """Return the attributes of all classes of some files."""
    classes = _classes(files)
    return {name: _resolved(name, classes) for name in classes}


@cache
def _classes(files: tuple[Path, ...]) -> dict[str, ast.ClassDef]:
    return {name: node for file in files for name, node in _own_classes(file).items()}


def _own_classes(file: Path) -> dict[str, ast.ClassDef]:
    module = ast.parse(file.read_bytes(), filename=str(file))
    return {node.name: node for node in module.body if isinstance(node, ast.ClassDef)}


def _resolved(name: str, classes: dict[str, ast.ClassDef]) -> dict[str, Any]:
    """Return the literal attributes of a class; those of its first base come before its own."""
    if name not in classes:
        return {}
    found: dict[str, Any] = {}
    for base in reversed(classes[name].bases):
        found |= _resolved(ast.unparse(base).rpartition(".")[2], classes)
    for node in classes[name].body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
        pairs = [(target, value) for target in targets]
        if len(targets) == 1 and isinstance(targets[0], ast.Tuple) and isinstance(value, ast.Tuple):
            pairs = list(zip(targets[0].elts, value.elts, strict=False))
        for target, own in pairs:
            if isinstance(target, ast.Name) and isinstance(own, ast.Constant):
                found[target.id] = own.value
    return found

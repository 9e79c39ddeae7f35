"""Whoever reads a public name finds what it is for: at its definition, or at the interface that it implements."""

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "karst_bench"
TREES = {path: ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}
CLASSES = {node.name: node for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
TORCHS = {"forward", "extra_repr"}  # nn.Module says what they are

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def public(node: ast.Module | ast.ClassDef) -> Iterator[tuple[Definition, str]]:
    """The public functions, classes and methods below, each with the name of its class."""
    for child in node.body:
        if isinstance(child, Definition) and not child.name.startswith("_"):
            yield child, node.name if isinstance(node, ast.ClassDef) else ""
            if isinstance(child, ast.ClassDef):
                yield from public(child)


def bases(name: str) -> Iterator[ast.ClassDef]:
    """The classes of the package that a class inherits from, directly or not."""
    for base in CLASSES[name].bases if name in CLASSES else ():
        short = ast.unparse(base).partition("[")[0].rpartition(".")[2]
        if short in CLASSES:
            yield CLASSES[short]
            yield from bases(short)


def said_by_a_base(method: str, owner: str) -> bool:
    """Whether a method's contract stands at an interface of ours or of torch's."""
    found = (child for base in bases(owner) for child in base.body if isinstance(child, ast.FunctionDef) and child.name == method)
    return method in TORCHS or any(ast.get_docstring(child) for child in found)


def test_public_names_have_a_docstring() -> None:
    bare = [f"{path.relative_to(PACKAGE)}: {owner}.{node.name}" for path, tree in TREES.items() for node, owner in public(tree)
            if not ast.get_docstring(node) and not (owner and said_by_a_base(node.name, owner))]  # fmt: skip
    assert not bare

"""The code that a module runs: itself and every module of ours that it imports, without what no computation reads."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

OURS = ("methods", "benchmarks", "reports")
# Class attributes that people read and no computation does.
PROSE = {"paper", "source", "deviations", "title", "licence", "homepage", "download"}


def sources(module: str) -> dict[str, str]:
    """The code behind a module of ours: module name -> source.

    Imports count wherever they stand, absolute or relative, as does `import_module` of a literal name; a module counts
    with the `__init__` of its packages. Left out are comments, docstrings, layout, citations (`PROSE`), the texts of
    errors and of the log, and imports for type checkers alone.

    Raises:
        ImportError: an import cannot be resolved: there is no such module, no such name in it, or its name is computed.
            Only the `__init__` of a package of plug-ins may compute it; the plug-in is then a module to ask for itself.
    """
    found: dict[str, str] = {}
    pending = [module]
    while pending:
        name = pending.pop()
        if name in found or name.partition(".")[0] not in OURS:
            continue
        path = _file(name)
        parsed = _parsed(path.read_text(encoding="utf-8")) if path else _Parsed("", (), frozenset())
        found[name] = parsed.source
        pending += [name.rpartition(".")[0]] if "." in name else []
        for statement in parsed.imports:
            pending += _imported(statement, name, is_package=path is None or path.name == "__init__.py")
    return found


class _Parsed(NamedTuple):
    source: str
    imports: tuple[ast.Import | ast.ImportFrom | ast.Call, ...]
    names: frozenset[str]  # that the module binds


def _file(name: str) -> Path | None:
    """The file of a module; None for a package without `__init__`, which runs nothing."""
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        spec = None
    if spec is None or (spec.origin and not Path(spec.origin).is_file()):
        raise ImportError(f"There is no module {name}.", name=name)
    return Path(spec.origin) if spec.origin else None


def _imported(statement: ast.Import | ast.ImportFrom | ast.Call, module: str, is_package: bool) -> Iterator[str]:
    """The modules of ours that an import of `module` runs."""
    package = module if is_package else module.rpartition(".")[0]
    if isinstance(statement, ast.Import):
        yield from (alias.name for alias in statement.names)
    elif isinstance(statement, ast.ImportFrom):
        base = importlib.util.resolve_name("." * statement.level + (statement.module or ""), package)
        if base.partition(".")[0] in OURS:
            yield base
            yield from (f"{base}.{alias.name}" for alias in statement.names if _is_module(base, alias.name, module))
    elif statement.args and isinstance(statement.args[0], ast.Constant):
        yield importlib.util.resolve_name(str(statement.args[0].value), package)
    elif not is_package:
        raise ImportError(f"{module}, line {statement.lineno}: imports a module by a computed name; write a literal.")


def _is_module(package: str, name: str, importer: str) -> bool:
    """Whether `from package import name` imports a module."""
    path = _file(package)
    names = _parsed(path.read_text(encoding="utf-8")).names if path else frozenset()
    if name == "*" or name in names or "__getattr__" in names:
        return False
    try:
        _file(f"{package}.{name}")
    except ImportError:
        raise ImportError(f"{importer} imports {name} from {package}, which has no such name.") from None
    return True


@cache
def _parsed(source: str) -> _Parsed:
    tree = ast.parse(source)
    _WithoutProse().visit(tree)
    imports, names = [], set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom) or (isinstance(node, ast.Call) and _is_import(node.func)):
            imports.append(node)
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return _Parsed(ast.unparse(tree), tuple(imports), frozenset(names))


def _is_import(function: ast.expr) -> bool:
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name in ("import_module", "__import__")


class _WithoutProse(ast.NodeTransformer):
    """Removes what no computation reads."""

    def visit(self, node: ast.AST) -> ast.AST | None:
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if ast.get_docstring(node) is not None:
                node.body = node.body[1:]
            if isinstance(node, ast.ClassDef):
                node.body = [statement for statement in node.body if not _is_prose(statement)]
            node.body = node.body or [ast.Pass()]
        result: ast.AST | None = super().visit(node)
        return result

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        self.generic_visit(node)
        return node.orelse if ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING") else node

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        for part in ast.walk(node):
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                part.value = ""
        return node

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        if ast.unparse(node).startswith(("logger.", "warnings.warn(")):
            return ast.copy_location(ast.Pass(), node)
        return self.generic_visit(node)


def _is_prose(statement: ast.stmt) -> bool:
    target = statement.target if isinstance(statement, ast.AnnAssign) else getattr(statement, "targets", [None])[0]
    return isinstance(target, ast.Name) and target.id in PROSE

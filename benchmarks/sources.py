"""The code that a module runs: itself and every module of ours that it imports, without what no computation reads."""

from __future__ import annotations

import ast
import importlib.util
import symtable
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

OURS = ("methods", "benchmarks", "reports")
# Class attributes that people read and no computation does.
PROSE = {"paper", "source", "deviations", "title", "licence", "homepage", "download"}


def sources(module: str) -> dict[str, str]:
    """The code behind a module of ours: module name -> source.

    Imports count wherever they stand, absolute or relative, as does `import_module` of a literal name; a module counts
    with the `__init__` of its packages. Left out are comments, docstrings, layout, citations (`PROSE`), what errors and
    the log are given to say, and imports for type checkers alone.

    Raises:
        ImportError: an import cannot be resolved: there is no such module, no such name in it, or its name is computed.
            Only the `__init__` of a package of plug-ins may compute it; the plug-in is then a module to ask for itself.
    """
    collected: dict[str, str] = {}
    pending = [(module, "")]
    while pending:
        name, importer = pending.pop()
        if name in collected or name.partition(".")[0] not in OURS:
            continue
        path = _file(name, importer)
        parsed = _parsed(path.read_text(encoding="utf-8")) if path else _Parsed("", (), frozenset())
        collected[name] = parsed.source
        pending += [(name.rpartition(".")[0], name)] if "." in name else []
        for statement in parsed.imports:
            imported = _imported(statement, name, is_package=path is None or path.name == "__init__.py")
            pending += [(other, name) for other in imported]
    return collected


class _Parsed(NamedTuple):
    source: str
    imports: tuple[ast.Import | ast.ImportFrom | ast.Call, ...]
    names: frozenset[str]  # that the module binds


def _file(name: str, importer: str = "") -> Path | None:
    """The file of a module; None for a package without `__init__`, which runs nothing."""
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        spec = None
    if spec is None or (spec.origin and not Path(spec.origin).is_file()):
        raise ImportError(f"There is no module {name}{f', which {importer} imports' if importer else ''}.")
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
        raise ImportError(f"{module}, line {statement.lineno}: imports a module by a computed name; use a literal.")


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
    imports = (
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom) or (isinstance(node, ast.Call) and _is_import(node.func))
    )
    bound = symtable.symtable(source, "", "exec").get_symbols()  # of the module itself, not of its functions
    names = frozenset(symbol.get_name() for symbol in bound if symbol.is_assigned())
    return _Parsed(ast.unparse(tree), tuple(imports), names)


def _is_import(function: ast.expr) -> bool:
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name in ("import_module", "__import__")


class _WithoutProse(ast.NodeTransformer):
    """Removes what no computation reads."""

    def visit(self, node: ast.AST) -> Any:
        if isinstance(node, ast.ClassDef):
            node.body = [statement for statement in node.body if not _is_prose(statement)]
        result = super().visit(node)
        if isinstance(result, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            result.body = result.body or [ast.Pass()]
        return result

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)  # a docstring, say
        if is_text or ast.unparse(node).startswith(("logger.", "warnings.warn(")):
            return None
        return self.generic_visit(node)

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        self.generic_visit(node)
        return node.orelse if ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING") else node

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        if isinstance(node.exc, ast.Call):
            node.exc.args, node.exc.keywords = [], []
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if ast.unparse(node.func).endswith("Error"):  # made here, raised elsewhere
            node.args, node.keywords = [], []
        return self.generic_visit(node)


def _is_prose(statement: ast.stmt) -> bool:
    """Whether a statement of a class body sets an attribute of `PROSE`; a field of that name is no such attribute."""
    if isinstance(statement, ast.AnnAssign):
        return isinstance(statement.target, ast.Name) and statement.target.id in PROSE and _is_class_variable(statement)
    names = statement.targets if isinstance(statement, ast.Assign) else []
    return bool(names) and all(isinstance(name, ast.Name) and name.id in PROSE for name in names)


def _is_class_variable(statement: ast.AnnAssign) -> bool:
    return ast.unparse(statement.annotation).startswith(("ClassVar", "typing.ClassVar"))

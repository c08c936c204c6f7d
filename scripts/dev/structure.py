"""Figures of the house: how long, deep and wide functions are, how large modules, whether imports go in circles.

python -m scripts.dev.structure [CHECKOUT]
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

PACKAGES: Final = ("feature_extraction", "kmeans", "scripts", "docker")
BLOCKS: Final = (ast.For, ast.While, ast.If, ast.With, ast.Try)
NOQA: Final = re.compile(r"#\s*noqa\b")
KIND: Final = re.compile(r"(?<!for )\bkind\b[^=\n]{0,12}(==|!=|in) .?[\"'](grid|boxes)")


def functions(path: Path) -> Iterator[tuple[str, ast.FunctionDef]]:
    """(name with its module, definition) of every function of a module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            yield f"{path.stem}.{node.name}", node


def depth(node: ast.AST) -> int:
    """How deep blocks are nested in a function; ``elif`` is no deeper than its ``if``."""
    inner = 0
    for child in ast.iter_child_nodes(node):
        chained = isinstance(node, ast.If) and isinstance(child, ast.If) and child in node.orelse
        inner = max(inner, depth(child) + (isinstance(child, BLOCKS) and not chained))
    return inner


def parameters(node: ast.FunctionDef) -> int:
    """Parameters of a function, without self and cls."""
    every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return sum(a.arg not in ("self", "cls") for a in every)


def circles(root: Path) -> int:
    """Modules that import themselves by way of others, at the top of the module."""
    graph: dict[str, set[str]] = {}
    for path in _modules(root):
        package = path.relative_to(root).parent.parts
        found = graph.setdefault(".".join(path.relative_to(root).with_suffix("").parts), set())
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom):
                base = package[: len(package) - node.level + 1] if node.level else ()
                module = ".".join([*base, *filter(None, [node.module])])
                found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}

    def reaches(start: str, at: str, seen: set[str]) -> bool:
        return any(
            n == start or (n in graph and n not in seen and reaches(start, n, seen | {n})) for n in graph.get(at, set())
        )

    return sum(reaches(module, module, {module}) for module in graph)


def _modules(root: Path) -> list[Path]:
    return sorted(p for name in PACKAGES for p in (root / name).rglob("*.py") if not p.is_symlink())


def figures(root: Path) -> dict[str, str]:
    """What is measured -> the figure, with its place."""
    paths = _modules(root)
    every = [(name, node) for path in paths for name, node in functions(path)]
    long = max(every, key=lambda f: (f[1].end_lineno or 0) - f[1].lineno)
    deep, wide = max(every, key=lambda f: depth(f[1])), max(every, key=lambda f: parameters(f[1]))
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in paths}
    makefile = (root / "Makefile").read_text(encoding="utf-8").splitlines()
    return {
        "longest function": f"{(long[1].end_lineno or 0) - long[1].lineno + 1} lines ({long[0]})",
        "functions over 50 lines": str(sum((n.end_lineno or 0) - n.lineno >= 50 for _, n in every)),
        "deepest nesting": f"{depth(deep[1])} ({deep[0]})",
        "most parameters": f"{parameters(wide[1])} ({wide[0]})",
        "functions with more than 6 parameters": str(sum(parameters(n) > 6 for _, n in every)),
        "modules": str(len(paths)),
        "modules over 300 lines": f"{sum(n > 300 for n in lines.values())} (longest {max(lines.values())})",
        "modules in import circles": str(circles(root)),
        "`if kind`": str(sum(len(KIND.findall(path.read_text(encoding="utf-8"))) for path in paths)),
        "sys.path lines in scripts/": str(
            sum("sys.path[" in p.read_text(encoding="utf-8") for p in paths if "scripts" in p.parts)
        ),
        "noqa": str(sum(len(NOQA.findall(path.read_text(encoding="utf-8"))) for path in paths)),
        "Makefile": f"{len(makefile)} lines, the longest of {max(map(len, makefile))} characters",
        "README.md": f"{len((root / 'README.md').read_text(encoding='utf-8').splitlines())} lines",
    }


if __name__ == "__main__":
    for what, figure in figures(Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()).items():
        print(f"{what:40} {figure}")

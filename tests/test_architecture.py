"""Imports go one way (DESIGN): entry -> cli -> job -> extract -> {images, regions, detector, store} -> recipe."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from helpers.common import ROOT

# module -> the modules of feature_extraction it may import; whatever is not listed may import nothing of ours
ALLOWED = {
    "recipe": set(),
    "catalog": set(),
    "parts": set(),
    "progress": set(),
    "store": {"parts"},
    "decode": {"recipe"},
    "images": {"decode", "recipe", "catalog"},
    "config": {"recipe", "catalog", "decode"},
    "regions": {"recipe", "images", "detector"},
    "engine": {"catalog", "detector", "reference"},
    "reference": {"catalog", "detector", "engine", "images", "recipe", "regions"},
    "extract": {"catalog", "engine", "images", "progress", "regions", "store"},
    "provenance": {"extract"},
    "job": {
        "config", "detector", "engine", "extract", "images", "parts", "progress", "provenance", "store",
    },
    "cli": {"catalog", "config", "detector", "engine", "images", "job", "parts", "recipe"},
    "api": {"config", "decode", "engine", "extract", "images", "progress"},
    "__main__": {"cli"},
    "__init__": {"api", "images"},
    "detector": {"recipe", "detector"},
    "entry": {"cli"},
    "run_kmeans": {"kmeans"},
}  # fmt: skip
KMEANS_MAY_IMPORT = {"catalog", "store", "recipe"}


def imported(path: Path, package: str) -> set[str]:
    """Modules of feature_extraction that a file imports, by their first name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, [base, node.module]))
            names = [f"{module}.{alias.name}" for alias in node.names]
        for name in names:
            if name.startswith("feature_extraction."):
                found.add(name.split(".")[1])
    return found


@pytest.mark.parametrize("path", sorted((ROOT / "feature_extraction").rglob("*.py")), ids=lambda p: p.stem)
def test_arrows_of_feature_extraction(path: Path) -> None:
    inner = path.parent.name == "detector"
    name = "detector" if inner else "entry" if "_extract_" in path.stem else path.stem
    found = imported(path, "feature_extraction.detector" if inner else "feature_extraction")
    assert found <= ALLOWED[name], f"{path.name} may not import {found - ALLOWED[name]}"


@pytest.mark.parametrize("path", sorted((ROOT / "kmeans").rglob("*.py")), ids=lambda p: p.stem)
def test_arrows_of_kmeans(path: Path) -> None:
    assert imported(path, "kmeans") <= KMEANS_MAY_IMPORT
    top = [n for n in ast.parse(path.read_text()).body if isinstance(n, ast.Import | ast.ImportFrom)]
    modules = {a.name for n in top if isinstance(n, ast.Import) for a in n.names}
    modules |= {n.module for n in top if isinstance(n, ast.ImportFrom) and n.module}
    assert not any(m.split(".")[0] == "torch" for m in modules)


def test_modules_stay_small() -> None:
    for folder in ("feature_extraction", "kmeans", "scripts", "docker"):
        for path in (ROOT / folder).rglob("*.py"):
            assert len(path.read_text().splitlines()) <= 420, path

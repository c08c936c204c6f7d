"""Imports go one way: a module imports only from lower floors (DESIGN; CONTRIBUTING.md draws it)."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from helpers.common import ROOT

from scripts.dev import structure

# Lowest first. A module imports from what stands before it; a package's name stands for all that is in it.
_FLOORS = """
    feature_extraction.errors feature_extraction.recipe feature_extraction.machine feature_extraction.places
    feature_extraction.names
    feature_extraction.config
    feature_extraction.arguments feature_extraction.terminal feature_extraction.catalog feature_extraction.recipes
    feature_extraction.flags
    feature_extraction.storage.__init__ feature_extraction.storage.source feature_extraction.storage.files
    feature_extraction.storage.bounded feature_extraction.storage.trees feature_extraction.storage.guard
    feature_extraction.storage.arrays feature_extraction.storage.stream feature_extraction.storage.store
    feature_extraction.storage.journal feature_extraction.storage.journal_writer feature_extraction.storage.shares
    feature_extraction.storage.stored
    feature_extraction.storage.half
    feature_extraction.storage.reader feature_extraction.storage.layouts feature_extraction.storage.check
    feature_extraction.storage.assemble feature_extraction.storage.derive feature_extraction.storage.info
    feature_extraction.storage.output feature_extraction.storage.by_hand
    feature_extraction.detector
    feature_extraction.images
    feature_extraction.class_names feature_extraction.drawing
    feature_extraction.given
    feature_extraction.regions feature_extraction.progress feature_extraction.provenance feature_extraction.tolerance
    feature_extraction.compare
    feature_extraction.features
    feature_extraction.loading feature_extraction.batching feature_extraction.writing
    feature_extraction.extract feature_extraction.streaming
    feature_extraction.pipeline
    feature_extraction.series
    feature_extraction.api
    feature_extraction.cli
    feature_extraction.exports feature_extraction.tools_cli
    feature_extraction.__main__ feature_extraction.__init__ feature_extraction.entry
    kmeans
    feature_extraction.commands
    scripts
"""
FLOORS = _FLOORS.split()
KMEANS_MAY_IMPORT = (
    "storage",
    "catalog",
    "recipe",
    "errors",
    "machine",
    "config",
    "arguments",
    "places",
    "names",
    "terminal",
)
HEAVY = {"torch", "faiss", "h5py", "numpy", "cv2", "PIL", "yaml"}
LIGHT = (
    "errors", "recipe", "machine", "places", "names", "config", "arguments", "terminal", "catalog", "recipes", "flags",
    "cli", "commands", "__init__", "__main__", "tools_cli", "exports/__init__", "exports/spec", "images/address",
)  # fmt: skip
"""What ``--help`` imports: standard library only."""

MODULES = sorted(
    path
    for folder in ("feature_extraction", "kmeans", "scripts")
    for path in (ROOT / folder).rglob("*.py")
    if not path.is_symlink()
)
CODE = [*MODULES, *sorted((ROOT / "docker").rglob("*.py"))]


def name_of(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return "feature_extraction.entry" if "_extract_" in path.stem else name


def floor_of(module: str) -> int:
    """The floor of a module; its package's where only that is listed."""
    if module in ("feature_extraction", "feature_extraction.storage"):
        module += ".__init__"
    while module not in FLOORS:
        module, dot, _ = module.rpartition(".")
        if not dot:
            raise KeyError(module)
    return FLOORS.index(module)


def imported(path: Path, top_level_only: bool = False) -> set[str]:
    """Full names of all modules that a file imports, wherever in it, but for type checking alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = path.relative_to(ROOT).parent.parts
    nodes = list(tree.body) if top_level_only else list(ast.walk(tree))
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    found: set[str] = set()
    for node in nodes:
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *filter(None, [node.module])])
            found |= {_module_or_name(module, alias.name) for alias in node.names}
    return found


def _module_or_name(module: str, name: str) -> str:
    """``from a import b``: a.b where that is a module, else a."""
    place = ROOT.joinpath(*module.split("."), name)
    return f"{module}.{name}" if place.with_suffix(".py").exists() or place.is_dir() else module


def ours(names: set[str]) -> set[str]:
    return {name for name in names if name.partition(".")[0] in ("feature_extraction", "kmeans", "scripts")}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_imports_only_from_lower_floors(path: Path) -> None:
    me = name_of(path)
    floor = floor_of(me)
    for module in ours(imported(path)):
        of_one_package = FLOORS[floor] == FLOORS[floor_of(module)]
        assert floor_of(module) < floor or of_one_package, f"{me} imports {module}, which is above it"


def test_no_circles_inside_a_package() -> None:
    graph = {name_of(path): ours(imported(path)) for path in MODULES}

    def reach(module: str, seen: tuple[str, ...]) -> None:
        assert module not in seen, " -> ".join([*seen[seen.index(module) :], module])
        for inner in graph.get(module, set()):
            reach_once(inner, (*seen, module))

    done: set[str] = set()

    def reach_once(module: str, seen: tuple[str, ...]) -> None:
        if module not in done or module in seen:
            reach(module, seen)
            done.add(module)

    for module in graph:
        reach_once(module, ())


@pytest.mark.parametrize("path", sorted((ROOT / "kmeans").rglob("*.py")), ids=lambda p: p.stem)
def test_kmeans_stands_on_a_few_modules_and_never_on_torch(path: Path) -> None:
    for module in ours(imported(path)):
        if module.startswith("feature_extraction"):
            assert module.split(".")[1] in KMEANS_MAY_IMPORT, module
    assert not any(m.split(".")[0] == "torch" for m in imported(path, top_level_only=True))


@pytest.mark.parametrize("module", LIGHT)
def test_help_needs_the_standard_library_only(module: str) -> None:
    path = ROOT / "feature_extraction" / f"{module}.py"
    assert not {m.split(".")[0] for m in imported(path, top_level_only=True)} & HEAVY


def test_inside_a_package_imports_are_relative() -> None:
    for path in MODULES:
        if path.stem == "run_kmeans" or "_extract_" in path.stem:
            continue
        package = path.relative_to(ROOT).parts[0]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            absolute = isinstance(node, ast.ImportFrom) and node.level == 0
            assert not (absolute and (node.module or "").split(".")[0] == package), f"{path}:{node.lineno}"


def test_modules_stay_small() -> None:
    for path in CODE:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 420, path
    for path in (ROOT / "tests").rglob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 680, path


@pytest.mark.parametrize("path", CODE, ids=name_of)
def test_a_function_fits_a_screen_and_is_not_nested_deep(path: Path) -> None:
    for name, node in structure.functions(path):
        assert node.end_lineno - node.lineno < 50, name
        assert structure.depth(node) <= 4, name
        assert structure.parameters(node) <= 6, name


def places_of(mark: re.Pattern[str]) -> set[str]:
    """Files of the code and its tests that hold it."""
    paths = [*CODE, *(p for p in (ROOT / "tests").rglob("*.py") if "data" not in p.relative_to(ROOT).parts)]
    return {path.relative_to(ROOT).as_posix() for path in paths if mark.search(path.read_text(encoding="utf-8"))}


def test_the_linters_are_silenced_only_where_nothing_else_can_be_done() -> None:
    """Each place is listed here; what a whole group of files needs is in pyproject.toml, with its reason."""
    assert places_of(structure.NOQA) == {
        "feature_extraction/__init__.py",  # an old Python has not read requires-python
        "feature_extraction/images/remote.py",  # a temporary file that lives as long as the image it holds
        "scripts/download/curl.py",  # a temporary file in an ExitStack that is closed by another method
        "tests/helpers/browser.py",  # a child that only duplicates two file descriptors before it starts
    }
    assert places_of(re.compile(r"#\s*type:\s*ignore")) == {
        "feature_extraction/storage/guard.py",  # h5py is not annotated
        "kmeans/lloyd.py",  # faiss's annotations lack some of its functions
        "kmeans/nearest/protocol.py",
    }


def test_the_box_convention_is_written_once() -> None:
    for path in (ROOT / "feature_extraction").rglob("*.py"):
        if path.name != "boxes.py":
            assert not re.search(r"(x2|y2|right|bottom)\b.* \+ 1\b", path.read_text(encoding="utf-8")), path


def test_targets_of_the_makefile_are_named_in_one_place() -> None:
    """An installed kit has no Makefile: ``places.to_type`` says the command that does the same, ``to_give`` the
    flag that is a variable there. What only a checkout can do is named as it is."""
    targets = re.findall(r"^([a-z][a-z-]*):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    checkout = re.compile(r"setup|demo|docker-|image-|slurm-|test|gpu-test|shell|help")
    others = "|".join(target for target in targets if not checkout.match(target))
    variables = "READER|BASE_URL|FOR|REMOTE|DATASETS|[A-Z]+_FLAGS"
    named = re.compile(rf"\bmake ({others}|demo|extract-|download-)|\b({variables})=|\((BASE_URL|READER)\)")
    for path in CODE:
        if "launch" in path.parts or "dev" in path.parts:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        told = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
        told |= {id(arg) for node in ast.walk(tree) if _gives(node) for arg in ast.walk(node)}
        found = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in told]
        said = [node.value for node in found if isinstance(node.value, str) and named.search(node.value)]
        assert [text for text in said if "python -m" not in text] == [], path  # which says both ways
    for path in (ROOT / "scripts/report").glob("*.j2"):
        assert not named.search(path.read_text(encoding="utf-8")), path


def _gives(node: ast.AST) -> bool:
    """A call of ``places.to_give``, which says it both ways."""
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "to_give"


def test_files_take_their_names_whole() -> None:
    """By storage/files.py. What is written for a job or a test of the machine alone is made anew by the next one."""
    for path in MODULES:
        if path.parts[-2] in ("dev", "gpu_test") or path.name == "slurm.py":
            continue
        assert not re.search(r"\.write_(text|bytes)\(|\.save\(path\b", path.read_text(encoding="utf-8")), path


def test_no_kind_is_asked_for_by_name() -> None:
    for folder in ("feature_extraction", "kmeans", "scripts"):
        for path in (ROOT / folder).rglob("*.py"):
            assert not re.search(r"\bkind (==|!=) .(grid|boxes)\b", path.read_text(encoding="utf-8")), path

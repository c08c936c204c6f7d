"""Put one path in place, and only if nothing is there: never over a file of the user's, never half a file.

Standard library only; ``clip`` is loaded where box files are made.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from feature_extraction.errors import StoreError
from feature_extraction.names import printable
from feature_extraction.places import to_give
from feature_extraction.storage import files

from .rows import Clipped, Copy, Link, Row

CHECKOUT: Final = to_give("CHECKOUT", "READER")
"""What the table calls the folder of the program that reads."""
WHERE: Final = f"say where it is: {to_give('--checkout FOLDER', 'READER=folder')}"
State = Literal["there", "to make", "made now", "missing", "failed"]


@dataclass(frozen=True)
class Found:
    """How it stands with one row."""

    row: Row
    state: State
    note: str = ""
    """What it is, or what is to be done."""

    @property
    def there(self) -> bool:
        return self.state in ("there", "made now")


@dataclass
class Roots:
    """The folders that rows count from."""

    datasets: Path
    checkout: Path | None
    """Of the reading program; None: not known."""
    coming: set[Path] = field(default_factory=set)
    """What would be there by now, where it is only looked."""

    def path_of(self, row: Row) -> Path | None:
        root = self.datasets if row.below == "datasets" else self.checkout
        return None if root is None else root / row.path

    def there(self, names: tuple[str, ...]) -> dict[str, Path]:
        """Those of these names below the folder of the data that are there, or would be: name -> path."""
        paths = {name: self.datasets / name for name in names}
        return {name: path for name, path in paths.items() if path in self.coming or path.exists()}


def look(row: Row, roots: Roots) -> Found:
    """How it stands, without changing anything."""
    path = roots.path_of(row)
    try:
        if path is None:
            first = f"{row.get}, then " if row.get and row.how is not None and _lacks(row, roots) else ""
            return Found(row, "missing", first + WHERE)
        if path.exists():
            return _look_at(row, path, roots)
        leads = f" (now a link to {os.readlink(path)}, which is not there)" if path.is_symlink() else ""
        if row.how is None or _lacks(row, roots):
            return Found(row, "missing", row.get + leads)
    except OSError as error:
        return _failed(row, error)
    roots.coming.add(path)
    return Found(row, "to make", _said(row, roots) + leads)


def put(row: Row, roots: Roots) -> Found:
    """Put it there if it can be; what is there already stays."""
    found = look(row, roots)
    path = roots.path_of(row)
    if found.state != "to make" or path is None:
        return found
    roots.coming.discard(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        note = _make(row, path, roots)
    except (OSError, StoreError) as error:
        return _failed(row, error)
    return Found(row, "made now", note)


def _failed(row: Row, error: Exception) -> Found:
    if isinstance(error, OSError) and error.strerror:
        where = f" ({error.filename})" if error.filename else ""
        return Found(row, "failed", f"{error.strerror}{where}")
    return Found(row, "failed", str(error))


# --- looking -------------------------------------------------------------------------------------------------


def _lacks(row: Row, roots: Roots) -> bool:
    """Whether what it is made of is not there."""
    match row.how:
        case Link(sources):
            return not roots.there(sources)
        case Copy(source):
            return not roots.there((source,))
        case Clipped(sources, only):
            return not roots.there(sources) or (only != "" and not roots.there((only,)))
        case None:
            return True


def _look_at(row: Row, path: Path, roots: Roots) -> Found:
    """Of a path that leads to something."""
    if path.is_dir() != row.folder:
        what = "a folder, expected a file" if path.is_dir() else "no folder, as expected"
        return Found(row, "missing", f"{what}: move it away and run this again")
    if row.how == Link(("",)) and not path.samefile(roots.datasets):
        return Found(
            row, "missing", f"another folder than the data: move it away, or {to_give('--datasets', 'DATASETS')}={path}"
        )
    if not row.folder and not path.stat().st_size:
        return Found(row, "missing", f"an empty file: delete it; {row.get}")
    if isinstance(row.how, Clipped):
        return _look_at_clipped(row, row.how, path, roots)
    if isinstance(row.how, Copy):
        (source,) = roots.there((row.how.source,)).values() or (path,)
        if source.exists() and source.stat().st_size != path.stat().st_size:
            return Found(row, "there", f"not of the same size as {row.how.source}: delete it to have it copied anew")
    return Found(row, "there", f"-> {os.readlink(path)}" if path.is_symlink() else "")


def _look_at_clipped(row: Row, how: Clipped, path: Path, roots: Roots) -> Found:
    from .clip import is_outdated  # it imports torch

    parts = {name: part for name, part in _parts(how, roots).items() if part.exists()}
    if parts and is_outdated(path, parts):
        roots.coming.add(path)
        return Found(row, "to make", "anew, its source has changed")
    absent = [name for name in how.sources if name not in parts]
    return Found(row, "there", f"perhaps without the images of {' and '.join(absent)}" if absent and parts else "")


def _parts(how: Clipped, roots: Roots) -> dict[str, Path]:
    return roots.there((*how.sources, *filter(None, [how.only])))


def _said(row: Row, roots: Roots) -> str:
    """What would be made."""
    match row.how:
        case Link(sources):
            return f"-> {next(iter(roots.there(sources))) or 'the data'}"
        case Copy(source):
            return f"a copy of {source}"
        case Clipped(sources):
            return f"{' and '.join(roots.there(sources))}, boxes clipped"
    return ""


# --- making --------------------------------------------------------------------------------------------------


def _make(row: Row, path: Path, roots: Roots) -> str:
    match row.how:
        case Link(sources):
            return _link(path, next(iter(roots.there(sources).values())))
        case Copy(source):
            return _copy(path, roots.datasets / source, source)
        case Clipped() as how:
            return _clip(path, how, _parts(how, roots))
    raise AssertionError(row)


def _link(path: Path, source: Path) -> str:
    """A relative link: the folders may be moved together. Where ``path`` is a link already, it leads nowhere."""
    target = os.path.relpath(_real(source), os.path.realpath(path.parent))
    if path.is_symlink():
        aside = path.with_name(f".{path.name[:200]}.link")
        aside.unlink(missing_ok=True)
        aside.symlink_to(target, target_is_directory=source.is_dir())
        aside.replace(path)
    else:
        path.symlink_to(target, target_is_directory=source.is_dir())
    files.sync_folder(path.parent)
    return f"-> {target}"


def _real(path: Path) -> str:
    """The path with all links on the way resolved, and not its last part."""
    return os.path.join(os.path.realpath(path.parent), path.name)


def _copy(path: Path, source: Path, name: str) -> str:
    with files.making(path) as temporary, source.open("rb") as original, temporary.open("r+b") as copy:
        files.check_room(path.parent, source.stat().st_size, path.name)
        shutil.copyfileobj(original, copy, files.BLOCK)
    return f"a copy of {name}"


def _clip(path: Path, how: Clipped, parts: Mapping[str, Path]) -> str:
    from .clip import clip  # it imports torch

    sources = {name: part for name, part in parts.items() if name != how.only}
    only = {name: part for name, part in parts.items() if name == how.only}
    return clip(path, sources, only, printable(path.name))

"""What a job in an image sees of the machine: folders under the names that they have outside, and where links lead.

Standard library only.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Container, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from pathlib import Path
from typing import Final

from feature_extraction.errors import UsageError

APP: Final = "/app"
"""Where the image holds the code."""
TAKEN: Final = (
    *(Path("/") / name for name in ("bin", "dev", "etc", "lib", "lib64", "proc", "sbin", "sys", "opt/venv")),
    *(Path("/usr") / name for name in ("bin", "lib", "sbin", "share")),
)
"""Folders of the image and the kernel, in which nothing else can be mounted."""
MOST_LINKS: Final = 40
"""As many as the kernel follows in one path."""
CODE: Final = tuple(Path(APP) / name for name in ("feature_extraction", "kmeans", "scripts"))
"""The image's own; a checkout that lies at /app has its data in folders below."""


@dataclass(frozen=True)
class Mount:
    """A folder that a job sees under the name that it has outside."""

    path: Path
    writable: bool = False

    def flag(self) -> str:
        """The value of ``--mount``: comma-separated fields, of which those with commas or quotes are quoted."""
        fields = ["type=bind", f"source={os.path.realpath(self.path)}", f"target={self.path}"]
        quoted = ['"' + f.replace('"', '""') + '"' if set(f) & {",", '"'} else f for f in fields]
        return ",".join(quoted + ([] if self.writable else ["readonly"]))


def refuse_hiding(path: Path) -> None:
    """Raise UsageError for a folder whose mount, under its own name, would hide what the image needs."""
    inside = any(path == own or own in path.parents for own in TAKEN)
    around = any(path == own or path in own.parents for own in (*TAKEN, *CODE))
    if inside or around or path == Path("/tmp"):
        raise UsageError(
            f"{path} cannot be mounted under its own name: the image has its own files there. Give a folder elsewhere, "
            "or RUN=host"
        )


def without_nested(mounts: Iterable[Mount]) -> list[Mount]:
    """The mounts in the order in which they have to be made: outer folders first, each folder once, writable if any
    of its uses is, and none that its outer folder shows just as well."""
    writable: dict[Path, bool] = {}
    for mount in mounts:
        writable[mount.path] = writable.get(mount.path, False) or mount.writable
    kept: list[Mount] = []
    for named in sorted(writable, key=lambda p: (len(p.parts), p)):
        path = named
        if any(m.path in path.parents for m in kept):
            path = Path(os.path.realpath(path))  # a link is there to be seen already: what is mounted is its goal
        around = [m for m in kept if m.path == path or m.path in path.parents]
        if not around or around[-1].writable != writable[named]:
            kept.append(Mount(path, writable[named]))
    return kept


def unseen(path: Path, seen: Container[Path]) -> Path | None:
    """The first place on the way to ``path``, through all its links, that lies in none of the mounted folders ``seen``,
    under the name by which the links lead there; None: ``path`` is found inside."""
    for _ in range(MOST_LINKS):
        folder = next((f for f in (path, *path.parents) if f in seen), None)
        if folder is None:
            return path
        steps = accumulate(path.relative_to(folder).parts, os.path.join, initial=str(folder))
        link = next((step for step in islice(steps, 1, None) if os.path.islink(step)), None)
        if link is None:
            return None
        goal = os.path.normpath(os.path.join(os.path.dirname(link), os.readlink(link)))
        path = Path(goal, path.relative_to(link))
    return None


def folders_on_the_way(path: Path, seen: Collection[Path]) -> list[Path]:
    """Folders to mount beside those ``seen``, so that ``path`` is found inside by every link on the way to it."""
    found: list[Path] = []
    while (place := unseen(path, {*seen, *found})) is not None and os.path.exists(place):
        found.append(place if os.path.isdir(place) else place.parent)
    return found


def links_out_of(folder: Path, seen: Sequence[Path], depth: int) -> set[Path]:
    """Folders that links in ``folder``, down to ``depth`` levels, lead to and that lie in none of ``seen``."""
    found: set[Path] = set()
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return found
    for entry in entries:
        if entry.is_symlink():
            found.update(folders_on_the_way(Path(entry.path), {folder, *seen, *found}))
        elif depth > 1 and entry.is_dir(follow_symlinks=False):
            found |= links_out_of(Path(entry.path), (*seen, *found), depth - 1)
    return found

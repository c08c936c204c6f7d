"""What would be left of a folder if the power went now: contents as of their last fsync, names as of their folder's.

``Disk`` watches this process's syncs and renames; nothing is lost for real. A name that is given to a file before its
contents are on the disk is ``torn``: after a power loss some file systems keep the name and not the contents.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Inode = tuple[int, int]


class Disk:
    """Watches from now on, as long as ``patch`` holds."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._contents: dict[Inode, bytes] = {}
        self._names: dict[Inode, dict[str, Inode]] = {}
        self._moved: set[Path] = set()
        """Folders that were given a name, with all that is in them."""
        self.torn: list[str] = []
        """Names that were given to files whose contents were not on the disk."""
        for name in ("fsync", "fdatasync"):
            patch.setattr(os, name, self._synced(getattr(os, name)))
        for name in ("rename", "replace"):
            patch.setattr(os, name, self._renamed(getattr(os, name)))

    def lost(self, path: Path) -> bool:
        """Whether ``path`` would not be what it is now."""
        names = [path, *(folder for folder in path.parents if folder in self._moved)]
        return not (self.holds(path) and all(map(self._is_named, names)))

    def holds(self, path: Path) -> bool:
        """Whether all that ``path`` contains is on the disk, under whatever name."""
        return path.is_dir() or self._contents.get(_inode(path.stat())) == path.read_bytes()

    def _is_named(self, path: Path) -> bool:
        known = self._names.get(_inode(path.parent.stat()), {})
        return known.get(path.name) == _inode(path.lstat())

    def _synced(self, real: Callable[[Any], None]) -> Callable[[Any], None]:
        def sync(file: Any) -> None:
            fd = file if isinstance(file, int) else file.fileno()
            real(fd)
            here, inode = Path(f"/proc/self/fd/{fd}"), _inode(os.fstat(fd))
            if here.is_dir():
                self._names[inode] = {entry.name: _inode(entry.stat(follow_symlinks=False)) for entry in os.scandir(fd)}
            else:
                self._contents[inode] = here.read_bytes()

        return sync

    def _renamed(self, real: Callable[..., None]) -> Callable[..., None]:
        def rename(old: Any, new: Any, **more: Any) -> None:
            if not self.holds(Path(old)):
                self.torn.append(os.fspath(new))
            real(old, new, **more)
            if Path(new).is_dir():
                self._moved.add(Path(new))

        return rename


def _inode(found: os.stat_result) -> Inode:
    return found.st_dev, found.st_ino

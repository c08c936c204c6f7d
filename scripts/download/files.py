"""What is done to files here besides what feature_extraction.storage.files does. Standard library only."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from feature_extraction.errors import DownloadError
from feature_extraction.storage import files


@contextmanager
def exclusive(path: Path, busy: str) -> Iterator[None]:
    """Hold the lock file ``path``; it is gone afterwards. Raises DownloadError(``busy``) where another process,
    or another thread, holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.exclusive(path, busy=busy, error=DownloadError):
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def remove_left(lock: Path) -> None:
    """Remove a lock file, unless somebody holds it: its owner was killed in its last step."""
    if lock.exists():
        with suppress(DownloadError, OSError), exclusive(lock, ""):
            pass


def sync(path: Path) -> None:
    """Have a file's content, or a folder's list of names, on the disk."""
    if path.is_dir():
        files.sync_folder(path)
    else:
        files.sync_file(path)


def sha256(path: Path, check: Callable[[], None] = lambda: None) -> str:
    """Hexadecimal. ``check`` is called every few megabytes and may raise: files here take minutes."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(4 * files.BLOCK):
            check()
            digest.update(block)
    return digest.hexdigest()


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(p for p in (folder, *folder.parents) if p.is_dir())


def room(folder: Path) -> int:
    """Free bytes where ``folder`` is, or will be."""
    return shutil.disk_usage(existing(folder)).free

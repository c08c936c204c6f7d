"""The few things that are done to files here, one policy each. Standard library only."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from feature_extraction.errors import DownloadError

BUSY: Final = (errno.EWOULDBLOCK, errno.EACCES)


def printable(text: object) -> str:
    """A text from elsewhere as one line: line breaks, escape codes and bytes that are no text become \\xNN."""
    return "".join(c if c.isprintable() else _escaped(c) for c in str(text))


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # how Python holds a byte of a name that is no UTF-8
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def sync(path: Path) -> None:
    """Have a file's content, or a folder's list of names, on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def atomic_write(path: Path, content: bytes) -> None:
    """The old content or the new one, whatever happens."""
    new = path.with_name(path.name + ".new")
    with new.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)
    sync(path.parent)


@contextmanager
def exclusive(path: Path, busy: str) -> Iterator[None]:
    """Hold the lock file ``path``; it is gone afterwards. Raises DownloadError(``busy``) where another process,
    or another thread, holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            _lock(handle, path, busy)
            if _is(handle, path):  # and not one that its former holder has removed meanwhile
                break
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def _lock(handle: int, path: Path, busy: str) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in BUSY:
            raise DownloadError(busy) from None
        raise DownloadError(
            f"{printable(path)}: the file system has no locks ({error.strerror}); two downloads there could spoil "
            "each other's files: choose another folder, with --datasets or DATASETS"
        ) from error


def _is(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def sha256(path: Path, check: Callable[[], None] = lambda: None) -> str:
    """Hexadecimal. ``check`` is called every few megabytes and may raise."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            check()
            digest.update(chunk)
    return digest.hexdigest()


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(p for p in (folder, *folder.parents) if p.is_dir())


def room(folder: Path) -> int:
    """Free bytes where ``folder`` is, or will be."""
    return shutil.disk_usage(existing(folder)).free

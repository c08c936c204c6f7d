"""One image file: opened once, its bytes digested, what it was before and after compared.

Everything here may meet a file that is no regular one, that grows, shrinks or vanishes meanwhile.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from ..errors import ImageError
from ..names import printable
from ..storage.source import FileStamp, Source

MAX_PIXELS: Final = 178_956_970
"""H * W. Twice Pillow's ``MAX_IMAGE_PIXELS``: from here on Pillow itself speaks of a decompression bomb."""
MAX_FILE_BYTES: Final = 8 * MAX_PIXELS
"""Uncompressed 16-bit RGBA of that size. Some codecs read the whole file before they look at it."""
IN_MEMORY: Final = 1 << 26
"""Bytes. Files up to here are read once; larger ones stay on the disk and are read again to be digested."""


@contextmanager
def open_regular(path: str) -> Iterator[BinaryIO]:
    """The file, open for reading. Raises ImageError for what is no regular file, OSError for what cannot be opened."""
    # O_NONBLOCK: opening a named pipe must not wait for somebody to write into it
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _check_kind(os.fstat(descriptor))
    except BaseException:
        os.close(descriptor)
        raise
    with os.fdopen(descriptor, "rb") as file:
        yield file


@contextmanager
def open_for_good(path: str) -> Iterator[tuple[BinaryIO, Source]]:
    """The file's bytes, and which they are: what is read inside the block has exactly the digest that is given.

    Raises ImageError where the file has changed before the block is left; what was read is to be thrown away then.
    """
    with open_regular(path) as file:
        before = os.fstat(file.fileno())
        if before.st_size <= IN_MEMORY:
            content = file.read(before.st_size + 1)  # one more: a file that grows is noticed, not followed
            _check_unchanged(before, os.fstat(file.fileno()), len(content))
            yield io.BytesIO(content), _source(path, before, hashlib.sha256(content).hexdigest())
            return
        digest = digest_of(file)
        file.seek(0)
        yield file, _source(path, before, digest)
        file.seek(0)
        again = digest_of(file)
        _check_unchanged(before, os.fstat(file.fileno()), before.st_size if again == digest else -1)


def stamp(path: str | os.PathLike[str]) -> FileStamp:
    """Where the file really is, its size and modification time now; never an error (see ``FileStamp``)."""
    real = os.path.realpath(path)
    try:
        info = os.stat(real)
    except OSError:
        return FileStamp(printable(Path(real)), -1, -1)
    return FileStamp(printable(Path(real)), info.st_size, info.st_mtime_ns)


def file_sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of the file's bytes, hexadecimal; empty, which is no digest, where they cannot be read."""
    return sha256_of_opened(lambda: open_regular(os.fspath(path)))


def sha256_of_opened(opened: Callable[[], AbstractContextManager[BinaryIO]]) -> str:
    """The same of whatever ``opened`` gives to read."""
    try:
        with opened() as file:
            return digest_of(file)
    except (OSError, ImageError):
        return ""


def digest_of(file: BinaryIO) -> str:
    """SHA-256 of what is left to read, hexadecimal."""
    digest = hashlib.sha256()
    while block := file.read(1 << 18):
        digest.update(block)
    return digest.hexdigest()


def _source(path: str, info: os.stat_result, digest: str) -> Source:
    return Source(printable(Path(os.path.realpath(path))), info.st_size, info.st_mtime_ns, digest)


def _check_unchanged(before: os.stat_result, after: os.stat_result, read: int) -> None:
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or read != before.st_size:
        raise ImageError(
            f"changed while it was read ({before.st_size:,} bytes before, {after.st_size:,} after): "
            "run again when nothing writes it any more"
        )


def _check_kind(info: os.stat_result) -> None:
    check_regular(info)
    check_size(info.st_size)


def check_regular(info: os.stat_result) -> None:
    """Raise ImageError for what is no regular file."""
    if not stat.S_ISREG(info.st_mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
        raise ImageError(f"{kinds.get(stat.S_IFMT(info.st_mode), 'a device')}, not a regular file")


def check_size(size: int) -> None:
    """Raise ImageError for a number of bytes that no image has."""
    if size == 0:
        raise ImageError("empty file (0 bytes)")
    if size > MAX_FILE_BYTES:
        raise ImageError(f"{size:,} bytes, more than the {MAX_FILE_BYTES:,} that an image can have")

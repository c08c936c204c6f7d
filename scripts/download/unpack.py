"""Unpack a zip archive from the network without trusting it. Standard library only.

Everything the archive claims is checked before the first byte is written; what it claims of sizes and checksums is
held to while writing. Files are written into a folder beside the destination, which is compared with the archive's
list, synced, and then appears by renaming, whole. One process at a time.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from feature_extraction.errors import DownloadError
from feature_extraction.names import printable

from .files import exclusive, room, sync
from .policy import Stopped

COMPONENT: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\- ]*")
"""A file or folder name of an image archive. No leading dot, so neither "." nor "..", nor hidden files."""
CHUNK: Final = 1 << 20
LOCAL_HEADER: Final = 30
"""The fewest bytes before a member's content."""
Place = tuple[str, ...]
"""The components of a file's name, below the destination."""


@dataclass(frozen=True)
class Limits:
    """Bounds above what the published archives hold (the largest: 148,854 images, about 21 GB)."""

    members: int = 500_000
    directory_bytes: int = 1 << 26
    """Of the archive's own list, which is read into memory; the largest published one has about 15 MB."""
    total_bytes: int = 200 * 10**9
    member_bytes: int = 200 * 10**6
    ratio: int = 50
    """Unpacked : packed. JPEG and PNG do not shrink; a bomb's is about 1000."""
    depth: int = 4
    name_bytes: int = 200


def unpack(
    path: Path, top: str, destination: Path, limits: Limits = Limits(), check: Callable[[], None] = lambda: None
) -> int:
    """Unpack what lies in the folder ``top`` of the archive to ``destination``; returns the number of files.

    ``destination`` must not hold anything yet. ``check`` is called often and may raise. Raises DownloadError; then
    ``destination`` still holds nothing.
    """
    name = printable(destination)
    lock = lock_of(destination)
    try:
        with exclusive(lock, f"{name}: another process is unpacking it; wait for it"):
            if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
                raise DownloadError(f"{name} holds something already: move it away first")
            return _unpack_alone(path, top, destination, limits, check)
    except OSError as error:  # of the lock, or of a look at the destination
        raise DownloadError(
            f"{name}: {error.strerror or error} ({printable(error.filename or lock)}): is the disk full, the folder "
            "writable? Try again"
        ) from error


def lock_of(destination: Path) -> Path:
    """The lock file of the process that unpacks there."""
    return destination.with_name(f".{destination.name}.lock")


def _unpack_alone(path: Path, top: str, destination: Path, limits: Limits, check: Callable[[], None]) -> int:
    """Unpack beside ``destination`` and rename, while nobody else does; what is unfinished is removed."""
    work = destination.with_name(f".{destination.name}.unpacking")
    shutil.rmtree(work, ignore_errors=True)  # of a run that was killed
    try:
        return _unpack_into(work, path, top, destination, limits, check)
    except Stopped:
        raise
    except DownloadError as error:
        raise DownloadError(f"{printable(path)}: {error}. Nothing of it was kept") from error
    except OSError as error:
        raise DownloadError(
            f"{printable(path)}: {error.strerror or error} ({printable(error.filename or work)}). "
            "Nothing of it was kept"
        ) from error
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise DownloadError(f"{printable(path)} is damaged: {printable(str(error))}. Nothing of it was kept") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _unpack_into(work: Path, path: Path, top: str, destination: Path, limits: Limits, check: Callable[[], None]) -> int:
    with _BoundedReads(path, limits.directory_bytes) as file, zipfile.ZipFile(file) as archive:
        files = checked(archive, path.stat().st_size, top, limits)
        need, free = sum(info.file_size for info in files.values()), room(destination.parent)
        if need > free:
            raise DownloadError(
                f"unpacks to {need} bytes, there is room for {free}: make room, or choose another folder"
            )
        work.mkdir()
        for place, info in files.items():
            check()
            _write(archive, info, work.joinpath(*place))
    os.sync()  # all at once is faster by far than one after the other, which then only has to look for errors
    _compare_and_sync(work, {place: info.file_size for place, info in files.items()})
    os.rename(work, destination)
    sync(destination.parent)
    return len(files)


class _BoundedReads(io.FileIO):
    """A file of which no more than so much is read at once: zipfile reads the archive's list in one piece, however
    long it claims to be."""

    def __init__(self, path: Path, most: int) -> None:
        super().__init__(path)
        self.most = most

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > self.most:
            raise DownloadError(f"its list of files has {size} bytes, more than {self.most}")
        content: bytes = super().read(self.most if size is None or size < 0 else size)
        return content


def checked(archive: zipfile.ZipFile, size: int, top: str, limits: Limits) -> dict[Place, zipfile.ZipInfo]:
    """Every file to write, by its place below ``top``. Raises DownloadError."""
    members = archive.infolist()
    if len(members) > limits.members:
        raise DownloadError(f"{len(members)} members, more than {limits.members}")
    total = sum(info.file_size for info in members)
    if total > limits.total_bytes:
        raise DownloadError(f"unpacks to {total} bytes, more than {limits.total_bytes}")
    _check_layout(members, size)
    names = _Names(top)
    wanted = {}
    for info in members:
        _check_member(info, limits)
        parts = _checked_name(info, limits)
        names.add(info, parts)
        if not info.is_dir():
            wanted[parts[1:]] = info
    names.check()
    if not wanted:
        raise DownloadError("there is no file in it")
    return wanted


def _check_layout(members: list[zipfile.ZipInfo], size: int) -> None:
    """No two members share bytes, and all lie inside the archive. Raises DownloadError."""
    end = 0
    for info in sorted(members, key=lambda i: i.header_offset):
        if info.header_offset < end:
            raise DownloadError(f"{_shown(info)} overlaps the member before it")
        end = info.header_offset + LOCAL_HEADER + info.compress_size
    if end > size:
        raise DownloadError("claims more content than it has")


def _check_member(info: zipfile.ZipInfo, limits: Limits) -> None:
    """What a member claims of itself. Raises DownloadError."""
    mode = info.external_attr >> 16
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise DownloadError(f"{_shown(info)} is a link or a device ({stat.filemode(mode)}), not a file")
    if (stat.S_IFMT(mode) == stat.S_IFDIR) != info.is_dir() and stat.S_IFMT(mode):
        raise DownloadError(f"{_shown(info)} is a folder by its mode or by its name, not by both")
    if info.flag_bits & 0x1:
        raise DownloadError(f"{_shown(info)} is encrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DownloadError(f"{_shown(info)} is packed by method {info.compress_type}, not stored or deflated")
    _check_sizes(info, limits)


def _check_sizes(info: zipfile.ZipInfo, limits: Limits) -> None:
    if info.is_dir() and info.file_size:
        raise DownloadError(f"{_shown(info)} is a folder with content")
    if info.file_size > limits.member_bytes:
        raise DownloadError(f"{_shown(info)} has {info.file_size} bytes, more than {limits.member_bytes}")
    if info.file_size > limits.ratio * max(info.compress_size, 1) and info.file_size > CHUNK:
        raise DownloadError(
            f"{_shown(info)} unpacks from {info.compress_size} to {info.file_size} bytes: no image does"
        )


def _checked_name(info: zipfile.ZipInfo, limits: Limits) -> Place:
    """The components of a member's name. Raises DownloadError."""
    raw = info.orig_filename
    parts = tuple(raw.removesuffix("/").split("/"))
    if len(raw.encode("utf-8", "surrogateescape")) > limits.name_bytes:
        raise DownloadError(f"the name {raw[:80]!a}... is too long")
    for part in parts:
        if not COMPONENT.fullmatch(part) or part.endswith(" "):
            raise DownloadError(f"the name {raw!a} is not one of an image archive (part {part!a})")
    if len(parts) > limits.depth:
        raise DownloadError(f"the name {raw!a} is too deep")
    return parts


def _shown(info: zipfile.ZipInfo) -> str:
    return ascii(info.filename[:200])


class _Names:
    """No two names that one disk may take for the same, no file that is a folder too, all below one folder."""

    def __init__(self, top: str) -> None:
        self.top = top
        self.files: set[Place] = set()
        self.folders: set[Place] = set()

    def add(self, info: zipfile.ZipInfo, parts: Place) -> None:
        if parts[0] != self.top:
            raise DownloadError(f"{_shown(info)} is not in the folder {self.top!r}: another archive than expected")
        folded = tuple(part.lower() for part in parts)
        self.folders.update(folded[:n] for n in range(1, len(folded)))
        if info.is_dir():
            self.folders.add(folded)
        elif folded in self.files:
            raise DownloadError(f"{_shown(info)} is there twice")
        else:
            self.files.add(folded)

    def check(self) -> None:
        if both := self.files & self.folders:
            raise DownloadError(f"{'/'.join(min(both))!r} is a file and a folder")


def _write(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> None:
    """One member, held to the size and the checksum it claims; zipfile checks the latter."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with archive.open(info) as source, path.open("xb") as target:
        while chunk := source.read(CHUNK):
            written += len(chunk)
            if written > info.file_size:
                break
            target.write(chunk)
    if written != info.file_size:
        raise DownloadError(f"{_shown(info)} claims {info.file_size} bytes and has another number")


def _compare_and_sync(work: Path, expected: dict[Place, int]) -> None:
    """What lies in ``work`` is what the archive lists, and is on the disk. Raises DownloadError, OSError."""
    found = {}
    for path in _walk(work):
        if not path.is_dir():
            found[path.relative_to(work).parts] = path.lstat().st_size
        sync(path)
    if found != expected:
        missing, more = len(expected.keys() - found.keys()), len(found.keys() - expected.keys())
        other = sum(found[p] != expected[p] for p in found.keys() & expected.keys())
        raise DownloadError(
            f"{len(expected)} files were expected, {len(found)} are there ({missing} missing, {more} not in the "
            f"archive, {other} of another size); does another program change {printable(work)}? Try again"
        )


def _walk(folder: Path) -> Iterator[Path]:
    for root, _, names in os.walk(folder):
        yield from (Path(root, name) for name in names)
        yield Path(root)

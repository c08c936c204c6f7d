"""Images inside a tar, as img2dataset and WebDataset write it: found by one pass over its headers, read where they lie.

Nothing is written anywhere: a member's name gives its key and is shown in messages, whatever it says ("../x", an
absolute path). An archive is taken for hostile: names, headers and members are bounded, only regular files are read;
what ends the pass before the archive's end mark (a cut, a damaged header) is a failure beside the images before it.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from ..errors import ImageError, ImageFolderError
from ..names import printable
from . import files
from .archive import Archive, TarMember
from .listed import Found, Listing, difference, looks_like_image

MAX_MEMBERS: Final = 4_000_000
MAX_HEADER: Final = 1 << 20
"""Bytes of all headers of one member."""
MAX_NAME: Final = 255
"""Bytes of a member's name without its folders: what a file's can have."""
BEHIND: Final = 1 << 20
"""Bytes behind the end mark that are looked at."""
BLOCK: Final = tarfile.BLOCKSIZE
COMPRESSED: Final = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
}


def open_tar(path: Path) -> Archive:
    """The archive at ``path``. Raises ImageFolderError."""
    try:
        file = cast(BinaryIO, io.FileIO(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb"))
        files.check_regular(os.fstat(file.fileno()))
    except OSError as error:
        hint = ", or a series of them in braces: '{00000..00331}.tar'" if "*" in path.name else ""
        raise ImageFolderError(
            f"archive {printable(path)}: {error.strerror}; expected a tar of images{hint}"
        ) from error
    except ImageError as error:
        file.close()
        raise ImageFolderError(f"archive {printable(path)}: {error}; expected a tar of images") from error
    return Archive(file, printable(os.path.realpath(os.fsencode(path))))


def list_archive(archive: Archive) -> Listing[TarMember]:
    """The images of an archive by the stems of their names; members whose names are not images' are ignored.

    One id, several members: the first by name, then the one that lies first; the others are copies, or failures where
    their bytes differ. Raises ImageFolderError where it is no tar, or holds no image."""
    try:
        return _list(archive)
    except BaseException:
        archive.close()
        raise


def _list(archive: Archive) -> Listing[TarMember]:
    found: Found[TarMember] = Found(difference)
    ignored, other = 0, b""
    for info, path in _members(archive, found):
        name = path.rpartition(b"/")[2]
        if _is_hidden(path) or info.isdir():
            continue
        if not looks_like_image(name):
            ignored, other = ignored + 1, other or path
        elif reason := _why_not(info, name, archive):
            found.fail(name[:MAX_NAME], _shown(archive, path), reason)
        else:
            _add(found, archive, info, path)
    if not found:
        such_as = f", the first {printable(other[:MAX_NAME])}" if other else ""
        expected = "expected names that end in .jpg, .png, ..."
        raise ImageFolderError(
            f"archive {archive.name}: holds no image, {ignored:,} other members{such_as}; {expected}"
        )
    return replace(found.listing(), ignored=ignored, notes=notes_of(archive.name, archive.version), close=archive.close)


def notes_of(name: str, version: int) -> dict[str, Any]:
    """What a feature file says of the archive it was made of."""
    return {"archive": name, "archive_version": version}


def _add(found: Found[TarMember], archive: Archive, info: tarfile.TarInfo, path: bytes) -> None:
    member, offset, size = printable(path), info.offset_data, info.size
    found.add(path, lambda image_id: TarMember(image_id, archive, member, offset, size), lambda: _shown(archive, path))


def _why_not(info: tarfile.TarInfo, name: bytes, archive: Archive) -> str:
    """Why this member cannot be an image; empty where it can."""
    if info.issparse():
        return "a sparse member, not a regular file: pack it without --sparse"
    if not info.isreg():
        kinds = {tarfile.SYMTYPE: "a link", tarfile.LNKTYPE: "a hard link", tarfile.FIFOTYPE: "a named pipe"}
        return f"{kinds.get(info.type, 'a device')}, not a regular file"
    if b"\0" in name or len(name) > MAX_NAME:
        return "name holds a zero byte" if b"\0" in name else f"name of {len(name):,} bytes, the limit is {MAX_NAME}"
    if info.offset_data + info.size > archive.size:
        return "truncated: the archive ends before it does"
    return ""


def _is_hidden(path: bytes) -> bool:
    """As in a folder: what is named ".x" ("._x.jpg" of macOS), or lies below such a folder."""
    return any(part.startswith(b".") and part not in (b".", b"..") for part in path.split(b"/"))


def _shown(archive: Archive, path: bytes) -> str:
    return f"{archive.name}!/{printable(path[: 4 * MAX_NAME])}"


# --- one pass over the headers --------------------------------------------------------------------------


def _members(archive: Archive, found: Found[TarMember]) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """(header, name) of every member; what ends the pass before the end mark goes to ``found``."""
    headers = _Headers(archive)
    count, tar = 0, None
    try:
        # opening reads the first header
        tar = tarfile.TarFile(fileobj=cast(Any, headers), encoding="utf-8", errors="surrogateescape")
        while (info := tar.next()) is not None:
            if info.size < 0 or tar.offset <= info.offset or len(tar.pax_headers) > BLOCK:
                raise tarfile.ReadError("a header without sense")
            count += 1
            if count > MAX_MEMBERS:
                raise tarfile.ReadError(f"more than {MAX_MEMBERS:,} members")
            cast(Any, tar).members = []  # else all are kept
            headers.left = MAX_HEADER
            yield info, info.name.encode("utf-8", "surrogateescape")
        reason = _why_it_ended(archive, tar.offset)
    except (tarfile.TarError, OSError, ValueError, OverflowError, RecursionError) as error:
        if tar is None:
            raise ImageFolderError(f"archive {archive.name}: {_what_it_is(archive)}") from error
        reason = f"damaged or cut off behind {count:,} members ({printable(str(error))}): what follows is not read"
    if reason:
        found.fail(b"", archive.name, reason)


class _Headers:
    """What tarfile sees of an archive: headers, and no more than ``MAX_HEADER`` bytes of them at a time."""

    def __init__(self, archive: Archive) -> None:
        self._archive, self._at, self.left = archive, 0, MAX_HEADER

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= self.left:
            raise tarfile.ReadError(f"headers of more than {MAX_HEADER:,} bytes")
        self.left -= size
        data = self._archive.read(self._at, size)
        self._at += len(data)
        return data

    def seek(self, offset: int) -> int:
        self._at = offset
        return offset

    def tell(self) -> int:
        return self._at


def _why_it_ended(archive: Archive, offset: int) -> str:
    """Why there was no header at ``offset``; empty where the archive ends there. tarfile takes anything for the end."""
    block = archive.read(offset, BLOCK)
    if len(block) < BLOCK:
        return "ends without an end mark: it is cut off, and what followed is not known"
    if any(block):
        return f"damaged at byte {offset:,}: what follows is not read"
    if any(archive.read(offset, BEHIND)):
        return f"holds more behind its end mark at byte {offset:,}, which is not read: several tars in one?"
    return ""


def _what_it_is(archive: Archive) -> str:
    head = archive.read(0, BLOCK)
    for magic, name in COMPRESSED.items():
        if head.startswith(magic):
            return f"compressed ({name}), so its members cannot be read where they lie: decompress it first"
    return f"no tar{', all zeros' if head and not any(head) else ''}, or its first header is damaged"

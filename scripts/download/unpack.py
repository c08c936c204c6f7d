"""Unpack a zip archive from the network without trusting it. Standard library only.

Everything the archive claims is checked before the first byte is written; what it claims of sizes and checksums is
held to while writing. Files are written into a folder beside the destination, which appears by renaming, whole.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

COMPONENT: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\- ]*")
"""A file or folder name of an image archive. No leading dot, so neither "." nor "..", nor hidden files."""
CHUNK: Final = 1 << 20


class ArchiveError(RuntimeError):
    """An archive that is damaged, hostile, or not the one that is expected. Nothing of it was kept."""


@dataclass(frozen=True)
class Limits:
    """Bounds above what the published archives hold (the largest: 148,854 images, about 21 GB)."""

    members: int = 1_000_000
    total_bytes: int = 200 * 10**9
    member_bytes: int = 200 * 10**6
    ratio: int = 50
    """Unpacked : packed. JPEG and PNG do not shrink; a bomb's is about 1000."""
    depth: int = 4
    name_bytes: int = 200


def checked_name(info: zipfile.ZipInfo, limits: Limits) -> tuple[str, ...]:
    """The components of a member's name. Raises ArchiveError."""
    raw = info.orig_filename
    name = raw[:-1] if raw.endswith("/") else raw
    parts = tuple(name.split("/"))
    if len(raw.encode("utf-8", "surrogateescape")) > limits.name_bytes:
        raise ArchiveError(f"the name {raw[:80]!r}... is too long")
    for part in parts:
        if not COMPONENT.fullmatch(part) or part.endswith(" "):
            raise ArchiveError(f"the name {raw!r} is not one of an image archive (part {part!r})")
    if len(parts) > limits.depth:
        raise ArchiveError(f"the name {raw!r} is too deep")
    return parts


def checked_member(info: zipfile.ZipInfo, limits: Limits) -> None:
    """What a member claims of itself. Raises ArchiveError."""
    mode = info.external_attr >> 16
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise ArchiveError(f"{info.filename!r} is a link or a device ({stat.filemode(mode)}), not a file")
    if (stat.S_IFMT(mode) == stat.S_IFDIR) != info.is_dir() and stat.S_IFMT(mode):
        raise ArchiveError(f"{info.filename!r} is a folder by its mode or by its name, not by both")
    if info.flag_bits & 0x1:
        raise ArchiveError(f"{info.filename!r} is encrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ArchiveError(f"{info.filename!r} is packed by method {info.compress_type}, not stored or deflated")
    if info.is_dir() and info.file_size:
        raise ArchiveError(f"{info.filename!r} is a folder with content")
    if info.file_size > limits.member_bytes:
        raise ArchiveError(f"{info.filename!r} has {info.file_size} bytes, more than {limits.member_bytes}")
    if info.file_size > limits.ratio * max(info.compress_size, 1) and info.file_size > CHUNK:
        raise ArchiveError(
            f"{info.filename!r} unpacks from {info.compress_size} to {info.file_size} bytes: no image does"
        )


def checked(
    archive: zipfile.ZipFile, size: int, top: str, limits: Limits
) -> list[tuple[zipfile.ZipInfo, tuple[str, ...]]]:
    """Every file to write and its place below ``top``. Raises ArchiveError."""
    members = archive.infolist()
    if len(members) > limits.members:
        raise ArchiveError(f"{len(members)} members, more than {limits.members}")
    total = sum(info.file_size for info in members)
    if total > limits.total_bytes:
        raise ArchiveError(f"unpacks to {total} bytes, more than {limits.total_bytes}")
    end = 0
    for info in sorted(members, key=lambda i: i.header_offset):
        if info.header_offset < end:
            raise ArchiveError(f"{info.filename!r} overlaps the member before it")
        end = info.header_offset + info.compress_size
    if end > size:
        raise ArchiveError("claims more content than it has")
    files: set[tuple[str, ...]] = set()
    folders: set[tuple[str, ...]] = set()
    wanted = []
    for info in members:
        checked_member(info, limits)
        parts = checked_name(info, limits)
        if parts[0] != top:
            raise ArchiveError(f"{info.filename!r} is not in the folder {top!r}: another archive than expected")
        folded = tuple(part.lower() for part in parts)  # two names that one disk may take for the same
        folders.update(folded[:n] for n in range(1, len(folded)))
        if info.is_dir():
            folders.add(folded)
            continue
        if folded in files:
            raise ArchiveError(f"{info.filename!r} is there twice")
        files.add(folded)
        wanted.append((info, parts[1:]))
    if both := files & folders:
        raise ArchiveError(f"{'/'.join(sorted(both)[0])!r} is a file and a folder")
    if not wanted:
        raise ArchiveError("there is no file in it")
    return wanted


def write(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> None:
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
        raise ArchiveError(f"{info.filename!r} claims {info.file_size} bytes and has another number")


def unpack(path: Path, top: str, destination: Path, limits: Limits = Limits()) -> int:
    """Unpack what lies in the folder ``top`` of the archive to ``destination``; returns the number of files.

    ``destination`` must not hold anything yet. Raises ArchiveError; then it still holds nothing.
    """
    if destination.exists() and any(destination.iterdir()):
        raise ArchiveError(f"{destination} holds something already: move it away first")
    work = destination.with_name(f".{destination.name}.unpacking")
    shutil.rmtree(work, ignore_errors=True)
    try:
        with zipfile.ZipFile(path) as archive:
            files = checked(archive, path.stat().st_size, top, limits)
            need, room = sum(i.file_size for i, _ in files), shutil.disk_usage(path.parent).free
            if need > room:
                raise ArchiveError(
                    f"unpacks to {need} bytes, there is room for {room}: make room, or choose another folder"
                )
            work.mkdir(parents=True)
            for info, parts in files:
                write(archive, info, work.joinpath(*parts))
        os.sync()
        os.rename(work, destination)
    except ArchiveError as error:
        raise ArchiveError(f"{path}: {error}. Nothing of it was kept") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise ArchiveError(f"{path} is damaged: {error}. Nothing of it was kept") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return len(files)

"""Zip archives as PyTorch writes them, checked before anything reads them. Standard library only.

PyTorch maps the file and believes what the archive says of itself. Here every member has to be stored as it is, lie
inside the file without touching another one, and match its CRC-32. Anything that two readers of zip archives could
understand in two ways is refused.
"""

from __future__ import annotations

import io
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MOST_MEMBERS: Final = 100_000
MOST_DIRECTORY: Final = 16 << 20
"""Bytes of the archive's own list; 805 tensors need 60 KB."""
CHUNK: Final = 1 << 20
LOCAL: Final = struct.Struct("<4s22xHH")
"""Header before a member's content: signature, ..., length of the name, length of what follows it."""
END: Final = struct.Struct("<4s16xH")
"""The archive's last 22 bytes: signature, ..., length of a comment."""


@dataclass(frozen=True)
class Member:
    """One file in the archive."""

    size: int
    start: int
    """Where its content begins."""


def check_archive(path: Path) -> dict[str, Member]:
    """Every member by name, its content read and compared with its CRC-32. Raises ValueError with what is wrong."""
    size = path.stat().st_size
    try:
        with _BoundedReads(path) as file, zipfile.ZipFile(file) as archive:
            _check_end(path, size)
            members = _checked(archive, path, size)
            for name in members:
                _check_content(archive, name)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, struct.error) as error:
        raise ValueError(f"the archive is damaged: {error}") from error
    return members


def read_member(path: Path, member: Member) -> bytes:
    with path.open("rb") as file:
        file.seek(member.start)
        return file.read(member.size)


class _BoundedReads(io.FileIO):
    """A file of which no more than so much is read at once: zipfile reads the archive's list in one piece, however long
    it claims to be."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > MOST_DIRECTORY:
            raise zipfile.BadZipFile(f"a list of {size} bytes")
        content: bytes = super().read(MOST_DIRECTORY if size is None or size < 0 else size)
        return content


def _check_end(path: Path, size: int) -> None:
    """The archive ends with its end record and no comment, so that every reader finds the same one."""
    with path.open("rb") as file:
        file.seek(max(0, size - END.size))
        signature, comment = END.unpack(file.read(END.size))
    if signature != b"PK\x05\x06" or comment:
        raise ValueError("the archive does not end where it should")


def _checked(archive: zipfile.ZipFile, path: Path, size: int) -> dict[str, Member]:
    infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
    if len(infos) > MOST_MEMBERS:
        raise ValueError(f"{len(infos)} files in the archive")
    members: dict[str, Member] = {}
    names: set[str] = set()
    end = 0
    with path.open("rb") as file:
        for info in infos:
            if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
                raise ValueError(f"{info.filename!a} in the archive is compressed, which PyTorch never does")
            if info.flag_bits & 0x1:
                raise ValueError(f"{info.filename!a} in the archive is encrypted")
            if info.filename.lower() in names:  # PyTorch takes either for the other
                raise ValueError(f"{info.filename!a} is in the archive twice")
            names.add(info.filename.lower())
            if (end == 0) is not (info.header_offset == 0) or info.header_offset < end:
                raise ValueError(f"{info.filename!a} in the archive lies over another one")
            file.seek(info.header_offset)
            signature, name, extra = LOCAL.unpack(file.read(LOCAL.size))
            start = info.header_offset + LOCAL.size + name + extra
            end = start + info.file_size
            if signature != b"PK\x03\x04" or end > size:
                raise ValueError(f"{info.filename!a} in the archive reaches beyond its end")
            members[info.orig_filename] = Member(info.file_size, start)
    return members


def _check_content(archive: zipfile.ZipFile, name: str) -> None:
    """Read it all; zipfile compares the CRC-32, and the names in the two places a zip has for them."""
    with archive.open(name) as file:
        while file.read(CHUNK):
            pass

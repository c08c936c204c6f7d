"""What an image file was when its features were made: the means to notice that it is another one now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class FileStamp(NamedTuple):
    """What tells, without reading a file, whether it is still the one that was read."""

    path: str
    """Absolute path, links resolved; control characters and bytes that are not UTF-8 written ``\\xNN``."""
    size: int
    """Bytes; -1 where the file cannot be asked (removed, forbidden)."""
    mtime_ns: int
    """Modification time, nanoseconds since 1970; -1 where the file cannot be asked."""


@dataclass(frozen=True)
class Source:
    """One image file as it was read."""

    path: str
    """Absolute path, links resolved; control characters and bytes that are not UTF-8 written ``\\xNN``."""
    size: int
    """Bytes."""
    mtime_ns: int
    """Modification time, nanoseconds since 1970."""
    sha256: str
    """Digest of the bytes that were decoded, hexadecimal."""

"""What an image file was when its features were made: the means to notice that it is another one now."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """One image file as it was read."""

    path: str
    """Absolute path, links resolved; bytes that are not UTF-8 written ``\\xNN``."""
    size: int
    """Bytes."""
    mtime_ns: int
    """Modification time, nanoseconds since 1970."""
    sha256: str
    """Digest of the bytes that were decoded, hexadecimal."""

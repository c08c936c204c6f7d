"""What a file was when something was made of it: the means to notice that it is another one now."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple


class FileStamp(NamedTuple):
    """What tells, without reading a file, whether it is still the one that was read."""

    path: str
    """Absolute path, links resolved; control characters and bytes that are not UTF-8 written ``\\xNN``."""
    size: int
    """Bytes; -1 where the file cannot be asked (removed, forbidden)."""
    mtime_ns: int
    """Modification time, nanoseconds since 1970; -1 where the file cannot be asked."""


@dataclass(frozen=True, slots=True)
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

    @property
    def stamp(self) -> FileStamp:
        return FileStamp(self.path, self.size, self.mtime_ns)

    def described(self) -> dict[str, Any]:
        """As JSON keeps it."""
        return asdict(self)

    @classmethod
    def of(cls, described: object) -> Source | None:
        """From what JSON kept; None where it holds no source (features of an earlier version of this kit)."""
        if not isinstance(described, dict):
            return None
        try:
            return cls(
                str(described["path"]), int(described["size"]), int(described["mtime_ns"]), str(described["sha256"])
            )
        except (KeyError, TypeError, ValueError):
            return None


def stamp_of(path: Path, name: str = "") -> dict[str, Any]:
    """What a feature file is now, as JSON keeps it. Raises OSError."""
    found = path.stat()
    return {"name": name or path.name, "bytes": found.st_size, "mtime_ns": found.st_mtime_ns}


def digest_of(ids: Iterable[str]) -> str:
    """Of images and their order, hexadecimal."""
    return hashlib.sha256("\0".join(ids).encode()).hexdigest()

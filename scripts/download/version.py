"""Which version of a file a server has: what it says of it, and what that proves. Standard library only."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final

from feature_extraction.errors import DownloadError
from feature_extraction.names import printable
from feature_extraction.places import to_give

GIVEN: Final = to_give("--base-url", "BASE_URL")
STRONG_ETAG: Final = re.compile(r'"[\x21\x23-\x7e\x80-\xff]*"')
KEYS: Final = ("content-length", "etag", "last-modified")
"""What NAME.part.json holds, under these names."""


@dataclass(frozen=True)
class Version:
    """What is known of one version of a file; None: the server does not say."""

    size: int | None = None
    etag: str | None = None
    modified: str | None = None

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> Version:
        """From an answer's headers (lower-case names). The size is the whole file's, also in a 206."""
        total = headers.get("content-range", "").rpartition("/")[2] if "content-range" in headers else None
        length = total if total is not None else headers.get("content-length", "")
        size = int(length) if length.isascii() and length.isdigit() and len(length) < 19 else None
        return cls(size, headers.get("etag") or None, _settled(headers))

    @classmethod
    def of_file(cls, path: Path) -> Version:
        """A file on this machine, whose number and time of change are as good as any ETag. Raises DownloadError."""
        try:
            found = path.stat()
        except OSError as error:
            raise DownloadError(f"{printable(path)}: {error.strerror}; expected a file there ({GIVEN})") from error
        if not stat.S_ISREG(found.st_mode):
            raise DownloadError(f"{printable(path)} is no regular file; expected one ({GIVEN})")
        return cls(found.st_size, f'"{found.st_ino:x}-{found.st_size:x}-{found.st_mtime_ns:x}"')

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> Version:
        """From NAME.part.json."""
        return cls.of({key: str(record[key]) for key in KEYS if record.get(key)})

    def written(self) -> dict[str, str]:
        """For NAME.part.json."""
        values = (None if self.size is None else str(self.size), self.etag, self.modified)
        return {key: value for key, value in zip(KEYS, values, strict=True) if value is not None}

    @property
    def validator(self) -> str | None:
        """What If-Range may ask for: an ETag that vouches for every byte, or a time of change. None: there is none."""
        return self.etag if self.etag and STRONG_ETAG.fullmatch(self.etag) else self.modified

    def contradicts(self, other: Version) -> bool:
        """Whether the two cannot be of one version of the file. What only one of them says decides nothing."""
        pairs = ((self.size, other.size), (self.etag, other.etag), (self.modified, other.modified))
        return any(a is not None and b is not None and a != b for a, b in pairs)

    def proves(self, other: Version) -> bool:
        """Whether the two are certainly of one version: nothing differs, and a strong validator is the same."""
        return not self.contradicts(other) and self.validator is not None and self.validator == other.validator


def _settled(headers: Mapping[str, str]) -> str | None:
    """Last-Modified, unless the file was changed in the very second of the answer: it could be again."""
    modified = headers.get("last-modified") or None
    if modified is None or "date" not in headers:
        return modified
    try:
        age = parsedate_to_datetime(headers["date"]) - parsedate_to_datetime(modified)
        return modified if age.total_seconds() >= 1 else None
    except (ValueError, TypeError, OverflowError):
        return modified


def boot() -> str:
    """Names this start of the machine: what was written before another one may be lost, though it seems to be there."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return os.uname().nodename

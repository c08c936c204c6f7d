"""downloads.lock.json: SHA-256 and size of every file ever accepted. Standard library only."""

from __future__ import annotations

import fcntl
import json
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from feature_extraction.errors import DownloadError
from feature_extraction.names import printable
from feature_extraction.storage.bounded import read_json
from feature_extraction.storage.files import atomic_write

MOST_BYTES: Final = 4 << 20


@dataclass(frozen=True)
class Known:
    """What a file has to be, since it was first seen."""

    sha256: str
    size: int

    @classmethod
    def read(cls, entry: Any) -> Known:
        """Raises ValueError, TypeError or KeyError."""
        sha256, size = entry["sha256"], entry["size"]
        if not isinstance(sha256, str) or len(sha256) != 64 or set(sha256) - set("0123456789abcdef"):
            raise ValueError("a sha256 is not 64 hexadecimal digits")
        if type(size) is not int or size < 0:
            raise ValueError("a size is not a number of bytes")
        return cls(sha256, size)


@dataclass
class LockFile:
    """Recorded at first sight, enforced afterwards."""

    path: Path
    _guard: threading.Lock = field(default_factory=threading.Lock)

    def entry(self, key: str) -> Known | None:
        return self._read().get(key)

    def record(self, key: str, sha256: str, size: int) -> None:
        with self._guard, self.path.with_name(self.path.name + ".guard").open("w") as guard:
            fcntl.flock(guard, fcntl.LOCK_EX)
            entries = {**self._read(), key: Known(sha256, size)}
            listed = {k: {"sha256": e.sha256, "size": e.size} for k, e in sorted(entries.items())}
            atomic_write(self.path, (json.dumps(listed, indent=1) + "\n").encode())

    def _read(self) -> dict[str, Known]:
        try:
            return {str(key): Known.read(entry) for key, entry in read_json(self.path, MOST_BYTES).items()}
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DownloadError(
                f"{printable(self.path)} is not a lock file ({printable(str(error))}): restore it, or delete it"
            ) from error

"""One address, asked and read through fsspec, which is imported when an address is first used.

User names, passwords and queries of an address (signatures, tokens) are never shown or stored.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, BinaryIO, Final, TypeVar, cast
from urllib.parse import unquote, urlsplit

from ..errors import ImageError, UsageError
from ..names import printable
from .address import path_of, shown
from .archive import version_of

PAUSES: Final = (1.0, 4.0)
"""Seconds before what failed is tried again."""
SILENCE: Final = 60.0
"""Seconds without a byte after which an http server is given up."""
BLOCK: Final = 1 << 20
VALIDATORS: Final = frozenset((
    "etag", "md5", "md5hash", "content-md5", "digest", "crc32c", "generation", "versionid", "version_id",
    "last-modified", "last_modified", "lastmodified", "mtime", "modified", "updated", "created",
))  # fmt: skip
"""What stores call the facts that are others when the content is."""
Answer = TypeVar("Answer")


class Place:
    """One address. Asked and read from any thread."""

    def __init__(self, address: str, info: Mapping[str, Any] | None = None) -> None:
        """``info``: what a listing said of it. Raises UsageError where fsspec or what it needs is not installed."""
        self.address = address
        self._told = info
        self._fs, self._path = _file_system(address)
        self.is_http = urlsplit(address).scheme.lower() in ("http", "https")

    @cached_property
    def name(self) -> str:
        """The address without what may be secret, printable."""
        return shown(self.address)

    @cached_property
    def file_name(self) -> bytes:
        """The last part of its path."""
        path = path_of(self.address)
        return (unquote(path) if self.is_http else path).rpartition("/")[2].encode("utf-8", "surrogateescape")

    @cached_property
    def info(self) -> Mapping[str, Any]:
        """What the store says of it. Raises ImageError."""
        if self._told is not None:
            return self._told
        return cast(Mapping[str, Any], self._persistently(lambda: self._fs.info(self._path)))

    @property
    def size(self) -> int | None:
        """Bytes; None where the store does not say. Raises ImageError."""
        size = self.info.get("size")
        return None if size is None else int(size)

    @cached_property
    def version(self) -> int:
        """Another number where the content is another; never the same twice where the store tells nothing. Raises
        ImageError."""
        facts = sorted((k.lower(), str(v)) for k, v in self.info.items() if k.lower() in VALIDATORS and v)
        return version_of(self.size, facts if facts else time.time_ns())

    def copy_to(self, file: BinaryIO, most: int) -> int:
        """Write its bytes into ``file``, no more than ``most``; returns how many. Raises ImageError."""

        def copy() -> int:
            file.seek(0)
            file.truncate()
            with self._open() as source:
                while (room := most - file.tell()) > 0 and (block := source.read(min(BLOCK, room))):
                    file.write(block)
            size = self.size
            if size is not None and file.tell() != min(size, most):
                raise ConnectionError(f"{file.tell():,} of {size:,} bytes came")
            return file.tell()

        return self._persistently(copy)

    def find(self) -> dict[str, Place]:
        """Path relative to this one -> place, of all files below. Raises ImageError."""
        found = self._persistently(lambda: self._fs.find(self._path, detail=True))
        return {
            path.removeprefix(self._path): Place(self._fs.unstrip_protocol(path), info)
            for path, info in found.items()
            if info.get("type") != "directory" and not path.endswith("/")
        }

    def _open(self) -> Any:
        # of http the plain stream: its other way wants ranges, which not every server has
        settings = {"block_size": 0, "size": self.size or 1} if self.is_http else {}
        return contextlib.closing(self._fs.open(self._path, "rb", **settings))

    def _persistently(self, ask: Callable[[], Answer]) -> Answer:
        """The answer, asked for again where a line broke. Raises ImageError with one line of reason."""
        for pause in (*PAUSES, None):
            try:
                return ask()
            except FileNotFoundError as error:
                raise ImageError("is not there") from error
            except (PermissionError, NotImplementedError) as error:
                raise ImageError(f"cannot be read: {self._said(error)}") from error
            except MemoryError:
                raise
            except Exception as error:  # each store has errors of its own
                if pause is None or _is_refusal(error):
                    raise ImageError(f"cannot be read: {self._said(error)}") from error
                time.sleep(pause)
        raise AssertionError("the last pause is None")

    def _said(self, error: Exception) -> str:
        text = " ".join(str(error).replace(self.address, self.name).split())
        query = urlsplit(self.address).query
        text = text.replace(query, "...") if query else text
        return f"{type(error).__name__}{': ' if text else ''}{printable(text)[:300]}"


def _file_system(address: str) -> tuple[Any, str]:
    try:
        import fsspec.core
    except ModuleNotFoundError as error:
        raise UsageError(
            f"{_scheme(address)}:// needs {error.name}: install the extra that reads from elsewhere, "
            "pip install 'xlxmert-features[remote]'"
        ) from error
    if "::" in address:
        raise UsageError(f"{printable(address)}: expected one address, not a chain of them")
    settings: dict[str, Any] = {}
    try:
        if _scheme(address) in ("http", "https"):
            import aiohttp

            # the whole may take as long as it takes, silence may not
            settings["client_kwargs"] = {"timeout": aiohttp.ClientTimeout(total=None, connect=30, sock_read=SILENCE)}
        fs, path = fsspec.core.url_to_fs(address, **settings)
    except ImportError as error:
        raise UsageError(
            f"{_scheme(address)}:// needs one more package ({printable(str(error))}); http(s) comes with "
            "pip install 'xlxmert-features[remote]'"
        ) from error
    except ValueError as error:
        raise UsageError(f"{_scheme(address)}:// is nothing that can be opened: {printable(str(error))}") from error
    return fs, path


def _is_refusal(error: Exception) -> bool:
    """Whether an http server said that asking again is of no use."""
    status = getattr(error, "status", None)
    return isinstance(status, int) and 400 <= status < 500 and status not in (408, 429)


def _scheme(address: str) -> str:
    return urlsplit(address).scheme.lower()

"""One address, asked and read through fsspec, which is imported when an address is first used.

User names, passwords and queries of an address (signatures, tokens) are never shown or stored.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, BinaryIO, Final, TypeVar, cast

from ..errors import ImageError, ImageFolderError, UsageError
from ..names import printable
from .address import file_name, is_web, scheme_of, shown, without_secrets
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

    def __init__(self, address: str, fs: Any, path: str, info: Mapping[str, Any] | None = None) -> None:
        """``fs``, ``path``: what opens it, by which name. ``info``: what a listing said of it."""
        self.address = address
        self._fs, self._path, self._told = fs, path, info

    @classmethod
    def at(cls, address: str) -> Place:
        """Raises ImageFolderError where fsspec, or what it needs for such an address, is not installed; UsageError for
        what is no address."""
        return cls(address, *_file_system(address))

    @cached_property
    def name(self) -> str:
        """The address without what may be secret, printable."""
        return shown(self.address)

    @cached_property
    def file_name(self) -> bytes:
        """The last part of its path."""
        return file_name(self.address).encode("utf-8", "surrogateescape")

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
                self._forget()  # it may have been written anew since it was listed
                raise ConnectionError(f"{file.tell():,} of {size:,} bytes came")
            return file.tell()

        return self._persistently(copy)

    def find(self) -> dict[str, Place]:
        """Path relative to this one -> place, of all files below. Raises ImageError."""
        found = self._persistently(lambda: self._fs.find(self._path, detail=True))
        return {
            path.removeprefix(self._path): Place(self._fs.unstrip_protocol(path), self._fs, path, info)
            for path, info in found.items()
            if info.get("type") != "directory" and not path.endswith("/")
        }

    def _forget(self) -> None:
        """Ask again what lies here when that is next wanted."""
        self._told = None
        for fact in ("info", "version"):
            self.__dict__.pop(fact, None)
        self._fs.invalidate_cache()

    def _open(self) -> Any:
        # of http the plain stream: its other way wants ranges, which not every server has
        settings = {"block_size": 0, "size": self.size or 1} if is_web(self.address) else {}
        return contextlib.closing(self._fs.open(self._path, "rb", **settings))

    def _persistently(self, ask: Callable[[], Answer]) -> Answer:
        """The answer, asked for again where a line broke. Raises ImageError with one line of reason."""
        for pause in (*PAUSES, None):
            try:
                return ask()
            except (MemoryError, ImageError):  # the second: of a question within this one
                raise
            except Exception as error:  # each store has errors of its own
                problem = self._behind(error)
                if isinstance(problem, FileNotFoundError):
                    raise ImageError("is not there") from error
                if pause is None or _is_refusal(problem):
                    raise ImageError(f"cannot be read: {self._said(problem)}") from error
                time.sleep(pause)
        raise AssertionError("the last pause is None")

    def _behind(self, error: Exception) -> Exception:
        """The error that fsspec calls a file not found: of http it is whatever befell the first question."""
        cause = error.__cause__
        if not is_web(self.address) or not isinstance(error, FileNotFoundError) or not isinstance(cause, Exception):
            return error
        return error if getattr(cause, "status", None) in (404, 410) else cause

    def _said(self, error: Exception) -> str:
        """An error in one line. Of an address with secrets only its kind: others' words may repeat them in any form."""
        if printable(self.address) != self.name:
            status, number = getattr(error, "status", None), getattr(error, "errno", None)
            fact = status if isinstance(status, int) else os.strerror(number) if isinstance(number, int) else ""
            return f"{type(error).__name__} {fact}".rstrip() + " (more is not shown, as the address holds secrets)"
        text = without_secrets(str(error))
        return f"{type(error).__name__}{': ' if text else ''}{text[:300]}"


def _file_system(address: str) -> tuple[Any, str]:
    """What fsspec opens an address with, and its path there. Raises UsageError, ImageFolderError."""
    scheme = scheme_of(address)
    if "::" in scheme or "::" in address.partition("://")[2]:
        raise UsageError(f"{shown(address)}: expected one address, not a chain of them")
    settings: dict[str, Any] = {}
    try:
        import fsspec.core

        if is_web(address):
            import aiohttp

            # the whole may take as long as it takes, silence may not
            timeout = aiohttp.ClientTimeout(total=None, connect=30, sock_read=SILENCE)
            settings["client_kwargs"] = {"timeout": timeout, "trust_env": True}  # proxies, as curl takes them
        fs, path = fsspec.core.url_to_fs(f"{scheme}://{address.partition('://')[2].rstrip()}", **settings)
    except ImportError as error:
        raise ImageFolderError(f"{scheme}:// needs {_what_to_install(error)}") from error
    except ValueError as error:
        reason = without_secrets(str(error))
        raise UsageError(f"{shown(address)} is nothing that can be opened: {reason}") from error
    return fs, path


def _what_to_install(error: ImportError) -> str:
    """The package that is missing, as fsspec or the import says, and how it comes here."""
    cause = error.__cause__ if isinstance(error.__cause__, ImportError) else error
    name = cause.name or ""
    if name in ("fsspec", "aiohttp"):
        return f"{name}: install the extra that reads from elsewhere, pip install 'xlxmert-features[remote]'"
    said = f" ({printable(str(error))})" if error is not cause else ""
    return f"{name or 'one more package'}{said}: pip install {name}" if name else f"one more package{said}"


def _is_refusal(error: Exception) -> bool:
    """Whether asking again is of no use: the server said so, there is nothing to ask it with, or the disk is full."""
    status, kind = getattr(error, "status", None), type(error).__name__
    if isinstance(error, PermissionError | NotImplementedError):
        return True
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    forever = isinstance(status, int) and 400 <= status < 500 and status not in (408, 429)
    return forever or "Credentials" in kind or kind == "ParamValidationError"  # botocore's, which may not be imported

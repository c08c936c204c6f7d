"""Images behind addresses (s3://, gs://, http://, memory://): whatever fsspec opens. An optional extra, ``remote``.

fsspec is imported when an address is first used. An image is read whole by the decoding thread that wants it; a tar is
copied once, in sequence, into a nameless temporary file, which ends with the process however it ends, and read there.
What a server sends is bounded by what an image or the disk can have. User names, passwords and queries of an address
(signatures, tokens) are never shown or stored.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar, cast
from urllib.parse import unquote, urlsplit

from ..errors import ImageError, ImageFolderError, UsageError
from ..names import printable
from ..storage.files import check_room
from ..storage.source import FileStamp, Source
from . import files
from .address import is_address, shown
from .listed import Found, Listing
from .listing import is_own
from .tar import Archive, version_of

PAUSES: Final = (1.0, 4.0)
"""Seconds before what failed is tried again."""
SILENCE: Final = 60.0
"""Seconds without a byte after which an http server is given up."""
BLOCK: Final = 1 << 20
MAX_IMAGES: Final = 10_000_000
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
        path = urlsplit(self.address).path or urlsplit(self.address).netloc
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
            except (FileNotFoundError, PermissionError, NotImplementedError) as error:
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


class RemoteImage:
    """One image behind an address of its own."""

    def __init__(self, image_id: str, place: Place) -> None:
        self.id, self.place = image_id, place

    @property
    def name(self) -> str:
        return self.place.name

    def stamp(self) -> FileStamp:
        try:
            return FileStamp(self.name, self.place.size or 0, self.place.version)
        except ImageError:
            return FileStamp(self.name, -1, -1)

    def sha256(self) -> str:
        try:
            with self.opened() as file:
                return files.digest_of(file)
        except (OSError, ImageError):
            return ""

    @contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        files.check_size(1 if self.place.size is None else self.place.size)
        with tempfile.SpooledTemporaryFile(files.IN_MEMORY) as spool:
            file = cast(BinaryIO, spool)
            files.check_size(self.place.copy_to(file, files.MAX_FILE_BYTES + 1))
            file.seek(0)
            yield file

    @contextmanager
    def opened_for_good(self) -> Iterator[tuple[BinaryIO, Source]]:
        with self.opened() as file:
            digest = files.digest_of(file)
            file.seek(0)
            yield file, Source(*self.stamp(), digest)


# --- listing ------------------------------------------------------------------------------------------


def list_folder(address: str) -> Listing[RemoteImage]:
    """All below an address that is not hidden, as of a folder. Raises ImageFolderError, UsageError."""
    top = Place(address)
    if top.is_http:
        raise UsageError(f"{top.name}: http has no folders: give a .tar, one image, or a list file (.txt) of addresses")
    try:
        entries = top.find()
    except ImageError as error:
        raise ImageFolderError(f"image folder {top.name}: {error}") from error
    if len(entries) > MAX_IMAGES:
        raise ImageFolderError(f"image folder {top.name}: {len(entries):,} names, the limit is {MAX_IMAGES:,}")
    found: Found[RemoteImage] = Found(_difference)
    for path, place in entries.items():
        if not any(part.startswith(".") or is_own(part.encode("utf-8", "replace")) for part in path.split("/")):
            _add(found, place)
    if not found:
        raise ImageFolderError(f"image folder {top.name}: nothing there or below; expected images")
    return found.listing()


def list_addresses(addresses: Sequence[str], list_name: str) -> Listing[RemoteImage]:
    """The images at these addresses. Raises ImageFolderError where there is none; ``list_name``: for that."""
    found: Found[RemoteImage] = Found(_difference)
    for address in addresses:
        if is_address(address):
            _add(found, Place(address))
        else:
            found.fail(b"", printable(address), "a path among addresses: a list holds the ones or the others")
    if not found:
        raise ImageFolderError(f"image list {list_name}: names no image; expected one address a line")
    return found.listing()


def read_list(address: str, most: int) -> tuple[bytes, str]:
    """(the bytes of a list file, its printable name). Raises ImageFolderError."""
    place = Place(address)
    try:
        with tempfile.SpooledTemporaryFile(files.IN_MEMORY) as spool:
            place.copy_to(cast(BinaryIO, spool), most)
            spool.seek(0)
            return spool.read(), place.name
    except ImageError as error:
        raise ImageFolderError(f"image list {place.name}: {error}") from error


def _add(found: Found[RemoteImage], place: Place) -> None:
    name = place.file_name
    if b"\0" in name or not name:
        found.fail(name, place.name, "name is empty or holds a zero byte")
    else:
        found.add(name, place.name, lambda image_id: RemoteImage(image_id, place))


def _difference(first: RemoteImage, other: RemoteImage) -> str:
    """Empty where both have the same bytes."""
    same = first.stamp().size == other.stamp().size and first.sha256() == other.sha256() != ""
    return "" if same else "with different content"


# --- tars -----------------------------------------------------------------------------------------------


def fetch_tar(address: str, scratch: Path, say: Callable[[str], None]) -> Archive:
    """The tar at an address, copied into a nameless file in the folder ``scratch``. Raises ImageFolderError, and
    StoreError where there is no room for it."""
    place = Place(address)
    try:
        size, version = place.size, place.version
        room = shutil.disk_usage(scratch).free if size is None else size
        check_room(scratch, room, f"a copy of {place.name} while it is read")
        say(f"fetching {place.name}" + ("" if size is None else f" ({size / 1e6:,.1f} MB)"))
        with contextlib.ExitStack() as stack:
            spool = cast(BinaryIO, stack.enter_context(tempfile.TemporaryFile(dir=scratch)))
            place.copy_to(spool, room)
            spool.flush()
            stack.pop_all()  # the archive closes it
            return Archive(spool, place.name, version)
    except ImageError as error:
        raise ImageFolderError(f"archive {place.name}: {error}") from error


def version_at(address: str) -> tuple[str, int]:
    """(name, version) of what lies at an address. Raises ImageFolderError."""
    place = Place(address)
    try:
        return place.name, place.version
    except ImageError as error:
        raise ImageFolderError(f"archive {place.name}: {error}") from error

"""Images behind addresses (s3://, gs://, http://, memory://): whatever fsspec opens. An optional extra, ``remote``.

An image is read whole by the decoding thread that wants it; a tar is
copied once, in sequence, into a nameless temporary file, which ends with the process however it ends, and read there.
What a server sends is bounded by what an image or the disk can have.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import BinaryIO, Final, cast

from ..errors import ImageError, ImageFolderError, UsageError
from ..names import printable
from ..storage.files import check_room
from ..storage.source import FileStamp, Source
from . import files
from .address import is_address, is_web
from .archive import Archive
from .listed import Found, Listing, difference
from .listing import is_own
from .place import Place

MAX_IMAGES: Final = 10_000_000
IN_MEMORY: Final = 1 << 23
"""Bytes. Images up to here wait in memory, larger ones on the disk, in files without a name."""


class RemoteImage:
    """One image behind an address of its own. Whatever asks for its bytes fetches them."""

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

    def at_hand(self) -> FetchedImage:
        return FetchedImage(self)

    def sha256(self) -> str:
        return self.at_hand().sha256()

    def opened(self) -> AbstractContextManager[BinaryIO]:
        return self.at_hand().opened()

    def opened_for_good(self) -> AbstractContextManager[tuple[BinaryIO, Source]]:
        return self.at_hand().opened_for_good()


class FetchedImage:
    """The bytes of a remote image, or why they could not be had. They are looked at as often as one likes, by one
    thread at a time, and let go of when they have been read for good."""

    def __init__(self, image: RemoteImage) -> None:
        self.id, self.name, self.stamp = image.id, image.name, image.stamp
        self._file = cast(BinaryIO, tempfile.SpooledTemporaryFile(IN_MEMORY))  # noqa: SIM115
        self._error: ImageError | None = None
        try:
            files.check_size(1 if image.place.size is None else image.place.size)
            files.check_size(image.place.copy_to(self._file, files.MAX_FILE_BYTES + 1))
        except ImageError as error:
            self._error = error

    def at_hand(self) -> FetchedImage:
        return self

    def sha256(self) -> str:
        return files.sha256_of_opened(self.opened)

    @contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        if self._error is not None:
            raise self._error
        self._file.seek(0)
        yield self._file

    @contextmanager
    def opened_for_good(self) -> Iterator[tuple[BinaryIO, Source]]:
        with closing(self._file), self.opened() as file:
            digest = files.digest_of(file)
            file.seek(0)
            yield file, Source(*self.stamp(), digest)


# --- listing ------------------------------------------------------------------------------------------


def list_folder(address: str) -> Listing[RemoteImage]:
    """All below an address that is not hidden, as of a folder. Raises ImageFolderError, UsageError."""
    top = Place.at(address)
    if is_web(address):
        raise UsageError(f"{top.name}: http has no folders: give a .tar, one image, or a list file (.txt) of addresses")
    try:
        entries = top.find()
    except ImageError as error:
        raise ImageFolderError(f"image folder {top.name}: {error}") from error
    if len(entries) > MAX_IMAGES:
        raise ImageFolderError(f"image folder {top.name}: {len(entries):,} names, the limit is {MAX_IMAGES:,}")
    found: Found[RemoteImage] = Found(difference)
    for path, place in entries.items():
        if not any(part.startswith(".") or is_own(part.encode("utf-8", "replace")) for part in path.split("/")):
            _add(found, place)
    if not found:
        raise ImageFolderError(f"image folder {top.name}: nothing there or below; expected images")
    return found.listing()


def list_addresses(addresses: Sequence[str], list_name: str) -> Listing[RemoteImage]:
    """The images at these addresses. Raises ImageFolderError where there is none; ``list_name``: for that."""
    found: Found[RemoteImage] = Found(difference)
    for address in addresses:
        if is_address(address):
            _add(found, Place.at(address))
        else:
            found.fail(b"", printable(address), "a path among addresses: a list holds the ones or the others")
    if not found:
        raise ImageFolderError(f"image list {list_name}: names no image; expected one address a line")
    return found.listing()


def read_list(address: str, most: int) -> tuple[bytes, str]:
    """(the bytes of a list file, its printable name). Raises ImageFolderError."""
    place = Place.at(address)
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
        found.add(name, lambda image_id: RemoteImage(image_id, place), lambda: place.name)


# --- tars -----------------------------------------------------------------------------------------------


def fetch_tar(address: str, scratch: Path, say: Callable[[str], None]) -> Archive:
    """The tar at an address, copied into a nameless file in the folder ``scratch``. Raises ImageFolderError, and
    StoreError where there is no room for it."""
    place = Place.at(address)
    try:
        size, version = place.size, place.version
        if size is None:
            raise ImageError("its server does not say how large it is: download it first")
        check_room(scratch, size, f"a copy of {place.name} while it is read")
        say(f"fetching {place.name} ({size / 1e6:,.1f} MB)")
        with contextlib.ExitStack() as stack:
            spool = cast(BinaryIO, stack.enter_context(tempfile.TemporaryFile(dir=scratch)))
            place.copy_to(spool, size)
            spool.flush()
            stack.pop_all()  # the archive closes it
            return Archive(spool, place.name, version)
    except ImageError as error:
        raise ImageFolderError(f"archive {place.name}: {error}") from error


def version_at(address: str) -> tuple[str, int]:
    """(name, version) of what lies at an address. Raises ImageFolderError."""
    place = Place.at(address)
    try:
        return place.name, place.version
    except ImageError as error:
        raise ImageFolderError(f"archive {place.name}: {error}") from error

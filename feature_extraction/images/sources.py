"""Where images come from -> the images: a folder, one image, a list or a tar; here, or at an address.

What reads addresses is imported when there is one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from ..errors import ImageFolderError
from . import listing, tar
from .address import Origin, file_name, is_address, is_tar, is_web, scheme_of, shown
from .listed import IMAGE_SUFFIXES, ListedImage, Listing, split_name


def list_source(
    source: Origin, pattern: str, recursive: bool, *, scratch: Path, say: Callable[[str], None]
) -> Listing[ListedImage]:
    """The images of ``source`` in row order. ``pattern``, ``recursive``: of a folder here. ``scratch``: where a remote
    tar is copied to. Raises ImageFolderError; UsageError where what reads an address is not installed."""
    if is_address(source):
        return _list_address(str(source), scratch, say)
    path = Path(source)
    if is_tar(path):
        return tar.list_archive(tar.open_tar(path))
    if _suffix(path.name) != listing.LIST_SUFFIX or not path.is_file():
        return listing.list_images(path, pattern, recursive)
    entries = listing.entries_of(os.fsencode(path))
    lines = [line.decode("utf-8", "replace") for line in entries]
    if not any(map(is_address, lines)):
        return listing.list_entries(os.fsencode(path), entries)
    from . import remote

    return remote.list_addresses(lines, shown(path))


def _list_address(address: str, scratch: Path, say: Callable[[str], None]) -> Listing[ListedImage]:
    from . import remote

    if is_tar(address):
        return tar.list_archive(remote.fetch_tar(address, scratch, say))
    suffix = _suffix(file_name(address))
    if suffix == listing.LIST_SUFFIX:
        content, name = remote.read_list(address, listing.MAX_LIST_BYTES + 1)
        lines = [line.decode("utf-8", "replace") for line in listing.entries_in(content, name)]
        return remote.list_addresses([_below(address, line) for line in lines], name)
    if suffix in IMAGE_SUFFIXES:
        return remote.list_addresses([address], shown(address))
    return remote.list_folder(address)


def _suffix(name: str) -> bytes:
    return split_name(name.encode("utf-8", "surrogateescape"))[1].lower()


def _below(address: str, line: str) -> str:
    """The address that a line of the list at ``address`` names. Raises ImageFolderError where it leads to another kind
    of place: a server must not choose what is read here."""
    if not is_address(line):
        line = urljoin(address, line) if is_web(address) else f"{address.rpartition('/')[0]}/{line}"
    if scheme_of(line) != scheme_of(address) and not (is_web(line) and is_web(address)):
        expected = f"expected {scheme_of(address)}:// only"
        raise ImageFolderError(f"image list {shown(address)}: names {shown(line)}, {expected}")
    return line


def notes_of(source: Origin) -> Mapping[str, Any]:
    """The notes of the listing of a tar, without reading it; of what is no tar none. Raises ImageFolderError."""
    if not is_tar(source):
        return {}
    if is_address(source):
        from . import remote

        return tar.notes_of(*remote.version_at(str(source)))
    with closing(tar.open_tar(Path(source))) as archive:
        return tar.notes_of(archive.name, archive.version)

r"""From a folder, one image or a list file to images in row order, and what is passed over with its reason.

Contents are not looked at, except where two files claim one id. Names are bytes here, as the kernel has them, and read
as UTF-8: ids and order do not depend on the locale. Paths in messages and in ``Failure`` are ``printable``.
"""

from __future__ import annotations

import filecmp
import fnmatch
import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from ..errors import ImageFolderError
from ..names import printable
from .listed import IMAGE_SUFFIXES, Failure, Found, ImageFile, Listing, split_name

__all__ = ["Failure", "ImageFile", "Listing", "list_images"]

is_own = re.compile(rb"\.h5(\.work(\..*)?)?\Z|\.report\.json\Z", re.DOTALL).search
"""What this kit writes is named so: feature files, the folders they are made in (a word more while they are removed),
reports. Never images, wherever they lie and whichever run made them: every share of a run sees the same list, before,
during and after the others."""
LIST_SUFFIX: Final = b".txt"
BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
"""Of UTF-8."""
MAX_LIST_BYTES: Final = 1 << 28
"""Bytes: two million paths of 128."""


def list_images(source: Path, pattern: str = "*", recursive: bool = True) -> Listing[ImageFile]:
    """The images of ``source``: a folder, a list file (its name ends in .txt) or one image.

    Of a folder, the files whose name matches ``pattern``, as ``Path.glob`` does on Linux; a name that matches but for
    its case is a failure. ``recursive``: below as well, through links to folders too, each real folder once. Hidden
    files and folders (".x", "._x.jpg" of macOS) are passed over, and this kit's own: feature files, the folders they
    are made in, reports.
    A list file has one path a line, in UTF-8, relative to the list's own folder; lines that are blank or start with #
    are passed over; a line that names no file is a failure.
    One id, several files: the first is used, image suffixes before others, then by path; the others are
    counted in ``copies`` where their bytes are the same, and failures where they differ.

    Raises ImageFolderError where nothing can be read, or nothing in it matches.
    """
    top = os.fsencode(source)
    found = Found(_difference)
    try:
        is_folder = stat.S_ISDIR(os.stat(top).st_mode)
        if is_folder:
            os.scandir(top).close()
    except OSError as error:
        raise ImageFolderError(
            f"image folder {printable(top)}: {error.strerror}; expected a readable folder of images "
            f"({printable(pattern)}), one image, or a list of paths (.txt): unpack them there or name another folder"
        ) from error
    if is_folder:
        _search(top, pattern, recursive, found)
    elif split_name(top)[1].lower() == LIST_SUFFIX:
        return list_entries(top, entries_of(top))
    else:
        _add(found, top)
    return found.listing()


def _search(top: bytes, pattern: str, recursive: bool, found: Found[ImageFile]) -> None:
    """All that matches in the folder ``top``. Raises ImageFolderError where nothing does."""
    as_utf_8 = os.fsencode(pattern).decode("utf-8", "surrogateescape")
    matches = re.compile(fnmatch.translate(as_utf_8)).match
    matches_in_any_case = re.compile(fnmatch.translate(as_utf_8), re.IGNORECASE).match
    others = 0
    for name, path, is_folder in _walk(top, recursive, found):
        text = name.decode("utf-8", "surrogateescape")
        stem, suffix = split_name(name)
        if is_folder:
            if suffix.lower() in IMAGE_SUFFIXES and matches(text):
                found.fail(stem, printable(path), "a folder, not an image file")
        elif is_own(name):
            others += 1
        elif matches(text):
            _add(found, path)
        elif matches_in_any_case(text):
            found.fail(stem, printable(path), f"name does not match {printable(as_utf_8)}: case matters")
        else:
            others += 1
    if not found:
        where = "in it or below" if recursive else "in it (sub-folders are not searched)"
        raise ImageFolderError(
            f"image folder {printable(top)}: no file matches {printable(as_utf_8)} {where}, found {others} other "
            "files; expected images: unpack them there or name another folder"
        )


def _walk(top: bytes, recursive: bool, found: Found[ImageFile]) -> Iterator[tuple[bytes, bytes, bool]]:
    """(name, path, whether it is a folder) of all that is not hidden, ascending by name within a folder.

    A folder that cannot be read is a failure. No call per file: the kernel says what is a folder.
    """
    seen: set[tuple[int, int]] = set()
    pending = [top]
    while pending:
        folder = pending.pop()
        try:
            info = os.stat(folder)
            if (info.st_dev, info.st_ino) in seen:  # a link back up, or a second way to the same folder
                continue
            seen.add((info.st_dev, info.st_ino))
            with os.scandir(folder) as entries:
                visible = sorted((e for e in entries if not e.name.startswith(b".")), key=lambda e: e.name)
        except OSError as error:
            found.fail(b"", printable(folder), f"folder cannot be read: {error.strerror}")
            continue
        below = []
        for entry in visible:
            is_folder = _is_folder(entry)
            yield entry.name, entry.path, is_folder
            if is_folder and recursive and not is_own(entry.name):
                below.append(entry.path)
        pending.extend(reversed(below))


def _is_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself; opening it will say so
        return False


def list_entries(path: bytes, entries: Sequence[bytes]) -> Listing[ImageFile]:
    """The images that a list file names. Raises ImageFolderError where it names nothing."""
    folder, found = os.path.dirname(path), Found(_difference)
    for entry in entries:
        image = os.path.join(folder, entry)
        stem = split_name(os.path.basename(image))[0]
        try:
            is_folder = stat.S_ISDIR(os.stat(image).st_mode)
        except OSError as error:
            found.fail(stem, printable(image), f"listed, but cannot be read: {error.strerror}")
            continue
        if is_folder:
            found.fail(stem, printable(image), "a folder, not an image file")
        else:
            _add(found, image)
    if not found:
        raise ImageFolderError(f"image list {printable(path)}: names no image; expected one path a line")
    return found.listing()


def entries_of(path: bytes) -> list[bytes]:
    """The lines of a list file that name something. Raises ImageFolderError where it is none."""
    try:
        # O_NONBLOCK: a named pipe must not wait for somebody to write into it
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            content = file.read(MAX_LIST_BYTES + 1)
    except OSError as error:
        raise ImageFolderError(f"image list {printable(path)}: {error.strerror}; expected a readable file") from error
    return entries_in(content, printable(path))


def entries_in(content: bytes, shown: str) -> list[bytes]:
    """The same of what a list file holds; ``shown``: its name. Raises ImageFolderError where it is no text."""
    if len(content) > MAX_LIST_BYTES or b"\0" in content:
        what = "zero bytes, so no text in UTF-8" if b"\0" in content else f"more than {MAX_LIST_BYTES:,} bytes"
        raise ImageFolderError(f"image list {shown}: holds {what}; expected one path a line")
    lines = (line.removesuffix(b"\r") for line in content.removeprefix(BYTE_ORDER_MARK).split(b"\n"))
    return [line for line in lines if line.strip() and not line.lstrip().startswith(b"#")]


def _add(found: Found[ImageFile], path: bytes) -> None:
    found.add(path, lambda image_id: ImageFile(image_id, Path(os.fsdecode(path))), lambda: printable(path))


def _difference(first: ImageFile, other: ImageFile) -> str:
    """Empty where both files have the same bytes."""
    try:
        same = filecmp.cmp(first.path, other.path, shallow=False)  # by size first; only opens regular files
    except OSError as error:
        return f"and cannot be compared ({error.strerror})"
    return "" if same else "with different content"

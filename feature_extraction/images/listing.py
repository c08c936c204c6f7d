"""What a folder of images holds: files in row order, and what is passed over with its reason.

Contents are not looked at, except where two files claim one id.
"""

from __future__ import annotations

import filecmp
import fnmatch
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..errors import ImageFolderError

IMAGE_SUFFIXES: Final = frozenset(
    (
        ".jpg",
        ".jpeg",
        ".png",
        ".gif",
        ".bmp",
        ".webp",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
        ".pbm",
        ".avif",
        ".jp2",
    )
)
"""What an image file's name ends in, in any case. Only decides which of two files with one id goes first."""


@dataclass(frozen=True)
class ImageFile:
    """One image to extract. ``id``: the file's stem, the key in the feature file."""

    id: str
    path: Path


@dataclass(frozen=True)
class Failure:
    """One file or folder that gives no features. Bytes of a name that are not UTF-8 are written ``\\xNN``."""

    id: str
    """The file's stem; empty for a folder."""
    path: str
    reason: str


@dataclass(frozen=True)
class Listing:
    """What a folder holds."""

    images: tuple[ImageFile, ...]
    """Distinct ids, ascending as UTF-8 bytes: the row order of the feature file (``store.image_ids``)."""
    failures: tuple[Failure, ...]
    """Ascending by path."""
    copies: int = 0
    """Files passed over because an image of the same id and the same content is in ``images``."""


def list_images(folder: Path, pattern: str, recursive: bool) -> Listing:
    """The images of ``folder`` whose file name matches ``pattern``; contents are not looked at.

    ``pattern`` is matched as ``Path.glob`` does on Linux; a name that matches but for its case is a failure.
    ``recursive``: below as well, through links to folders too, each real folder once.
    Hidden files and folders (".x", "._x.jpg" of macOS) are passed over.
    One id, several files: the first is used, image suffixes before others, then by path; the others are
    counted in ``copies`` where their bytes are the same, and failures where they differ.

    Raises ImageFolderError where there is no folder to read, or nothing in it matches.
    """
    top = os.fspath(folder)
    try:
        os.scandir(top).close()
    except OSError as error:
        raise ImageFolderError(
            f"image folder {_printable(top)}: {error.strerror}; expected a readable folder of images "
            f"({pattern}): unpack them there or name another folder"
        ) from error
    matches = re.compile(fnmatch.translate(pattern)).match
    matches_in_any_case = re.compile(fnmatch.translate(pattern), re.IGNORECASE).match

    failures: list[Failure] = []
    paths_of: defaultdict[bytes, list[str]] = defaultdict(list)
    others = 0
    for name, path, is_folder in _walk(top, recursive, failures):
        stem, suffix = _split(name)
        if is_folder:
            if suffix.lower() in IMAGE_SUFFIXES and matches(name):
                failures.append(_failure(stem, path, "a folder, not an image file"))
        elif matches(name):
            try:
                paths_of[stem.encode()].append(path)
            except UnicodeEncodeError:
                failures.append(_failure(stem, path, "name is not UTF-8, as keys of HDF5 files are: rename it"))
        elif matches_in_any_case(name):
            failures.append(_failure(stem, path, f"name does not match {pattern}: case matters"))
        else:
            others += 1
    if not paths_of and not failures:
        where = "in it or below" if recursive else "in it (sub-folders are not searched)"
        raise ImageFolderError(
            f"image folder {_printable(top)}: no file matches {pattern} {where}, found {others} other files; "
            "expected images: unpack them there or name another folder"
        )

    images: list[ImageFile] = []
    copies = 0
    for key in sorted(paths_of):
        first, *rest = sorted(paths_of[key], key=_precedence)
        images.append(ImageFile(key.decode(), Path(first)))
        for path in rest:
            if _same_content(first, path):
                copies += 1
            else:
                reason = f"duplicate id with different content: {_printable(first)} is used"
                failures.append(_failure(key.decode(), path, reason))
    return Listing(tuple(images), tuple(sorted(failures, key=lambda f: f.path)), copies)


def _walk(top: str, recursive: bool, failures: list[Failure]) -> Iterator[tuple[str, str, bool]]:
    """(name, path, whether it is a folder) of all that is not hidden, ascending by name within a folder.

    A folder that cannot be read is added to ``failures``. No call per file: the kernel says what is a folder.
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
                visible = sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: os.fsencode(e.name))
        except OSError as error:
            failures.append(_failure("", folder, f"folder cannot be read: {error.strerror}"))
            continue
        below = []
        for entry in visible:
            is_folder = _is_folder(entry)
            yield entry.name, entry.path, is_folder
            if is_folder and recursive:
                below.append(entry.path)
        pending.extend(reversed(below))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself; opening it will say so
        return False


def _split(name: str) -> tuple[str, str]:
    """(stem, suffix) as pathlib splits them: "a.b.jpg" -> "a.b", ".jpg"."""
    dot = name.rfind(".")
    return (name[:dot], name[dot:]) if 0 < dot < len(name) - 1 else (name, "")


def _precedence(path: str) -> tuple[bool, bytes]:
    """ "1.json" beside "1.png" is not the image."""
    return _split(path)[1].lower() not in IMAGE_SUFFIXES, os.fsencode(path)


def _same_content(a: str, b: str) -> bool:
    try:
        return filecmp.cmp(a, b, shallow=False)  # by size first; only opens regular files
    except OSError:
        return False


def _printable(text: str) -> str:
    return os.fsencode(text).decode("utf-8", "backslashreplace")


def _failure(stem: str, path: str, reason: str) -> Failure:
    return Failure(_printable(stem), _printable(path), reason)

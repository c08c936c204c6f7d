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
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ..errors import ImageFolderError
from ..names import printable

IMAGE_SUFFIXES: Final = frozenset(b".jpg .jpeg .png .gif .bmp .webp .tif .tiff .ppm .pgm .pbm .avif .jp2".split())
"""What an image file's name ends in, in any case. Only decides which of two files with one id goes first."""
_is_own = re.compile(rb"\.h5(\.work(\..*)?)?\Z|\.report\.json\Z", re.DOTALL).search
"""What this kit writes is named so: feature files, the folders they are made in (a word more while they are removed),
reports. Never images, wherever they lie and whichever run made them: every share of a run sees the same list, before,
during and after the others."""
LIST_SUFFIX: Final = b".txt"
MAX_LIST_BYTES: Final = 1 << 28
"""Bytes: two million paths of 128."""


@dataclass(frozen=True)
class ImageFile:
    """One image to extract. ``id``: the file's stem, the key in the feature file."""

    id: str
    path: Path


@dataclass(frozen=True)
class Failure:
    """One file or folder that gives no features."""

    id: str
    """The file's stem, exactly, as keys are compared (not for a terminal: see ``printable``); bytes that are not UTF-8
    written ``\\xNN``. Empty for a folder."""
    path: str
    """``printable``, like the reason."""
    reason: str

    @classmethod
    def of(cls, image: ImageFile, reason: str) -> Failure:
        """``image`` gives no features for this reason."""
        return cls(image.id, printable(image.path), reason)


@dataclass(frozen=True)
class Listing:
    """What a folder or a list file holds."""

    images: tuple[ImageFile, ...]
    """Distinct ids, ascending as UTF-8 bytes: the row order of the feature file (``store.image_ids``)."""
    failures: tuple[Failure, ...]
    """Ascending by path."""
    copies: int = 0
    """Files passed over because an image of the same id and the same content is in ``images``."""


def list_images(source: Path, pattern: str = "*", recursive: bool = True) -> Listing:
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
    found = _Found()
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
    elif _split(top)[1].lower() == LIST_SUFFIX:
        _read_list(top, found)
    else:
        found.add(os.path.basename(top), top)
    return found.listing()


@dataclass
class _Found:
    """What was met so far: paths by the id that they claim."""

    paths_of: defaultdict[bytes, list[bytes]] = field(default_factory=lambda: defaultdict(list))
    failures: list[Failure] = field(default_factory=list)

    def add(self, name: bytes, path: bytes) -> None:
        stem, _ = _split(name)
        try:
            stem.decode()
        except UnicodeDecodeError:
            self.fail(stem, path, "name is not UTF-8, as keys of HDF5 files are: rename it")
        else:
            self.paths_of[stem].append(path)

    def fail(self, stem: bytes, path: bytes, reason: str) -> None:
        self.failures.append(Failure(stem.decode("utf-8", "backslashreplace"), printable(path), reason))

    def listing(self) -> Listing:
        images: list[ImageFile] = []
        copies = 0
        for stem in sorted(self.paths_of):
            first, *rest = sorted(self.paths_of[stem], key=_precedence)
            images.append(ImageFile(stem.decode(), Path(os.fsdecode(first))))
            for path in rest:
                if difference := _difference(first, path):
                    self.fail(stem, path, f"duplicate id {difference}: {printable(first)} is used")
                else:
                    copies += 1
        return Listing(tuple(images), tuple(sorted(self.failures, key=lambda f: f.path)), copies)


def _search(top: bytes, pattern: str, recursive: bool, found: _Found) -> None:
    """All that matches in the folder ``top``. Raises ImageFolderError where nothing does."""
    as_utf_8 = os.fsencode(pattern).decode("utf-8", "surrogateescape")
    matches = re.compile(fnmatch.translate(as_utf_8)).match
    matches_in_any_case = re.compile(fnmatch.translate(as_utf_8), re.IGNORECASE).match
    others = 0
    for name, path, is_folder in _walk(top, recursive, found):
        text = name.decode("utf-8", "surrogateescape")
        stem, suffix = _split(name)
        if is_folder:
            if suffix.lower() in IMAGE_SUFFIXES and matches(text):
                found.fail(stem, path, "a folder, not an image file")
        elif _is_own(name):
            others += 1
        elif matches(text):
            found.add(name, path)
        elif matches_in_any_case(text):
            found.fail(stem, path, f"name does not match {printable(as_utf_8)}: case matters")
        else:
            others += 1
    if not found.paths_of and not found.failures:
        where = "in it or below" if recursive else "in it (sub-folders are not searched)"
        raise ImageFolderError(
            f"image folder {printable(top)}: no file matches {printable(as_utf_8)} {where}, found {others} other "
            "files; expected images: unpack them there or name another folder"
        )


def _walk(top: bytes, recursive: bool, found: _Found) -> Iterator[tuple[bytes, bytes, bool]]:
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
            found.fail(b"", folder, f"folder cannot be read: {error.strerror}")
            continue
        below = []
        for entry in visible:
            is_folder = _is_folder(entry)
            yield entry.name, entry.path, is_folder
            if is_folder and recursive and not _is_own(entry.name):
                below.append(entry.path)
        pending.extend(reversed(below))


def _is_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself; opening it will say so
        return False


def _read_list(path: bytes, found: _Found) -> None:
    """All that a list file names. Raises ImageFolderError where it is none, or names nothing."""
    try:
        # O_NONBLOCK: a named pipe must not wait for somebody to write into it
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            content = file.read(MAX_LIST_BYTES + 1)
    except OSError as error:
        raise ImageFolderError(f"image list {printable(path)}: {error.strerror}; expected a readable file") from error
    if len(content) > MAX_LIST_BYTES or b"\0" in content:
        what = "zero bytes, so no text in UTF-8" if b"\0" in content else f"more than {MAX_LIST_BYTES:,} bytes"
        raise ImageFolderError(f"image list {printable(path)}: holds {what}; expected one path a line")
    folder = os.path.dirname(path)
    for line in content.removeprefix(b"\xef\xbb\xbf").split(b"\n"):  # byte order mark of UTF-8
        entry = line.removesuffix(b"\r")
        if not entry.strip() or entry.lstrip().startswith(b"#"):
            continue
        image = os.path.join(folder, entry)
        name = os.path.basename(image)
        try:
            is_folder = stat.S_ISDIR(os.stat(image).st_mode)
        except OSError as error:
            found.fail(_split(name)[0], image, f"listed, but cannot be read: {error.strerror}")
            continue
        if is_folder:
            found.fail(_split(name)[0], image, "a folder, not an image file")
        else:
            found.add(name, image)
    if not found.paths_of and not found.failures:
        raise ImageFolderError(f"image list {printable(path)}: names no image; expected one path a line")


def _split(name: bytes) -> tuple[bytes, bytes]:
    """(stem, suffix) as pathlib splits them: "a.b.jpg" -> "a.b", ".jpg"."""
    dot = name.rfind(b".")
    return (name[:dot], name[dot:]) if 0 < dot < len(name) - 1 else (name, b"")


def _precedence(path: bytes) -> tuple[bool, bytes]:
    """ "1.json" beside "1.png" is not the image."""
    return _split(path)[1].lower() not in IMAGE_SUFFIXES, path


def _difference(first: bytes, other: bytes) -> str:
    """Empty where both files have the same bytes."""
    try:
        same = filecmp.cmp(first, other, shallow=False)  # by size first; only opens regular files
    except OSError as error:
        return f"and cannot be compared ({error.strerror})"
    return "" if same else "with different content"

"""From a folder to what the network sees: list, decode, the two resizes.

Shape legend (sizes are (H, W) in pixels throughout; arrays are C contiguous):

    (H, W, 3)        original image, RGB
    (H', W', 3)      resized image, BGR minus the pixel mean, float32; the network's boxes are in this frame
    (Hpad, Wpad, 3)  resized image with zeros right and below, sides multiples of 32 (boxes only)
    s                scale, resized / original

Decoding is in decode.py and re-exported here; every number is in recipe.py.
"""

from __future__ import annotations

import filecmp
import fnmatch
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from feature_extraction.decode import Decode, ImageError, Pixels, decode, read_size
from feature_extraction.recipe import LONG_SIDE, PIXEL_MEAN_BGR, SHORT_SIDE, SIZE_DIVISOR

__all__ = [
    "Decode",
    "Failure",
    "ImageError",
    "ImageFile",
    "ImageFolderError",
    "Listing",
    "Pixels",
    "decode",
    "list_images",
    "network_size_boxes",
    "network_size_grid",
    "read_size",
    "resize_for_boxes",
    "resize_for_grid",
]

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


class ImageFolderError(NotADirectoryError):
    """The image folder is missing, unreadable, not a folder, or holds no image."""


# --- listing -------------------------------------------------------------------------------------------


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


# --- sizes ---------------------------------------------------------------------------------------------


def _scale(height: int, width: int) -> float:
    """Resized / original: the short side becomes 800, or the long one 1333 where it would round to more."""
    short, long = sorted((height, width))
    if short <= 0:
        raise ImageError(f"no pixels: height {height}, width {width}")
    scale = SHORT_SIDE / short
    return LONG_SIDE / long if round(scale * long) > LONG_SIDE else scale


def network_size_grid(height: int, width: int, imsize: int | None = None) -> tuple[int, int]:
    """(H', W') resized, of an original of (height, width), nothing decoded.

    ``imsize``: both sides are that, whatever the image. Raises ImageError where a side would have no pixels.
    """
    if imsize is not None:
        return imsize, imsize
    scale = _scale(height, width)
    resized = (_floor_to_divisor(int(scale * height)), _floor_to_divisor(int(scale * width)))
    return _checked(resized, height, width)


def network_size_boxes(height: int, width: int) -> tuple[tuple[int, int], tuple[int, int], float]:
    """((H', W') resized, (Hpad, Wpad) padded, scale s) of an original of (height, width), nothing decoded.

    Raises ImageError where a side would have no pixels.
    """
    scale = _scale(height, width)
    resized = (round(scale * height), round(scale * width))  # half to even, as OpenCV's cvRound
    _checked(resized, height, width)
    return resized, (_ceil_to_divisor(resized[0]), _ceil_to_divisor(resized[1])), scale


def _floor_to_divisor(side: int) -> int:
    return side - side % SIZE_DIVISOR


def _ceil_to_divisor(side: int) -> int:
    return side + -side % SIZE_DIVISOR


def _checked(resized: tuple[int, int], height: int, width: int) -> tuple[int, int]:
    if 0 in resized:
        raise ImageError(
            f"too narrow: height {height}, width {width} would become height {resized[0]}, "
            f"width {resized[1]}; crop it, or give --imsize for grid features"
        )
    return resized


# --- resizing ------------------------------------------------------------------------------------------

_MEAN_BGR: Final = np.array(PIXEL_MEAN_BGR)  # float64, as in the published scripts
_MEAN_SUBTRACTED: Final = (np.arange(256)[:, np.newaxis] - _MEAN_BGR).astype(np.float32).reshape(1, 256, 3)
"""[0, v, c]: 8-bit value v of channel c (BGR) minus the mean, the float64 difference rounded to float32: the
bits of the published ``float32_image -= float64_mean``, in a quarter of the time."""


def resize_for_grid(rgb: Pixels, imsize: int | None = None) -> npt.NDArray[np.float32]:
    """Network input for the grid features: (H', W', 3) float32, BGR minus mean, resized frame.

    ``rgb``: (H, W, 3) uint8 or float32, as ``decode`` gives it. Raises ImageError for an image too narrow.
    """
    height, width = network_size_grid(rgb.shape[0], rgb.shape[1], imsize)
    with _opencv():
        resized = cv2.resize(_bgr_minus_mean(rgb), (width, height), interpolation=cv2.INTER_LINEAR)  # (W, H)
    return np.asarray(resized, np.float32)


def resize_for_boxes(rgb: Pixels) -> tuple[npt.NDArray[np.float32], float]:
    """Network input for the box features: (Hpad, Wpad, 3) float32, BGR minus mean, resized frame; scale s.

    ``rgb``: (H, W, 3) uint8 or float32, as ``decode`` gives it. A box of the resized frame divided by s is in
    pixels of the original. Raises ImageError for an image too narrow.
    """
    (height, width), padded_size, scale = network_size_boxes(rgb.shape[0], rgb.shape[1])
    padded = np.zeros((*padded_size, 3), np.float32)
    inside = padded[:height, :width]
    with _opencv():  # given factors and no size, OpenCV samples at x / s, not at x * W / W'
        resized = cv2.resize(_bgr_minus_mean(rgb), None, inside, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
    assert np.shares_memory(resized, padded), (resized.shape, inside.shape)  # written in place
    return padded, scale


def _bgr_minus_mean(rgb: Pixels) -> npt.NDArray[np.float32]:
    """(H, W, 3) RGB uint8 or float32 -> (H, W, 3) BGR float32, original frame."""
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)  # only reorders
    if rgb.dtype == np.uint8:
        return np.asarray(cv2.LUT(bgr, _MEAN_SUBTRACTED), np.float32)
    return np.asarray(bgr - _MEAN_BGR, np.float32)


@contextmanager
def _opencv() -> Iterator[None]:
    cv2.setNumThreads(1)  # images are spread over workers already; the result does not depend on it
    try:
        yield
    except (cv2.error, MemoryError) as error:
        raise ImageError(f"cannot be resized: {' '.join(str(error).split())}") from error

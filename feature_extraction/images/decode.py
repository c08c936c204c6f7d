"""One image file (or PIL image, or array) -> RGB pixels, exactly as published or with a reason why not.

Shapes and units: H, W = pixels of the original image. Pixels are (H, W, 3), RGB, C contiguous. EXIF
orientation is ignored, as in the published scripts (only TIFF is turned upright, by Pillow itself). Every
byte of a file is taken for hostile: what cannot be used raises ImageError with one line of reason, whatever
Pillow or a codec made of it.

How each Pillow mode is read (``Decode``):

    mode              proper (default)                                as_published
    L, RGB            as they are; L repeated to 3 channels           the same
    1                 0 and 255                                       0 and 1
    P                 colours of the palette                          palette indices as gray
    LA PA RGBA ...    colours, alpha dropped                          ImageError: the published code stops
    CMYK              RGB by Pillow's formula                         ImageError: the published code stops
    YCbCr LAB HSV     RGB                                             the three bands as if they were R, G, B
    I;16*, 16-bit PGM value >> 8                                      0..65535 as float32
    I, F              0..255 as they are, 0..65535 >> 8; ImageError   the values as float32
                      for others, and for floats no higher than 1

Alpha is dropped, not composited: that is Pillow's ``convert("RGB")`` and OpenCV's ``IMREAD_COLOR``, so what
torchvision's loader and the cv2-based extractors show their networks; a background colour would be our
invention. Premultiplied colours (RGBa) are divided by alpha first. 16-bit gray is shifted because that is how
Pillow reads 16-bit RGB files: gray and colour then agree. A moving image or one of many pages (GIF, APNG,
WebP, AVIF, TIFF, MPO) gives its first.
"""

from __future__ import annotations

import os
import re
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from logging import NullHandler, getLogger
from typing import Any, BinaryIO, Final, Literal, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from ..errors import ImageError

Decode = Literal["proper", "as_published"]
Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.float32]

FORMATS: Final = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "AVIF", "JPEG2000")
"""Raster formats Pillow may try (JPEG includes MPO). No others: EPS, for one, would start Ghostscript."""
MAX_PIXELS: Final = 178_956_970
"""H * W. Twice Pillow's ``MAX_IMAGE_PIXELS``: from here on Pillow itself speaks of a decompression bomb."""
MAX_FILE_BYTES: Final = 8 * MAX_PIXELS
"""Uncompressed 16-bit RGBA of that size. Some codecs read the whole file before they look at it."""
ZERO_TAIL: Final = 512
"""Bytes (one disk sector). A JPEG that ends in so many zeros, no end marker before them, is a broken copy."""


def decode(source: str | os.PathLike[str] | Image.Image | npt.NDArray[Any], mode: Decode = "proper") -> Pixels:
    """RGB pixels of one image.

    ``source``: a path, a PIL image (its current frame) or a uint8 array, (H, W), (H, W, 1) or (H, W, 3) RGB.
    Returns (H, W, 3) RGB, original frame, C contiguous, writable: uint8, or float32 for the modes that
    ``as_published`` reads with more than 8 bits. Raises ImageError. Safe to call from many threads.
    """
    if mode not in get_args(Decode):
        raise ValueError(f"no way of decoding {mode!r}; known: {', '.join(get_args(Decode))}")
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        with _pillow():
            return _from_pil(source, mode)
    path = os.fspath(source)  # a TypeError here is the caller's
    with _pillow(), _open(path) as (file, image):
        pixels = _from_pil(image, mode)
        if mode == "proper" and image.format in ("JPEG", "MPO"):
            _check_end_of_jpeg(file)
        return pixels


def read_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(H, W) of the image that ``decode(path)`` would give, from the header alone. Raises ImageError."""
    path = os.fspath(path)
    with _pillow(), _open(path) as (_, image):
        return _checked_size(image)


# --- pixels ------------------------------------------------------------------------------------------


def _from_pil(image: Image.Image, mode: Decode) -> Pixels:
    """(H, W, 3) uint8 or float32 RGB of a PIL image; whatever Pillow raises on the way passes through."""
    _checked_size(image)
    if image.format not in (None, "MPO", *FORMATS):  # the caller opened it; load() would run its decoder
        raise ImageError(f"format {image.format} is not read; formats read: {', '.join(FORMATS)}")
    image.load()
    return _proper(image) if mode == "proper" else _as_published(image)


def _proper(image: Image.Image) -> npt.NDArray[np.uint8]:
    if image.mode == "RGB":
        return np.array(image)
    if image.mode[0] in "IF":
        full_range = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")
        gray = _to_8_bits(np.asarray(image), full_range)
        return np.repeat(gray[:, :, np.newaxis], 3, axis=2)
    return np.array(image.convert("RGB"))


def _to_8_bits(gray: npt.NDArray[Any], full_range: bool) -> npt.NDArray[np.uint8]:
    """(H, W) integers or floats -> uint8. ``full_range``: by its format, white is 65535."""
    low, high = float(gray.min()), float(gray.max())
    if not (low >= 0 and high <= 65535):  # also true for NaN
        raise ImageError(f"gray values {low:g} to {high:g}, expected 0..255 or 0..65535: convert it to 8 bits")
    if not full_range and gray.dtype.kind == "f" and 0 < high <= 1:
        raise ImageError(f"gray values {low:g} to {high:g}: of 0..1 or of 0..255? Convert it to 8 bits")
    if full_range or high > 255:
        return (gray.astype(np.uint16) >> 8).astype(np.uint8)
    eight_bits: npt.NDArray[np.uint8] = np.rint(gray).astype(np.uint8)
    return eight_bits


def _as_published(image: Image.Image) -> Pixels:
    """What ``np.array(PIL.Image.open(path))`` and the published lines after it make of the image."""
    pixels = np.array(image)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, np.newaxis], 3, axis=2)
    if pixels.shape[2] != 3:
        raise ImageError(
            f"mode {image.mode}, {pixels.shape[2]} channels: the published code stops; decode it as 'proper'"
        )
    if pixels.dtype in (np.uint8, np.bool_):
        return pixels.astype(np.uint8)
    return pixels.astype(np.float32)


def _from_array(array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    height, width, *channels = array.shape if array.ndim in (2, 3) else (0, 0, 0)
    if array.dtype != np.uint8 or channels not in ([], [1], [3]) or height * width == 0:
        raise ImageError(
            f"array of shape {array.shape}, {array.dtype}: "
            "expected uint8, (H, W), (H, W, 1) or (H, W, 3) RGB, not empty"
        )
    _check_pixel_count(height, width)
    rgb = array.reshape(height, width, -1)
    return np.array(rgb if channels == [3] else np.repeat(rgb, 3, axis=2), order="C")


# --- files -------------------------------------------------------------------------------------------


@contextmanager
def _open(path: str) -> Iterator[tuple[BinaryIO, Image.Image]]:
    """The file and its image, header read and checked, pixels not yet decoded."""
    # O_NONBLOCK: opening a named pipe must not wait for somebody to write into it
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _check_file(os.fstat(descriptor))
    except BaseException:
        os.close(descriptor)
        raise
    with os.fdopen(descriptor, "rb") as file:
        try:
            image = Image.open(file, formats=FORMATS)
        except UnidentifiedImageError:
            file.seek(0)
            raise ImageError(_what_it_is(file.read(1024))) from None
        with image:
            _checked_size(image)
            yield file, image


def _check_file(info: os.stat_result) -> None:
    if not stat.S_ISREG(info.st_mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
        raise ImageError(f"{kinds.get(stat.S_IFMT(info.st_mode), 'a device')}, not a regular file")
    if info.st_size == 0:
        raise ImageError("empty file (0 bytes)")
    if info.st_size > MAX_FILE_BYTES:
        raise ImageError(f"{info.st_size:,} bytes, more than the {MAX_FILE_BYTES:,} that an image can have")


def _checked_size(image: Image.Image) -> tuple[int, int]:
    """(H, W) of the image. Raises ImageError where it is no size to work with."""
    width, height = image.size
    if width <= 0 or height <= 0:
        raise ImageError(f"no pixels: width {width}, height {height}")
    _check_pixel_count(height, width)
    return height, width


def _check_pixel_count(height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise ImageError(_too_large(f"{width} x {height} (width x height) = {height * width:,} pixels"))


def _too_large(found: str) -> str:
    return f"{found}, the limit is {MAX_PIXELS:,}: a decompression bomb, or an image to be scaled down first"


def _check_end_of_jpeg(file: BinaryIO) -> None:
    """Raises ImageError for a JPEG that ends in zeros: libjpeg makes gray of them without a word."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - ZERO_TAIL))
    if any(file.read()):
        return
    file.seek(0)
    content = file.read().rstrip(b"\0")
    if not content.endswith(b"\xff\xd9"):  # end of image; padding behind it is harmless
        raise ImageError(f"truncated JPEG: the last {size - len(content):,} of {size:,} bytes are zeros")


# --- Pillow kept quiet, its exceptions turned into reasons -----------------------------------------------


@contextmanager
def _pillow() -> Iterator[None]:
    """Around every use of Pillow: no warning reaches the terminal, every exception becomes an ImageError.

    One voice is out of reach: libtiff prints a line of its own about a damaged compressed TIFF.
    """
    # one filter more, for PIL alone: catch_warnings() swaps process-wide state, which threads cannot share
    ours = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
    if list(warnings.filters[:1]) != [ours]:
        warnings.filterwarnings("ignore", module=r"PIL\.")
    if not (log := getLogger("PIL")).handlers:
        log.addHandler(NullHandler())  # else Python prints records that no handler of the user's takes
    try:
        yield
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        pixels = re.search(r"\d+", str(error))  # "Image size (N pixels) exceeds limit of ..."
        raise ImageError(_too_large(f"{int(pixels[0]):,} pixels" if pixels else _one_line(error))) from error
    except MemoryError as error:
        raise ImageError("not enough memory to decode it") from error
    except Exception as error:  # bytes from outside: Pillow raises about anything on them
        raise ImageError(_reason(error)) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        return f"cannot be read: {os.strerror(error.errno)}"  # str(error) would name the path
    text = _one_line(error)
    if not isinstance(error, OSError):
        text = f"{type(error).__name__}: {text}"
    return text.lower() if "truncated" in text.lower() else f"damaged image: {text}"


# first bytes, or the type of a RIFF or ISO container -> name; lower case below, compared so
_IMAGE_HEADS: Final = {
    b"\xff\xd8": "JPEG",
    b"\x89PNG": "PNG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"\0\0\0\x0cjP": "JPEG 2000",
    b"WEBP": "WebP",
    b"avif": "AVIF",
    b"P5": "PPM",
    b"P6": "PPM",
}
_OTHER_HEADS: Final = {
    b"<!doctype html": "an HTML page, saved under an image's name",
    b"<html": "an HTML page, saved under an image's name",
    b"<svg": "an SVG drawing",
    b"<?xml": "an XML document",
    b"%pdf": "a PDF document",
    b"%!ps": "a PostScript (EPS) document; it would be a program to run",
    b"\xc5\xd0\xd3\xc6": "an EPS document; it would be a program to run",
    b"version https://git-lfs": "a Git LFS pointer: fetch the file itself with `git lfs pull`",
    b"pk\3\4": "a ZIP archive",
    b"\x1f\x8b": "a gzip archive",
    b"8bps": "a Photoshop document",
    b"\0\0\1\0": "an ICO icon",
    b"{": "JSON text",
}


def _what_it_is(head: bytes) -> str:
    """The reason why a file that starts with ``head`` (at most 1024 bytes) is not read."""
    container = head[8:12] if head[:4] == b"RIFF" or head[4:8] == b"ftyp" else b""
    for magic, name in _IMAGE_HEADS.items():
        if magic == container or head.startswith(magic):
            return f"{name} file whose header cannot be read: truncated or damaged"
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()  # byte order mark of UTF-8
    if start.startswith(b"<?xml") and b"<svg" in start:
        start = b"<svg"
    for magic, what in _OTHER_HEADS.items():
        if start.startswith(magic) or head.startswith(magic):
            return f"not an image that can be read: {what}"
    if container:
        return f"not an image that can be read: a container of type {container.decode('ascii', 'replace')!r}"
    if not any(head):
        return f"not an image: the first {len(head)} bytes are zeros"
    text = head.decode("utf-8", "replace")
    if text.count("\ufffd") <= 1 and all(c.isprintable() or c.isspace() for c in text):  # 1: cut at the end
        return "not an image: a text file"
    return f"not an image: unknown content, first bytes {head[:8].hex(' ')}"


__all__ = ["FORMATS", "MAX_FILE_BYTES", "MAX_PIXELS", "Decode", "ImageError", "Pixels", "decode", "read_size"]

"""One image file (or PIL image, or array) -> RGB pixels, exactly as published or with a reason why not.

Shapes and units: H, W = pixels of the original image. Pixels are (H, W, 3), RGB, C contiguous. EXIF
orientation is ignored, as in the published scripts (only TIFF is turned upright, by Pillow itself). Every
byte of a file is taken for hostile: what cannot be used raises ImageError with one line of reason, whatever
Pillow or a codec made of it.

How each Pillow mode is read (``Decoder``):

    mode              proper (default)                                as_published
    L, RGB            as they are; L repeated to 3 channels           the same
    1                 0 and 255                                       0 and 1
    P                 colours of the palette                          palette indices as gray
    LA PA RGBA ...    colours, alpha dropped                          ImageError: the published code stops
    CMYK              RGB by Pillow's formula                         ImageError: the published code stops
    YCbCr LAB HSV     RGB                                             the three bands as if they were R, G, B
    I;16*, 16-bit PGM value >> 8                                      0..65535 as float32
                      (12-bit TIFF: value >> 4)
    I, F              0..255 as they are, 0..65535 >> 8; ImageError   the values as float32
                      for others, and for floats no higher than 1

Alpha is dropped, not composited: that is Pillow's ``convert("RGB")`` and OpenCV's ``IMREAD_COLOR``, so what
torchvision's loader and the cv2-based extractors show their networks; a background colour would be our
invention. Premultiplied colours (RGBa, La) are divided by alpha first. 16-bit gray is shifted because that is how
Pillow reads 16-bit RGB files: gray and colour then agree. A moving image or one of many pages (GIF, APNG,
WebP, AVIF, TIFF, MPO) gives its first.

``proper`` also refuses what Pillow makes wrong pixels of, in silence: TIFF and JPEG 2000 of kinds that were not
compared with another decoder (tiff.py, jpeg2000.py), JPEG and PNG that lack data (jpeg.py, png.py). ``as_published``
takes them as they come.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from ..config import DECODERS, Decoder
from ..errors import ImageError
from ..storage.source import Source
from . import jpeg, jpeg2000, png, tiff
from .files import MAX_PIXELS, open_for_good, open_regular
from .quiet import quiet_pillow, too_large
from .unknown import what_it_is

Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.float32]
ImageLike = str | os.PathLike[str] | Image.Image | npt.NDArray[Any]
"""A path; a PIL image, of which the current frame is meant; or a uint8 array (H, W), (H, W, 1) or (H, W, 3) in RGB."""

IMAGE_TYPES: Final = (str, os.PathLike, Image.Image, np.ndarray)
"""Of ``ImageLike``."""

FORMATS: Final = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "AVIF", "JPEG2000")
"""Raster formats Pillow may try (JPEG includes MPO). No others: EPS, for one, would start Ghostscript."""


def checked_image(image: Any, what: str = "image") -> ImageLike:
    """``image``, if it is of a type that images have; ``what``: what it is called. Raises TypeError."""
    if not isinstance(image, IMAGE_TYPES):
        expected = "expected a path, a PIL image or a uint8 array (H, W, 3) in RGB"
        raise TypeError(f"{what} is of type {type(image).__name__}: {expected}")
    return image


def decode_image(source: ImageLike, mode: Decoder = "proper") -> Pixels:
    """RGB pixels of one image.

    Returns (H, W, 3) RGB, original frame, C contiguous, writable: uint8, or float32 for the modes that
    ``as_published`` reads with more than 8 bits. Raises ImageError. Safe to call from many threads.
    """
    _check_mode(mode)
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        with quiet_pillow():
            return _from_pil(source, mode)
    return read_image(source, mode)[0]


def size_of(source: ImageLike) -> tuple[int, int]:
    """(H, W) in pixels, as far as it can be told without decoding. Raises ImageError."""
    if isinstance(source, np.ndarray):
        height, width = source.shape[:2] if source.ndim >= 2 else (0, 0)
        return int(height), int(width)
    if isinstance(source, Image.Image):
        return source.height, source.width
    return read_size(source)


def read_image(path: str | os.PathLike[str], mode: Decoder = "proper") -> tuple[Pixels, Source]:
    """Pixels of one file as ``decode_image`` gives them, and which file they were made of.

    The digest, size and time in ``Source`` are those of the bytes that were decoded: a file that changes while it is
    read is an ImageError. Raises ImageError. Safe to call from many threads.
    """
    return read_opened(open_for_good(os.fspath(path)), mode)


def read_opened(
    opened: AbstractContextManager[tuple[BinaryIO, Source]], mode: Decoder = "proper"
) -> tuple[Pixels, Source]:
    """``read_image`` of bytes from anywhere (``ListedImage.opened_for_good``)."""
    _check_mode(mode)
    with quiet_pillow(), opened as (file, source), _opened(file) as image:
        return _from_pil(image, mode), source


def read_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(H, W) of the image that ``decode_image(path)`` would give, from the header alone. Raises ImageError."""
    return size_opened(open_regular(os.fspath(path)))


def size_opened(opened: AbstractContextManager[BinaryIO]) -> tuple[int, int]:
    """``read_size`` of bytes from anywhere (``ListedImage.opened``)."""
    with quiet_pillow(), opened as file, _opened(file) as image:
        return _checked_size(image)


def _check_mode(mode: Decoder) -> None:
    if mode not in DECODERS:
        raise ValueError(f"no way of decoding {mode!r}; known: {', '.join(DECODERS)}")


@contextmanager
def _opened(file: BinaryIO) -> Iterator[Image.Image]:
    """The image in a file, header read and checked, pixels not yet decoded."""
    try:
        image = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:
        raise ImageError(what_it_is(file)) from None
    with image:
        _checked_size(image)
        yield image


def _checked_size(image: Image.Image) -> tuple[int, int]:
    """(H, W) of the image. Raises ImageError where it is no size to work with."""
    width, height = image.size
    if width <= 0 or height <= 0:
        raise ImageError(f"no pixels: width {width}, height {height}")
    _check_pixel_count(height, width)
    return height, width


def _check_pixel_count(height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise ImageError(too_large(f"{width} x {height} (width x height) = {height * width:,} pixels"))


# --- pixels ------------------------------------------------------------------------------------------


def _from_pil(image: Image.Image, mode: Decoder) -> Pixels:
    """(H, W, 3) uint8 or float32 RGB of a PIL image; whatever Pillow raises on the way passes through."""
    _checked_size(image)
    if image.format not in (None, "MPO", *FORMATS):  # the caller opened it; load() would run its decoder
        raise ImageError(f"format {image.format} is not read; formats read: {', '.join(FORMATS)}")
    if mode == "as_published":
        image.load()
        return _as_published(image)
    content = _bytes_behind(image)
    if isinstance(image, TiffImageFile):
        tiff.check(image)
    elif image.format == "JPEG2000" and content:
        jpeg2000.check(content)
    image.load()
    if content:
        _check_complete(content, image)
    return _proper(image)


def _bytes_behind(image: Image.Image) -> bytes:
    """The file of an image whose first frame is still to be loaded, where its format is one whose bytes are looked at;
    else nothing."""
    file = getattr(image, "fp", None)
    pending = getattr(image, "tile", None) and not getattr(
        image, "decoderconfig", None
    )  # the latter: to be loaded smaller
    if file is None or not pending or image.tell() or image.format not in ("JPEG", "MPO", "PNG", "TIFF", "JPEG2000"):
        return b""
    if isinstance(file, io.BytesIO):
        return file.getvalue()
    position = file.tell()
    file.seek(0)
    content: bytes = file.read()
    file.seek(position)
    return content


def _check_complete(content: bytes, image: Image.Image) -> None:
    """Raises ImageError where data are missing that a decoder has filled up in silence."""
    if image.format in ("JPEG", "MPO"):
        jpeg.check_complete(content, image)
    elif image.format == "PNG":
        png.check_complete(content, image)
    elif isinstance(image, TiffImageFile):
        for stream in tiff.jpeg_streams(content, image.tag_v2):
            jpeg.check_stream(stream)


def _proper(image: Image.Image) -> npt.NDArray[np.uint8]:
    if isinstance(image, TiffImageFile) and (pixels := tiff.pixels(image)) is not None:
        return pixels
    if image.mode == "RGB":
        return np.array(image)
    if image.mode == "La":
        image = image.convert("LA")  # to RGB there is no direct way
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

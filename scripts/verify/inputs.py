"""Other ways from an image file to the network's input than the published one: what programs do wrong, on purpose.

Shapes as in images.preprocess: RGB (H, W, 3) uint8 of the original; network input (H', W', 3) float32, BGR minus mean.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps
from PIL.JpegImagePlugin import JpegImageFile, get_sampling

from feature_extraction.config import Boxes, Spec
from feature_extraction.features import NetworkInput, computation_of
from feature_extraction.images.decode import Pixels, decode_image
from feature_extraction.images.preprocess import network_size_boxes, network_size_grid
from feature_extraction.recipe import PIXEL_MEAN_BGR, SIZE_DIVISOR

Floats = npt.NDArray[np.float32]
Prepare = Callable[[Spec, Pixels], NetworkInput]
MEAN: Final = np.array(PIXEL_MEAN_BGR, np.float32)
IMAGENET_MEAN: Final = np.array((0.406, 0.456, 0.485), np.float32)
IMAGENET_STD: Final = np.array((0.225, 0.224, 0.229), np.float32)
CAFFE_MEAN: Final = np.array((103.939, 116.779, 123.68), np.float32)
"""B, G, R, like the deviation and mean of ImageNet above, which are of pixels in 0..1."""


def as_ours(spec: Spec, rgb: Pixels) -> NetworkInput:
    """What the extraction itself makes of the image."""
    return computation_of(spec).network_input(rgb)


def content_size(spec: Spec, height: int, width: int) -> tuple[int, int]:
    """(H, W) of the resized image, without the padding around it."""
    if isinstance(spec, Boxes):
        return network_size_boxes(height, width)[0]
    return network_size_grid(height, width, spec.imsize)


# --- colours ---------------------------------------------------------------------------------------------------


Recolour = Callable[[Floats], npt.NDArray[Any]]
"""Takes resized pixels 0..255 in BGR, gives what the network is fed with."""


def recoloured(change: Recolour) -> Prepare:
    """The image in other colours; its padding stays zero."""

    def prepare(spec: Spec, rgb: Pixels) -> NetworkInput:
        image = as_ours(spec, rgb)
        height, width = content_size(spec, *rgb.shape[:2])
        pixels = image.pixels.copy()
        pixels[:height, :width] = change(pixels[:height, :width] + MEAN)
        return replace(image, pixels=pixels)

    return prepare


def standardized(bgr: Floats) -> Floats:
    return np.asarray((bgr / 255 - IMAGENET_MEAN) / IMAGENET_STD, np.float32)


COLOURS: Final[dict[str, Recolour]] = {
    "R, G, B minus the mean of B, G, R": lambda bgr: bgr[..., ::-1] - MEAN,
    "R, G, B minus the mean of R, G, B": lambda bgr: (bgr - MEAN)[..., ::-1],
}
SCALES: Final[dict[str, Recolour]] = {
    "no mean subtracted": lambda bgr: bgr,
    "ImageNet's mean and deviation, of pixels 0..1, in RGB": lambda bgr: standardized(bgr)[..., ::-1],
    "ImageNet's mean and deviation, of pixels 0..1, in BGR": standardized,
    "pixels 0..1, no mean": lambda bgr: bgr / 255,
    "divided by 255 after the mean": lambda bgr: (bgr - MEAN) / 255,
    "divided by ImageNet's deviation after the mean": lambda bgr: (bgr - MEAN) / (IMAGENET_STD * 255),
    "Caffe's mean 103.939, 116.779, 123.68": lambda bgr: bgr - CAFFE_MEAN,
    "the mean subtracted twice": lambda bgr: bgr - 2 * MEAN,
}

# --- sizes -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Goal:
    """What an image is resized to."""

    size: tuple[int, int]
    """(H, W)"""
    scale: float | None = None
    """OpenCV samples by this factor, not by the ratio of the sizes, where it is given."""


def by_opencv(pixels: npt.NDArray[Any], goal: Goal, interpolation: int) -> Floats:
    if goal.scale is not None:
        scale = goal.scale
        return np.asarray(cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=interpolation), np.float32)
    return np.asarray(cv2.resize(pixels, goal.size[::-1], interpolation=interpolation), np.float32)  # (W, H)


def by_cv2(rgb: Pixels, goal: Goal, *, interpolation: int) -> Floats:
    return by_opencv(np.ascontiguousarray(rgb[..., ::-1]).astype(np.float32) - MEAN, goal, interpolation)


def by_bytes(rgb: Pixels, goal: Goal) -> Floats:
    """OpenCV's INTER_LINEAR on 8-bit pixels, the mean subtracted afterwards."""
    return by_opencv(np.ascontiguousarray(rgb[..., ::-1]).astype(np.uint8), goal, cv2.INTER_LINEAR) - MEAN


def by_pillow(rgb: Pixels, goal: Goal) -> Floats:
    """Pillow's bilinear, which averages where it shrinks."""
    picture = Image.fromarray(rgb.astype(np.uint8)).resize(goal.size[::-1], Image.Resampling.BILINEAR)  # (W, H)
    return np.asarray(picture, np.float32)[..., ::-1] - MEAN


Resize = Callable[[Pixels, Goal], Floats]
LINEAR: Final[Resize] = partial(by_cv2, interpolation=cv2.INTER_LINEAR)
INTERPOLATIONS: Final[dict[str, Resize]] = {
    "bicubic interpolation": partial(by_cv2, interpolation=cv2.INTER_CUBIC),
    "nearest neighbour": partial(by_cv2, interpolation=cv2.INTER_NEAREST),
    "area interpolation": partial(by_cv2, interpolation=cv2.INTER_AREA),
    "linear interpolation of 8-bit pixels": by_bytes,
    "Pillow's bilinear": by_pillow,
}
Size = Callable[[Spec, int, int], tuple[int, int]]


def unfloored(spec: Spec, height: int, width: int) -> tuple[int, int]:
    return network_size_boxes(height, width)[0]


def floored(spec: Spec, height: int, width: int) -> tuple[int, int]:
    return network_size_grid(height, width)


def upwards(spec: Spec, height: int, width: int) -> tuple[int, int]:
    return network_size_boxes(height, width)[1]


def nearest_multiple(spec: Spec, height: int, width: int) -> tuple[int, int]:
    rows, columns = (max(1, round(side / SIZE_DIVISOR)) * SIZE_DIVISOR for side in unfloored(spec, height, width))
    return rows, columns


def resized(by: Resize, size: Size | None = None) -> Prepare:
    """Resized to ``size``, else as the kind of features has it; zeros right and below to multiples of 32."""

    def prepare(spec: Spec, rgb: Pixels) -> NetworkInput:
        image, (height, width) = as_ours(spec, rgb), rgb.shape[:2]
        if size is None:
            goal = Goal(content_size(spec, height, width), image.scale if isinstance(spec, Boxes) else None)
        else:
            goal = Goal(size(spec, height, width))
        pixels = by(rgb, goal)
        return replace(image, pixels=padded(pixels, *pixels.shape[:2]))

    return prepare


def padded(pixels: Floats, height: int, width: int) -> Floats:
    """Zeros right and below, to at least (height, width) and to multiples of 32."""
    rows, columns = (-(-side // SIZE_DIVISOR) * SIZE_DIVISOR for side in (height, width))
    there = np.zeros((rows, columns, 3), np.float32)
    there[: pixels.shape[0], : pixels.shape[1]] = pixels
    return there


SIZES: Final[dict[str, Size]] = {
    "not floored to multiples of 32, padded instead": unfloored,
    "rounded up to multiples of 32": upwards,
    "rounded to the nearest multiple of 32": nearest_multiple,
}

# --- decoders --------------------------------------------------------------------------------------------------


def turned(path: Path) -> Pixels:
    """As the EXIF orientation says."""
    with Image.open(path) as image:
        return np.array(ImageOps.exif_transpose(image).convert("RGB"))


def is_turned(path: Path) -> bool:
    with Image.open(path) as image:
        return int(image.getexif().get(0x0112, 1)) not in (0, 1)


def as_published(path: Path) -> Pixels:
    return decode_image(path, "as_published")


def has_odd_mode(path: Path) -> bool:
    with Image.open(path) as image:
        return image.mode not in ("RGB", "L")


def has_small_chroma(path: Path) -> bool:
    """Whether it is a JPEG file whose colours are stored at half the sides (4:2:0), as almost all are."""
    with Image.open(path) as image:
        return isinstance(image, JpegImageFile) and image.mode == "RGB" and get_sampling(image) == 2


def chroma_and_luma(path: Path) -> tuple[Any, Any, Any]:
    """(Y, Cb, Cr) float64: Y of full size; the colours as they are stored where they have half of the sides."""
    content = path.read_bytes()
    with Image.open(io.BytesIO(content)) as image:
        image.draft("YCbCr", image.size)
        full = np.asarray(image.convert("YCbCr"), np.float64)
    with Image.open(io.BytesIO(content)) as image:
        image.draft("YCbCr", ((image.width + 1) // 2, (image.height + 1) // 2))  # half: colours are not enlarged
        half = np.asarray(image.convert("YCbCr"), np.float64)
    return full[..., 0], half[..., 1], half[..., 2]


def to_rgb(y: Any, cb: Any, cr: Any) -> Pixels:
    """JFIF's formula, in floating point."""
    blue, red = cb[: y.shape[0], : y.shape[1]] - 128, cr[: y.shape[0], : y.shape[1]] - 128
    rgb = np.stack([y + 1.402 * red, y - 0.344136 * blue - 0.714136 * red, y + 1.772 * blue], axis=-1)
    return np.asarray(np.rint(rgb).clip(0, 255), np.uint8)


def plain_chroma(path: Path) -> Pixels:
    """Colours enlarged by repeating them, as decoders do without "fancy upsampling"."""
    y, *colours = chroma_and_luma(path)
    return to_rgb(y, *(plane.repeat(2, 0).repeat(2, 1) for plane in colours))


def smooth_chroma(path: Path) -> Pixels:
    """Colours enlarged in their cosine transform, as libjpeg does from version 7 on."""
    y, *colours = chroma_and_luma(path)
    return to_rgb(y, *(_enlarged(plane) for plane in colours))


def _cosines(size: int) -> Any:
    at, frequency = np.meshgrid((np.arange(size) + 0.5) / size, np.arange(8))
    basis = np.cos(np.pi * at * frequency) * np.sqrt(2)
    basis[0] = 1
    return basis  # (8 frequencies, size samples)


def _enlarged(plane: Any) -> Any:
    """Each block of 8 x 8 as 16 x 16."""
    rows, columns = (-(-side // 8) * 8 for side in plane.shape)
    edges = ((0, rows - plane.shape[0]), (0, columns - plane.shape[1]))
    blocks = np.pad(plane, edges, mode="edge").reshape(rows // 8, 8, columns // 8, 8).swapaxes(1, 2)
    twice = _cosines(16).T @ _cosines(8) / 8  # (16, 8): transform and back
    return (twice @ blocks @ twice.T).swapaxes(1, 2).reshape(2 * rows, 2 * columns)

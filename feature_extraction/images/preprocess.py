"""The two resizes: RGB pixels -> what the network sees.

Shape legend (sizes are (H, W) in pixels throughout; arrays are C contiguous):

    (H, W, 3)        original image, RGB
    (H', W', 3)      resized image, BGR minus the pixel mean, float32; the network's boxes are in this frame
    (Hpad, Wpad, 3)  resized image with zeros right and below, sides multiples of 32 (boxes only)
    s                scale, resized / original

Every number is in recipe.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from ..errors import ImageError
from ..recipe import LONG_SIDE, PIXEL_MEAN_BGR, SHORT_SIDE, SIZE_DIVISOR
from .decode import Pixels

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

    ``rgb``: (H, W, 3) uint8 or float32, as ``decode_image`` gives it. Raises ImageError for an image too narrow.
    """
    height, width = network_size_grid(rgb.shape[0], rgb.shape[1], imsize)
    with _opencv():
        resized = cv2.resize(_bgr_minus_mean(rgb), (width, height), interpolation=cv2.INTER_LINEAR)  # (W, H)
    return np.asarray(resized, np.float32)


def resize_for_boxes(rgb: Pixels) -> tuple[npt.NDArray[np.float32], float]:
    """Network input for the box features: (Hpad, Wpad, 3) float32, BGR minus mean, resized frame; scale s.

    ``rgb``: (H, W, 3) uint8 or float32, as ``decode_image`` gives it. A box of the resized frame divided by s is in
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

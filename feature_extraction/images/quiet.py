"""Pillow kept quiet, and whatever it raises turned into an ImageError with one line of reason."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from logging import NullHandler, getLogger

from PIL import Image

from ..errors import ImageError
from ..names import printable
from .files import MAX_PIXELS


@contextmanager
def quiet_pillow() -> Iterator[None]:
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
        raise ImageError(too_large(f"{int(pixels[0]):,} pixels" if pixels else _one_line(error))) from error
    except MemoryError as error:
        raise ImageError("not enough memory to decode it") from error
    except Exception as error:  # bytes from outside: Pillow raises about anything on them
        raise ImageError(_reason(error)) from error


def _one_line(error: Exception) -> str:
    return printable(" ".join(str(error).split())).rstrip(".") or type(error).__name__


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        return f"cannot be read: {os.strerror(error.errno)}"  # str(error) would name the path
    text = _one_line(error)
    if not isinstance(error, OSError):
        text = f"{type(error).__name__}: {text}"
    return text.lower() if "truncated" in text.lower() else f"damaged image: {text}"


def too_large(found: str) -> str:
    """The reason for an image of more than MAX_PIXELS; ``found``: its size in words."""
    return f"{found}, the limit is {MAX_PIXELS:,}: a decompression bomb, or an image to be scaled down first"

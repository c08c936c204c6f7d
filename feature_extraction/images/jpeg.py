"""Whether a JPEG has all its data: what libjpeg only warns of, which Pillow does not hear."""

from __future__ import annotations

import os
from typing import BinaryIO, Final

from ..errors import ImageError

ZERO_TAIL: Final = 512
"""Bytes (one disk sector). A JPEG that ends in so many zeros, no end marker before them, is a broken copy."""


def check_end_of_jpeg(file: BinaryIO) -> None:
    """Raises ImageError for a JPEG that ends in zeros: libjpeg makes gray of them without a word."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - ZERO_TAIL))
    if any(file.read()):
        return
    file.seek(0)
    content = file.read().rstrip(b"\0")
    if not content.endswith(b"\xff\xd9"):  # end of image; padding behind it is harmless
        raise ImageError(f"truncated JPEG: the last {size - len(content):,} of {size:,} bytes are zeros")

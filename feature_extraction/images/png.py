"""Whether a PNG has all its rows: where its data end early, at the end of a row, Pillow leaves the others black."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Final

from PIL import Image

from ..errors import ImageError

SIGNATURE_BYTES: Final = 8
CHANNELS: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Colour type -> samples of a pixel."""
PASSES: Final = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Of interlaced images: first column, first row, steps of columns and rows."""
BLOCK: Final = 1 << 20
"""Bytes inflated at a time: a bomb does not fill the memory."""


def check_complete(content: bytes, image: Image.Image) -> None:
    """Raises ImageError where the PNG of these bytes, decoded as ``image``, lacks rows."""
    last_row = image.crop((0, image.height - 1, *image.size))
    if "interlace" not in image.info and any(last_row.tobytes()):
        return  # the last row was written: so were the others
    header, expected = b"", 0
    inflated = 0
    stream = zlib.decompressobj()
    for kind, data in _chunks(content):
        if kind == b"IHDR":
            header, expected = data, _bytes_of_rows(data)
        elif kind == b"IDAT" and header and inflated < expected:
            try:
                inflated += _inflated(stream, data, expected - inflated)
            except zlib.error:
                break  # what Pillow has read is all there is
    if inflated < expected:
        raise ImageError(f"truncated PNG: {inflated:,} bytes of pixels, expected {expected:,}")


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    position = SIGNATURE_BYTES
    while position + 8 <= len(content):
        size = int.from_bytes(content[position : position + 4])
        yield content[position + 4 : position + 8], content[position + 8 : position + 8 + size]
        position += size + 12


def _bytes_of_rows(header: bytes) -> int:
    """Size of all rows with the byte that names each one's filter."""
    width, height = int.from_bytes(header[:4]), int.from_bytes(header[4:8])
    bits = header[8] * CHANNELS[header[9]]
    total = 0
    for column, row, across, down in PASSES if header[12] else ((0, 0, 1, 1),):
        columns, rows = -(-(width - column) // across), -(-(height - row) // down)
        if columns > 0 and rows > 0:
            total += rows * (1 + -(-columns * bits // 8))
    return total


def _inflated(stream: zlib._Decompress, data: bytes, most: int) -> int:
    """How many bytes ``data`` give, counted up to about ``most``."""
    count = 0
    while data and count < most and not stream.eof:
        count += len(stream.decompress(data, BLOCK))
        data = stream.unconsumed_tail
    return count

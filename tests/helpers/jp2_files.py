"""JPEG 2000 files put together by hand around a lossless codestream, so that every value is known.

Pillow encodes 8 and 16 bits. A codestream of other bits is one of 16 whose header says otherwise: a decoder adds half
of the range to what was coded, so the coded values are moved by the difference of the halves.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

SRGB, GRAY, SYCC, CMYK, LAB, BILEVEL = 16, 17, 18, 12, 14, 0


@dataclass(frozen=True, kw_only=True)
class Jp2:
    """How samples are written."""

    bits: int = 8
    signed: bool = False
    colours: int | None = SRGB
    """Number of the colour space; None: a bare codestream, which names none."""
    palette: np.ndarray | None = None
    """(entries, columns) uint8; samples are indices."""
    channels: Sequence[tuple[int, int, int]] = ()
    """(channel, 0 colour / 1 opacity / 2 premultiplied opacity, which colour; 0: all of them)."""
    header: tuple[int, int] | None = None
    """(height, width) that the file's header claims."""
    subsampled: bool = False
    profile: bytes | None = None
    """An ICC profile in place of the number."""
    options: tuple[tuple[str, object], ...] = ()
    """For the encoder."""


def write(samples: np.ndarray, how: Jp2) -> bytes:
    """(H, W) or (H, W, C) integers of ``how.bits`` bits as JPEG 2000, without loss. Over 8 bits: one plane."""
    stream = _codestream(samples, how)
    if how.colours is None and how.profile is None:
        return stream
    height, width = how.header or samples.shape[:2]
    count = 1 if samples.ndim == 2 else samples.shape[2]
    depth = (how.bits - 1) | (128 if how.signed else 0)
    boxes = _box(b"ihdr", struct.pack(">IIHBBBB", height, width, count, depth, 7, 0, 0))
    if how.profile is not None:
        boxes += _box(b"colr", bytes([2, 0, 0]) + how.profile)
    else:
        boxes += _box(b"colr", bytes([1, 0, 0]) + struct.pack(">I", how.colours))
    if how.palette is not None:
        entries, columns = how.palette.shape
        boxes += _box(b"pclr", struct.pack(">HB", entries, columns) + bytes([7] * columns) + how.palette.tobytes())
        boxes += _box(b"cmap", b"".join(struct.pack(">HBB", 0, 1, i) for i in range(columns)))
    if how.channels:
        entries = b"".join(struct.pack(">HHH", *channel) for channel in how.channels)
        boxes += _box(b"cdef", struct.pack(">H", len(how.channels)) + entries)
    return (
        _box(b"jP  ", b"\r\n\x87\n") + _box(b"ftyp", b"jp2 \0\0\0\0jp2 ") + _box(b"jp2h", boxes) + _box(b"jp2c", stream)
    )


def _box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content


def _codestream(samples: np.ndarray, how: Jp2) -> bytes:
    out = io.BytesIO()
    options = {"no_jp2": True, "irreversible": False, "mct": 0, **dict(how.options)}
    if how.bits == 8 and not how.signed:
        Image.fromarray(samples.astype(np.uint8)).save(out, "JPEG2000", **options)
        stream = bytearray(out.getvalue())
    else:
        half = 0 if how.signed else 1 << (how.bits - 1)
        coded = samples.astype(np.int64) - half + (1 << 15)
        Image.fromarray(coded.astype(np.uint16)).save(out, "JPEG2000", **options)
        stream = bytearray(out.getvalue())
        stream[_component(stream, 0)] = (how.bits - 1) | (128 if how.signed else 0)
    if how.subsampled:
        for i in range(1, samples.shape[2]):
            stream[_component(stream, i) + 1 : _component(stream, i) + 3] = b"\2\2"
    return bytes(stream)


def _component(stream: bytes, index: int) -> int:
    """Offset of a component's bits, followed by its steps across and down."""
    assert stream[2:4] == b"\xff\x51"
    return 42 + 3 * index

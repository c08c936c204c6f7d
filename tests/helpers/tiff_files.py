"""TIFF files written by hand: every combination of tags, also those that no encoder at hand writes.

Samples are (H, W, S) arrays: S samples per pixel, integers below 2**bits, or floats.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from PIL import Image

NONE, LZW, JPEG, DEFLATE, OLD_DEFLATE, PACKBITS = 1, 5, 7, 8, 32946, 32773
UINT, INT, FLOAT, VOID, COMPLEX_INT, COMPLEX = 1, 2, 3, 4, 5, 6
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, MASK, CMYK, YCBCR, CIELAB, ICCLAB, ITULAB = 0, 1, 2, 3, 4, 5, 6, 8, 9, 10
CFA, LOG_L, LOG_LUV, LINEAR_RAW = 32803, 32844, 32845, 34892

SHORT, LONG, RATIONAL = 3, 4, 5
_FORMAT: Final = {SHORT: "H", LONG: "I", RATIONAL: "I"}


@dataclass(frozen=True, kw_only=True)
class Tiff:
    """How samples are written."""

    bits: int = 8
    photometric: int = BLACK_IS_ZERO
    sample_format: int | None = None
    """None: the tag is left out, which means unsigned."""
    extra: tuple[int, ...] = ()
    """0 unspecified, 1 associated (premultiplied) alpha, 2 unassociated alpha; of the last samples."""
    planar: int = 1
    """1: samples of a pixel together; 2: a plane for each."""
    order: str = "<"
    fill_order: int = 1
    compression: int = NONE
    predictor: int = 1
    rows_per_strip: int = 0
    """0: one strip."""
    tile: tuple[int, int] | None = None
    """(height, width), multiples of 16."""
    color_map: Sequence[int] | None = None
    orientation: int = 1
    tags: dict[int, tuple[int, Sequence[int]]] = field(default_factory=dict)
    """More tags, or others in place of ours: number -> (type, values); no values: the tag is left out."""


def write(samples: np.ndarray, how: Tiff) -> bytes:
    """A TIFF of one page."""
    height, width, count = samples.shape
    blocks = [_encode(block, how) for block in _blocks(samples, how)]
    head = struct.pack(how.order + "2sHI", b"II" if how.order == "<" else b"MM", 42, 8)
    tags: dict[int, tuple[int, Sequence[int]]] = {
        256: (LONG, [width]),
        257: (LONG, [height]),
        258: (SHORT, [how.bits] * count),
        259: (SHORT, [how.compression]),
        262: (SHORT, [how.photometric]),
        277: (SHORT, [count]),
        284: (SHORT, [how.planar]),
    }
    if how.tile:
        tags |= {322: (LONG, [how.tile[1]]), 323: (LONG, [how.tile[0]])}
    else:
        tags |= {278: (LONG, [how.rows_per_strip or height])}
    if how.fill_order != 1:
        tags[266] = (SHORT, [how.fill_order])
    if how.orientation != 1:
        tags[274] = (SHORT, [how.orientation])
    if how.predictor != 1:
        tags[317] = (SHORT, [how.predictor])
    if how.color_map is not None:
        tags[320] = (SHORT, how.color_map)
    if how.extra:
        tags[338] = (SHORT, how.extra)
    if how.sample_format is not None:
        tags[339] = (SHORT, [how.sample_format] * count)
    offsets, counts = (324, 325) if how.tile else (273, 279)
    tags |= {offsets: (LONG, [0] * len(blocks)), counts: (LONG, [len(block) for block in blocks])} | how.tags
    position = len(head) + len(_directory(tags, 8, how.order))
    if offsets not in how.tags:
        tags[offsets] = (LONG, [position + sum(map(len, blocks[:i])) for i in range(len(blocks))])
    return head + _directory(tags, 8, how.order) + b"".join(blocks)


def _directory(tags: dict[int, tuple[int, Sequence[int]]], at: int, order: str) -> bytes:
    """The directory and the values that do not fit into it, to be written at offset ``at``."""
    given = {tag: entry for tag, entry in sorted(tags.items()) if len(entry[1])}
    behind = b""
    start = at + 2 + 12 * len(given) + 4
    entries = b""
    for tag, (kind, values) in given.items():
        content = struct.pack(f"{order}{len(values)}{_FORMAT[kind]}", *values)
        number = len(values) // 2 if kind == RATIONAL else len(values)
        if len(content) > 4:
            where = struct.pack(order + "I", start + len(behind))
            behind += content + bytes(len(content) % 2)
        else:
            where = content.ljust(4, b"\0")
        entries += struct.pack(order + "HHI", tag, kind, number) + where
    return struct.pack(order + "H", len(given)) + entries + bytes(4) + behind


def _blocks(samples: np.ndarray, how: Tiff) -> Iterator[np.ndarray]:
    """Strips or tiles, of one plane each where they are apart."""
    planes = [samples] if how.planar == 1 else [samples[:, :, i : i + 1] for i in range(samples.shape[2])]
    for plane in planes:
        height, width, _ = plane.shape
        rows, columns = how.tile or (how.rows_per_strip or height, width)
        for y in range(0, height, rows):
            for x in range(0, width, columns):
                block = plane[y : y + rows, x : x + columns]
                if how.tile:
                    block = np.pad(block, ((0, rows - block.shape[0]), (0, columns - block.shape[1]), (0, 0)), "edge")
                yield block


def _encode(block: np.ndarray, how: Tiff) -> bytes:
    if how.compression == JPEG:
        pixels = np.ascontiguousarray(block[:, :, 0] if block.shape[2] == 1 else block).astype(np.uint8)
        image = Image.fromarray(pixels, "YCbCr") if how.photometric == YCBCR else Image.fromarray(pixels)
        out = io.BytesIO()
        image.save(out, "JPEG", quality=97, subsampling=0, keep_rgb=how.photometric == RGB)
        return out.getvalue()
    if how.predictor == 2:
        block = np.diff(block.astype(np.int64), axis=1, prepend=0) % 2**how.bits
    content = _floats_apart(block, how) if how.predictor == 3 else _packed(block, how)
    if how.compression in (DEFLATE, OLD_DEFLATE):
        content = zlib.compress(content)
    elif how.compression == PACKBITS:
        rows = np.frombuffer(content, np.uint8).reshape(len(block), -1)
        content = b"".join(_literal_runs(row.tobytes()) for row in rows)
    elif how.compression == LZW:
        content = _literal_codes(content)
    if how.fill_order == 2:
        content = np.packbits(np.unpackbits(np.frombuffer(content, np.uint8)), bitorder="little").tobytes()
    return content


def _packed(block: np.ndarray, how: Tiff) -> bytes:
    """Samples row by row, each row from a whole byte on."""
    if block.dtype.kind in "fc":
        return block.astype(block.dtype.newbyteorder(how.order)).tobytes()
    if how.bits in (8, 16, 32, 64):
        return (block % 2**how.bits if how.bits < 64 else block).astype(f"{how.order}u{how.bits // 8}").tobytes()
    rows = block.reshape(len(block), -1).astype(">u8")
    bits = np.unpackbits(rows.view(np.uint8).reshape(*rows.shape, 8), axis=2)[:, :, 64 - how.bits :]
    return np.packbits(bits.reshape(len(block), -1), axis=1).tobytes()


def _floats_apart(block: np.ndarray, how: Tiff) -> bytes:
    """Predictor 3: the bytes of a row's floats by significance, then differences of neighbours."""
    height, width, count = block.shape
    size = how.bits // 8
    apart = block.astype(block.dtype.newbyteorder(">")).view(np.uint8).reshape(height, width * count, size)
    rows = apart.transpose(0, 2, 1).reshape(height, -1).astype(np.int64)
    rows[:, count:] -= rows[:, :-count].copy()
    return (rows % 256).astype(np.uint8).tobytes()


def _literal_runs(row: bytes) -> bytes:
    """PackBits without a repetition."""
    return b"".join(bytes([len(run) - 1]) + run for run in (row[i : i + 128] for i in range(0, len(row), 128)))


def _literal_codes(content: bytes) -> bytes:
    """LZW that starts afresh before its codes grow beyond 9 bits."""
    codes: list[int] = []
    for i in range(0, len(content), 250):
        codes += [256, *content[i : i + 250]]
    codes.append(257)
    bits = np.unpackbits(np.array(codes, ">u2").view(np.uint8).reshape(-1, 2), axis=1)[:, 7:]
    return np.packbits(bits.reshape(-1)).tobytes()

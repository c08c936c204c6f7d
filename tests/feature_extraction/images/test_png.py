"""png.py and every kind of PNG: depths, colours, transparency, interlacing; data that end early."""

from __future__ import annotations

import itertools
import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

from feature_extraction.errors import ImageError
from feature_extraction.images.decode import decode_image
from feature_extraction.images.png import PASSES

HEIGHT, WIDTH = 21, 27
GRAY, RGB, PALETTE, GRAY_ALPHA, RGBA = 0, 2, 3, 4, 6
DEPTHS = {GRAY: (1, 2, 4, 8, 16), RGB: (8, 16), PALETTE: (1, 2, 4, 8), GRAY_ALPHA: (8, 16), RGBA: (8, 16)}
CHANNELS = {GRAY: 1, RGB: 3, PALETTE: 1, GRAY_ALPHA: 2, RGBA: 4}


@dataclass(frozen=True)
class Png:
    colour: int
    bits: int
    interlaced: bool = False
    transparent: bool = False
    """With a tRNS chunk."""


def kinds() -> Iterator[Png]:
    for colour, interlaced in itertools.product(DEPTHS, (False, True)):
        for bits in DEPTHS[colour]:
            yield Png(colour, bits, interlaced)
            if colour in (GRAY, RGB, PALETTE):
                yield Png(colour, bits, interlaced, transparent=True)


def samples_of(how: Png, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """(H, W, channels)."""
    y, x = np.mgrid[:height, :width]
    planes = np.stack([x / width, y / height, 1 - x / width, (x + y) / (height + width)], axis=2)
    noise = np.random.default_rng(0).random(planes.shape)
    return np.round((planes * 0.8 + noise * 0.2)[:, :, : CHANNELS[how.colour]] * (2**how.bits - 1)).astype(int)


def palette_of(bits: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (2**bits, 3)).astype(np.uint8)


def rows_of(samples: np.ndarray, how: Png) -> bytes:
    """All rows, unfiltered; interlaced: pass by pass."""
    steps = PASSES if how.interlaced else ((0, 0, 1, 1),)
    out = b""
    for column, row, across, down in steps:
        part = samples[row::down, column::across]
        if part.size:
            bits = np.unpackbits(part.astype(">u8").view(np.uint8).reshape(*part.shape, 8), axis=3)[
                ..., 64 - how.bits :
            ]
            packed = np.packbits(bits.reshape(len(part), -1), axis=1)
            out += b"".join(b"\0" + line.tobytes() for line in packed)
    return out


def write(how: Png, size: tuple[int, int], stream: bytes, pieces: int = 1) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width = size
    header = struct.pack(">IIBBBBB", width, height, how.bits, how.colour, 0, 0, how.interlaced)
    middle = chunk(b"PLTE", palette_of(how.bits).tobytes()) if how.colour == PALETTE else b""
    if how.transparent:
        content = {GRAY: struct.pack(">H", 1), RGB: struct.pack(">HHH", 1, 2, 3), PALETTE: bytes([9, 99])}[how.colour]
        middle += chunk(b"tRNS", content)
    cuts = np.linspace(0, len(stream), pieces + 1).astype(int)
    data = b"".join(chunk(b"IDAT", stream[a:b]) for a, b in itertools.pairwise(cuts))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + middle + data + chunk(b"IEND", b"")


def seen(samples: np.ndarray, how: Png) -> np.ndarray:
    """(H, W, 3) 0..255; alpha dropped."""
    if how.colour == PALETTE:
        return palette_of(how.bits)[samples[:, :, 0]]
    values = samples[:, :, : 3 if how.colour in (RGB, RGBA) else 1]
    values = values >> 8 if how.bits == 16 else values * 255 // (2**how.bits - 1)
    return np.broadcast_to(values, (*values.shape[:2], 3))


def test_every_kind_is_read_rightly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    counts: Counter[str] = Counter()
    path = tmp_path / "1.png"
    for how in kinds():
        samples = samples_of(how)
        path.write_bytes(write(how, (HEIGHT, WIDTH), zlib.compress(rows_of(samples, how)), pieces=3))
        expected = seen(samples, how)
        elsewhere = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
        np.testing.assert_allclose(elsewhere.astype(int), expected, atol=1, err_msg=f"the file itself: {how}")
        np.testing.assert_array_equal(decode_image(path), expected, str(how))
        counts["read"] += 1
    with capsys.disabled():
        print(f"\nPNG, {counts.total()} kinds:", dict(counts))
    assert counts["read"] == 52


@pytest.mark.parametrize("how", list(kinds()), ids=str)
def test_data_that_end_early_are_refused(how: Png, tmp_path: Path) -> None:
    """The compressed stream is whole, with its checksum, and has too few rows."""
    path = tmp_path / "1.png"
    rows = rows_of(samples_of(how) | 1, how)
    row = len(rows_of(samples_of(how)[:1], Png(how.colour, how.bits)))
    for cut in (1, row - 1, row, 2 * row, len(rows) // 2, len(rows) - row, len(rows)):
        path.write_bytes(write(how, (HEIGHT, WIDTH), zlib.compress(rows[: len(rows) - cut])))
        with pytest.raises(ImageError):
            decode_image(path)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (4, 4), (5, 3), (64, 64)])
def test_black_images_are_whole(size: tuple[int, int], interlaced: bool, tmp_path: Path) -> None:
    """The last row is black in the file too: counted, not guessed."""
    path = tmp_path / "1.png"
    for colour, depths in DEPTHS.items():
        for bits in depths:
            how = Png(colour, bits, interlaced)
            black = np.zeros((*size, CHANNELS[colour]), int)
            path.write_bytes(write(how, size, zlib.compress(rows_of(black, how)), pieces=2))
            assert decode_image(path).shape == (*size, 3)


def test_too_much_data_do_no_harm(tmp_path: Path) -> None:
    how = Png(RGB, 8)
    samples = samples_of(how)
    path = tmp_path / "1.png"
    path.write_bytes(write(how, (HEIGHT, WIDTH), zlib.compress(rows_of(samples, how) + bytes(10**7))))
    np.testing.assert_array_equal(decode_image(path), samples)

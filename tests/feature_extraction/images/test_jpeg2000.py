"""jpeg2000.py: every depth and colour space is read rightly or refused with its reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.jp2_files import BILEVEL, CMYK, GRAY, LAB, SRGB, SYCC, Jp2, write
from PIL import Image, ImageCms

from feature_extraction.errors import ImageError
from feature_extraction.images.decode import decode_image

HEIGHT, WIDTH = 40, 52
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
LAB_PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
COLOURS = np.random.default_rng(1).integers(0, 256, (256, 3)).astype(np.uint8)
ALPHA = ((0, 0, 1), (1, 0, 2), (2, 0, 3), (3, 1, 0))


def samples_of(how: Jp2, count: int) -> np.ndarray:
    """(H, W) or (H, W, count), from the lowest value to the highest."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    planes = np.stack([x / WIDTH, y / HEIGHT, 1 - x / WIDTH, (x + y) / (HEIGHT + WIDTH)][:count], axis=2)
    values = planes * 0.8 + np.random.default_rng(0).random(planes.shape) * 0.2
    values[0, 0], values[0, 1] = 0, 1
    full = np.round(values * (2**how.bits - 1)).astype(int) - (2 ** (how.bits - 1) if how.signed else 0)
    return full[:, :, 0] if count == 1 else full


def kinds() -> Iterator[tuple[Jp2, int]]:
    """(how, number of components)."""
    for colours in (GRAY, None):
        for bits in range(1, 17):
            yield Jp2(bits=bits, colours=colours), 1
            yield Jp2(bits=bits, colours=colours, signed=True), 1
    for count in (1, 2, 3, 4):
        for colours in (SRGB, GRAY, SYCC, CMYK, LAB, BILEVEL, None, 99):
            yield Jp2(colours=colours), count
        yield Jp2(profile=PROFILE), count
        yield Jp2(profile=LAB_PROFILE), count
    yield Jp2(palette=COLOURS), 1
    yield Jp2(palette=COLOURS[:, :2]), 1
    yield Jp2(palette=np.concatenate([COLOURS, COLOURS[:, :1]], axis=1)), 1
    yield Jp2(channels=ALPHA), 4
    yield Jp2(channels=ALPHA[:3]), 3
    yield Jp2(channels=((0, 0, 3), (1, 0, 2), (2, 0, 1))), 3
    yield Jp2(channels=((0, 1, 0), (1, 0, 1), (2, 0, 2), (3, 0, 3))), 4
    yield Jp2(channels=(*ALPHA[:3], (3, 2, 0))), 4
    yield Jp2(colours=GRAY, channels=((0, 0, 1), (1, 1, 0))), 2
    yield Jp2(colours=GRAY, channels=((0, 1, 0), (1, 0, 1))), 2
    yield Jp2(subsampled=True), 3
    yield Jp2(header=(HEIGHT + 1, WIDTH)), 3
    yield Jp2(options=(("tile_size", (16, 16)),)), 3
    yield Jp2(options=(("offset", (3, 5)), ("tile_offset", (0, 0)), ("tile_size", (32, 32)))), 3
    yield Jp2(options=(("mct", 1),)), 3
    yield Jp2(options=(("num_resolutions", 1), ("progression", "RPCL"))), 3


def seen(samples: np.ndarray, how: Jp2) -> np.ndarray:
    """(H, W, 3) 0..255 of the kinds that are read; alpha dropped."""
    if how.palette is not None:
        return how.palette[samples]
    values = samples.reshape(HEIGHT, WIDTH, -1) >> (how.bits - 8)
    if values.shape[2] < 3:
        return np.repeat(values[:, :, :1], 3, axis=2)
    if how.colours == SYCC:
        y, b, r = (values[:, :, i] - (128.0 if i else 0.0) for i in range(3))
        return np.clip(np.stack([y + 1.402 * r, y - 0.344136 * b - 0.714136 * r, y + 1.772 * b], axis=2), 0, 255)
    return values[:, :, :3]


def is_read(how: Jp2, count: int) -> bool:
    """What the documentation promises."""
    if how.signed or how.subsampled or how.header:
        return False
    if how.palette is not None:
        return how.palette.shape[1] == 3
    if how.channels and how.channels not in (ALPHA, ALPHA[:3], ((0, 0, 1), (1, 1, 0))):
        return False
    if how.profile:
        return how.profile is PROFILE and count >= 3
    allowed = {SRGB: (3, 4), SYCC: (3, 4), GRAY: (1, 2), None: (1, 2, 3)}
    return count in allowed.get(how.colours, ()) and (how.bits == 8 or how.bits >= 10)


def test_every_kind_is_read_rightly_or_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    counts: Counter[str] = Counter()
    path = tmp_path / "1.jp2"
    for how, count in kinds():
        samples = samples_of(how, count)
        path.write_bytes(write(samples, how))
        try:
            pixels = decode_image(path)
        except ImageError as error:
            reason: str | None = str(error)
        else:
            reason = None
        assert (reason is None) == is_read(how, count), (how, count, reason)
        if reason is not None:
            assert reason.isprintable()
            counts["refused"] += 1
            continue
        off = np.abs(pixels - seen(samples, how)).max()
        assert off <= (2 if how.colours == SYCC else 0), (how, count, off)
        counts["read"] += 1
    with capsys.disabled():
        print(f"\nJPEG 2000, {counts.total()} kinds:", dict(counts))
    assert counts.total() >= 100
    assert counts["read"] >= 30


def test_opencv_sees_the_same(tmp_path: Path) -> None:
    path = tmp_path / "1.jp2"
    for how, count in kinds():
        if how.profile or how.palette is not None or not is_read(how, count) or count == 2 or how.colours == SYCC:
            continue  # OpenCV reads no gray with alpha and applies no palette
        samples = samples_of(how, count)
        path.write_bytes(write(samples, how))
        elsewhere = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if elsewhere is None:  # tiles with an offset
            assert how.options
            continue
        assert elsewhere.dtype == (np.uint8 if how.bits == 8 else np.uint16)
        channels = elsewhere.reshape(HEIGHT, WIDTH, -1)[:, :, :3] >> (how.bits - 8)
        expected = channels[:, :, ::-1] if count >= 3 else np.repeat(channels, 3, axis=2)
        np.testing.assert_array_equal(decode_image(path), expected, str(how))


def test_every_prefix_is_an_error(tmp_path: Path) -> None:
    """Also where the lengths in the file are made to fit what is left."""
    path = tmp_path / "1.jp2"
    for how in (Jp2(), Jp2(colours=None), Jp2(options=(("tile_size", (16, 16)),))):
        content = write(samples_of(how, 3), how)
        stream = content.index(b"\xff\x4f\xff\x51")
        for length in [*range(stream, len(content) - 2, 61), *range(len(content) - 40, len(content) - 2)]:
            cut = bytearray(content[:length])
            for fit in (False, True):
                if fit and how.colours is not None:
                    cut[stream - 8 : stream - 4] = (length - stream + 8).to_bytes(4)
                path.write_bytes(cut)
                with pytest.raises(ImageError):
                    decode_image(path)


@pytest.mark.parametrize("kind", [b"jp2h", b"ihdr", b"colr", b"jp2c"])
def test_boxes_of_absurd_sizes_are_told(kind: bytes, tmp_path: Path) -> None:
    path = tmp_path / "1.jp2"
    for size in (0, 1, 2, 7, 8, 9, 2**31, 2**32 - 1):
        content = bytearray(write(samples_of(Jp2(), 3), Jp2()))
        at = content.index(kind) - 4
        content[at : at + 4] = size.to_bytes(4)
        path.write_bytes(content)
        try:
            pixels = decode_image(path)
        except ImageError as error:
            assert str(error).isprintable()
        else:
            np.testing.assert_array_equal(pixels, samples_of(Jp2(), 3))


def test_the_reason_names_what_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "1.jp2"
    for how, count, reason in (
        (Jp2(bits=4, colours=GRAY), 1, r"^JPEG 2000 of 4 bits a sample and 1 components: not read; save it as RGB"),
        (Jp2(colours=LAB), 3, "colour space 14"),
        (Jp2(profile=LAB_PROFILE), 3, "a profile for b'Lab '"),
        (Jp2(colours=None), 4, "4 components that are not named"),
    ):
        path.write_bytes(write(samples_of(how, count), how))
        with pytest.raises(ImageError, match=reason):
            decode_image(path)
        with Image.open(path) as image, pytest.raises(ImageError, match=reason):
            decode_image(image)

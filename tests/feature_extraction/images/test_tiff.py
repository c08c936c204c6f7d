"""tiff.py: every combination of tags is read rightly or refused with its reason; never other pixels.

Files are written by hand (helpers/tiff_files.py). That they hold what they should is asked of tifffile, where it reads
them; what colours that makes is worked out here once more, slowly.
"""

from __future__ import annotations

import io
import itertools
import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from helpers.tiff_files import (
    BLACK_IS_ZERO,
    CFA,
    CIELAB,
    CMYK,
    COMPLEX,
    COMPLEX_INT,
    DEFLATE,
    FLOAT,
    ICCLAB,
    INT,
    ITULAB,
    JPEG,
    LINEAR_RAW,
    LOG_L,
    LOG_LUV,
    LONG,
    LZW,
    MASK,
    NONE,
    OLD_DEFLATE,
    PACKBITS,
    PALETTE,
    RATIONAL,
    RGB,
    SHORT,
    UINT,
    VOID,
    WHITE_IS_ZERO,
    YCBCR,
    Tiff,
    write,
)
from PIL import Image, ImageCms

from feature_extraction.errors import ImageError
from feature_extraction.images.decode import decode_image

HEIGHT, WIDTH = 37, 50
COLOURS = {RGB: 3, CMYK: 4, YCBCR: 3, CIELAB: 3, ICCLAB: 3, ITULAB: 3, LOG_LUV: 3, LINEAR_RAW: 3}
FULL = {YCBCR: {530: (SHORT, [1, 1])}}
"""Tags without which samples of this kind mean something else."""


def picture(count: int) -> np.ndarray:
    """(H, W, count) in 0..1, no two planes alike."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    y, x = y / HEIGHT, x / WIDTH
    planes = [x, y, 1 - x, (x + y) / 2, x * y, 1 - x * y]
    noise = np.random.default_rng(0).random((HEIGHT, WIDTH, count))
    return np.stack(planes[:count], axis=2) * 0.75 + noise * 0.2


def samples_for(how: Tiff) -> np.ndarray:
    """(H, W, S) values of the kind that ``how`` says."""
    values = picture(COLOURS.get(how.photometric, 1) + len(how.extra))
    if how.sample_format == FLOAT:
        return (values * 255).astype({16: np.float16, 32: np.float32, 64: np.float64}[how.bits])
    if how.sample_format == COMPLEX:
        return (values * 255).astype({64: np.complex64, 128: np.complex128}[how.bits])
    if how.sample_format == INT:
        return np.round((values - 0.5) * (2**how.bits - 1)).astype(np.int64)
    if how.photometric == CIELAB and how.bits == 8:  # colours that a screen can show
        rgb = Image.fromarray((values[:, :, :3] * 255).astype(np.uint8))
        to_lab = (ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"))
        lab = np.array(ImageCms.profileToProfile(rgb, *to_lab, outputMode="LAB")).astype(np.uint64)
        return np.concatenate([lab, np.round(values[:, :, 3:] * 255).astype(np.uint64)], axis=2)
    full = np.round(values * (2.0**how.bits - 1)).astype(np.uint64)
    if how.extra[:1] == (1,):
        alpha = np.maximum(values[:, :, -1:], 0.4)
        full[:, :, -1:] = np.round(alpha * (2**how.bits - 1))
        full[:, :, :-1] = np.floor(full[:, :, :-1] * alpha)
    return full


def color_map(bits: int, brightest: int = 65535) -> list[int]:
    return (np.random.default_rng(3).integers(0, 256, 3 << bits) * (brightest // 255)).tolist()


def seen(samples: np.ndarray, how: Tiff) -> np.ndarray:
    """(H, W, 3) float: what the standard says that these samples look like, 0..255."""
    count = COLOURS.get(how.photometric, 1)
    if how.photometric == PALETTE:
        table = np.array(how.color_map).reshape(3, -1).T
        return (table >> 8 if table.max() > 255 else table)[samples[:, :, 0].astype(int)].astype(float)
    values = samples[:, :, :count]
    if how.sample_format == INT and how.bits < 32:
        values = values + 2 ** (how.bits - 1)
    if how.sample_format in (FLOAT, COMPLEX):
        values = np.abs(values)
    elif how.bits < 8:
        values = values * 255.0 / (2**how.bits - 1)
    else:
        values = np.floor(values / 2.0 ** (how.bits - 8))
    if how.extra[:1] == (1,):
        values = np.minimum(values * (2.0**how.bits - 1) / samples[:, :, count : count + 1], 255)
    if how.photometric == WHITE_IS_ZERO:
        values = 255 - values
    if how.photometric == CMYK:
        return (255 - values[:, :, :3]) * (255 - values[:, :, 3:]) / 255
    if how.photometric == YCBCR:
        y, b, r = (values[:, :, i] for i in range(3))
        b, r = b - 128, r - 128
        return np.clip(np.stack([y + 1.402 * r, y - 0.344136 * b - 0.714136 * r, y + 1.772 * b], axis=2), 0, 255)
    if how.photometric == CIELAB:
        return from_lab(values[:, :, 0] * (100 / 255), *((values[:, :, i] + 128) % 256 - 128 for i in (1, 2)))
    return np.repeat(values, 3, axis=2) if count == 1 else values


def from_lab(lightness: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(H, W, 3) 0..255 of CIELab with the white of D50, by way of XYZ and the sRGB primaries adapted to D50."""
    y = (lightness + 16) / 116
    f = np.stack([y + a / 500, y, y - b / 200], axis=2)
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * (0.9642, 1.0, 0.8249)
    to_xyz = [[0.43607, 0.38506, 0.14308], [0.22250, 0.71688, 0.06062], [0.01393, 0.09710, 0.71417]]
    linear = np.clip(xyz @ np.linalg.inv(to_xyz).T, 0, 1)
    return 255 * np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)


TURNS = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a.transpose(1, 0, 2)[:, ::-1],
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: a.transpose(1, 0, 2)[::-1],
}
"""Orientation -> what a viewer does to the stored rows."""


def holds(path: Path, samples: np.ndarray, how: Tiff) -> bool | None:
    """Whether tifffile finds these samples in the file; None: it cannot read it."""
    if how.compression == JPEG or how.sample_format == COMPLEX_INT:  # no decoder; pairs
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with tifffile.TiffFile(path) as file:
                found = np.asarray(file.pages[0].asarray())
    except Exception:
        return None
    if how.planar == 2 and found.ndim == 3:
        found = found.transpose(1, 2, 0)
    if found.dtype.kind == "u":
        samples = samples % 2**how.bits if how.bits < 64 else samples
    return bool((found.reshape(samples.shape) == samples).all())


def judge(path: Path, how: Tiff) -> str:
    """read, read (tifffile cannot say), refused, or what is wrong."""
    samples = samples_for(how)
    path.write_bytes(write(samples, how))
    held = holds(path, samples, how)
    assert held is not False, f"the file does not hold its samples: {how}"
    try:
        pixels = decode_image(path)
    except ImageError as error:
        reason = str(error)
        told = reason.isprintable() and len(reason) < 200 and "Error" not in reason
        return "refused" if told else f"refused without a reason: {reason}"
    expected = TURNS.get(how.orientation, lambda a: a)(seen(samples, how))
    if pixels.shape != expected.shape:
        return f"WRONG shape {pixels.shape}"
    off = np.abs(pixels - expected)
    # rounding to 8 bits, and on the way through YCbCr, Lab or alpha
    exact = how.photometric not in (CMYK, YCBCR, CIELAB) and how.compression != JPEG and 1 not in how.extra
    # a step of a or b near black is large in sRGB; JPEG loses
    most = 1 if exact else 32 if how.photometric == CIELAB else 16 if how.compression == JPEG else 6
    close = off.max() <= most and off.mean() <= (0.5 if exact else 2)
    return (
        ("read" if held else "read, tifffile cannot")
        if close
        else f"WRONG by {off.mean():.1f}, {off.max():.0f} at most"
    )


def samples_and_colours() -> Iterator[Tiff]:
    """What a sample is, against everything else about it."""
    formats = {UINT: (1, 2, 4, 8, 12, 16, 32, 64), INT: (8, 16, 32), FLOAT: (16, 32, 64), COMPLEX: (64, 128)}
    photometrics = (
        WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, MASK, CMYK, YCBCR, CIELAB, ICCLAB, ITULAB, CFA, LOG_L, LOG_LUV,
        LINEAR_RAW,
    )  # fmt: skip
    for order, photometric, planar in itertools.product("<>", photometrics, (1, 2)):
        for sample_format, depths in formats.items():
            for bits in depths:
                if photometric == PALETTE and bits > 12:
                    continue
                how = Tiff(
                    bits=bits, photometric=photometric, planar=planar, order=order, tags=FULL.get(photometric, {}),
                    sample_format=None if sample_format == UINT else sample_format,
                    color_map=color_map(bits) if photometric == PALETTE else None,
                )  # fmt: skip
                yield how
                if sample_format != COMPLEX:
                    yield replace(how, compression=DEFLATE)
                if sample_format == UINT and bits in (8, 16):
                    yield from (replace(how, extra=extra) for extra in ((0,), (1,), (2,), (0, 0), (2, 0), (3,)))


ORDINARY = (
    *(Tiff(bits=b, photometric=p) for p in (WHITE_IS_ZERO, BLACK_IS_ZERO) for b in (1, 2, 4, 8, 16)),
    Tiff(bits=12),
    *(Tiff(bits=b, photometric=PALETTE, color_map=color_map(b)) for b in (1, 2, 4, 8)),
    *(Tiff(bits=b, photometric=PALETTE, color_map=color_map(b, 255)) for b in (1, 4, 8)),
    *(Tiff(bits=b, photometric=p) for p in (RGB, CMYK) for b in (8, 16)),
    *(Tiff(bits=b, photometric=RGB, extra=e) for b in (8, 16) for e in ((0,), (1,), (2,))),
    *(Tiff(extra=e) for e in ((0,), (2,))),
    Tiff(photometric=YCBCR, tags=FULL[YCBCR]),
    Tiff(photometric=CIELAB),
    Tiff(bits=32, sample_format=FLOAT),
    *(Tiff(photometric=p, planar=2) for p in (RGB, CMYK)),
)
"""What must be read, packed in any way."""


def packings(how: Tiff) -> Iterator[Tiff]:
    """The same samples in every order, cut and compression."""
    for order, code, cut in itertools.product(
        "<>", (NONE, PACKBITS, LZW, DEFLATE, OLD_DEFLATE), ({}, {"rows_per_strip": 5}, {"tile": (16, 32)})
    ):
        yield replace(how, order=order, compression=code, **cut)


def oddities() -> Iterator[Tiff]:
    """Tags that change what others mean."""
    for how in ORDINARY:
        yield from (replace(how, orientation=i) for i in TURNS)
        yield from (replace(how, fill_order=2, compression=code) for code in (NONE, DEFLATE, PACKBITS, LZW))
        if how.bits in (8, 16, 32) and how.sample_format is None:
            yield from (replace(how, predictor=2, compression=code, order=o) for code in (DEFLATE, LZW) for o in "<>")
        if how.sample_format == FLOAT:
            yield from (replace(how, predictor=3, compression=code, order=o) for code in (DEFLATE, LZW) for o in "<>")
    yield from (Tiff(bits=32, sample_format=f) for f in (VOID, COMPLEX_INT))
    for photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, YCBCR):
        yield Tiff(photometric=photometric, compression=JPEG)
    yield Tiff(photometric=RGB, compression=JPEG, planar=2)


def must_not_be_read() -> Iterator[Tiff]:
    """Tags without which the pixels would be others, and files that lack a part."""
    gray, rgb = Tiff(), Tiff(photometric=RGB)
    yield replace(gray, tags={262: (SHORT, [])})  # is 0 white?
    yield replace(gray, tags={262: (SHORT, [77])})
    yield replace(gray, tags={259: (SHORT, [6])})
    yield replace(gray, tags={259: (SHORT, [32771])})
    yield replace(gray, predictor=2, compression=PACKBITS)
    yield replace(rgb, tags={258: (SHORT, [5, 6, 5])})
    yield replace(rgb, tags={339: (SHORT, [1, 1, 2])})
    yield replace(rgb, tags={254: (LONG, [1])})  # the preview of another page
    yield replace(rgb, tags={254: (LONG, [4])})
    yield replace(rgb, tags={50706: (LONG, [0x01040000])})  # DNG
    yield replace(rgb, tags={532: (RATIONAL, [16, 1, 235, 1, 16, 1, 235, 1, 16, 1, 235, 1])})
    yield Tiff(photometric=YCBCR)  # the standard's default: one colour for four pixels
    yield Tiff(photometric=YCBCR, compression=DEFLATE)
    yield Tiff(photometric=YCBCR, tags={**FULL[YCBCR], 529: (RATIONAL, [2126, 10000, 7152, 10000, 722, 10000])})
    yield Tiff(photometric=CMYK, tags={332: (SHORT, [2])})
    yield Tiff(photometric=CMYK, tags={336: (SHORT, [16, 235])})
    yield Tiff(photometric=PALETTE, color_map=color_map(7))
    for how in (gray, rgb, replace(rgb, planar=2)):
        strips = replace(how, rows_per_strip=10)
        count = 12 if how.planar == 2 else 4
        yield replace(strips, tags={273: (LONG, [0] * count)})
        yield replace(strips, tags={279: (LONG, [0] * count)})
        yield replace(strips, tags={279: (LONG, [7] * count)})
        yield replace(strips, tags={278: (LONG, [9])})  # five strips would be needed
        yield replace(strips, tags={278: (LONG, [20])})  # two would


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """tifffile complains about what is wrong here on purpose."""
    logger = logging.getLogger("tifffile")
    before, logger.level = logger.level, logging.CRITICAL + 1
    yield
    logger.setLevel(before)


def test_every_combination_of_tags_is_read_rightly_or_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed = [how for ordinary in ORDINARY for how in packings(ordinary)]
    every = [*samples_and_colours(), *packed, *oddities()]
    results = [(how, judge(tmp_path / "1.tif", how)) for how in every]
    with capsys.disabled():
        counts = Counter(result for _, result in results)
        print(f"\nTIFF, {len(every)} combinations:", *(f"{n} {what};" for what, n in counts.most_common()))
    assert [(r, how) for how, r in results if not r.startswith("read") and r != "refused"] == []
    assert len(every) >= 1000


@pytest.mark.parametrize("ordinary", ORDINARY, ids=str)
def test_ordinary_files_are_read_however_they_are_packed(ordinary: Tiff, tmp_path: Path) -> None:
    for how in packings(ordinary):
        result = judge(tmp_path / "1.tif", how)
        not_by_pillow = how.order == ">" and (
            how.bits == 12
            or (how.bits, how.photometric) == (16, WHITE_IS_ZERO)
            or (how.bits == 32 and how.compression != NONE)
        )
        assert result == "refused" if not_by_pillow else result.startswith("read"), how


@pytest.mark.parametrize("how", list(must_not_be_read()), ids=str)
def test_what_would_look_otherwise_is_refused(how: Tiff, tmp_path: Path) -> None:
    path = tmp_path / "1.tif"
    path.write_bytes(write(samples_for(how), how))
    with pytest.raises(ImageError) as caught:
        decode_image(path)
    assert str(caught.value).isprintable()
    assert "Error" not in str(caught.value)


def test_values_beyond_the_documented_range_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "1.tif"
    for values in (np.full((9, 9, 1), 70_000), np.full((9, 9, 1), 2**32 - 1)):
        path.write_bytes(write(values, Tiff(bits=32, order="<")))
        with pytest.raises(ImageError, match=r"expected 0\.\.255"):
            decode_image(path)


@pytest.mark.parametrize(
    ("mode", "code"),
    [
        *(("1", code) for code in ("group3", "group4", "tiff_ccitt")),
        *((mode, code) for mode in ("1", "L", "I;16", "RGB", "CMYK") for code in ("lzma", "zstd", "tiff_lzw")),
        *((mode, "jpeg") for mode in ("L", "RGB", "YCbCr", "CMYK")),
    ],
)
def test_compressions_that_pillow_writes(mode: str, code: str, tmp_path: Path) -> None:
    image = Image.fromarray((picture(1)[:, :, 0] * 65535).astype(np.uint16))
    if mode != "I;16":
        image = Image.fromarray((picture(3) * 255).astype(np.uint8)).convert(mode)
    path = tmp_path / "1.tif"
    image.save(path, compression=code, **({"quality": 97} if code == "jpeg" else {}))
    refused = {("CMYK", "jpeg"): "CMYK, compression 7"}  # whether its inks are inverted, no tag says
    refused |= {("1", code): "as a fax" for code in ("group3", "group4", "tiff_ccitt")}
    if reason := refused.get((mode, code)):
        with pytest.raises(ImageError, match=reason):
            decode_image(path)
        return
    pixels = decode_image(path)
    expected = np.asarray(image).astype(int) >> 8 if mode == "I;16" else np.asarray(image.convert("RGB")).astype(int)
    expected = np.repeat(expected[:, :, np.newaxis], 3, axis=2) if expected.ndim == 2 else expected
    assert np.abs(pixels - expected).mean() <= (3 if code == "jpeg" else 0)


def test_every_prefix_of_a_compressed_file_is_an_error_or_whole(tmp_path: Path) -> None:
    """The directory is in front: what is cut off is data."""
    path = tmp_path / "1.tif"
    for how in (
        Tiff(photometric=RGB), Tiff(photometric=RGB, compression=LZW), Tiff(photometric=RGB, compression=DEFLATE),
        Tiff(photometric=RGB, compression=PACKBITS), Tiff(photometric=RGB, rows_per_strip=9, compression=DEFLATE),
        Tiff(photometric=YCBCR, compression=JPEG), Tiff(compression=JPEG, rows_per_strip=16),
    ):  # fmt: skip
        content = write(samples_for(how), how)
        path.write_bytes(content)
        whole = decode_image(path)
        for length in [*range(len(content) - 40, len(content)), *range(300, len(content), 97)]:
            path.write_bytes(content[:length])
            try:
                pixels = decode_image(path)
            except ImageError:
                continue
            assert np.array_equal(pixels, whole), (how, len(content) - length)


def test_a_jpeg_inside_that_lacks_data_is_refused(tmp_path: Path) -> None:
    how = Tiff(photometric=YCBCR, compression=JPEG)
    content = write(samples_for(how), how)
    path = tmp_path / "1.tif"
    start, end = content.index(b"\xff\xd8"), content.rindex(b"\xff\xd9")
    half = (start + end) // 2
    path.write_bytes(content[:half] + b"\xff\xd9" + content[half + 2 :])
    with pytest.raises(ImageError, match="truncated JPEG"):
        decode_image(path)


def test_big_tiff_and_pages(tmp_path: Path) -> None:
    path = tmp_path / "1.tif"
    rgb = (picture(3) * 255).astype(np.uint8)
    tifffile.imwrite(path, rgb, bigtiff=True, photometric="rgb")
    np.testing.assert_array_equal(decode_image(path), rgb)
    tifffile.imwrite(path, np.stack([rgb, 255 - rgb]), photometric="rgb")
    np.testing.assert_array_equal(decode_image(path), rgb)
    with Image.open(path) as image:
        image.seek(1)
        np.testing.assert_array_equal(decode_image(image), 255 - rgb)


def test_an_image_that_is_open_is_judged_as_its_file(tmp_path: Path) -> None:
    how = Tiff(bits=16, photometric=WHITE_IS_ZERO)
    path = tmp_path / "1.tif"
    path.write_bytes(write(samples_for(how), how))
    with Image.open(path) as image:
        np.testing.assert_array_equal(decode_image(image), decode_image(path))
    preview = Tiff(photometric=RGB, tags={254: (LONG, [1])})
    with Image.open(io.BytesIO(write(samples_for(preview), preview))) as image, pytest.raises(ImageError):
        decode_image(image)


def test_as_published_is_as_pillow_reads_it(tmp_path: Path) -> None:
    how = Tiff(bits=16, photometric=WHITE_IS_ZERO)
    samples = samples_for(how)
    path = tmp_path / "1.tif"
    path.write_bytes(write(samples, how))
    np.testing.assert_array_equal(decode_image(path, "as_published")[:, :, 0], samples[:, :, 0].astype(np.float32))


def test_the_reason_names_what_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "1.tif"
    for how, reason in (
        (Tiff(bits=16, photometric=RGB, sample_format=FLOAT), "TIFF of floating-point 16 bits a sample, RGB: not read"),
        (Tiff(bits=8, sample_format=INT), "TIFF of signed 8 bits a sample, gray: not read; save it as RGB of 8 bits"),
        (Tiff(photometric=LOG_LUV, bits=16), "LogLuv"),
        (Tiff(photometric=CFA, bits=16), "colour filter array"),
    ):
        path.write_bytes(write(samples_for(how), how))
        with pytest.raises(ImageError, match=reason):
            decode_image(path)

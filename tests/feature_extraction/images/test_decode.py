"""decode.py: every pixel mode, every kind of bad file, no noise, no waiting."""

from __future__ import annotations

import errno
import os
import re
import signal
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from helpers import bad_images
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import EpsImagePlugin, Image

from feature_extraction.errors import ImageError
from feature_extraction.images.decode import decode_image, read_size
from feature_extraction.images.files import MAX_PIXELS

DECODED = [case for case in bad_images.CASES if case.fails_in in ("", "resize")]
UNDECODED = [case for case in bad_images.CASES if case.fails_in == "decode"]
NAMES = {"ids": lambda case: ascii(case.name)[1:31]}
RGB = np.asarray(bad_images.RGB)
GRAY = np.asarray(bad_images.GRAY)


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """TimeoutError where the block waits for something that never comes."""

    def stop(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    bad_images.write(folder)
    return folder


# --- files ---------------------------------------------------------------------------------------------


def test_the_folder_holds_enough_kinds() -> None:
    cases = bad_images.CASES
    assert len(bad_images.BAD) >= 30
    assert len(bad_images.ODD) >= 30
    assert len({case.id for case in cases}) == len({case.name for case in cases}) == len(cases)


@pytest.mark.parametrize("case", DECODED, **NAMES)
def test_what_can_be_read_is_read_rightly(case: bad_images.Case, folder: Path) -> None:
    pixels = decode_image(folder / case.name)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
    assert pixels.shape == (*read_size(folder / case.name), 3)
    if case.shows is not None:
        expected = np.asarray(case.shows.convert("RGB")).astype(int)
        # lossy formats and palettes stay below 10; palette indices, inverted ink or BGR are above 30
        assert np.abs(pixels - expected).mean() < 10


@pytest.mark.parametrize("case", UNDECODED, **NAMES)
def test_what_cannot_be_read_says_why(case: bad_images.Case, folder: Path) -> None:
    with at_most(10), pytest.raises(ImageError, match=re.escape(case.reason)) as caught:
        decode_image(folder / case.name)
    reason = str(caught.value)
    assert reason.isprintable()  # so it is one line, too
    assert str(folder) not in reason
    with at_most(10):
        try:
            read_size(folder / case.name)  # many a header is whole
        except ImageError as error:
            assert str(error) == reason


def test_as_published_fails_in_the_same_way_but_for_pixels_it_did_not_judge(folder: Path) -> None:
    unjudged = {"zero_tail.jpg", "negative.tif", "nan.tif", "unit.tif", "signed.tif"}
    unjudged |= {"end_after_half.jpg", "end_after_half_progressive.jpg", "end_early.jpg", "ends_early.png"}
    for case in UNDECODED:
        if case.name in unjudged:
            assert decode_image(folder / case.name, "as_published").shape == (60, 80, 3)
        else:
            with pytest.raises(ImageError, match=re.escape(case.reason)):
                decode_image(folder / case.name, "as_published")


def test_nothing_is_printed_or_warned(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for case in bad_images.CASES:
            for act in (decode_image, read_size):
                with suppress(ImageError):
                    act(folder / case.name)
    assert [str(w.message) for w in caught] == []
    out, err = capfd.readouterr()
    assert out == ""
    # libtiff has a voice of its own, and Pillow no handle for it: one line about one damaged file
    assert [line for line in err.splitlines() if not line.startswith("LZWDecode:")] == []


def test_warnings_are_no_errors_either(folder: Path) -> None:
    """Not even where the user, later than our first image, asks for that."""
    decode_image(folder / "exif_damaged.jpg")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decode_image(folder / "exif_damaged.jpg")


def test_warnings_would_have_been_seen(folder: Path) -> None:
    """The other half of the test above: its files do make Pillow warn."""
    with pytest.warns(UserWarning, match="EXIF"):
        Image.open(folder / "exif_damaged.jpg").load()


def test_every_prefix_of_a_file_is_an_error_or_an_image(tmp_path: Path) -> None:
    path = tmp_path / "1"
    for content in (bad_images.JPEG, bad_images.PNG[:3000], bad_images.GIF, bad_images.TIFF[:400]):
        for length in range(0, len(content), 61):
            path.write_bytes(content[:length])
            try:
                assert decode_image(path).shape == (60, 80, 3)
            except ImageError as error:
                assert str(error).isprintable()


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_damaged_bytes_never_raise_anything_else(data: st.DataObject, folder: Path) -> None:
    kinds = (
        bad_images.JPEG,
        bad_images.PNG,
        bad_images.GIF,
        bad_images.TIFF,
        bad_images.BMP,
        bad_images.WEBP,
    )
    content = bytearray(data.draw(st.sampled_from(kinds)))
    for _ in range(data.draw(st.integers(1, 4))):
        # headers are where the damage is interesting
        position = data.draw(st.integers(0, min(200, len(content) - 1)) | st.integers(0, len(content) - 1))
        content[position] = data.draw(st.integers(0, 255))
    path = folder.parent / "damaged"
    path.write_bytes(content)
    try:
        height, width, channels = decode_image(path).shape
    except ImageError as error:
        assert str(error).isprintable()
    else:
        assert channels == 3
        assert 0 < height * width <= MAX_PIXELS


def test_permission_denied(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    def refuse(path: str, flags: int) -> int:  # simulated: tests may run as root, who may read everything
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(ImageError, match=r"^cannot be read: Permission denied$"):
        decode_image(folder / "good_rgb.jpg")


def test_no_memory(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    def refuse(image: Image.Image) -> None:
        raise MemoryError

    monkeypatch.setattr(Image.Image, "load", refuse)
    with pytest.raises(ImageError, match="not enough memory"):
        decode_image(bad_images.RGB)


def test_no_file_is_left_open(folder: Path) -> None:
    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = open_files()
    for case in bad_images.CASES:
        with suppress(ImageError):
            decode_image(folder / case.name)
    assert open_files() == before


def test_ghostscript_is_never_run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # not looked for yet
    ran = tmp_path / "ran"
    for name in ("gs", "gswin64c"):
        (tmp_path / name).write_text(f"#!/bin/sh\ntouch '{ran}'\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(ImageError, match="EPS"):
        decode_image(folder / "eps.jpg")
    with Image.open(folder / "eps.jpg") as image, pytest.raises(ImageError, match="format EPS is not read"):
        decode_image(image)
    assert not ran.exists()
    with Image.open(folder / "eps.jpg") as image, suppress(OSError):
        image.load()  # what must not happen above does happen here
    assert ran.exists()


def test_threads_agree(folder: Path) -> None:
    def result(case: bad_images.Case) -> bytes | str:
        try:
            return decode_image(folder / case.name).tobytes()
        except ImageError as error:
            return str(error)

    cases = [case for case in bad_images.CASES if case.fails_in != "list"]
    alone = [result(case) for case in cases]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(result, cases * 4)) == alone * 4


# --- pixel modes ---------------------------------------------------------------------------------------

EXACT = {  # mode -> (image, what it must give)
    "L": (bad_images.GRAY, GRAY),
    "RGB": (bad_images.RGB, RGB),
    "1": (bad_images.BLACK_AND_WHITE, np.asarray(bad_images.BLACK_AND_WHITE) * 255),
    "P": (bad_images.PALETTE, np.asarray(bad_images.PALETTE.convert("RGB"))),
    "RGBA": (bad_images._with_alpha("RGB"), RGB),
    "LA": (bad_images._with_alpha("L"), GRAY),
    "RGBX": (bad_images.RGB.convert("RGBX"), RGB),
    "CMYK": (bad_images.RGB.convert("CMYK"), RGB),
    "I;16": (Image.fromarray(bad_images.SIXTEEN_BITS), GRAY),
    "I": (Image.fromarray(GRAY.astype(np.int32)), GRAY),
    "F": (Image.fromarray(GRAY + np.float32(0.25)), GRAY),
}


@pytest.mark.parametrize("mode", EXACT)
def test_modes_exactly(mode: str) -> None:
    image, expected = EXACT[mode]
    assert image.mode == mode
    if expected.ndim == 2:
        expected = np.stack([expected] * 3, axis=2)
    before = image.tobytes()
    np.testing.assert_array_equal(decode_image(image), expected)
    assert image.mode == mode  # the caller's image is left alone
    assert image.tobytes() == before


def test_premultiplied_colours_are_divided() -> None:
    image = bad_images._with_alpha("RGB").convert("RGBa")
    opaque = np.asarray(bad_images.ALPHA) > 100
    assert np.abs(decode_image(image)[opaque].astype(int) - RGB[opaque]).max() <= 2  # 8-bit rounding


@pytest.mark.parametrize("mode", ["YCbCr", "LAB", "HSV"])
def test_other_colour_spaces(mode: str) -> None:
    image = bad_images.LAB if mode == "LAB" else bad_images.RGB.convert(mode)
    assert np.abs(decode_image(image).astype(int) - RGB).mean() < 3


def test_dark_16_bit_gray_stays_dark(tmp_path: Path) -> None:
    """Formats that say how white is written are not judged by their brightest pixel."""
    dark = np.full((4, 5), 200, np.uint16)  # of 65535
    Image.fromarray(dark).save(tmp_path / "1.png")
    (tmp_path / "1.pgm").write_bytes(b"P5 5 4 65535\n" + dark.astype(">u2").tobytes())
    assert decode_image(tmp_path / "1.png").max() == 0
    assert decode_image(tmp_path / "1.pgm").max() == 0


def test_float_pixmaps_are_not_taken_for_16_bits(tmp_path: Path) -> None:
    (tmp_path / "1.pfm").write_bytes(b"Pf\n5 4\n-1.0\n" + np.full((4, 5), 0.5, "<f4").tobytes())
    with pytest.raises(ImageError, match=r"gray values 0.5 to 0.5: of 0..1 or of 0..255"):
        decode_image(tmp_path / "1.pfm")


def test_16_bit_gray_agrees_with_16_bit_colour(folder: Path) -> None:
    """Pillow keeps the high byte of 16-bit RGB; gray does the same."""
    np.testing.assert_array_equal(decode_image(folder / "mode_rgb16.png"), RGB)
    np.testing.assert_array_equal(decode_image(folder / "mode_i16.png")[:, :, 0], GRAY)


def test_first_frame_or_the_current_one(folder: Path) -> None:
    first = decode_image(folder / "frames_apng.png")
    np.testing.assert_array_equal(first, RGB)
    with Image.open(folder / "frames_apng.png") as image:
        image.seek(1)
        np.testing.assert_array_equal(decode_image(image), np.roll(RGB, 10, axis=1))


def test_exif_orientation_is_ignored(folder: Path) -> None:
    """6 would turn 60 x 80 into 80 x 60; the published code did not look."""
    np.testing.assert_array_equal(decode_image(folder / "exif_rotated.jpg"), decode_image(folder / "good_rgb.jpg"))


# --- as published --------------------------------------------------------------------------------------


def published(image: Image.Image) -> np.ndarray:
    """The published scripts' reading of an image, up to their float32 array, RGB; raises where they do."""
    array = np.array(image).astype(np.float32)
    if array.ndim < 3:
        array = np.repeat(array[:, :, np.newaxis], 3, axis=2)
    return array + np.zeros(3, np.float32)  # they subtract a mean of 3 channels


@pytest.mark.parametrize("case", [c for c in DECODED if c.name != "hole.jpg"], **NAMES)
def test_as_published(case: bad_images.Case, folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = Image.open(folder / case.name)
        try:
            expected = published(image)
        except ValueError:
            with pytest.raises(ImageError, match="the published code stops"):
                decode_image(folder / case.name, "as_published")
            return
    pixels = decode_image(folder / case.name, "as_published")
    assert pixels.dtype == (np.uint8 if image.mode in ("1", "L", "P", "RGB", "YCbCr", "LAB") else np.float32)
    np.testing.assert_array_equal(pixels, expected)
    if image.mode in ("L", "RGB"):
        np.testing.assert_array_equal(pixels, decode_image(folder / case.name))


def test_palette_files_differ_as_they_should(folder: Path) -> None:
    indices = np.asarray(bad_images.PALETTE)
    np.testing.assert_array_equal(decode_image(folder / "mode_p.png", "as_published")[:, :, 1], indices)
    assert (decode_image(folder / "mode_p.png") != decode_image(folder / "mode_p.png", "as_published")).mean() > 0.9


# --- arrays and other input ----------------------------------------------------------------------------


@pytest.mark.parametrize("array", [GRAY, GRAY[:, :, None], RGB, RGB[:, ::-1], np.asfortranarray(RGB)])
def test_arrays(array: np.ndarray) -> None:
    pixels = decode_image(array)
    np.testing.assert_array_equal(pixels, np.broadcast_to(array.reshape(60, 80, -1), (60, 80, 3)))
    assert pixels.flags.c_contiguous
    assert not np.shares_memory(pixels, array)


@pytest.mark.parametrize(
    "array",
    [
        RGB.astype(np.float32),
        RGB.astype(np.int64),
        GRAY > 9,
        RGB[:, :, :2],
        np.dstack([RGB, GRAY]),
        RGB.transpose(2, 0, 1),
        RGB[None],
        RGB[:0],
        GRAY[0],
        np.uint8(3)[()] + np.zeros((), np.uint8),
        np.broadcast_to(np.uint8(0), (MAX_PIXELS, 2)),
    ],
    ids=lambda a: f"{a.dtype}{a.shape}",
)
def test_other_arrays_say_what_is_expected(array: np.ndarray) -> None:
    with pytest.raises(ImageError, match=r"expected uint8, \(H, W\)|the limit is 178,956,970"):
        decode_image(np.asarray(array))


def test_the_callers_mistakes_are_not_bad_images() -> None:
    with pytest.raises(ValueError, match="known: proper, as_published"):
        decode_image(RGB, "published")
    with pytest.raises(TypeError):
        decode_image(None)
    with pytest.raises(TypeError):
        read_size(3)


def test_pixel_limit_is_pillows_own() -> None:
    assert Image.MAX_IMAGE_PIXELS is not None
    assert MAX_PIXELS in (2 * Image.MAX_IMAGE_PIXELS, 2 * Image.MAX_IMAGE_PIXELS + 1)


def test_pixel_limit_holds_without_pillows(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    for act in (decode_image, read_size):
        with pytest.raises(ImageError, match="13378 x 13378"):
            act(folder / "bomb.png")

"""The network's input to the last bit, against the published scripts' arithmetic."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage import data

from feature_extraction.errors import ImageError
from feature_extraction.images.decode import decode_image
from feature_extraction.images.preprocess import (
    network_size_boxes,
    network_size_grid,
    resize_for_boxes,
    resize_for_grid,
)

# --- the published scripts' arithmetic, written out once more, slowly ------------------------------------


def published_minus_mean(rgb: np.ndarray) -> np.ndarray:
    """(H, W, 3) RGB -> float32 BGR minus mean."""
    image = rgb.astype(np.float32)[:, :, ::-1]
    image -= np.array([102.9801, 115.9465, 122.7717])
    return image


def published_scale(height: int, width: int) -> np.float64:
    short, long = np.min((height, width)), np.max((height, width))
    scale = np.float64(800) / short
    if np.round(scale * long) > 1333:
        scale = np.float64(1333) / long
    return scale


def published_grid_size(height: int, width: int) -> tuple[int, int]:
    scale = published_scale(height, width)
    height, width = int(scale * height), int(scale * width)
    height -= height % 32
    width -= width % 32
    return height, width


def published_grid(rgb: np.ndarray, imsize: int | None) -> np.ndarray:
    height, width = (imsize, imsize) if imsize is not None else published_grid_size(*rgb.shape[:2])
    return cv2.resize(published_minus_mean(rgb), (width, height), interpolation=cv2.INTER_LINEAR)


def published_boxes(rgb: np.ndarray) -> tuple[np.ndarray, np.float64]:
    scale = published_scale(*rgb.shape[:2])
    image = published_minus_mean(rgb)
    image = cv2.resize(image, None, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
    height, width = (int(np.ceil(side / 32) * 32) for side in image.shape[:2])
    padded = np.zeros((height, width, 3), np.float32)
    padded[: image.shape[0], : image.shape[1]] = image
    return padded, scale


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


SIDES = st.integers(1, 400)
PIXELS = hnp.arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3)))

# --- resizing ------------------------------------------------------------------------------------------


def test_every_8_bit_value_is_shifted_to_the_same_bits() -> None:
    ramp = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    assert same_bits(resize_for_grid(ramp, 16), np.ascontiguousarray(published_minus_mean(ramp)))


@pytest.mark.parametrize("name", ["astronaut", "camera", "chelsea", "coffee", "coins", "page"])
def test_photographs_to_the_last_bit(name: str) -> None:
    rgb = decode_image(getattr(data, name)())
    for imsize in (None, 448):
        assert same_bits(resize_for_grid(rgb, imsize), published_grid(rgb, imsize))
    ours, scale = resize_for_boxes(rgb)
    expected, expected_scale = published_boxes(rgb)
    assert same_bits(ours, expected)
    assert scale == expected_scale


@settings(deadline=None, max_examples=60)
@given(rgb=PIXELS)
def test_boxes_input_to_the_last_bit(rgb: np.ndarray) -> None:
    ours, scale = resize_for_boxes(rgb)
    expected, expected_scale = published_boxes(rgb)
    assert same_bits(ours, expected)
    assert scale == expected_scale
    assert ours.flags.c_contiguous
    assert ours.flags.writeable


@settings(deadline=None, max_examples=60)
@given(rgb=PIXELS, imsize=st.none() | st.integers(1, 100))
def test_grid_input_to_the_last_bit(rgb: np.ndarray, imsize: int | None) -> None:
    assume(imsize is not None or max(rgb.shape) < 40 * min(rgb.shape[:2]))
    ours = resize_for_grid(rgb, imsize)
    assert same_bits(ours, published_grid(rgb, imsize))
    assert ours.flags.c_contiguous
    assert ours.flags.writeable


@settings(deadline=None, max_examples=20)
@given(rgb=hnp.arrays(np.float32, (7, 9, 3), elements=st.floats(-100, 70_000, width=32)))
def test_float_pixels_too(rgb: np.ndarray) -> None:
    """What ``decode_image(..., "as_published")`` makes of 16-bit files."""
    assert same_bits(resize_for_grid(rgb, 64), published_grid(rgb, 64))
    assert same_bits(resize_for_boxes(rgb)[0], published_boxes(rgb)[0])


def test_factors_and_sizes_are_not_the_same_resize() -> None:
    """Why the boxes' resize must be called as published: by size, the pixels differ."""
    rgb = decode_image(data.coffee()[:101, :150])
    ours, _ = resize_for_boxes(rgb)
    (height, width), _, scale = network_size_boxes(101, 150)
    assert width != scale * 150
    by_size = cv2.resize(published_minus_mean(rgb), (width, height), interpolation=cv2.INTER_LINEAR)
    assert not same_bits(np.ascontiguousarray(ours[:height, :width]), by_size)


def test_bits_depend_neither_on_opencvs_threads_nor_on_ours() -> None:
    rgb = data.astronaut()
    alone = resize_for_grid(rgb), resize_for_boxes(rgb)[0]
    minus_mean = published_minus_mean(rgb)
    try:
        for threads in (1, 2, 7):
            cv2.setNumThreads(threads)
            assert same_bits(cv2.resize(minus_mean, (800, 800), interpolation=cv2.INTER_LINEAR), alone[0])
        resize_for_grid(rgb)
        assert cv2.getNumThreads() == 1  # the cores belong to the workers
    finally:
        cv2.setNumThreads(1)
    with ThreadPoolExecutor(8) as pool:
        assert all(same_bits(r, alone[0]) for r in pool.map(resize_for_grid, [rgb] * 24))
        assert all(same_bits(r[0], alone[1]) for r in pool.map(resize_for_boxes, [rgb] * 24))


def test_opencv_out_of_memory_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise cv2.error("Insufficient memory\n in function 'OutOfMemoryError'")

    monkeypatch.setattr(cv2, "resize", refuse)
    for resize in (resize_for_grid, resize_for_boxes):
        with pytest.raises(ImageError, match=r"^cannot be resized: Insufficient memory in function"):
            resize(data.coffee())


# --- sizes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "grid", "boxes", "padded", "scale"),
    [
        # short side to 800: 400 x 600 * 2 = 800 x 1200; 1200 = 37 * 32 + 16
        ((400, 600), (800, 1184), (800, 1200), (800, 1216), 2.0),
        ((600, 400), (1184, 800), (1200, 800), (1216, 800), 2.0),
        # 480 x 640 * 5/3: 1066.67 is cut for the grid, rounded for the boxes
        ((480, 640), (800, 1056), (800, 1067), (800, 1088), 800 / 480),
        # long side to 1333: * 1333/600, 120 * 2.2217 = 266.6
        ((120, 600), (256, 1312), (267, 1333), (288, 1344), 1333 / 600),
        ((33, 47), (800, 1120), (800, 1139), (800, 1152), 800 / 33),
        ((1, 1), (800, 800), (800, 800), (800, 800), 800.0),
        # 3 x 5 * 800/3 = 1333.33 rounds to 1333, so the short side decides; 1333.33 is cut to 1333
        ((3, 5), (800, 1312), (800, 1333), (800, 1344), 800 / 3),
        # in float64, 800 / 334 * 334 is just below 800: cut to 799, and down to 768. So it was published
        ((334, 500), (768, 1184), (800, 1198), (800, 1216), 800 / 334),
    ],
)
def test_sizes_by_hand(
    size: tuple[int, int],
    grid: tuple[int, int],
    boxes: tuple[int, int],
    padded: tuple[int, int],
    scale: float,
) -> None:
    assert network_size_grid(*size) == grid
    assert network_size_boxes(*size) == (boxes, padded, scale)
    assert network_size_grid(*size, 224) == (224, 224)


def test_grid_sizes_are_the_published_ones() -> None:
    for short in range(200, 701):
        for long in range(short, 1000, 7):
            assert network_size_grid(short, long) == published_grid_size(short, long)
            assert network_size_grid(long, short) == published_grid_size(long, short)


@settings(deadline=None, max_examples=100)
@given(height=SIDES, width=SIDES)
def test_sizes_are_those_of_the_resized_images(height: int, width: int) -> None:
    rgb = np.zeros((height, width, 3), np.uint8)
    for resize, size in (
        (resize_for_grid, lambda: network_size_grid(height, width)),
        (lambda rgb: resize_for_boxes(rgb)[0], lambda: network_size_boxes(height, width)[1]),
    ):
        try:
            expected = size()
        except ImageError as error:
            with pytest.raises(ImageError, match="too narrow") as caught:
                resize(rgb)
            assert str(caught.value) == str(error)
        else:
            assert resize(rgb).shape == (*expected, 3)


@settings(deadline=None, max_examples=1000)
@given(height=st.integers(1, 2000), width=st.integers(1, 2000))
def test_opencv_rounds_as_we_do(height: int, width: int) -> None:
    scale = published_scale(height, width)
    assume(round(scale * min(height, width)) > 0)
    thin = cv2.resize(
        np.zeros((height, width), np.uint8), None, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST
    )
    assert network_size_boxes(height, width)[0] == thin.shape


@given(height=st.integers(1, 10**6), width=st.integers(1, 10**6))
def test_sizes_keep_their_promises(height: int, width: int) -> None:
    try:
        grid = network_size_grid(height, width)
        resized, padded, scale = network_size_boxes(height, width)
    except ImageError as error:
        assert max(height, width) > 40 * min(height, width)
        assert f"height {height}, width {width}" in str(error)
        return
    for side, g, r, p in zip((height, width), grid, resized, padded, strict=True):
        assert g % 32 == p % 32 == 0
        assert g <= r + 1 <= 1334
        assert r <= p < r + 32
        assert abs(r - scale * side) <= 0.5


def test_too_narrow_names_the_sizes() -> None:
    with pytest.raises(ImageError, match="height 1, width 5000 would become height 0, width 1333"):
        network_size_boxes(1, 5000)
    with pytest.raises(ImageError, match="height 100, width 5000 would become height 0, width 1312"):
        network_size_grid(100, 5000)  # 26 pixels are no multiple of 32
    assert network_size_boxes(100, 5000)[0] == (27, 1333)
    assert network_size_grid(1, 5000, 224) == (224, 224)
    with pytest.raises(ImageError, match="no pixels"):
        network_size_grid(0, 10)

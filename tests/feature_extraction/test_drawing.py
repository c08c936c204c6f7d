"""Pictures: what is drawn lies where it should, in colours that can be told apart, whatever names and numbers say."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from feature_extraction import drawing
from feature_extraction.class_names import NAMES_FILE, names_in, read_names
from feature_extraction.drawing import (
    PALETTE,
    draw,
    draw_words,
    edges_of,
    grid_of,
    ink_on,
    marks_of,
    plates_of,
)
from feature_extraction.errors import ImageError, UsageError

GRAY = np.full((100, 200, 3), 128, np.uint8)
# What eyes without red-sensing or green-sensing cones see of linear RGB (Machado et al. 2009, severity 1).
PROTAN = [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
DEUTAN = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
TO_LMS = [
    [0.41222147, 0.53633254, 0.05144599],
    [0.2119035, 0.68069955, 0.10739696],
    [0.08830246, 0.28171884, 0.6299787],
]
TO_LAB = [
    [0.21045426, 0.79361779, -0.00407205],
    [1.9779985, -2.4285922, 0.4505937],
    [0.02590404, 0.78277177, -0.80867577],
]


def oklab(colours: list[str], eyes: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, 3): where these eyes see the colours, in a space whose distances are about those that are perceived."""
    rgb = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in colours])
    linear = np.clip(np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ eyes.T, 0, 1)
    return np.cbrt(linear @ np.array(TO_LMS).T) @ np.array(TO_LAB).T


@pytest.mark.parametrize("eyes", [np.eye(3), np.array(PROTAN), np.array(DEUTAN)], ids=["all", "no red", "no green"])
def test_words_can_be_told_apart_by_all_eyes(eyes: NDArray[np.float64]) -> None:
    seen = oklab(list(PALETTE), eyes)
    for first, distance in ((16, 0.08), (32, 0.055), (len(PALETTE), 0.035)):  # 0.02 is just noticeable
        assert min(float(np.linalg.norm(a - b)) for a, b in combinations(seen[:first], 2)) > distance


def test_a_word_has_one_colour_in_every_picture() -> None:
    dark, light = (np.full((64, 64, 3), v, np.uint8) for v in (40, 200))
    one = np.asarray(draw_words(dark, np.full((8, 8), 17), opacity=1.0))
    other = np.asarray(draw_words(light, np.full((2, 2), 17), opacity=1.0))
    assert "#{:02x}{:02x}{:02x}".format(*one[30, 30]) == drawing.word_colour(17)
    assert (one == other).all()


@pytest.mark.parametrize(("eyes", "least"), [(np.eye(3), 0.65), (np.array(PROTAN), 0.45), (np.array(DEUTAN), 0.35)])
def test_a_word_is_known_again_over_light_and_dark(eyes: NDArray[np.float64], least: float) -> None:
    """Of 16 words so many look, over dark and light parts, more like themselves over gray than like any other."""
    words = np.arange(16)
    tinted = [
        draw_words(np.full((4, 4, 3), level, np.uint8), words, lines=False).get_flattened_data()
        for level in (40, 128, 216)
    ]
    dark, gray, light = (oklab(["#{:02x}{:02x}{:02x}".format(*p) for p in pixels], eyes) for pixels in tinted)
    away = np.linalg.norm(np.concatenate([dark, light])[:, None] - gray[None], axis=-1)
    assert (away.argmin(1) == np.tile(words, 2)).mean() >= least


def test_each_cell_has_the_colour_of_its_word() -> None:
    words = np.arange(64).reshape(8, 8)
    picture = np.asarray(draw_words(GRAY, words.ravel(), opacity=1.0, lines=False))
    for y, x in np.ndindex(8, 8):
        centre = picture[int((y + 0.5) * 100 / 8), int((x + 0.5) * 200 / 8)]
        assert "#{:02x}{:02x}{:02x}".format(*centre) == drawing.word_colour(int(words[y, x]))
    assert picture.shape == GRAY.shape


def test_lines_run_between_different_words_only() -> None:
    assert edges_of(np.array([[5, 5], [5, 5]])) == []
    assert sorted(edges_of(np.array([[5, 6], [5, 5]]))) == [(1, 0, 1, 1), (1, 1, 2, 1)]
    picture = np.asarray(draw_words(GRAY, [[1, 1], [2, 2]]))
    assert (picture[50, 20] == 255).all()
    assert not (picture[25, 100] == 255).all()


def test_numbers_are_written_into_cells() -> None:
    without = np.asarray(draw_words(GRAY, [[1, 1], [2, 2]]))
    written = np.asarray(draw_words(GRAY, [[1, 1], [2, 2]], numbers=True))
    changed = np.argwhere((without != written).any(-1))
    assert {(int(y) // 50, int(x) // 100) for y, x in changed} == {(0, 0), (0, 1), (1, 0), (1, 1)}


@pytest.mark.parametrize(
    "ids", [[], [1, 2, 3], [[1, 2]], [[-1, 2], [3, 4]], [[0.5, 1], [2, 3]], [[[1]]], [[1], [2, 3]]], ids=repr
)
def test_words_that_are_no_grid_are_refused(ids: object) -> None:
    with pytest.raises(UsageError, match=r"expected whole numbers from 0, \(g, g\)|rows of different lengths"):
        draw_words(GRAY, ids)


def test_more_cells_than_pixels_are_drawn() -> None:
    assert draw_words(np.zeros((3, 5, 3), np.uint8), np.arange(64)).size == (5, 3)


def test_a_box_is_drawn_where_it_is_and_thicker_the_better_it_is() -> None:
    boxes = [[10, 20, 90, 80], [110, 20, 190, 80]]
    picture = np.asarray(draw(GRAY, boxes))
    first, second = (tuple(int(c[i : i + 2], 16) for i in (1, 3, 5)) for c in (PALETTE[0], PALETTE[1]))
    assert tuple(picture[20, 50]) == first
    assert tuple(picture[79, 50]) == first  # the last pixel of a box that ends at 80
    assert tuple(picture[80, 50]) == (128, 128, 128)
    assert tuple(picture[50, 110]) == second
    assert (picture[50, 40:70] == 128).all()
    large = marks_of(boxes, (2000, 1000))
    assert large[0].width > large[1].width


def test_boxes_reach_the_padding_and_are_cut_at_the_image() -> None:
    (mark,) = marks_of([[-5, -5, 300, 120], [201, 10, 230, 20]], (200, 100))
    assert mark.corners == (0, 0, 200, 100)


def test_labels_say_class_and_score() -> None:
    found = SimpleNamespace(
        boxes=np.float32([[0, 0, 9, 9], [1, 1, 8, 8], [2, 2, 7, 7]]),
        obj_id=np.int64([1, 0, 7]),
        cls_prob=np.float32([[0.9, 0.02, 0.08], [0.1, 0.7, 0.2], [0.3, 0.3, 0.4]]),
    )
    marks = marks_of(found, (10, 10), names=("cup", "spoon"))
    assert [m.label for m in marks] == ["spoon 0.08", "cup 0.70", "class 7 0.40"]
    assert [m.label for m in marks_of(found.boxes, (10, 10))] == ["", "", ""]
    assert marks_of(found.boxes, (10, 10), obj_id=found.obj_id)[0].colour == drawing.word_colour(1)
    named = SimpleNamespace(
        **vars(found), names=("spoon", "", "fork")
    )  # as FeatureExtractor gives them: one for each box
    assert [m.label for m in marks_of(named, (10, 10))] == ["spoon 0.08", "class 0 0.70", "fork 0.40"]
    hostile = marks_of(found.boxes[:1], (10, 10), ("a\x1b[31m\n" + "x" * 99,), obj_id=[0])[0].label
    assert hostile.startswith("a\\x1b[31m\\x0axxx")
    assert len(hostile) == drawing.MAX_LABEL


def test_labels_stay_inside_the_picture() -> None:
    boxes = [[0, 0, 200, 100], [150, 95, 200, 100], [195, 0, 200, 3]]
    picture = draw(GRAY, boxes, ("a long name of a class",) * 3, obj_id=[0, 1, 2])
    assert picture.size == (200, 100)
    tiny = draw(np.zeros((4, 3, 3), np.uint8), [[0, 0, 3, 4]], ("name",), obj_id=[0])
    assert tiny.size == (3, 4)


def test_a_label_covers_no_better_one() -> None:
    boxes = [[10, 40, 90, 90], [20, 42, 95, 95], [10, 70, 40, 90], [190, 0, 200, 9]]
    marks = marks_of(boxes, (200, 100), ["thing"], obj_id=[0, 0, 0, 0])
    placed = plates_of(marks, (200, 100), lambda text: (10 * len(text), 12))
    assert [mark.rank for mark, _ in placed] == [0, 2, 3]
    assert [plate for _, plate in placed] == [(10, 28, 50, 12), (10, 58, 50, 12), (150, 0, 50, 12)]
    assert plates_of(marks_of(boxes, (200, 100)), (200, 100), lambda text: (5, 12)) == []  # no class, no label


@pytest.mark.parametrize(
    "boxes",
    [[1, 2, 3, 4], [[1, 2, 3]], [[1, 2, np.nan, 4]], [[1, 2, np.inf, 4]], None, "abc", [{}], [[1], [2, 3]]],
    ids=repr,
)  # fmt: skip
def test_boxes_that_are_none_are_refused(boxes: object) -> None:
    with pytest.raises(UsageError, match=r"expected what boxes\(\) found in one image, or finite|rows of different"):
        draw(GRAY, boxes)


@pytest.mark.parametrize("image", [None, 3, [[1, 2], [3, 4]], b"x.jpg"], ids=repr)
def test_what_can_be_no_image_is_said_so(image: object) -> None:
    for picture in (lambda: draw(image, []), lambda: draw_words(image, [[1]])):
        with pytest.raises(TypeError, match=r"image is of type .*: expected a path, a PIL image or a uint8 array"):
            picture()


def test_names_may_be_a_file(tmp_path: Path) -> None:
    path = tmp_path / NAMES_FILE
    path.write_text("cup\nspoon,fork\n")
    for names in (path, str(path), ["cup", "spoon"]):
        assert marks_of([[0, 0, 9, 9]], (10, 10), names, obj_id=[1])[0].label == "spoon"


@pytest.mark.parametrize("opacity", [-0.1, 1.1, float("nan")])
def test_an_opacity_is_a_part(opacity: float) -> None:
    with pytest.raises(UsageError, match="expected 0 to 1"):
        draw_words(GRAY, [[1]], opacity=opacity)


def test_columns_of_another_length_are_refused() -> None:
    with pytest.raises(UsageError, match="expected a number for each of 1 boxes"):
        draw(GRAY, [[0, 0, 5, 5]], obj_id=[1, 2])


def test_no_boxes_at_all_is_the_image() -> None:
    assert (np.asarray(draw(GRAY, np.empty((0, 4)))) == GRAY).all()


def test_an_image_is_read_as_the_features_were(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned when shown; the published code does not, and boxes are those of the stored pixels
    Image.fromarray(GRAY).save(tmp_path / "a.jpg", exif=exif)
    assert draw(tmp_path / "a.jpg", [[0, 0, 5, 5]]).size == (200, 100)
    Image.fromarray(GRAY).convert("CMYK").save(tmp_path / "c.jpg")
    assert draw_words(tmp_path / "c.jpg", [[0]]).mode == "RGB"
    (tmp_path / "t.jpg").write_bytes(b"no image")
    with pytest.raises(ImageError):
        draw(tmp_path / "t.jpg", [[0, 0, 5, 5]])


def test_the_ink_is_readable_on_every_colour() -> None:
    def luminance(colour: str) -> float:
        rgb = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    for colour in PALETTE:
        light, dark = sorted((luminance(colour), luminance(ink_on(colour))), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, colour


def test_names_of_classes(tmp_path: Path) -> None:
    path = tmp_path / NAMES_FILE
    path.write_bytes("yolk\nstop sign,stopsign\nca\x1bt\nŻubr\n".encode())
    assert read_names(path) == ("yolk", "stop sign", "ca\\x1bt", "Żubr")
    assert names_in(tmp_path / "none", tmp_path) == read_names(path)
    assert names_in(tmp_path / "none") is None
    path.write_bytes(b"\x89HDF\0")
    with pytest.raises(UsageError, match="no text file"):
        read_names(path)
    with pytest.raises(UsageError, match="No such file"):
        read_names(tmp_path / "none")


def test_a_grid_is_taken_flat_or_square() -> None:
    assert (grid_of(np.arange(9)) == grid_of(np.arange(9).reshape(3, 3))).all()

"""Pictures of what was found: the boxes of an image, and its grid tinted by visual word.

Shapes: N boxes, H and W pixels of the original image, g cells per side. Boxes are x1, y1, x2, y2 in pixels of the
original image, best first, as the feature files have them. ``marks_of`` and ``word_colour`` decide what is drawn and
in which colour; the report draws the same marks as vectors. numpy and Pillow only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

from .class_names import Names, class_names
from .errors import UsageError
from .images.decode import ImageLike, checked_image, decode_image
from .names import printable
from .recipe import BACKGROUND

_COLOURS: Final = """
    006aaa d4ff40 aabfff 00aa00 950015 aaffea 9580ff 80d480 0000ff 559595 95406a 408000 2abfaa 402abf 40aad4 aad4d4
    2a6aea 40ff95 95bf00 6a80bf 801580 d4d42a 409555 ff2a80 802a55 aaaa6a bf1595 aaeaff bf95ff 954040 55806a 40bfd4
    0055d4 2ad4aa ffeabf 15eaaa 2a9500 40aaaa aad4ff 954000 d4ea6a 5595d4 aaead4 806ad4 952a80 5540ff 00d455 ea1580
    ffaa6a 404095 950040 ea15bf 956aff bf0055 d415aa 956a40 aaaa95 5540aa ea4055 aa2abf d4d46a 2a80ea ff5540 d4ea2a
"""
PALETTE: Final = tuple("#" + colour for colour in _COLOURS.split())
"""Each colour is the one farthest from all before it, in OKLab, of those neither nearly black nor nearly white: as seen
with full colour vision, without red cones and without green cones, whichever of the three is worst."""
MAX_LABEL: Final = 40
"""Characters of a label that are shown."""
THICKEST: Final = 1 / 80
"""Width of the best box's line, in parts of the image's shorter side ..."""
THINNEST: Final = 1 / 400
"""... and of the last one's."""
LABELS: Final = 8
"""So many of the best boxes carry their label in a picture; more would hide the image."""
OPACITY: Final = 0.75
"""Of the words' tint: the photograph is still seen, and a word looks much the same over its light and dark parts."""


@dataclass(frozen=True)
class BoxMark:
    """One box as it is drawn."""

    rank: int
    """0 is the best box."""
    corners: tuple[float, float, float, float]
    """x1, y1, x2, y2 in pixels of the original image, inside it."""
    width: float
    """Of the line, in pixels of the original image."""
    colour: str
    """``#rrggbb``, by class; by rank where no class is known."""
    label: str
    """Class and score, as far as they are known."""


def word_colour(word: int) -> str:
    """``#rrggbb`` of a visual word: by its number alone, so that a word looks the same in every picture."""
    return PALETTE[word % len(PALETTE)]


def marks_of(
    found: Any,
    size: tuple[int, int],
    names: Names | None = None,
    *,
    obj_id: ArrayLike | None = None,
    scores: ArrayLike | None = None,
) -> list[BoxMark]:
    """The boxes of an image of ``size`` (W, H) as they are drawn, best first; boxes that lie outside are left out.

    ``found``: what ``FeatureExtractor.boxes`` gives (boxes, obj_id, cls_prob and names are taken from it) or boxes
    (N, 4). ``names``: of all classes, or their file. ``obj_id`` (N,): classes without background. ``scores`` (N,).

    Raises UsageError for other shapes or values."""
    boxes = _boxes_of(found)
    classes = _column(getattr(found, "obj_id", obj_id), len(boxes), "obj_id")
    if scores is None and getattr(found, "cls_prob", None) is not None:
        scores = np.asarray(found.cls_prob)[:, 1:].max(axis=1)  # column 0 is the background
    values = _column(scores, len(boxes), "scores")
    limits = np.array([*size, *size], dtype=np.float64)
    named = getattr(found, "names", None) if names is None else None
    known = None if names is None else class_names(names)
    shorter, marks = min(size), []
    for rank, corners in enumerate(np.clip(boxes, 0, limits)):
        x1, y1, x2, y2 = corners.tolist()
        if x2 <= x1 or y2 <= y1:
            continue
        part = rank / max(1, len(boxes) - 1)
        width = shorter * (THICKEST + (THINNEST - THICKEST) * part)
        category = None if classes is None else int(classes[rank])
        name = _name(category, known) if named is None else named[rank]
        label = _label(category, name, None if values is None else float(values[rank]))
        colour = word_colour(rank if category is None else category)
        marks.append(BoxMark(rank, (x1, y1, x2, y2), width, colour, label))
    return marks


def draw(
    image: ImageLike,
    found: Any,
    names: Names | None = None,
    *,
    obj_id: ArrayLike | None = None,
    scores: ArrayLike | None = None,
    labels: int = LABELS,
) -> Image.Image:
    """The image (H, W) with its boxes, RGB: the better a box, the thicker its line and the later it is drawn.

    ``found``, ``names``, ``obj_id``, ``scores``: as for ``marks_of``. ``labels``:
    how many of the best boxes carry class and score, unless they would cover a better one's.
    Raises ImageError, UsageError.

    Example:
        >>> draw(photograph, extractor.boxes(photograph)[0]).size == (photograph.shape[1], photograph.shape[0])
        True
    """
    picture = _as_picture(image)
    marks = marks_of(found, picture.size, names, obj_id=obj_id, scores=scores)
    pen = ImageDraw.Draw(picture)
    for mark in reversed(marks):
        x1, y1, x2, y2 = mark.corners
        corners, width = (x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), max(1, round(mark.width))
        pen.rectangle(corners, outline="black", width=width + 1)  # an edge that is seen on any photograph
        pen.rectangle(corners, outline=mark.colour, width=width)
    font, shown = _font(picture, 30), marks[: max(0, labels)]
    for mark, plate in reversed(plates_of(shown, picture.size, lambda text: _text_size(pen, text, font))):
        _tag(pen, mark, plate, font)
    return picture


def draw_words(
    image: ImageLike, ids: ArrayLike, *, numbers: bool = False, opacity: float = OPACITY, lines: bool = True
) -> Image.Image:
    """The image (H, W) in gray with its grid tinted by visual word, RGB: a word has one colour in all pictures, and of
    more words than ``PALETTE`` has colours some share one.

    ``ids``: the word of each cell, (g, g) or (g * g,) row by row. ``numbers``: write each word's number into its cell.
    ``lines``: a line where two neighbours are of different words. Raises ImageError, UsageError.

    Example:
        >>> draw_words(photograph, [[0, 0], [1, 2]]).mode
        'RGB'
    """
    if not 0 <= opacity <= 1:
        raise UsageError(f"opacity is {opacity}: expected 0 to 1")
    picture = _as_picture(image)
    words = grid_of(ids)
    size = len(words)
    columns, rows = (np.rint(np.linspace(0, side, size + 1)).astype(int).tolist() for side in picture.size)
    tint = Image.new("RGB", picture.size)
    pen = ImageDraw.Draw(tint)
    for y, x in np.ndindex(words.shape):
        corners = (columns[x], rows[y], columns[x + 1] - 1, rows[y + 1] - 1)
        if corners[2] >= corners[0] and corners[3] >= corners[1]:
            pen.rectangle(corners, fill=word_colour(int(words[y, x])))
    picture = Image.blend(picture.convert("L").convert("RGB"), tint, opacity)
    pen = ImageDraw.Draw(picture)
    if lines:
        _draw_edges(pen, words, columns, rows, max(1, round(min(picture.size) / 250)))
    if numbers:
        font = _font(picture, 28)
        for y, x in np.ndindex(words.shape):
            centre = ((columns[x] + columns[x + 1]) / 2, (rows[y] + rows[y + 1]) / 2)
            pen.text(centre, str(words[y, x]), "white", font, anchor="mm", stroke_width=1, stroke_fill="black")
    return picture


def grid_of(ids: ArrayLike) -> NDArray[np.int64]:
    """Words as a square (g, g). Raises UsageError where they are no square of whole numbers from 0."""
    words = _array(ids, "words")
    size = round(words.size**0.5)
    square = words.shape == (size, size) or words.shape == (size * size,)
    if not (size and square and words.dtype.kind in "iu" and words.min() >= 0):
        raise UsageError(
            f"words of shape {words.shape}, {words.dtype}: expected whole numbers from 0, (g, g) or (g * g,)"
        )
    return words.reshape(size, size).astype(np.int64)


def edges_of(words: NDArray[np.int64]) -> list[tuple[int, int, int, int]]:
    """Lines x1, y1, x2, y2, in cells, between neighbours of different words."""
    across = [(int(x) + 1, int(y), int(x) + 1, int(y) + 1) for y, x in np.argwhere(words[:, 1:] != words[:, :-1])]
    down = [(int(x), int(y) + 1, int(x) + 1, int(y) + 1) for y, x in np.argwhere(words[1:] != words[:-1])]
    return across + down


def _draw_edges(
    pen: ImageDraw.ImageDraw, words: NDArray[np.int64], columns: list[int], rows: list[int], width: int
) -> None:
    for x1, y1, x2, y2 in edges_of(words):
        pen.line((columns[x1], rows[y1], columns[x2], rows[y2]), fill="white", width=width)


def _as_picture(image: ImageLike) -> Image.Image:
    """A new RGB image, not turned by EXIF: boxes and cells are those of the pixels as they are stored."""
    return Image.fromarray(np.asarray(decode_image(checked_image(image)), dtype=np.uint8))


def _array(values: Any, name: str) -> NDArray[Any]:
    """Raises UsageError for rows of different lengths."""
    try:
        return np.asarray(values)
    except ValueError as error:
        raise UsageError(f"{name}: rows of different lengths") from error


def _boxes_of(found: Any) -> NDArray[np.float64]:
    """(N, 4). Raises UsageError."""
    boxes = _array(getattr(found, "boxes", found), "boxes")
    if boxes.ndim == 2 and boxes.shape[1] == 4 and boxes.dtype.kind in "iuf" and np.isfinite(boxes).all():
        return boxes.astype(np.float64)
    what = f"shape {boxes.shape}, {boxes.dtype}" if boxes.dtype != object else f"type {type(found).__name__}"
    expected = "what boxes() found in one image, or finite numbers (N, 4): x1 y1 x2 y2"
    raise UsageError(f"boxes of {what}: expected {expected}")


def _column(values: ArrayLike | None, count: int, name: str) -> NDArray[Any] | None:
    """``values`` as (count,). Raises UsageError."""
    if values is None:
        return None
    column = _array(values, name)
    if column.shape != (count,) or column.dtype.kind not in "iuf":
        raise UsageError(f"{name} of shape {column.shape}, {column.dtype}: expected a number for each of {count} boxes")
    return column


def _name(category: int | None, names: Sequence[str] | None) -> str:
    """The name of a class; empty where it has none."""
    if category is None or names is None or not 0 <= category < len(names):
        return ""
    return str(names[category])


def _label(category: int | None, name: str, score: float | None) -> str:
    if not name and category is not None:
        name = "background" if category == BACKGROUND else f"class {category}"
    parts = [printable(name)[:MAX_LABEL], "" if score is None else f"{score:.2f}"]
    return " ".join(filter(None, parts))


def _font(picture: Image.Image, part: int) -> Any:
    return ImageFont.load_default(max(9, round(min(picture.size) / part)))


Plate = tuple[float, float, float, float]
"""Left, top, width and height, in pixels of the original image, of what a label stands on."""


def plates_of(
    marks: Sequence[BoxMark], size: tuple[int, int], text_size: Callable[[str], tuple[float, float]]
) -> list[tuple[BoxMark, Plate]]:
    """Where the labels stand in an image of ``size`` (W, H), best first: above their box's corner where there is room,
    inside the image. One that would cover a better one's is left out. ``text_size``: (width, height) with its edges."""
    placed: list[tuple[BoxMark, Plate]] = []
    for mark in marks:
        w, h = text_size(mark.label)
        x = min(mark.corners[0], max(0.0, size[0] - w))
        y = mark.corners[1] - h if mark.corners[1] >= h else min(mark.corners[1], max(0.0, size[1] - h))
        covers = any(x < a + c and a < x + w and y < b + d and b < y + h for _, (a, b, c, d) in placed)
        if mark.label and not covers:
            placed.append((mark, (x, y, w, h)))
    return placed


def _text_size(pen: ImageDraw.ImageDraw, text: str, font: Any) -> tuple[float, float]:
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    pad = _edge(bottom - top)
    return right - left + 2 * pad, bottom - top + 2 * pad


def _edge(height: float) -> int:
    """Pixels around a text of this height."""
    return max(1, round(height / 5))


def _tag(pen: ImageDraw.ImageDraw, mark: BoxMark, plate: Plate, font: Any) -> None:
    """The label on a plate of the box's colour."""
    x, y, w, h = plate
    left, top, _, bottom = pen.textbbox((0, 0), mark.label, font=font)
    pad = _edge(bottom - top)
    pen.rectangle((x, y, x + w - 1, y + h - 1), fill=mark.colour)
    pen.text((x + pad - left, y + pad - top), mark.label, ink_on(mark.colour), font)


def ink_on(colour: str) -> str:
    """Black or white, whichever is read better on ``#rrggbb``: the contrast of WCAG 2."""
    channels = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    luminance = float(linear @ (0.2126, 0.7152, 0.0722))
    return "#000000" if (luminance + 0.05) / 0.05 >= 1.05 / (luminance + 0.05) else "#ffffff"

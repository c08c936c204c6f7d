"""Boxes that a file gives, by image id: ground truth, words read in an image, what another detector found.

    .h5    <image id>/boxes: numbers (N, 4), as in the files of this kit
    .json  {"<image id>": [[x1, y1, x2, y2], ...], ...}
    .npy   rows of the columns image_id (text or a whole number) and box (4 numbers); no pickle is read

Numbers are pixels of the original image. The file is not trusted: sizes are bounded, and every box has to be finite, no
smaller than nothing, and not wholly beside its image, where there is nothing to compute features of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from .config import BoxFormat
from .detector.boxes import from_corner_and_sides
from .errors import ImageError, StoreError, UsageError, reason
from .names import printable
from .storage import bounded
from .storage.store import array_of, image_ids, open_features, read_array

MOST_JSON: Final = 1 << 29
"""Bytes: the boxes of Visual Genome's 108,077 images have about 200 MB, which take 1.7 GB of memory."""
MOST_BOXES: Final = 1000
"""Per image, as many as are ever proposed: more would only ask for memory."""
FARTHEST: Final = 1e6
"""Pixels: a coordinate beyond it is none of an image."""

BoxesOf = Callable[[str], NDArray[np.float32]]
"""Image id -> its boxes (N, 4) float32 x1, y1, x2, y2 in pixels of the original image, N at least 1. Raises
ImageError, also for an image of which the file has none. May be called from several threads."""


def open_boxes(path: Path, form: BoxFormat) -> BoxesOf:
    """The boxes in the file ``path``, which has them as ``form``. Raises UsageError for no such file."""
    if path.suffix not in READERS:
        raise UsageError(f"{printable(path)}: boxes are read from {', '.join(READERS)} files")
    try:
        look_up = READERS[path.suffix](path)
    except (OSError, ValueError, StoreError) as error:
        expected = EXPECTED[path.suffix]
        raise UsageError(f"{printable(path)} is no file of boxes: {reason(error)}; expected {expected}") from error

    def boxes_of(image_id: str) -> NDArray[np.float32]:
        try:
            found = look_up(image_id)
        except (StoreError, OSError, ValueError, TypeError, OverflowError) as error:
            raise ImageError(f"its boxes in {printable(path.name)} cannot be read: {error}") from error
        if found is None or found.shape[:1] == (0,):
            raise ImageError(f"{printable(path.name)} gives no boxes for it")
        return _checked(found, form, path)

    return boxes_of


def _checked(found: NDArray[Any], form: BoxFormat, path: Path) -> NDArray[np.float32]:
    """As float32 x1, y1, x2, y2. Raises ImageError for what are no boxes."""
    name = printable(path.name)
    if found.ndim != 2 or found.shape[1] != 4 or found.dtype.kind not in "iuf":
        raise ImageError(f"{name} gives an array {found.shape} of {found.dtype} for it, expected numbers (N, 4)")
    if len(found) > MOST_BOXES:
        raise ImageError(f"{name} gives {len(found):,} boxes for it, expected at most {MOST_BOXES:,}")
    with np.errstate(over="ignore", invalid="ignore"):
        boxes = np.ascontiguousarray(found, np.float32)
    sides = boxes[:, 2:] - FIRST[form] * boxes[:, :2]
    wrong = np.flatnonzero(~((np.abs(boxes) <= FARTHEST).all(1) & (sides >= 0).all(1)))
    if len(wrong):
        numbers = ", ".join(f"{n:g}" for n in found[wrong[0]].tolist())
        raise ImageError(f"box {wrong[0]} of it in {name} is ({numbers}), which as {form} is no box of an image")
    return TO_CORNERS[form](boxes)


def refuse_beside(boxes: NDArray[np.float32], height: float, width: float) -> None:
    """Raise ImageError for a box without a pixel of the image with its padding, of this size in original pixels."""
    beside = (boxes[:, 2:] <= -1).any(1) | (boxes[:, :2] >= (width, height)).any(1)
    for index in np.flatnonzero(beside)[:1]:
        numbers = ", ".join(f"{n:g}" for n in boxes[index].tolist())
        raise ImageError(
            f"box {index} given for it, x1, y1, x2, y2 = ({numbers}), lies wholly beside the image: numbers are pixels "
            "of the original image, not of a resized one"
        )


FIRST: Final[dict[BoxFormat, int]] = {"xyxy": 1, "xywh": 0}
"""How often the first corner is in the other two numbers."""
TO_CORNERS: Final[dict[BoxFormat, Callable[[NDArray[np.float32]], NDArray[np.float32]]]] = {
    "xyxy": lambda boxes: boxes,
    "xywh": lambda boxes: from_corner_and_sides(torch.from_numpy(boxes)).numpy(),
}

# --- the kinds of files ---------------------------------------------------------------------------------

LookUp = Callable[[str], NDArray[Any] | None]


def _hdf5(path: Path) -> LookUp:
    file = open_features(path)
    known = set(image_ids(file))

    def look_up(image_id: str) -> NDArray[Any] | None:
        return read_array(array_of(file, image_id, "boxes")) if image_id in known else None

    return look_up


def _json(path: Path) -> LookUp:
    document = bounded.read_json(path, MOST_JSON)
    if not isinstance(document, Mapping):
        raise ValueError(f"a {type(document).__name__}")

    def look_up(image_id: str) -> NDArray[Any] | None:
        rows = document.get(image_id)
        return None if rows is None else np.array(rows)

    return look_up


def _npy(path: Path) -> LookUp:
    rows = bounded.load_npy(path, records=True)
    names = rows.dtype.names or ()
    if rows.ndim != 1 or set(names) != {"image_id", "box"}:
        raise ValueError(
            f"an array of shape {rows.shape} with the columns {', '.join(map(printable, names)) or 'none'}"
        )
    order = np.argsort(rows["image_id"], kind="stable")  # of one image: in the file's order
    ids, starts = np.unique(rows["image_id"][order], return_index=True)
    parts = dict(zip(ids.astype(str).tolist(), np.split(order, starts[1:]), strict=True))

    def look_up(image_id: str) -> NDArray[Any] | None:
        found: NDArray[Any] | None = rows["box"][parts[image_id]] if image_id in parts else None
        return found

    return look_up


READERS: Final[dict[str, Callable[[Path], LookUp]]] = {".h5": _hdf5, ".json": _json, ".npy": _npy}
EXPECTED: Final = {
    ".h5": "an array (N, 4) <image id>/boxes",
    ".json": '{"image id": [[x1, y1, x2, y2], ...], ...}, of at most 0.5 GB: .h5 and .npy may have more',
    ".npy": "rows of the columns image_id and box (4 numbers), without pickles",
}

"""Which arrays an image has in a file of each kind, of which type and shape: what a file should hold by what it says of
itself, and by what most of its images have where it says nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from ..config import OPTION
from . import guard
from .half import FEATURES_DTYPE

BOXES: Final = {"features": "<f4", "obj_id": "<i8", "boxes": "<f4", "img_w": "<i8", "img_h": "<i8"}
PUBLISHED: Final = {"grid": {"features": "<f4"}, "boxes": BOXES}
"""Arrays of each kind of file and their types."""
OPTIONAL: Final = {"cls_prob": "<f4", "obj_conf": "<f4", "features_fc7": "<f4"}
PER_BOX: Final = ("features", "obj_id", "boxes", *OPTIONAL)
"""Arrays of a box file with a row per box."""

Layout = Mapping[str, list[Any]]
"""Of one image: name -> [dtype, shape]."""


@dataclass(frozen=True)
class Expected:
    """What the arrays of every image of one file should be."""

    arrays: Layout
    """A shape of None: any; a side of None: as many as there are boxes."""
    least: int = 0
    most: int | None = None
    """Boxes of an image, where their number varies."""

    @classmethod
    def of(cls, made: Mapping[str, Any], usual: Layout) -> Expected:
        """Of a file with the provenance ``made``, most of whose images have the arrays ``usual``."""
        kind = made.get("kind") if made.get("kind") in PUBLISHED else "boxes" if "boxes" in usual else "grid"
        types = {**PUBLISHED[str(kind)], **{name: OPTIONAL[name] for name in OPTIONAL if name in usual}}
        if made.get(FEATURES_DTYPE) == "float16":
            types |= dict.fromkeys((name for name in types if name.startswith("features")), "<f2")
        arrays = {name: [dtype, usual.get(name, [dtype, None])[1]] for name, dtype in types.items()}
        features = arrays["features"][1]
        if features is None:
            return cls(arrays)
        grid, boxes = made.get("grid_size"), made.get("num_boxes")
        if "boxes" not in arrays:
            if isinstance(grid, int) and len(features) == 3:
                arrays["features"][1] = [grid, grid, features[-1]]
            return cls(arrays)
        least, given = made.get(OPTION + "min_boxes"), OPTION + "boxes_sha256" in made
        varies = given or isinstance(least, int)
        if varies or (isinstance(boxes, int) and len(features) == 2):
            _set_rows(arrays, None if varies else boxes)
        return cls(arrays, least or 1, None if given else boxes) if varies else cls(arrays)

    def wrong_with(self, layout: Layout) -> str:
        """What of one image's arrays is not as it should be; empty where all is."""
        wrong = [f"has no {guard.shown(name)}" for name in self.arrays if name not in layout]
        wrong += [
            f"has an array {guard.shown(name)}, which is not expected" for name in layout if name not in self.arrays
        ]
        return "; ".join([*wrong, *self._wrong_arrays(layout)])

    def _wrong_arrays(self, layout: Layout) -> Iterator[str]:
        there = [(name, *expected) for name, expected in self.arrays.items() if name in layout]
        rows = layout["features"][1][:1] if "features" in layout else []
        for name, dtype, shape in there:
            found_dtype, found_shape = layout[name]
            if found_dtype != dtype:
                yield f"{name} are {np.dtype(found_dtype)}, expected {np.dtype(dtype)}"
            wanted = shape and [*(rows if shape[0] is None else shape[:1]), *shape[1:]]
            if shape is not None and found_shape != wanted:
                yield f"{name} have the shape {tuple(found_shape)}, expected {tuple(wanted)}"
        if rows and self.least and not self.least <= rows[0] <= (rows[0] if self.most is None else self.most):
            yield f"{rows[0]} boxes, expected {self.least} to {self.most}"


def _set_rows(arrays: dict[str, list[Any]], rows: int | None) -> None:
    """Let every array that has a row per box have so many."""
    for name in PER_BOX:
        if name in arrays and arrays[name][1]:
            arrays[name][1] = [rows, *arrays[name][1][1:]]
    arrays["boxes"][1] = [rows, 4]
    arrays["obj_id"][1] = [rows]

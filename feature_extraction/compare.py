"""How far two results are apart: one ``Difference`` per image, one ``Tolerance``, one judgement.

N = boxes, D = feature dimension. Arrays are those of a feature file (storage.store):

    features   float32 (G, G, D) or (N, D)      obj_id   int64 (N,)
    boxes      float32 (N, 4), x1, y1, x2, y2, pixels of the original image

``compare_rows`` holds row against row: for two computations of the same network, which choose the same boxes in the
same order. ``compare_matched`` finds each box again by its overlap first: for results of other machines and other
builds, where near-ties of the ranking change places. ``level_of`` says in one word how far apart they are. numpy only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .tolerance import LADDER, Difference, Level, Tolerance

Arrays = Mapping[str, NDArray[Any]]


PIXEL: Final = 1.0
MATCH_IOU: Final = 0.5
"""Two boxes that overlap less are not taken for the same one."""


def relative(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """Largest absolute difference over the largest absolute value expected; infinite where one is not a number."""
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.abs(found.astype(np.float64) - expected).max(initial=0.0)
        worst = float(apart / (np.abs(expected).max(initial=0.0) or 1.0))
    return worst if np.isfinite(worst) else float("inf")


def problems_of_form(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """Arrays (or data sets of HDF5) that are missing, or of another shape or type; further ones are no problem."""
    missing = sorted(set(expected) - set(found))
    if missing:
        return [f"without {', '.join(missing)}"]
    return [
        f"{name}: {found[name].dtype} {found[name].shape}, expected {array.dtype} {array.shape}"
        for name, array in expected.items()
        if (found[name].shape, found[name].dtype) != (array.shape, array.dtype)
    ]


def compare_rows(found: Arrays, expected: Arrays) -> Difference:
    """Row against row. Raises ValueError where the arrays are not of one form."""
    if problems := problems_of_form(found, expected):
        raise ValueError("; ".join(problems))
    features = relative(found["features"], expected["features"])
    if "boxes" not in expected:
        return Difference(features=features)
    boxes = float(_apart(found["boxes"], expected["boxes"]).max(initial=0.0))
    return Difference(
        features=features,
        boxes=boxes if np.isfinite(boxes) else float("inf"),
        classes=int((found["obj_id"] != expected["obj_id"]).sum()),
    )


@dataclass(frozen=True)
class Matches:
    """Which boxes are the same ones: row ``found[i]`` is row ``expected[i]``; each row at most once."""

    found: NDArray[np.intp]
    """(M,) rows of the arrays found."""
    expected: NDArray[np.intp]
    """(M,) rows of the arrays expected."""
    apart: NDArray[np.float64]
    """(M,) pixels of the original image, the farthest edge of the two."""
    same_class: NDArray[np.bool_]
    """(M,)"""


def match_boxes(found: Arrays, expected: Arrays) -> Matches:
    """Pairs of boxes by descending overlap, down to ``MATCH_IOU``; pairs of one class before all others."""
    iou = overlap(found["boxes"], expected["boxes"])
    same = found["obj_id"][:, None] == expected["obj_id"][None, :]
    rows, columns = np.nonzero(iou >= MATCH_IOU)
    best_first = np.argsort(-(iou[rows, columns] + same[rows, columns]), kind="stable")
    taken: dict[int, int] = {}
    free = set(range(len(expected["boxes"])))
    for row, column in zip(rows[best_first].tolist(), columns[best_first].tolist(), strict=True):
        if row not in taken and column in free:
            taken[row] = column
            free.remove(column)
    mine, theirs = np.array(list(taken), np.intp), np.array(list(taken.values()), np.intp)
    apart = _apart(found["boxes"][mine], expected["boxes"][theirs]).max(1, initial=0.0)
    return Matches(mine, theirs, apart, same[mine, theirs])


def compare_matched(found: Arrays, expected: Arrays, within: float) -> Difference:
    """Each box against the one expected that it overlaps most, if it is of the same class and no edge is further off
    than ``within`` pixels; arrays without boxes row against row. The arrays are of one form.

    The last box may be another one where all others are found again: it nearly tied with the next of the ranking."""
    if "boxes" not in expected:
        return Difference(features=relative(found["features"], expected["features"]))
    if not len(expected["boxes"]):
        return Difference(features=None)
    pairs = match_boxes(found, expected)
    same = pairs.same_class & (pairs.apart <= within)
    if not same.any():
        return Difference(features=None, matched=0.0)
    mine, theirs, boxes = pairs.found[same], pairs.expected[same], len(expected["boxes"])
    return Difference(
        features=relative(found["features"][mine], expected["features"][theirs]),
        boxes=float(pairs.apart[same].max()),
        matched=1.0 if _only_the_last_differs(mine, theirs, boxes) else len(mine) / boxes,
    )


def _only_the_last_differs(mine: NDArray[np.intp], theirs: NDArray[np.intp], boxes: int) -> bool:
    """Whether one box is missing of each list, and it is the last but for a swap with its neighbour."""
    lacking = [set(range(boxes)) - set(rows.tolist()) for rows in (mine, theirs)]
    return all(len(rows) == 1 and min(rows) >= boxes - 2 for rows in lacking)


def overlap(found: NDArray[Any], expected: NDArray[Any]) -> NDArray[np.float64]:
    """Intersection over union (N, M) of boxes (N, 4) and (M, 4), whichever corners they are given by; corners are
    pixels, which have an area, so that a box of one point is found again too. 0 where an edge is not a number."""
    a, b = (boxes.astype(np.float64).reshape(-1, 2, 2) for boxes in (found, expected))
    low, high = np.maximum(a.min(1)[:, None], b.min(1)[None]), np.minimum(a.max(1)[:, None], b.max(1)[None])
    with np.errstate(invalid="ignore", over="ignore"):
        inter = (high - low + PIXEL).clip(min=0).prod(-1)
        areas = [(boxes.max(1) - boxes.min(1) + PIXEL).prod(-1) for boxes in (a, b)]
        iou = inter / (areas[0][:, None] + areas[1][None, :] - inter)
    return np.asarray(np.nan_to_num(iou, nan=0.0))


# --- the ladder -------------------------------------------------------------------------------------------


def level_of(found: Arrays, expected: Arrays) -> Level:
    """The lowest rung of ``LADDER`` that two arrays of one form are within."""
    if all(np.array_equal(found[name], array) for name, array in expected.items()):
        return Level.EQUAL
    for level, tolerance in LADDER.items():
        if not out_of_tolerance([compare_matched(found, expected, tolerance.boxes)], tolerance):
            return level
    return Level.DIFFERENT


# --- judging ----------------------------------------------------------------------------------------------


def out_of_tolerance(differences: Iterable[Difference], tolerance: Tolerance) -> list[str]:
    """What of these images' differences is too large, in words; empty: everything is within. No image at all, or
    none that could be compared, is out of tolerance."""
    given = list(differences)
    q = tolerance.quantile
    of_images = "" if q == 1 else f" at quantile {q:g} of the images"
    features = _values(given, "features")
    said = [] if features else ["no box is found again" if given else "no image could be compared"]
    if features and not (worst := _quantile(features, q)) <= tolerance.features:
        said.append(f"features: {worst:.2g} of the largest{of_images}, beyond {tolerance.features:g}")
    if (boxes := _values(given, "boxes")) and not (worst := _quantile(boxes, q)) <= tolerance.boxes:
        said.append(f"boxes: {worst:.2g} pixels off{of_images}, beyond {tolerance.boxes:g}")
    if (classes := _values(given, "classes")) and not (worst := _quantile(classes, q)) <= tolerance.classes:
        said.append(f"classes: {worst:g} boxes of another class{of_images}, beyond {tolerance.classes}")
    if (matched := _values(given, "matched")) and not (worst := _quantile(matched, 1 - q)) >= tolerance.matched:
        said.append(f"boxes: {worst:.0%} found again{of_images}, expected {tolerance.matched:.0%}")
    return said


def quantiles(differences: Sequence[Difference], name: str, shares: Sequence[float]) -> list[tuple[float, float]]:
    """(share of the images, their worst value) of one field; of ``matched`` the smallest. Empty: no values."""
    values = _values(differences, name)
    if not values:
        return []
    return [(share, _quantile(values, 1 - share if name == "matched" else share)) for share in shares]


def _values(differences: Iterable[Difference], name: str) -> list[float]:
    return [value for value in (getattr(d, name) for d in differences) if value is not None]


def _quantile(values: Sequence[float], q: float) -> float:
    """Without interpolation between a number and infinity."""
    return float(np.quantile(values, q, method="linear" if np.isfinite(values).all() else "higher"))


def _apart(found: NDArray[Any], expected: NDArray[Any]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore"):
        apart: NDArray[np.float64] = np.abs(found.astype(np.float64) - expected)
    return apart

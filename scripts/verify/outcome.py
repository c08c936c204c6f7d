"""How far what was computed of one image is from the published features.

N = boxes, G = grid size, D = feature dimension; arrays as in a feature file (storage.store). Rows are cells or boxes.

A hypothesis of another program gives the published numbers or it does not. Roundings fall out alike only in part: where
one sum ends a last bit higher the next rounding goes the other way, and a program that has not folded the batch norms
rounds other weights. So what they change is compared: its direction in each row, and its size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from feature_extraction.compare import Arrays, level_of, match_boxes, problems_of_form
from feature_extraction.tolerance import Level

FAR: Final = 10.0
"""Pixels between two boxes of the same thing from which they count as two."""


@dataclass(frozen=True)
class Roundings:
    """What a precision changes of our float32 features, beside what the published ones differ by: of the rows that all
    three have, the medians, since a box that moved changes more than roundings do."""

    alike: float
    """Correlation of the two changes of a row: 1 the same roundings; 0 none in common, give or take 1 / sqrt(D)."""
    size: float
    """Size of the precision's changes over that of the published ones."""


@dataclass(frozen=True)
class Outcome:
    """How one image came out."""

    left: float
    """Distance from the published features."""
    level: Level
    roundings: Roundings | None = None
    """Of a hypothesis about precision."""


def outcome_of(found: Arrays | None, expected: Arrays, ours: Arrays | None = None) -> Outcome:
    """None, or arrays of another form, have nothing in common with the expected ones. ``ours``: as computed in float32,
    where roundings are to be compared."""
    if found is None or problems_of_form(found, expected):
        return Outcome(float("inf"), Level.DIFFERENT)
    roundings = roundings_of(found, expected, ours) if ours is not None else None
    return Outcome(distance(found, expected), level_of(found, expected), roundings)


def distance(found: Arrays, expected: Arrays) -> float:
    """How far two arrays of one form are apart, in the units of the expected ones: 0 the same, about 1 nothing in
    common."""
    if "boxes" not in expected:
        return _relative_rms(found["features"], expected["features"])
    if not len(expected["boxes"]):
        return 0.0
    pairs = match_boxes(found, expected)
    apart = np.ones(len(expected["boxes"]))
    for row, (mine, theirs) in enumerate(zip(pairs.found, pairs.expected, strict=True)):
        features = _relative_rms(found["features"][mine], expected["features"][theirs])
        apart[theirs] = min(1.0, features + pairs.apart[row] / FAR)
    return float(np.sqrt((apart**2).mean()))


def _relative_rms(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.linalg.norm(found.astype(np.float64) - expected) / (np.linalg.norm(expected.astype(float)) or 1.0)
    return float(apart) if np.isfinite(apart) else float("inf")


def roundings_of(found: Arrays, expected: Arrays, ours: Arrays) -> Roundings | None:
    """None where no row is in all three, or nothing changed in those that are, or not to a number."""
    mine, theirs = _changes(ours, found), _changes(ours, expected)
    rows = [row for row in mine if row in theirs]
    changed, wanted = (np.array([changes[row] for row in rows]) for changes in (mine, theirs))
    sizes = [np.linalg.norm(change, axis=-1) for change in (changed, wanted)]
    both = (sizes[0] > 0) & (sizes[1] > 0)
    if not both.any() or not np.isfinite(sizes).all():
        return None
    alike = (changed * wanted).sum(-1)[both] / (sizes[0] * sizes[1])[both]
    return Roundings(float(np.median(alike)), float(np.median(sizes[0][both]) / np.median(sizes[1][both])))


def _changes(ours: Arrays, other: Arrays) -> dict[int, NDArray[np.float64]]:
    """Row of ours -> (D,) how the features of that row differ."""
    before, after = (a["features"].reshape(-1, a["features"].shape[-1]).astype(np.float64) for a in (ours, other))
    if "boxes" not in ours:
        return dict(enumerate(after - before))
    pairs = match_boxes(other, ours)
    return {
        row: after[now] - before[row] for now, row in zip(pairs.found.tolist(), pairs.expected.tolist(), strict=True)
    }

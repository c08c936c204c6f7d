"""Which hypothesis makes the published numbers: images recomputed with one defect at a time.

Every row of the table is tried on the worst image, until one leaves float32 rounding alone; the three best of them on
the other images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from feature_extraction.compare import Arrays, Level, level_of, match_boxes, problems_of_form
from feature_extraction.config import Precision, Spec
from feature_extraction.detector.build import Detector, load_detector
from feature_extraction.detector.files import CheckpointFiles
from feature_extraction.errors import ImageError
from feature_extraction.progress import Progress

from .causes import Cause
from .hypotheses import OURS, Hypothesis, Size, table

EXPLAINS: Final = 1 / 3
"""What is left of the difference, at most, where a hypothesis counts as the cause. The right one leaves float32
rounding where it can be computed alike."""
NOISE_EXPLAINS: Final = 0.7
"""The same for TF32 and half precision, whose roundings fall out alike only in part: on the tiny model 0.03 to 0.57 of
the difference is left. A noise that has nothing to do with the difference adds to it: more than 1 is left."""
FINALISTS: Final = 3
FAR: Final = 10.0
"""Pixels between two boxes of the same thing from which they count as two."""


@dataclass(frozen=True)
class Case:
    """One image to be explained."""

    id: str
    path: Path
    ours: Arrays
    published: Arrays
    common_sizes: tuple[Size, ...] = ()
    """What batches of its neighbours in the file would have been padded to."""


@dataclass
class Tried:
    """How well one hypothesis does."""

    hypothesis: Hypothesis
    left: list[float] = field(default_factory=list)
    """Of each image, its distance from the published features; in the order of the cases."""
    levels: list[Level] = field(default_factory=list)

    @property
    def total(self) -> float:
        return sum(self.left)


@dataclass(frozen=True)
class Explanation:
    """What recomputing showed."""

    ids: tuple[str, ...]
    baseline: Tried
    """The published way, against the published features."""
    own: tuple[Level, ...]
    """The published way, against our own file."""
    tried: tuple[Tried, ...]
    """Those that were tried on all images, best first."""
    rows: int
    """Hypotheses tried on the worst image."""

    @property
    def best(self) -> Tried | None:
        """The one that explains the difference; None where none does."""
        first = self.tried[0] if self.tried else None
        if first is None:
            return None
        bound = NOISE_EXPLAINS if first.hypothesis.cause is Cause.PRECISION else EXPLAINS
        return first if first.total <= bound * self.baseline.total else None

    @property
    def ours_is_to_blame(self) -> bool:
        """Whether the published features are what checkpoint and images give, and ours are not."""
        return max(self.baseline.levels) <= Level.ROUNDING < max(self.own)


def distance(found: Arrays, expected: Arrays) -> float:
    """How far two arrays are apart, in the units of the expected ones: 0 the same, about 1 nothing in common."""
    if problems_of_form(found, expected):
        return float("inf")
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


class Laboratory:
    """Computes hypotheses, with one detector of each precision at a time."""

    def __init__(self, files: CheckpointFiles, device: torch.device, spec: Spec) -> None:
        self._files, self._device, self._spec = files, device, spec
        self._loaded: dict[Precision, Detector] = {}

    def takes(self, hypothesis: Hypothesis) -> bool:
        """Whether it is one of this kind of features."""
        return type(self._spec) in hypothesis.kinds

    def try_on(self, hypothesis: Hypothesis, case: Case) -> Arrays | None:
        """The features of one image; None where the hypothesis gives none. Raises CheckpointError, DeviceError."""
        try:
            if not hypothesis.concerns(case.path):
                return None
            return hypothesis.compute(self._detector(hypothesis.precision), self._spec, case.path)
        except (ImageError, OSError, ValueError, cv2.error):
            return None

    def _detector(self, precision: Precision) -> Detector:
        if precision not in self._loaded:
            for other in set(self._loaded) - {"float32"}:
                del self._loaded[other]
            self._loaded[precision] = load_detector(
                self._files, engine="native", device=self._device, precision=precision
            )
        return self._loaded[precision]


def explain(laboratory: Laboratory, cases: Sequence[Case], own_size: Callable[[Path], Size]) -> Explanation:
    """Try the table on the cases, the worst first. Raises ImageError where the worst image cannot be read at all."""
    worst = cases[0]
    rows = [row for row in table(own_size(worst.path), worst.common_sizes) if laboratory.takes(row)]
    progress = Progress(len(rows) + len(cases) * (1 + FINALISTS), "recomputing")

    def tried(hypothesis: Hypothesis, some: Sequence[Case], before: Tried | None) -> Tried:
        result = Tried(hypothesis)
        for index, case in enumerate(some):
            arrays = laboratory.try_on(hypothesis, case)
            progress.advance(1, 0)
            if arrays is None and before is not None:
                result.left.append(before.left[index])
                result.levels.append(before.levels[index])
            else:
                result.left.append(float("inf") if arrays is None else distance(arrays, case.published))
                result.levels.append(_level(arrays, case.published))
        return result

    try:
        baseline = tried(OURS, cases, None)
        own = tuple(_level(laboratory.try_on(OURS, case), case.ours) for case in cases)
        first: list[Tried] = []
        for row in rows:
            first.append(tried(row, [worst], baseline))
            if first[-1].levels[0] <= Level.ROUNDING < baseline.levels[0]:
                break
        finalists = []
        for candidate in sorted(first, key=lambda t: t.total)[:FINALISTS]:
            rest = tried(candidate.hypothesis, cases[1:], _without_first(baseline))
            finalists.append(Tried(candidate.hypothesis, candidate.left + rest.left, candidate.levels + rest.levels))
    finally:
        progress.close()
    ids = tuple(case.id for case in cases)
    return Explanation(ids, baseline, own, tuple(sorted(finalists, key=lambda t: t.total)), len(first))


def _without_first(tried: Tried) -> Tried:
    return Tried(tried.hypothesis, tried.left[1:], tried.levels[1:])


def _level(found: Arrays | None, expected: Arrays) -> Level:
    if found is None or problems_of_form(found, expected):
        return Level.DIFFERENT
    return level_of(found, expected)

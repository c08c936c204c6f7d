"""Which hypothesis makes the published numbers: images recomputed with one defect at a time.

Every row of the table is tried on the worst image, those that the files suggest first, until one leaves float32
rounding alone or a precision rounds off alike; that one, or the three best, on the other images.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import Final

import cv2
import torch

from feature_extraction.compare import Arrays
from feature_extraction.config import Precision, Spec
from feature_extraction.detector.build import Detector, load_detector
from feature_extraction.detector.files import CheckpointFiles
from feature_extraction.errors import ImageError
from feature_extraction.progress import Progress
from feature_extraction.tolerance import Level

from .causes import Cause
from .evidence import some
from .hypotheses import OURS, Hypothesis, Size, table
from .outcome import Outcome, Roundings, outcome_of

EXPLAINS: Final = 1 / 3
"""What is left of the difference, at most, where a hypothesis counts as the cause. The right one leaves float32
rounding where it can be computed alike; one that only washes out what is particular to an image leaves 0.7 of the
difference between two that have nothing in common (a constant is nearer to everything by the root of 2)."""
SAME_ROUNDINGS: Final = 0.5
"""Correlation from which roundings are the same. Of two changes of one size, less is left than there was from here on;
by chance it is 0, give or take 0.13 with 64 features, 0.02 with 2048."""
SAME_SIZE: Final = 2.0
"""Factor within which roundings of another program are as large: TF32 and float16 round to the same 11 bits, bfloat16
to 8, which makes them 8 times as large."""
FINALISTS: Final = 3
"""Hypotheses that are tried on all images: the two that leave least, and the best precision."""


@dataclass(frozen=True)
class Case:
    """One image to be explained."""

    id: str
    path: Path
    ours: Arrays
    published: Arrays
    common_sizes: tuple[Size, ...] = ()
    """What batches of its neighbours in the file would have been padded to."""


@dataclass(frozen=True)
class Tried:
    """How well one hypothesis does against the published features, image by image in the order of the cases."""

    hypothesis: Hypothesis
    outcomes: tuple[Outcome, ...]

    @property
    def total(self) -> float:
        return sum(outcome.left for outcome in self.outcomes)

    @property
    def exact(self) -> int:
        """Images of which it gives the numbers to float32 rounding."""
        return sum(outcome.level <= Level.ROUNDING for outcome in self.outcomes)

    @property
    def roundings(self) -> Roundings | None:
        """Of a hypothesis about precision: the least alike of all images, and the size that is farthest from 1."""
        each = [outcome.roundings for outcome in self.outcomes if outcome.roundings is not None]
        if not each or len(each) < len(self.outcomes):
            return None
        return Roundings(min(r.alike for r in each), max((r.size for r in each), key=lambda size: abs(log(size))))

    @property
    def has_same_roundings(self) -> bool:
        return self.roundings is not None and self.roundings.alike >= SAME_ROUNDINGS

    @property
    def is_as_large(self) -> bool:
        """Whether roundings of this kind are as large as the difference, whether they are the same or not."""
        return self.roundings is not None and 1 / SAME_SIZE <= self.roundings.size <= SAME_SIZE


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
        for candidate in self.tried:  # what leaves least comes first
            if candidate.total <= EXPLAINS * self.baseline.total or candidate.has_same_roundings:
                return candidate
        return None

    @property
    def as_large(self) -> Tried | None:
        """The precision whose roundings are as large as the difference, if there is one."""
        return next((candidate for candidate in self.tried if candidate.is_as_large), None)

    @property
    def published_is_right(self) -> bool:
        """Whether the published features of the worst image are what checkpoint and images give, and ours are not."""
        return self.baseline.outcomes[0].level <= Level.ROUNDING

    @property
    def says_nothing(self) -> bool:
        """Whether neither file is anything like what checkpoint and images give: they are not those of the files."""
        return max(self.own) == Level.DIFFERENT and not self.published_is_right and self.best is None


class Laboratory:
    """Computes hypotheses, with one detector of each precision at a time."""

    def __init__(self, files: CheckpointFiles, device: torch.device, spec: Spec) -> None:
        self._files, self._device, self._spec = files, device, spec
        self._loaded: dict[Precision, Detector] = {}
        self._detector("float32")

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


class _Trials:
    """The cases, and how the published way does on each of them."""

    def __init__(self, laboratory: Laboratory, cases: Sequence[Case], progress: Progress) -> None:
        self._laboratory, self._cases, self._progress = laboratory, cases, progress
        self.seconds = float("inf")
        """Of the fastest extraction so far."""
        self._ours = [self._compute(OURS, case) for case in cases]
        both = list(zip(self._ours, cases, strict=True))
        self.baseline = tuple(outcome_of(found, case.published) for found, case in both)
        self.own = tuple(outcome_of(found, case.ours).level for found, case in both)

    def of(self, hypothesis: Hypothesis, which: slice) -> tuple[Outcome, ...]:
        """On some of the cases. Where a hypothesis gives nothing, it leaves what there was."""
        rounds = hypothesis.cause is Cause.PRECISION
        found = []
        for case, ours, before in zip(self._cases[which], self._ours[which], self.baseline[which], strict=True):
            arrays = self._compute(hypothesis, case)
            found.append(before if arrays is None else outcome_of(arrays, case.published, ours if rounds else None))
        return tuple(found)

    def _compute(self, hypothesis: Hypothesis, case: Case) -> Arrays | None:
        start = time.monotonic()
        arrays = self._laboratory.try_on(hypothesis, case)
        self.seconds = min(self.seconds, time.monotonic() - start)
        self._progress.advance(1, 0)
        return arrays


def explain(
    laboratory: Laboratory,
    cases: Sequence[Case],
    own_size: Callable[[Path], Size],
    likely: Sequence[Cause] = (),
    say: Callable[[str], None] = lambda text: None,
) -> Explanation:
    """Try the table on the cases, the worst first; the ``likely`` causes in their order, then the others. ``say`` hears
    what it will cost. Raises ImageError where the worst image cannot be read at all."""
    worst, rest = slice(0, 1), slice(1, None)
    rows = [row for row in table(own_size(cases[0].path), cases[0].common_sizes) if laboratory.takes(row)]
    rows.sort(key=lambda row: likely.index(row.cause) if row.cause in likely else len(likely))
    at_most = len(rows) + FINALISTS * (len(cases) - 1)
    progress = Progress(len(cases) + at_most, "recomputing")
    try:
        trials = _Trials(laboratory, cases, progress)
        baseline, ids = Tried(OURS, trials.baseline), tuple(case.id for case in cases)
        if trials.baseline[0].level <= Level.ROUNDING:  # of the worst image nothing is to be explained
            return Explanation(ids, baseline, trials.own, (), 0)
        say(
            f"recomputing {some(ids)}: at most {at_most} extractions of some {trials.seconds:.1f} s, more where "
            "padding enlarges; Ctrl-C leaves the verdict of the files"
        )
        first: list[Tried] = []
        for row in rows:
            if row.cause is not Cause.PRECISION and any(t.has_same_roundings for t in first):
                break  # which precision it was is seen once all of them are tried
            first.append(Tried(row, trials.of(row, worst)))
            if first[-1].exact:
                break
        finalists = [Tried(t.hypothesis, t.outcomes + trials.of(t.hypothesis, rest)) for t in _most_promising(first)]
    finally:
        progress.close()
    return Explanation(ids, baseline, trials.own, tuple(sorted(finalists, key=lambda t: t.total)), len(first))


def _most_promising(tried: Sequence[Tried]) -> list[Tried]:
    """The one that gives the numbers of one image; else those that leave least of it, and the precision whose roundings
    are most alike or, where they are not the same, nearest in size."""
    if tried[-1].exact:
        return [tried[-1]]

    def alike(t: Tried) -> tuple[float, float]:
        found = t.roundings
        assert found is not None
        return (found.alike if t.has_same_roundings else 0.0, -abs(log(found.size)))

    precisions = sorted((t for t in tried if t.roundings is not None), key=alike, reverse=True)
    least = sorted(tried, key=lambda t: t.total)[: FINALISTS - 1]
    return [*least, *(t for t in precisions[:1] if t not in least)]

"""What one image's two results show of why they differ, and what all images of a file show together.

N = boxes, G = grid size, D = feature dimension; arrays as in a feature file (storage.store).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from feature_extraction.compare import Arrays, compare_matched, level_of, match_boxes, relative
from feature_extraction.names import counted, printable
from feature_extraction.tolerance import LADDER, PUBLISHED, Difference, Level, Tolerance

Floats = NDArray[np.float64]
MOST_LISTED: Final = 5
"""Images, and problems, that are named; the JSON file has all."""
MARKS: Final = 16
"""Numbers by which features are found again under another id."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What one image showed; None: nothing to be said of it."""

    id: str
    level: Level
    difference: Difference
    source: str = ""
    """The image file that ours was made of, as our file records it."""
    correlation: float | None = None
    """Of the features, place by place, each channel less its mean over the places: 1 is the same picture."""
    turned: float | None = None
    """Of grids: the best correlation with ours turned by a quarter or half, or mirrored."""
    lower_right: float | None = None
    """Of grids: mean difference in the last row or the last column, the larger one, over that beside both: a batch is
    often padded on one side only."""
    sizes: tuple[int, int, int, int] | None = None
    """Of boxes: width and height of the image, ours, published."""
    beyond: tuple[int, int] = (0, 0)
    """Of boxes: how many reach beyond the image, ours, published."""
    suppressed: bool = False
    """Of boxes: whether most are the same to float32 rounding, and others of the middle of the list have no partner."""
    ours: Floats = field(default_factory=lambda: np.zeros(0), repr=False, compare=False)
    published: Floats = field(default_factory=lambda: np.zeros(0), repr=False, compare=False)
    """The first ``MARKS`` channels' means."""

    @property
    def differs(self) -> bool:
        """Beyond float32 rounding."""
        return self.level > Level.ROUNDING

    @property
    def jpeg(self) -> bool | None:
        """Whether the image is a JPEG file; None: our file does not say what it was made of."""
        return PurePath(self.source).suffix.lower() in (".jpg", ".jpeg") if self.source else None


@dataclass
class Findings:
    """What one pair of files showed."""

    faults: dict[str, list[str]] = field(default_factory=dict)
    """Of form: what is wrong -> the images that it is wrong of."""
    evidence: list[Evidence] = field(default_factory=list)
    channels: list[Floats] = field(default_factory=lambda: [np.zeros(0), np.zeros(0)], repr=False)
    """(D,) sums of all features of ours, and of the published ones, over the images that differ."""
    boxes: bool = False

    @property
    def problems(self) -> list[str]:
        """The faults in words, what is wrong of most images first."""
        return [f"{counted(len(ids))} {'is' if len(ids) == 1 else 'are'} {what}: {some(ids)}"
                for what, ids in sorted(self.faults.items(), key=lambda fault: -len(fault[1]))]  # fmt: skip

    def blame(self, what: str, *ids: str) -> None:
        """Note that ``what`` is wrong of these images."""
        if ids:
            self.faults.setdefault(what, []).extend(ids)

    @property
    def differences(self) -> list[Difference]:
        return [e.difference for e in self.evidence]

    @property
    def differing(self) -> list[Evidence]:
        return [e for e in self.evidence if e.differs]

    @property
    def worst_first(self) -> list[Evidence]:
        """The images that differ beyond float32 rounding, by level, boxes found again, features."""

        def badness(e: Evidence) -> tuple[float, ...]:
            apart = e.difference
            features = apart.features if apart.features is not None else float("inf")
            return (e.level, 1 - (apart.matched if apart.matched is not None else 1.0), features)

        return sorted(self.differing, key=badness, reverse=True)

    @property
    def levels(self) -> Mapping[Level, int]:
        counted = Counter(e.level for e in self.evidence)
        return {level: counted[level] for level in Level}

    @property
    def profile(self) -> float | None:
        """Correlation of the channels' means, over the images that differ: near 1 for one checkpoint and layer,
        whatever the images are; None where none differs."""
        return correlation(*self.channels) if self.channels[0].size else None

    def add(self, evidence: Evidence, found: Arrays, expected: Arrays) -> None:
        """One more image."""
        self.evidence.append(evidence)
        self.boxes = "boxes" in expected
        if evidence.differs:
            sums = [channel_means(arrays) for arrays in (found, expected)]
            self.channels = [a + b if a.size else b for a, b in zip(self.channels, sums, strict=True)]


def some(ids: Sequence[str]) -> str:
    """The first of them, for people."""
    more = " ..." if len(ids) > MOST_LISTED else ""
    return ", ".join(map(printable, ids[:MOST_LISTED])) + more


def channel_means(arrays: Arrays) -> Floats:
    """(D,) over all places."""
    features = arrays["features"]
    return np.asarray(features.reshape(-1, features.shape[-1]).mean(0, dtype=np.float64))


def correlation(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Of two arrays of one shape; 0 where one of them is constant or not finite."""
    with np.errstate(invalid="ignore"):
        return cosine(*(v.astype(np.float64) - v.mean(dtype=np.float64) for v in (a, b)))


def cosine(a: Floats, b: Floats) -> float:
    """Correlation of two arrays of one shape whose mean is 0."""
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        found = float(np.vdot(a, b) / np.sqrt(np.vdot(a, a) * np.vdot(b, b)))
    return found if np.isfinite(found) else 0.0


def centred(features: NDArray[Any]) -> Floats:
    """(places, D), each channel less its mean."""
    rows = features.reshape(-1, features.shape[-1]).astype(np.float64)
    return np.asarray(rows - rows.mean(0))


def look(image_id: str, found: Arrays, expected: Arrays, source: str, tolerance: Tolerance = PUBLISHED) -> Evidence:
    """What one image's arrays, of one form, show."""
    level = level_of(found, expected)
    plain: dict[str, Any] = {
        "id": image_id, "level": level, "source": source,
        "difference": compare_matched(found, expected, tolerance.boxes),
        "ours": channel_means(found)[:MARKS], "published": channel_means(expected)[:MARKS],
    }  # fmt: skip
    if level <= Level.ROUNDING:
        return Evidence(**plain)
    return Evidence(**plain, **(_of_boxes if "boxes" in expected else _of_grid)(found, expected))


def _of_grid(found: Arrays, expected: Arrays) -> dict[str, Any]:
    ours, theirs = found["features"], expected["features"]
    apart = np.abs(ours.astype(np.float64) - theirs).mean(-1)
    edge, elsewhere = max(apart[-1].mean(), apart[:, -1].mean()), apart[:-1, :-1].mean()
    mine, flat = centred(ours), centred(theirs)  # turned as well as not: the channels' means stay
    return {
        "correlation": cosine(mine, flat),
        "turned": max(cosine(turn.reshape(flat.shape), flat) for turn in turns(mine.reshape(ours.shape))),
        "lower_right": float(edge / elsewhere) if elsewhere > 0 else float("inf"),
    }


def turns(grid: NDArray[Any]) -> list[NDArray[Any]]:
    """The seven other ways in which EXIF may turn a square grid."""
    ways = [np.rot90(grid, quarters) for quarters in range(4)]
    return [*ways[1:], *(way[:, ::-1] for way in ways)]


def _of_boxes(found: Arrays, expected: Arrays) -> dict[str, Any]:
    pairs = match_boxes(found, expected)
    shown: dict[str, Any] = {}
    if {"img_w", "img_h"} <= set(found) & set(expected):
        shown["sizes"] = tuple(int(arrays[name]) for arrays in (found, expected) for name in ("img_w", "img_h"))
        ends = np.array([int(expected["img_w"]), int(expected["img_h"])] * 2, np.float64)
        shown["beyond"] = tuple(_beyond(arrays, ends) for arrays in (found, expected))
    if len(pairs.found) >= 3:
        ours, theirs = found["features"][pairs.found], expected["features"][pairs.expected]
        shown["correlation"] = cosine(centred(ours), centred(theirs))
    shown["suppressed"] = _lacks_some(found, expected)
    return shown


def _beyond(arrays: Arrays, ends: NDArray[np.float64]) -> int:
    """How many boxes reach beyond their image: into its padding."""
    return int((arrays["boxes"] > ends + 1e-3).any(1).sum())


def _lacks_some(found: Arrays, expected: Arrays) -> bool:
    """Whether more than half of the boxes are the same to float32 rounding, features included, and some are lacking."""
    bound = LADDER[Level.ROUNDING]
    pairs = match_boxes(found, expected)
    same = pairs.same_class & (pairs.apart <= bound.boxes)
    share = float(same.sum()) / max(1, len(expected["boxes"]))
    ours, theirs = (a["features"][rows[same]] for a, rows in ((found, pairs.found), (expected, pairs.expected)))
    return 0.5 < share < 1 and relative(ours, theirs) <= bound.features

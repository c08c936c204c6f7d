"""What the two files alone say of the cause: which images differ, how, and what of them is still the same.

A rule is a function from the findings to its reason, or None where it does not hold; the first that holds is told.
Causes that leave the same traces share a rule: ``--explain`` tells them apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median
from typing import Final

import numpy as np

from feature_extraction.names import printable
from feature_extraction.tolerance import Level

from .causes import Cause
from .evidence import Evidence, Findings

MOST: Final = 0.9
"""Share of the images that have to show a trace: a near-tie or an odd file may hide it in single ones."""
SAME_PICTURE: Final = 0.3
"""Correlation above which two grids, or boxes of one place, show the same picture."""
SAME_CHANNELS: Final = 0.5
"""Correlation of the channels' means above which checkpoint, layer and colours are the same. On synthetic weights other
seeds and fc7 have -0.2 to 0.0, RGB for BGR -0.2 to 0.2, another scale 0.4."""
SEVERAL: Final = 5
"""Boxes that reach into the padding: one or two may fail to by chance."""
SAME_MARKS: Final = 1e-3
MOST_LOOKED_UP: Final = 200
"""Images that are looked for under other ids, the worst first: each is held against all."""
EDGE: Final = 2.5
"""Difference in the last row or column over that elsewhere, from which padding is the cause: zeros beside the image
reach as far as the detector sees. Measured: padding 3.2 to 4.6 on X-152, whose sight reaches far, and 6 to 110 on the
tiny model; anything else at most 1.5, but for sides that are not floored and so padded a little: 1.4, and 2.2."""
Rule = Callable[[Findings], str | None]


@dataclass(frozen=True)
class Suspicion:
    """What a pattern suggests."""

    causes: tuple[Cause, ...]
    """More than one: the files alone do not tell them apart."""
    because: str


def suspect(found: Findings) -> Suspicion | None:
    """The first rule that holds; None where nothing differs beyond float32 rounding."""
    if not found.differing:
        return None
    for rule, causes in RULES:
        if because := rule(found):
            return Suspicion(causes, because)
    return Suspicion(NUMBERS, "no trace in the files tells which")


def _share(found: Findings, shows: Callable[[Evidence], object]) -> float:
    return sum(bool(shows(e)) for e in found.differing) / len(found.differing)


def _middle(values: Iterable[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return median(known) if known else None


def _under_another_id(found: Findings) -> str | None:
    """Published features that ours has, under another id."""
    marks = np.array([e.ours for e in found.evidence])
    ids = np.array([e.id for e in found.evidence], object)
    for evidence in found.worst_first[:MOST_LOOKED_UP]:
        theirs = evidence.published
        near = ids[np.abs(marks - theirs).max(1) <= SAME_MARKS * float(np.abs(theirs).max())]
        if theirs.any() and len(near) and evidence.id not in near:
            return f"{printable(evidence.id)} holds what ours holds under {printable(near[0])}"
    return None


def _exchanged_sides(found: Findings) -> str | None:
    other = [e for e in found.differing if e.sizes is not None and e.sizes[:2] != e.sizes[2:]]
    turned = [e for e in other if e.sizes is not None and e.sizes[:2] == e.sizes[:1:-1]]
    if not turned or len(turned) < MOST * len(other):
        return None
    return f"{printable(turned[0].id)} has width and height exchanged"


def _turned_grids(found: Findings) -> str | None:
    if (
        _share(found, lambda e: e.turned is not None and e.turned > max(SAME_PICTURE, (e.correlation or 0) + 0.1))
        < MOST
    ):
        return None
    return "the grids are the same, turned or mirrored"


def _other_sides(found: Findings) -> str | None:
    other = [e for e in found.differing if e.sizes is not None and e.sizes[:2] != e.sizes[2:]]
    if not other:
        return None
    w, h, width, height = other[0].sizes or (0, 0, 0, 0)
    return f"{printable(other[0].id)} has {width} x {height} pixels, ours {w} x {h}"


def _clipped(found: Findings) -> str | None:
    ours, theirs = (sum(e.beyond[of] for e in found.differing) for of in (0, 1))
    reach = f"none reaches beyond its image, {ours} of ours do where they differ"
    return reach if ours >= SEVERAL and theirs == 0 else None


def _same_boxes_other_features(found: Findings) -> str | None:
    def shows(e: Evidence) -> bool:
        apart = e.difference
        return (apart.matched or 0) >= MOST and (apart.features or 0) > 0.2 and (e.correlation or 0) < MOST

    return "boxes and classes are the same, the features are not" if _share(found, shows) >= MOST else None


def _some_boxes_lacking(found: Findings) -> str | None:
    if _share(found, lambda e: e.suppressed) < MOST:
        return None
    return "most boxes are the same to float32 rounding, single ones of the middle of the list are others"


def _other_channels(found: Findings) -> str | None:
    profile = found.profile
    if profile is None or profile >= SAME_CHANNELS:
        return None
    return f"the channels' means have a correlation of {profile:.2f} with ours: they mean something else"


def _single_other_pictures(found: Findings) -> str | None:
    def other(e: Evidence) -> bool:
        return e.level == Level.DIFFERENT and (e.correlation or 0) < SAME_PICTURE

    if _share(found, other) < MOST or len(found.differing) > len(found.evidence) / 2:
        return None
    return "single images have nothing in common with ours, the rest is the same"


def _only_jpeg(found: Findings) -> str | None:
    others = [e for e in found.evidence if e.jpeg is False]
    same_picture = (_middle(e.correlation for e in found.differing) or 0.0) >= SAME_PICTURE
    if not others or any(e.differs for e in others) or not same_picture:
        return None
    return "JPEG files differ, others do not" if all(e.jpeg for e in found.differing) else None


def _a_little(found: Findings) -> str | None:
    return "all differences are small" if _share(found, lambda e: e.level < Level.DIFFERENT) >= MOST else None


def _right_and_below(found: Findings) -> str | None:
    ratio = _middle(e.lower_right for e in found.differing)
    return f"at the right or below they differ {ratio:.1f} times as much as elsewhere" if (ratio or 0) >= EDGE else None


NUMBERS: Final = (Cause.RGB, Cause.SCALE, Cause.RESIZE, Cause.PADDING, Cause.DECODER, Cause.PRECISION)
"""What changes pixels or arithmetic: of boxes, half precision moves as many as another picture does."""
RULES: Final[tuple[tuple[Rule, tuple[Cause, ...]], ...]] = (
    (_under_another_id, (Cause.OTHER_IMAGE,)),
    (_exchanged_sides, (Cause.EXIF,)),
    (_turned_grids, (Cause.EXIF,)),
    (_other_sides, (Cause.OTHER_IMAGE,)),
    (_clipped, (Cause.CLIP,)),
    (_same_boxes_other_features, (Cause.FC7,)),
    (_some_boxes_lacking, (Cause.NMS,)),
    (_single_other_pictures, (Cause.OTHER_IMAGE, Cause.EXIF, Cause.RGB)),  # gray images are the same in RGB
    (_right_and_below, (Cause.PADDING,)),
    (_only_jpeg, (Cause.DECODER,)),
    (_other_channels, (Cause.CHECKPOINT, Cause.FC7, Cause.RGB, Cause.SCALE)),
    (_a_little, (Cause.PRECISION, Cause.DECODER, Cause.SCALE, Cause.RESIZE)),
)

"""The table of what may have been done otherwise: each row computes features with one defect.

A row is data: how the file is decoded, how pixels become the network's input, how features are computed of it, in which
precision, and for which kinds of features and which files it makes a difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from feature_extraction.config import SPECS, Boxes, Grid, Precision, Spec
from feature_extraction.detector.build import Detector
from feature_extraction.features import Arrays
from feature_extraction.images.decode import Pixels, decode_image
from feature_extraction.recipe import LONG_SIDE, SIZE_DIVISOR

from . import inputs, runs
from .causes import Cause

Size = tuple[int, int]
BOTH: Final = tuple(SPECS.values())


def always(path: Path) -> bool:
    return True


@dataclass(frozen=True)
class Hypothesis:
    """One way of computing features."""

    cause: Cause | None
    """None: the published way."""
    says: str
    decode: Callable[[Path], Pixels] = decode_image
    prepare: inputs.Prepare = inputs.as_ours
    run: runs.Run = runs.as_ours
    precision: Precision = "float32"
    kinds: tuple[type[Spec], ...] = BOTH
    concerns: Callable[[Path], bool] = always
    """Whether it makes a difference for this file."""

    def compute(self, detector: Detector, spec: Spec, path: Path) -> Arrays:
        """Features of one image. Raises ImageError, and what Pillow and OpenCV raise of an odd image."""
        return self.run(detector, spec, self.prepare(spec, self.decode(path)))


OURS: Final = Hypothesis(None, "as the scripts were published")


def _pixels() -> Iterator[Hypothesis]:
    yield Hypothesis(Cause.EXIF, "turned", decode=inputs.turned, concerns=inputs.is_turned)
    for cause, changes in ((Cause.RGB, inputs.COLOURS), (Cause.SCALE, inputs.SCALES)):
        for says, change in changes.items():
            yield Hypothesis(cause, says, prepare=inputs.recoloured(change))


def _layers_and_boxes() -> Iterator[Hypothesis]:
    yield Hypothesis(Cause.FC7, "fc7", run=runs.fc7)
    yield Hypothesis(Cause.NMS, "IoU >= threshold in both suppressions", run=runs.inclusive_nms, kinds=(Boxes,))
    yield Hypothesis(Cause.CLIP, "proposals clipped to the resized image", run=runs.clipped_proposals, kinds=(Boxes,))
    for says, last in (("width and height", 0), ("width - 1 and height - 1", 1)):
        run = runs.clipped_boxes(last)
        yield Hypothesis(Cause.CLIP, f"stored boxes clipped to {says}", run=run, kinds=(Boxes,))


def _sizes() -> Iterator[Hypothesis]:
    for says, size in inputs.SIZES.items():
        prepare = inputs.resized(inputs.LINEAR, size)
        yield Hypothesis(Cause.RESIZE, f"sides {says}", prepare=prepare, kinds=(Grid,))
    for says, size in (("floored to multiples of 32, as for the grid", inputs.floored), ("rounded", inputs.unfloored)):
        prepare = inputs.resized(inputs.LINEAR, size)
        yield Hypothesis(Cause.RESIZE, f"sides {says}, not scaled by the factor", prepare=prepare, kinds=(Boxes,))
    for says, by in inputs.INTERPOLATIONS.items():
        yield Hypothesis(Cause.RESIZE, says, prepare=inputs.resized(by))


def _decoders() -> Iterator[Hypothesis]:
    for says, decode in (("repeated", inputs.plain_chroma), ("enlarged as libjpeg 7 to 9 do", inputs.smooth_chroma)):
        yield Hypothesis(Cause.DECODER, f"JPEG colours {says}", decode=decode, concerns=inputs.has_small_chroma)
    says = "odd modes as numpy.array(PIL.Image) gives them (--decode as_published)"
    yield Hypothesis(Cause.DECODER, says, decode=inputs.as_published, concerns=inputs.has_odd_mode)


def _precisions() -> Iterator[Hypothesis]:
    yield Hypothesis(Cause.PRECISION, "TF32", run=runs.tf32)
    yield Hypothesis(Cause.PRECISION, "bfloat16", precision="bfloat16")
    yield Hypothesis(Cause.PRECISION, "float16", precision="float16")


NEIGHBOURS: Final = (2, 4, 8, 16)
"""Batch sizes whose padding is tried."""


def table(own: Size, sizes: Iterable[Size]) -> tuple[Hypothesis, ...]:
    """All hypotheses of one image, in the order in which they are tried; ``own`` and ``sizes`` as for ``batches``."""
    before = (*_pixels(), *_layers_and_boxes(), *_sizes())
    return (*before, *batches(own, sizes), *_decoders(), *_precisions())


def batches(own: Size, sizes: Iterable[Size]) -> list[Hypothesis]:
    """Padding to the common sizes of batches: ``sizes`` are those that the image's neighbours in the file, taken by
    2, 4, ..., would have been padded to. Whatever the size was, beyond the detector's view it changes nothing, so that
    two more, a square and the largest there is, come close to any other."""
    largest = -(-LONG_SIDE // SIZE_DIVISOR) * SIZE_DIVISOR
    tried = dict.fromkeys([*sizes, (max(own), max(own)), (largest, largest)])
    rows = []
    for height, width in tried:
        common = (max(own[0], height), max(own[1], width))
        if common == own:
            continue
        for own_limits, limits in ((True, "the image's own size"), (False, "the batch's size")):
            says = f"padded to {common[0]} x {common[1]}, regions within {limits}"
            run = runs.padded_to(*common, own_limits=own_limits)
            rows.append(Hypothesis(Cause.PADDING, says, run=run))
    return rows

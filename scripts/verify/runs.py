"""Other ways from the network's input to features than the published one: what programs do wrong, on purpose.

The detector is the native engine; what differs is put in place of one function while it runs, and put back.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final, cast

import numpy as np
import torch
from torch import Tensor

from feature_extraction.config import Boxes, Grid, Spec
from feature_extraction.detector import boxes as box_ops
from feature_extraction.detector import roi_heads
from feature_extraction.detector.build import Detector
from feature_extraction.detector.faster_rcnn import FasterRCNN
from feature_extraction.detector.layers import Conv, linear
from feature_extraction.errors import ImageError
from feature_extraction.features import Arrays, NetworkInput, computation_of, compute
from feature_extraction.progress import Clock
from feature_extraction.regions import grid_cells

from .inputs import content_size, padded

Run = Callable[[Detector, Spec, NetworkInput], Arrays]
TF32_DROPPED: Final = 13
"""Bits of a float32's 23 behind the point that TF32 does not have."""


def as_ours(detector: Detector, spec: Spec, image: NetworkInput) -> Arrays:
    """What the extraction itself computes. Raises ImageError."""
    (result,) = compute(detector, computation_of(spec), [image], Clock())
    if isinstance(result, ImageError):
        raise result
    return result


@contextmanager
def replaced(owner: Any, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """``owner.name`` is ``function`` inside."""
    before = getattr(owner, name)
    setattr(owner, name, function)
    try:
        yield
    finally:
        setattr(owner, name, before)


# --- boxes -----------------------------------------------------------------------------------------------------


def inclusive_nms(detector: Detector, spec: Spec, image: NetworkInput) -> Arrays:
    """A box goes at IoU >= threshold, in both suppressions: more than the float32 below the threshold."""
    overlaps = box_ops.overlaps

    def at_least(boxes: Tensor, threshold: float) -> Tensor:
        return overlaps(boxes, float(np.nextafter(np.float32(threshold), np.float32(0))))

    with replaced(box_ops, "overlaps", at_least):
        return as_ours(detector, spec, image)


def clipped_proposals(detector: Detector, spec: Spec, image: NetworkInput) -> Arrays:
    """Proposals end where the resized image ends, not where its padding does."""
    clip, size = box_ops.clip, content_size(spec, image.height, image.width)
    with replaced(box_ops, "clip", lambda boxes, _: clip(boxes, size)):
        return as_ours(detector, spec, image)


def clipped_boxes(last: int) -> Run:
    """Boxes of the result end at the image's side less ``last``; features as ever."""

    def run(detector: Detector, spec: Spec, image: NetworkInput) -> Arrays:
        arrays = as_ours(detector, spec, image)
        ends = np.array([image.width, image.height] * 2, np.float32) - last
        return {**arrays, "boxes": arrays["boxes"].clip(0, ends)}

    return run


# --- features --------------------------------------------------------------------------------------------------


def fc7(detector: Detector, spec: Spec, image: NetworkInput) -> Arrays:
    """The layer behind fc6."""
    arrays = as_ours(detector, spec, image)
    head = cast(FasterRCNN, detector.model).head
    fc6 = torch.from_numpy(arrays["features"]).to(detector.device).flatten(0, -2)
    with detector.arithmetic.applied(), torch.inference_mode():
        features = head.fc7(fc6).cpu().numpy()
    return {**arrays, "features": features.reshape(*arrays["features"].shape[:-1], -1)}


def of_content(detector: Detector, spec: Spec, image: NetworkInput, size: tuple[int, int]) -> Arrays:
    """Cells of the resized image alone; ``size`` (H, W) of it."""
    assert isinstance(spec, Grid)
    images = torch.from_numpy(image.pixels[None]).permute(0, 3, 1, 2).to(detector.device)
    fc6 = detector.region_features(images, [grid_cells(*size, spec.grid_size)])
    return {"features": fc6.cpu().numpy().reshape(spec.grid_size, spec.grid_size, -1)}


def padded_to(height: int, width: int, *, own_limits: bool) -> Run:
    """In a batch whose common size is (height, width) at least. ``own_limits``: boxes are clipped, and cells cut, by
    the image's own size; else by that of the batch."""

    def run(detector: Detector, spec: Spec, image: NetworkInput) -> Arrays:
        own = image.pixels.shape[:2]
        larger = replace(image, pixels=padded(image.pixels, max(height, own[0]), max(width, own[1])))
        if not own_limits:
            return as_ours(detector, spec, larger)
        if not isinstance(spec, Boxes):
            return of_content(detector, spec, larger, (own[0], own[1]))
        clip = box_ops.clip
        with replaced(box_ops, "clip", lambda boxes, _: clip(boxes, (own[0], own[1]))):
            return as_ours(detector, spec, larger)

    return run


# --- precision -------------------------------------------------------------------------------------------------


def to_tf32(x: Tensor) -> Tensor:
    """Rounded to TF32's 10 bits, ties to even."""
    bits = x.contiguous().view(torch.int32)
    half = (1 << (TF32_DROPPED - 1)) - 1
    return ((bits + half + ((bits >> TF32_DROPPED) & 1)) & -(1 << TF32_DROPPED)).view(torch.float32)


def tf32(detector: Detector, spec: Spec, image: NetworkInput) -> Arrays:
    """What a tensor core makes of float32 numbers, on any device: rounded factors, float32 sums."""
    model = copy.deepcopy(cast(FasterRCNN, detector.model))
    for module in model.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            if name.endswith("weight"):
                setattr(module, name, to_tf32(buffer).to(memory_format=_format(buffer)))
    forward = Conv.forward

    def rounding(self: Conv, x: Tensor, **how: Any) -> Tensor:
        return forward(self, to_tf32(x).contiguous(memory_format=torch.channels_last), **how)

    with (
        replaced(Conv, "forward", rounding),
        replaced(roi_heads, "linear", lambda x, weight, bias: linear(to_tf32(x), weight, bias)),
    ):
        return as_ours(replace(detector, model=model), spec, image)


def _format(weight: Tensor) -> torch.memory_format:
    return torch.channels_last if weight.dim() == 4 else torch.contiguous_format

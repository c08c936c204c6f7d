"""The published order of work, for benchmarks: the same modules and numbers without what this kit saves.

Batch norm, sum and ReLU as passes of their own behind every convolution; channels first; the whole pyramid, whatever
the regions are pooled from; classes predicted and suppressed class by class, over the 64 cells of a grid (thrown away)
and twice over the proposals. Suppression is a loop of Python's here, the fork's is compiled: the fork itself is timed
by ``--engine reference``, where it is installed. float32.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from feature_extraction import recipe
from feature_extraction.detector import boxes as box_ops
from feature_extraction.detector.build import Detector
from feature_extraction.detector.checkpoint import read_tensors
from feature_extraction.detector.faster_rcnn import ALL_LEVELS, Detections, FasterRCNN
from feature_extraction.detector.files import CheckpointFiles
from feature_extraction.detector.layers import Conv, Weights


class Unfolded(nn.Module):
    """A convolution on planes, and what follows it step by step. The scale, which ``Conv`` holds folded in, is 1 here:
    the same work, the same numbers."""

    def __init__(self, conv: Conv, *, batch_norm: bool) -> None:
        super().__init__()
        self.weight, self.shift = conv.weight.contiguous(), conv.bias.view(1, -1, 1, 1)
        self.scale = torch.ones_like(self.shift) if batch_norm else None
        self.bias = None if batch_norm else conv.bias
        self.geometry = conv.geometry

    def forward(self, x: Tensor, *, relu: bool = False, add: Tensor | None = None) -> Tensor:
        y = F.conv2d(x.contiguous(), self.weight, self.bias, *self.geometry)
        if self.scale is not None:
            y = y * self.scale + self.shift
        if add is not None:
            y = y + add
        return y.relu_() if relu else y


class PublishedOrder(FasterRCNN):
    """The detector in the published order of work."""

    def unfold(self) -> PublishedOrder:
        """Put the convolutions in the published order, after ``place``."""
        for name, module in list(self.named_modules()):
            for child, conv in list(module.named_children()):
                if isinstance(conv, Conv):
                    setattr(module, child, Unfolded(conv, batch_norm=f"{name}.{child}".startswith("body.")))
        return self

    def _pyramid(self, images: Tensor, levels: range) -> dict[int, Tensor]:
        every = super()._pyramid(images, ALL_LEVELS)
        return {level: every[level] for level in levels}

    @torch.inference_mode()
    def region_features(self, images: Tensor, regions: list[Tensor]) -> Tensor:
        """fc6 of given regions; their classes are predicted and suppressed for nothing."""
        found = self.describe(images, regions)
        for of_image in found:
            score_class_by_class(of_image)
        return torch.cat([of_image.fc6 for of_image in found])

    @torch.inference_mode()
    def detect(self, images: Tensor) -> list[Detections]:
        """Proposals with features and class scores, after both of the published loops over classes."""
        found = super().detect(images)
        for of_image in found:
            for _ in range(2):
                score_class_by_class(of_image)
        return found


def score_class_by_class(found: Detections) -> NDArray[np.float32]:
    """(R,) the best class probability of each region that survives suppression, one class after the other."""
    prob = found.logits.softmax(-1)[:, 1:].cpu().numpy()
    overlap = box_ops.overlaps(found.proposals, recipe.CLASS_NMS_IOU).cpu().numpy()
    score = np.zeros(len(prob), np.float32)
    for of_class in prob.T:
        suppressed, kept = np.zeros(len(prob), bool), []
        for region in np.argsort(-of_class, kind="stable").tolist():
            if not suppressed[region]:
                suppressed |= overlap[region]
                kept.append(region)
        score[kept] = np.maximum(score[kept], of_class[kept])
    return score


def as_published(detector: Detector, files: CheckpointFiles) -> Detector:
    """The float32 ``detector`` of these files in the published order of work."""
    model = PublishedOrder(Weights(read_tensors(files.model)), detector.config)
    model.place(detector.device, torch.float32)
    return replace(detector, name="native, as published", model=model.unfold())

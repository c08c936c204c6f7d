"""The whole detector: images in, fc6 and fc7 features of regions out. What does not influence them is not computed.

Shapes: images (B, 3, H, W) float32 BGR minus mean, H and W multiples of 32; regions (R, 4) float32
x1, y1, x2, y2 in pixels of the resized image; features (R, F) float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .config import DetectorConfig
from .fpn import COARSEST, FINEST, FPN
from .layers import Conv, Weights
from .resnext import ResNeXt
from .roi_heads import BoxHead, pyramid_level
from .rpn import RPN

ALL_LEVELS = range(FINEST, COARSEST + 1)


@dataclass(frozen=True)
class Detections:
    """The proposals of one image, or the regions given for it, and what the head says of them."""

    proposals: Tensor
    """(R, 4) float32, pixels of the resized, padded image, best objectness first (given ones: as given)."""
    objectness: Tensor
    """(R,) float32; 1 for given ones."""
    fc6: Tensor
    """(R, F) float32, after ReLU."""
    fc7: Tensor
    """(R, F) float32, after ReLU."""
    logits: Tensor
    """(R, classes) float32, background first."""


@dataclass
class Seen:
    """What has been computed of one batch of images."""

    images: Tensor
    maps: list[Tensor] = field(default_factory=list)
    """C2..C5."""
    pyramid: dict[int, Tensor] = field(default_factory=dict)


class FasterRCNN(nn.Module):
    """ResNeXt-FPN Faster R-CNN for inference, in the layout of the fork's checkpoint."""

    def __init__(self, w: Weights, config: DetectorConfig) -> None:
        super().__init__()
        self.config = config
        self.dtype = torch.float32
        self._seen: Seen | None = None
        self.body = ResNeXt(w, "backbone.body", config)
        self.fpn = FPN(w, "backbone.fpn", config)
        self.rpn = RPN(w, "rpn", config)
        self.head = BoxHead(w, "roi_heads.box", config)

    def place(self, device: torch.device, dtype: torch.dtype, *, tf32: bool = False) -> FasterRCNN:
        """Weights and activations on ``device`` in ``dtype``, channels last; anchors, boxes, scores and results
        stay float32."""
        self.dtype = dtype
        for module in self.modules():
            if isinstance(module, Conv | RPN | BoxHead):
                module.place(device, dtype, tf32=tf32)
        return self

    @contextmanager
    def once(self, images: Tensor) -> Iterator[None]:
        """Within: whatever is asked of this very batch, the backbone runs on it once, and its maps are kept."""
        self._seen = Seen(images)
        try:
            yield
        finally:
            self._seen = None

    def _pyramid(self, images: Tensor, levels: range) -> dict[int, Tensor]:
        seen = self._seen if self._seen is not None and self._seen.images is images else Seen(images)
        if not seen.maps:
            seen.maps = self.body(images.to(self.dtype).contiguous(memory_format=torch.channels_last))
        missing = [level for level in levels if level not in seen.pyramid]
        if missing:  # of levels computed again the bits are the same: those before stay
            seen.pyramid = {**self.fpn(seen.maps, range(missing[0], missing[-1] + 1)), **seen.pyramid}
        return {level: seen.pyramid[level] for level in levels}

    @torch.inference_mode()
    def region_features(self, images: Tensor, regions: list[Tensor]) -> Tensor:
        """fc6 (sum of R_i, F) float32 of given regions, image after image (the grid cells).

        Only the pyramid levels that the regions are pooled from are computed. ``regions`` may lie on the CPU:
        deciding the levels there keeps a GPU from being waited for."""
        return self._pooled(images, regions)[0].float()

    @torch.inference_mode()
    def describe(self, images: Tensor, regions: list[Tensor]) -> list[Detections]:
        """What the head says of given regions, image by image; nothing is proposed."""
        fc6, there = self._pooled(images, regions)
        return self._said([(r, r.new_ones(len(r))) for r in there], fc6)

    def _pooled(self, images: Tensor, regions: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        level = torch.cat([pyramid_level(r) for r in regions]).cpu()
        pyramid = self._pyramid(images, range(int(level.min()), int(level.max()) + 1))
        there = [r.to(images.device, non_blocking=True) for r in regions]
        return self.head.features(pyramid, there, level), there

    @torch.inference_mode()
    def detect(self, images: Tensor) -> list[Detections]:
        """Proposals, features and class scores of every image."""
        pyramid = self._pyramid(images, ALL_LEVELS)
        boxes, objectness = self.rpn(pyramid, (images.shape[2], images.shape[3]))
        # the one thing that a GPU is waited for here: how many proposals there are, and of which levels
        level = torch.where(objectness >= 0, pyramid_level(boxes), 0).cpu()
        counts = (level > 0).sum(1).tolist()
        proposals = [of_image[:n] for of_image, n in zip(boxes, counts, strict=True)]
        fc6 = self.head.features(pyramid, proposals, level[level > 0])
        return self._said([(p, o[: len(p)]) for p, o in zip(proposals, objectness, strict=True)], fc6)

    def _said(self, regions: list[tuple[Tensor, Tensor]], fc6: Tensor) -> list[Detections]:
        """Of regions (R_i, 4) with their objectness, image by image, and their fc6 (sum of R_i, F)."""
        fc7 = self.head.fc7(fc6)
        counts = [len(r) for r, _ in regions]
        said = (x.float().split(counts) for x in (fc6, fc7, self.head.class_logits(fc7)))
        return [Detections(*region, *of_image) for region, *of_image in zip(regions, *said, strict=True)]

"""Box head: pyramid level of a region, RoIAlign, fc6, fc7 and the class predictor.

Shapes: regions (R, 4) float32, x1, y1, x2, y2 in pixels of the resized image; pooled (R, P, P, D);
fc6 (R, F); class probabilities (R, classes) with background first.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import recipe
from . import boxes as box_ops
from .config import DetectorConfig
from .fpn import COARSEST, FINEST
from .layers import Weights, linear, stored_as


def pyramid_level(regions: Tensor) -> Tensor:
    """Level (R,) int64 that each region is pooled from."""
    side = box_ops.area(regions).sqrt()
    level = torch.floor(recipe.LEVEL_CANONICAL + torch.log2(side / recipe.LEVEL_CANONICAL_SIZE + recipe.LEVEL_EPS))
    return level.clamp(FINEST, COARSEST).long()


def _taps(low_edge: Tensor, length: Tensor, bins: int, samples: int, size: int) -> tuple[Tensor, Tensor]:
    """Bilinear taps along one axis of a map with ``size`` pixels: index and weight, both (R, bins, 2 * samples).

    Samples lie at the centres of equal parts of a bin. One beyond [-1, size] counts nothing, one between
    -1 and 0 reads pixel 0, one past the last pixel reads the last."""
    part = length / bins / samples
    step = torch.arange(bins * samples, device=length.device, dtype=length.dtype) + 0.5
    at = low_edge[:, None] + step * part[:, None]
    inside = (at >= -1) & (at <= size)
    at = at.clamp(min=0)
    low = at.floor().clamp(max=size - 1)
    high = (low + 1).clamp(max=size - 1)
    fraction = torch.where(low >= size - 1, torch.zeros_like(at), at - low)
    index = torch.stack([low, high], dim=2).long()
    weight = torch.stack([1 - fraction, fraction], dim=2) * inside[:, :, None] / samples
    regions = len(at)
    return index.view(regions, bins, -1), weight.view(regions, bins, -1)


def roi_align(level_map: Tensor, regions: Tensor, image: Tensor, scale: float, bins: int, samples: int) -> Tensor:
    """RoIAlign (R, bins, bins, D) of regions (R, 4) on one level (B, D, h, w); ``image`` (R,) int64 is the
    image of each region in the batch, ``scale`` = 1 / stride.

    As the fork has it: no half-pixel shift, region sides at least one map pixel (here without the + 1),
    samples x samples bilinear samples per bin, averaged. Written as one weighted gather over the rows of the
    map, a bin being the sum of (2 samples)^2 pixels, so it runs at memory speed on every device; it wants
    channels last."""
    batch, channels, height, width = level_map.shape
    table = level_map.permute(0, 2, 3, 1).reshape(batch * height * width, channels)
    scaled = regions * scale
    x, wx = _taps(scaled[:, 0], (scaled[:, 2] - scaled[:, 0]).clamp(min=1), bins, samples, width)
    y, wy = _taps(scaled[:, 1], (scaled[:, 3] - scaled[:, 1]).clamp(min=1), bins, samples, height)
    rows = (image[:, None, None] * height + y) * width
    taps = 4 * samples * samples
    index = (rows[:, :, None, :, None] + x[:, None, :, None, :]).reshape(-1, taps)
    weight = (wy[:, :, None, :, None] * wx[:, None, :, None, :]).reshape(-1, taps).to(table.dtype)
    pooled = F.embedding_bag(index, table, per_sample_weights=weight, mode="sum")
    return pooled.view(len(regions), bins, bins, channels)


class BoxHead(nn.Module):
    """The fork's ``roi_heads.box``, as far as features and class scores depend on it."""

    fc6_weight: Tensor
    fc6_bias: Tensor
    fc7_weight: Tensor
    fc7_bias: Tensor
    cls_weight: Tensor
    cls_bias: Tensor

    def __init__(self, w: Weights, name: str, config: DetectorConfig) -> None:
        super().__init__()
        self.config = config
        p, d, f, c = config.pooler_resolution, config.fpn_channels, config.feature_dim, config.num_classes
        fc6 = w.take(f"{name}.feature_extractor.fc6.weight", f, d * p * p)
        # regions are pooled channels last, the checkpoint's columns are (D, P, P)
        fc6 = fc6.view(f, d, p, p).permute(0, 2, 3, 1).reshape(f, -1)
        self.register_buffer("fc6_weight", fc6, persistent=False)
        self.register_buffer("fc6_bias", w.take(f"{name}.feature_extractor.fc6.bias", f), persistent=False)
        self.register_buffer("fc7_weight", w.take(f"{name}.feature_extractor.fc7.weight", f, f), persistent=False)
        self.register_buffer("fc7_bias", w.take(f"{name}.feature_extractor.fc7.bias", f), persistent=False)
        self.register_buffer("cls_weight", w.take(f"{name}.predictor.cls_score.weight", c, f), persistent=False)
        self.register_buffer("cls_bias", w.take(f"{name}.predictor.cls_score.bias", c), persistent=False)
        # a checkpoint without it is not this model, though neither features nor scores depend on it
        w.take(f"{name}.predictor.bbox_pred.weight", 4 * c, f)
        w.take(f"{name}.predictor.bbox_pred.bias", 4 * c)

    def place(self, device: torch.device, dtype: torch.dtype, *, tf32: bool) -> None:
        """All weights on ``device``, rounded to ``dtype``."""
        for name, buffer in list(self.named_buffers()):
            setattr(self, name, buffer.to(dtype).to(device, stored_as(device, dtype)))

    def features(self, pyramid: dict[int, Tensor], regions: list[Tensor], level: Tensor) -> Tensor:
        """fc6 after ReLU (R, F) of all regions of the batch, image after image, in the model's precision.

        ``level`` (R,): the pyramid level of each, on the CPU: sorting regions by it waits for no GPU."""
        every = torch.cat(regions)
        image = torch.cat([torch.full((len(r),), i, device=r.device) for i, r in enumerate(regions)])
        bins, samples = self.config.pooler_resolution, self.config.sampling_ratio
        scales = self.config.pooler_scales
        if len(pyramid) == 1:
            ((number, level_map),) = pyramid.items()
            pooled = roi_align(level_map, every, image, scales[number - FINEST], bins, samples)
            return self.fc6(pooled)
        some = next(iter(pyramid.values()))
        pooled = some.new_empty(len(every), bins, bins, some.shape[1])
        for number, level_map in pyramid.items():
            here = (level == number).nonzero().squeeze(1).to(every.device, non_blocking=True)
            if len(here):
                scale = scales[number - FINEST]
                pooled[here] = roi_align(level_map, every[here], image[here], scale, bins, samples)
        return self.fc6(pooled)

    def fc6(self, pooled: Tensor) -> Tensor:
        """fc6 after ReLU (R, F) of pooled regions (R, P, P, D)."""
        return linear(pooled.flatten(1), self.fc6_weight, self.fc6_bias).relu_()

    def fc7(self, fc6: Tensor) -> Tensor:
        """fc7 after ReLU (R, F) from fc6 (R, F)."""
        return linear(fc6, self.fc7_weight, self.fc7_bias).relu_()

    def class_logits(self, fc7: Tensor) -> Tensor:
        """Logits (R, classes) float32 from fc7 (R, F)."""
        return linear(fc7, self.cls_weight, self.cls_bias).float()

"""Anchors, the classic Detectron way: made around one cell of the stride, sides rounded before scaling.

Shapes: base (A, 4), all (H * W * A, 4) float32, x1, y1, x2, y2 in pixels of the resized image.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def base_anchors(stride: int, size: int, ratios: Sequence[float]) -> Tensor:
    """Anchors (A, 4) float32 of the cell at the origin, one per height / width ratio.

    The cell is (0, 0, stride - 1, stride - 1); its area divided by the ratio gives the rounded width, that
    times the ratio the rounded height (round half to even, float64), and size / stride scales both."""
    ratio = np.asarray(ratios, dtype=np.float64)
    width = np.round(np.sqrt(stride * stride / ratio))
    height = np.round(width * ratio)
    half_w, half_h = (width * size / stride - 1) / 2, (height * size / stride - 1) / 2
    centre = (stride - 1) / 2
    boxes = np.stack([centre - half_w, centre - half_h, centre + half_w, centre + half_h], axis=1)
    return torch.from_numpy(boxes.astype(np.float32))


def anchor_boxes(index: Tensor, base: Tensor, stride: int, width: int) -> Tensor:
    """Anchors (K, 4) with the given indices (K,) in location-major order: (y * width + x) * A + anchor."""
    cell, anchor = index // len(base), index % len(base)
    shift = torch.stack([cell % width, cell // width], dim=1).to(base.dtype) * stride
    return base[anchor] + shift.repeat(1, 2)

"""The two kinds of regions: the cells of a grid, and the boxes chosen among the proposals.

Shape legend: G cells per side, N boxes, R proposals, F = feature dimension; (H, W) in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import recipe
from .detector.boxes import rank_by_surviving_class
from .errors import ImageError

if TYPE_CHECKING:
    from .detector.faster_rcnn import Detections


def grid_cells(height: int, width: int, grid_size: int = recipe.GRID_SIZE) -> Tensor:
    """Cells (G * G, 4) float32 of a resized image, row major, x1, y1, x2, y2 in its pixels.

    A cell is (height // G) x (width // G); neighbours share an edge coordinate, and what the division leaves over
    at the right and below belongs to no cell, as in the published scripts. Raises ImageError if a cell is
    empty."""
    cell_h, cell_w = height // grid_size, width // grid_size
    if not cell_h or not cell_w:
        raise ImageError(f"resized to {height} x {width} pixels, too small for a {grid_size} x {grid_size} grid")
    y, x = torch.meshgrid(torch.arange(grid_size), torch.arange(grid_size), indexing="ij")
    cells = torch.stack([x * cell_w, y * cell_h, (x + 1) * cell_w, (y + 1) * cell_h], dim=2)
    return cells.reshape(-1, 4).float()


@dataclass(frozen=True)
class ChosenBoxes:
    """N boxes of one image, best first. All arrays on the CPU."""

    features: NDArray[np.float32]
    """(N, F) fc6 after ReLU, pooled from the proposal."""
    boxes: NDArray[np.float32]
    """(N, 4) x1, y1, x2, y2 in pixels of the original image."""
    obj_id: NDArray[np.int64]
    """(N,) best class without background: 0..1599."""
    obj_conf: NDArray[np.float32]
    """(N,) best class probability that survived suppression: the score that ranked the box."""
    cls_prob: NDArray[np.float32]
    """(N, classes) softmax over all classes, background first."""


def choose_boxes(found: Detections, scale: float, num_boxes: int = recipe.NUM_BOXES) -> ChosenBoxes:
    """The ``num_boxes`` best proposals of one image.

    ``scale`` is resized / original side. Per-class suppression runs in pixels of the original image. Where fewer
    proposals than asked for survive in any class (the published script stops there), the rest is filled with
    suppressed proposals by objectness, score 0. Raises ImageError if there are fewer proposals than boxes."""
    if len(found.proposals) < num_boxes:
        raise ImageError(f"only {len(found.proposals)} region proposals, fewer than the {num_boxes} boxes asked for")
    prob = found.logits.softmax(-1)
    boxes = found.proposals / scale
    index, score = rank_by_surviving_class(prob[:, 1:], boxes, recipe.CLASS_NMS_IOU, num_boxes)
    if len(index) < num_boxes:
        rest = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
        rest[index] = False
        index = torch.cat([index, rest.nonzero().squeeze(1)])[:num_boxes]
        score = torch.nn.functional.pad(score, (0, num_boxes - len(score)))
    # one transfer, as one array: each would be waited for
    packed = torch.cat([found.fc6[index], boxes[index], score[:, None], prob[index]], dim=1).cpu()
    features, boxes, score, prob = packed.split([found.fc6.shape[1], 4, 1, prob.shape[1]], dim=1)
    return ChosenBoxes(
        features.contiguous().numpy(),
        boxes.contiguous().numpy(),
        prob[:, 1:].argmax(1).numpy(),
        score.squeeze(1).contiguous().numpy(),
        prob.contiguous().numpy(),
    )

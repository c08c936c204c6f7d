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
    """N boxes of one image, best first (given ones: as given). All arrays on the CPU."""

    features: NDArray[np.float32]
    """(N, F) fc6 after ReLU, pooled from the proposal."""
    boxes: NDArray[np.float32]
    """(N, 4) x1, y1, x2, y2 in pixels of the original image."""
    obj_id: NDArray[np.int64]
    """(N,) best class: 0..1599; -1 for the background, where it counts as a class."""
    obj_conf: NDArray[np.float32]
    """(N,) best class probability that survived suppression: the score that ranked the box."""
    cls_prob: NDArray[np.float32]
    """(N, classes) softmax over all classes, background first."""
    fc7: NDArray[np.float32]
    """(N, F) fc7 after ReLU."""


def choose_boxes(
    found: Detections,
    scale: float,
    num_boxes: int = recipe.NUM_BOXES,
    *,
    min_boxes: int | None = None,
    threshold: float = 0.0,
    background: bool = False,
) -> ChosenBoxes:
    """The ``num_boxes`` best proposals of one image; with ``min_boxes`` those that score at least ``threshold``, but no
    fewer than that and no more than ``num_boxes``.

    ``scale`` is resized / original side. Per-class suppression runs in pixels of the original image. Without
    ``min_boxes`` a score counts only above ``threshold``. Where fewer proposals than asked for have a score (the
    published script of X-LXMERT stops there, the others take any), the rest is filled with the other proposals by
    objectness, score 0. ``background``: it is one of the classes. Raises ImageError if there are fewer proposals than
    boxes."""
    least = num_boxes if min_boxes is None else min_boxes
    if len(found.proposals) < least:
        raise ImageError(f"only {len(found.proposals)} region proposals, fewer than the {least} boxes asked for")
    prob = found.logits.softmax(-1)
    boxes = found.proposals / scale
    index, score = rank_by_surviving_class(prob[:, _first(background) :], boxes, recipe.CLASS_NMS_IOU, num_boxes)
    if min_boxes is not None:
        wanted = max(min_boxes, int((score >= threshold).sum()))
        index, score = index[:wanted], score[:wanted]
    elif threshold:
        index, score = index[score > threshold], score[score > threshold]
    if len(index) < least:
        rest = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
        rest[index] = False
        index = torch.cat([index, rest.nonzero().squeeze(1)])[:least]
        score = torch.nn.functional.pad(score, (0, least - len(score)))
    return _chosen(found, index, boxes[index], score, prob[index], background=background)


def given_boxes(found: Detections, boxes: NDArray[np.float32], *, background: bool = False) -> ChosenBoxes:
    """What the head says of given boxes (N, 4) of one image, pixels of the original, in their order. Their score is the
    best class probability."""
    prob = found.logits.softmax(-1)
    index = torch.arange(len(prob), device=prob.device)
    there = torch.from_numpy(boxes).to(prob.device)
    return _chosen(found, index, there, prob[:, _first(background) :].amax(1), prob, background=background)


def _first(background: bool) -> int:
    """The first column of the class probabilities that counts."""
    return 0 if background else 1


def _chosen(
    found: Detections, index: Tensor, boxes: Tensor, score: Tensor, prob: Tensor, *, background: bool
) -> ChosenBoxes:
    """The regions ``index`` (N,) with their boxes, scores and class probabilities: one transfer, as one array, for each
    would be waited for."""
    columns = [found.fc6[index], boxes, score[:, None], prob, found.fc7[index]]
    packed = torch.cat(columns, dim=1).cpu().split([c.shape[1] for c in columns], dim=1)
    fc6, boxes, score, prob, fc7 = (part.contiguous() for part in packed)
    first = _first(background)
    return ChosenBoxes(
        fc6.numpy(),
        boxes.numpy(),
        (prob[:, first:].argmax(1) + (first + recipe.BACKGROUND)).numpy(),
        score.squeeze(1).numpy(),
        prob.numpy(),
        fc7.numpy(),
    )

"""The box convention and everything that depends on it: x1, y1, x2, y2 in pixels, both ends inclusive.

A box is x2 - x1 + 1 wide: the legacy "+ 1" of the fork. It is written here and nowhere else.
Shapes: boxes (..., N, 4) float32; masks bool.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor

from .. import recipe


def sides(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Widths and heights (..., N)."""
    wh = boxes[..., 2:] - boxes[..., :2] + 1
    return wh[..., 0], wh[..., 1]


def area(boxes: Tensor) -> Tensor:
    """Areas (..., N) in square pixels."""
    w, h = sides(boxes)
    return w * h


def from_corner_and_sides(boxes: Tensor) -> Tensor:
    """Boxes (..., N, 4) x1, y1, x2, y2 of x, y, width, height."""
    return torch.cat([boxes[..., :2], boxes[..., :2] + (boxes[..., 2:] - 1).clamp(min=0)], dim=-1)


def overlaps(boxes: Tensor, threshold: float) -> Tensor:
    """Mask (..., N, N): IoU of two boxes > threshold, the comparison of the fork's CUDA code (its CPU
    code has >=; the published features came from CUDA)."""
    a, b = boxes[..., :, None, :], boxes[..., None, :, :]
    w = (torch.minimum(a[..., 2], b[..., 2]) - torch.maximum(a[..., 0], b[..., 0]) + 1).clamp_(min=0)
    h = (torch.minimum(a[..., 3], b[..., 3]) - torch.maximum(a[..., 1], b[..., 1]) + 1).clamp_(min=0)
    inter = w.mul_(h)
    areas = area(boxes)
    union = areas[..., :, None] + areas[..., None, :] - inter
    return inter.div_(union) > threshold


def decode_deltas(deltas: Tensor, anchors: Tensor) -> Tensor:
    """Boxes (N, 4) from regression deltas (dx, dy, dw, dh) relative to anchors, weights (1, 1, 1, 1)."""
    w, h = sides(anchors)
    cx, cy = anchors[:, 0] + 0.5 * w, anchors[:, 1] + 0.5 * h
    dx, dy, dw, dh = deltas.unbind(1)
    limit = math.log(recipe.BOX_DELTA_LIMIT)
    cx, cy = dx * w + cx, dy * h + cy
    w, h = dw.clamp(max=limit).exp() * w, dh.clamp(max=limit).exp() * h
    return torch.stack([cx - 0.5 * w, cy - 0.5 * h, cx + 0.5 * w - 1, cy + 0.5 * h - 1], dim=1)


def clip(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes moved into [0, W - 1] x [0, H - 1], size = (H, W)."""
    height, width = size
    x, y = boxes[..., 0::2].clamp(0, width - 1), boxes[..., 1::2].clamp(0, height - 1)
    return torch.stack([x, y], dim=-1).flatten(-2)


ROUNDS_ON_A_GPU: Final = 8
"""Rounds of an iteration before its end is asked for: a GPU's answer is waited for longer than a round takes."""


def rounds_between_looks(boxes: Tensor) -> int:
    """Rounds of an iteration before its end is asked for, where these boxes lie."""
    return 1 if boxes.device.type == "cpu" else ROUNDS_ON_A_GPU


def nms(boxes: Tensor, valid: Tensor, threshold: float) -> Tensor:
    """Greedy non-maximum suppression of G groups at once.

    boxes (G, N, 4), best first in each group; valid (G, N). Returns the mask (G, N) of those kept.

    ``keep[j] = valid[j] and no kept i < j overlaps j`` has one solution; iterating it from "all kept"
    fixes at least one more box of the front in every round, so it ends there, usually after few rounds; rounds
    after that change nothing."""
    before = torch.ones(boxes.shape[1], boxes.shape[1], dtype=torch.bool, device=boxes.device).triu_(1)
    conflict = (overlaps(boxes, threshold) & before).float()
    keep = last = valid
    while True:
        for _ in range(rounds_between_looks(boxes)):
            last, keep = keep, valid & (torch.bmm(keep.float().unsqueeze(1), conflict).squeeze(1) == 0)
        if torch.equal(last, keep):
            return keep


def rank_by_surviving_class(
    prob: Tensor, boxes: Tensor, threshold: float, count: int, block: int = 1024
) -> tuple[Tensor, Tensor]:
    """The ``count`` proposals with the best class probability that survives per-class suppression.

    prob (R, C) without background, boxes (R, 4). For every class, greedy suppression runs over all
    proposals by that class's probability; a proposal's score is its best probability that survived.
    Returns (index (K,) int64, score (K,) float32), best first; K < count where fewer have a score > 0.

    All classes at once: the (proposal, class) pairs are visited by descending probability, a block at a
    time. Whether a pair survives depends only on better pairs of its class, so the walk may stop as soon as
    ``count`` proposals have a survivor: after some hundred of the 1.6 million pairs. Equal
    probabilities of one class are visited by ascending proposal index."""
    proposals, classes = prob.shape
    flat = prob.reshape(-1)
    overlap = overlaps(boxes, threshold)
    overlap.fill_diagonal_(False)
    survived = torch.zeros_like(prob, dtype=torch.bool)
    score = prob.new_zeros(proposals)
    found = 0
    for pairs, real in _pairs_by_descending_probability(flat, block):
        p, c = pairs // classes, pairs % classes
        # suppressed by a survivor of an earlier block, or by one of this block (same class, earlier in it)
        free = real & ~(overlap[p] & survived[:, c].t()).any(1)
        rival = (overlap[p][:, p] & (c[:, None] == c[None, :])).triu_(1).float()
        keep = last = free
        settled = False
        while not settled:
            for _ in range(rounds_between_looks(boxes)):
                last, keep = keep, free & ((keep.float() @ rival) == 0)
            reached = score.scatter_reduce(0, p, torch.where(keep, flat[pairs], 0.0), "amax")
            settled, found = torch.stack([(last == keep).all(), (reached > 0).sum()]).tolist()  # one wait for both
        survived[p, c] = keep
        score = reached
        if found >= count:
            break
    best, index = score.sort(descending=True, stable=True)
    chosen = min(count, found)
    return index[:chosen], best[:chosen]


def _pairs_by_descending_probability(flat: Tensor, block: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Blocks of indices into ``flat``, descending, ties by ascending index, and which of them count now.

    The few best are found by selection; only if they do not suffice everything positive is sorted. Pairs tied with the
    last of the few do not count among these: others that are tied with it were not selected, and all come later."""
    index = flat.topk(min(4 * block, flat.numel())).indices.sort().values
    index = _descending(flat, index)
    bound = flat[index[-1]]
    yield from zip(index.split(block), (flat[index] > bound).split(block), strict=True)
    tail = _descending(flat, ((flat <= bound) & (flat > 0)).nonzero().squeeze(1))
    yield from ((part, torch.ones_like(part, dtype=torch.bool)) for part in tail.split(block))


def _descending(flat: Tensor, index: Tensor) -> Tensor:
    return index[flat[index].sort(descending=True, stable=True).indices]

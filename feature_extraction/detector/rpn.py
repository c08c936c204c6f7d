"""Region proposal network: objectness and deltas on P2..P6, the best proposals of each level and of all.

Shapes: pyramid level (B, D, H / s, W / s); proposals (R, 4) float32 in pixels of the resized, padded
image, objectness (R,) float32 in 0..1, best first; R <= FPN_POST_NMS_TOP_N_TEST.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import recipe
from . import boxes as box_ops
from .anchors import anchor_boxes, base_anchors
from .config import DetectorConfig
from .fpn import coarsest_rpn_level
from .layers import Conv, Weights


class RPN(nn.Module):
    """The fork's ``rpn.head`` and its test-time post-processing."""

    def __init__(self, w: Weights, name: str, config: DetectorConfig) -> None:
        super().__init__()
        d, a = config.fpn_channels, len(config.anchor_ratios)
        self.config = config
        self.conv = Conv(w.conv(f"{name}.head.conv", d, d, 3), padding=1)
        logits, deltas = w.conv(f"{name}.head.cls_logits", a, d, 1), w.conv(f"{name}.head.bbox_pred", 4 * a, d, 1)
        # one 1x1 convolution for both predictors reads the hidden map once
        self.predict = Conv((torch.cat([logits[0], deltas[0]]), torch.cat([logits[1], deltas[1]])))
        self.bases: list[Tensor] = []
        for i, (stride, size) in enumerate(zip(config.anchor_strides, config.anchor_sizes, strict=True)):
            self.register_buffer(f"base{i}", base_anchors(stride, size, config.anchor_ratios), persistent=False)

    def place(self, device: torch.device, dtype: torch.dtype, *, tf32: bool) -> None:
        """Anchors on ``device``; they stay float32. The convolutions are placed by themselves."""
        for i in range(len(self.config.anchor_strides)):
            setattr(self, f"base{i}", getattr(self, f"base{i}").to(device))

    def forward(self, pyramid: dict[int, Tensor], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """(proposals (B, M, 4), objectness (B, M)), best first; ``size`` is (H, W) of the padded image.

        M is the same for all images; where fewer proposals are left of one, the last rows have objectness -1."""
        levels = [pyramid[level] for level in sorted(pyramid)]
        levels.append(coarsest_rpn_level(levels[-1]))
        predictions = []
        for x in levels:
            y = self.predict(self.conv(x, relu=True)).float().permute(0, 2, 3, 1)  # (B, H, W, A + 4 A)
            a = len(self.config.anchor_ratios)
            batch, _, width, _ = y.shape
            objectness = y[..., :a].reshape(batch, -1).sigmoid()
            predictions.append((objectness, y[..., a:].reshape(batch, -1, 4), width))
        selected = [self._select(predictions, image, size) for image in range(len(levels[0]))]
        return torch.stack([p for p, _ in selected]), torch.stack([o for _, o in selected])

    def _select(
        self, predictions: list[tuple[Tensor, Tensor, int]], image: int, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        boxes, scores, valid = [], [], []
        most = self.config.pre_nms_top_n
        for i, (objectness, deltas, width) in enumerate(predictions):
            score, index = objectness[image].topk(min(most, objectness.shape[1]))
            base: Tensor = getattr(self, f"base{i}")
            anchors = anchor_boxes(index, base, self.config.anchor_strides[i], width)
            proposal = box_ops.clip(box_ops.decode_deltas(deltas[image, index], anchors), size)
            w, h = box_ops.sides(proposal)
            big = (w >= recipe.RPN_MIN_SIDE) & (h >= recipe.RPN_MIN_SIDE)
            pad = most - len(score)  # small levels have fewer anchors; equal lengths make one suppression of all
            boxes.append(F.pad(proposal, (0, 0, 0, pad)))
            scores.append(F.pad(score, (0, pad)))
            valid.append(F.pad(big, (0, pad)))
        proposals, scores_, valid_ = torch.stack(boxes), torch.stack(scores), torch.stack(valid)
        keep = box_ops.nms(proposals, valid_, self.config.rpn_nms_iou)
        keep &= keep.cumsum(1) <= self.config.post_nms_top_n
        # what was suppressed comes last: no waiting for a GPU to say how many are left
        score, best = torch.where(keep, scores_, -1.0).flatten().sort(descending=True, stable=True)
        most = self.config.fpn_post_nms_top_n
        return proposals.flatten(0, 1)[best[:most]], score[:most]

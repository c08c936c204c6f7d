"""Feature pyramid: lateral 1x1 convolutions, top-down sums by nearest doubling, 3x3 output convolutions.

Shapes: C2..C5 (B, C_i, H / s, W / s), s = 4, 8, 16, 32 -> P2..P5 (B, D, H / s, W / s), P6 at stride 64.
"""

from __future__ import annotations

from typing import Final

from torch import Tensor, nn
from torch.nn import functional as F

from .config import DetectorConfig
from .layers import Conv, Weights

FINEST: Final = 2
COARSEST: Final = 5
"""Levels that regions are pooled from: stride 2**level."""


class FPN(nn.Module):
    """The backbone's pyramid. ``name`` + fpn_inner1..4 / fpn_layer1..4 belong to levels 2..5."""

    def __init__(self, w: Weights, name: str, config: DetectorConfig) -> None:
        super().__init__()
        d = config.fpn_channels
        self.lateral = nn.ModuleDict()
        self.output = nn.ModuleDict()
        for level in range(FINEST, COARSEST + 1):
            into = config.res2_channels * 2 ** (level - FINEST)
            self.lateral[str(level)] = Conv(w.conv(f"{name}.fpn_inner{level - 1}", d, into, 1))
            self.output[str(level)] = Conv(w.conv(f"{name}.fpn_layer{level - 1}", d, d, 3), padding=1)

    def forward(self, maps: list[Tensor], levels: range) -> dict[int, Tensor]:
        """Only the ``levels`` asked for (a part of 2..5); what they do not depend on is not computed."""
        pyramid: dict[int, Tensor] = {}
        inner: Tensor | None = None
        for level in range(COARSEST, min(levels) - 1, -1):
            above = None if inner is None else F.interpolate(inner, scale_factor=2.0, mode="nearest")
            inner = self.lateral[str(level)](maps[level - FINEST], add=above)
            if level in levels:
                pyramid[level] = self.output[str(level)](inner)
        return pyramid


def coarsest_rpn_level(p5: Tensor) -> Tensor:
    """P6, read by the RPN only: a max pool of one pixel with stride 2, i.e. every second pixel of P5."""
    return F.max_pool2d(p5, kernel_size=1, stride=2)

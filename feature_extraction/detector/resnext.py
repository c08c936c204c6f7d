"""ResNeXt body: stem and four stages of bottlenecks, frozen batch norms folded into the convolutions.

Shapes: image (B, 3, H, W) BGR minus mean, H and W multiples of 32 -> C2..C5 at strides 4, 8, 16, 32
with 256, 512, 1024, 2048 channels (times RES2_OUT_CHANNELS / 256).
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from .config import BLOCKS, DetectorConfig
from .layers import Conv, Weights


class Bottleneck(nn.Module):
    """1x1, grouped 3x3, 1x1, plus the input (projected where the shape changes).

    ``widths``: channels that come in, of the 3x3, that go out."""

    def __init__(
        self, w: Weights, name: str, widths: tuple[int, int, int], stride: int, config: DetectorConfig
    ) -> None:
        super().__init__()
        into, middle, out = widths
        first, second = (stride, 1) if config.stride_in_1x1 else (1, stride)
        groups = config.groups
        self.conv1 = Conv(w.conv_bn(f"{name}.conv1", f"{name}.bn1", middle, into, 1), stride=first)
        self.conv2 = Conv(
            w.conv_bn(f"{name}.conv2", f"{name}.bn2", middle, middle // groups, 3),
            stride=second, padding=1, groups=groups,
        )  # fmt: skip
        self.conv3 = Conv(w.conv_bn(f"{name}.conv3", f"{name}.bn3", out, middle, 1))
        self.downsample = (
            Conv(w.conv_bn(f"{name}.downsample.0", f"{name}.downsample.1", out, into, 1), stride=stride)
            if into != out
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.conv1(x, relu=True), relu=True)
        shortcut = x if self.downsample is None else self.downsample(x)
        result: Tensor = self.conv3(y, relu=True, add=shortcut)
        return result


class ResNeXt(nn.Module):
    """The backbone's body."""

    def __init__(self, w: Weights, name: str, config: DetectorConfig) -> None:
        super().__init__()
        stem = config.stem_channels
        self.stem = Conv(w.conv_bn(f"{name}.stem.conv1", f"{name}.stem.bn1", stem, 3, 7), stride=2, padding=3)
        self.stages = nn.ModuleList()
        into = stem
        for stage, blocks in enumerate(BLOCKS[config.depth]):
            middle = config.groups * config.width_per_group * 2**stage
            out = config.res2_channels * 2**stage
            layer = nn.Sequential()
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                layer.append(Bottleneck(w, f"{name}.layer{stage + 1}.{block}", (into, middle, out), stride, config))
                into = out
            self.stages.append(layer)

    def forward(self, image: Tensor) -> list[Tensor]:
        """C2, C3, C4, C5. The result of one stage may not be modified: the next reads it first."""
        x = F.max_pool2d(self.stem(image, relu=True), kernel_size=3, stride=2, padding=1)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

"""Two building blocks: weights that are taken by name and shape, and a convolution with its epilogue.

Shapes: x (B, C, H, W) float, any strides; weight (O, C / groups, k, k); bias (O,).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Weights:
    """The tensors of a checkpoint, handed out to the modules that use them.

    Names and shapes are written once, where a module takes its weights: building a model from ``Weights(None)``
    moves no data (meta tensors) and leaves in ``taken`` the name and shape of everything that the model wants."""

    def __init__(self, tensors: Mapping[str, Tensor] | None) -> None:
        self.tensors = tensors
        self.taken: dict[str, tuple[int, ...]] = {}

    def take(self, name: str, *shape: int) -> Tensor:
        """The tensor called ``name`` as float32."""
        self.taken[name] = shape
        if self.tensors is None:
            return torch.empty(shape, device="meta")
        return self.tensors[name].detach().float()

    def conv(self, name: str, out: int, into: int, kernel: int) -> tuple[Tensor, Tensor]:
        """Weight and bias of a plain convolution."""
        return self.take(f"{name}.weight", out, into, kernel, kernel), self.take(f"{name}.bias", out)

    def conv_bn(self, conv: str, bn: str, out: int, into: int, kernel: int) -> tuple[Tensor, Tensor]:
        """Weight and bias of a convolution with the frozen batch norm behind it folded in.

        The fork's frozen batch norm has no epsilon: scale = weight / sqrt(running_var). Folded in
        float64 and rounded once."""
        weight = self.take(f"{conv}.weight", out, into, kernel, kernel).double()
        gamma, beta, mean, var = (
            self.take(f"{bn}.{part}", out).double() for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gamma / var.sqrt()
        return (weight * scale.view(-1, 1, 1, 1)).float(), (beta - mean * scale).float()


class Conv(nn.Module):
    """A convolution, then optionally the sum with ``add``, then optionally ReLU.

    On CPU the three are one oneDNN primitive: the epilogue costs no pass over memory (a tenth of
    the body's time on two AVX-512 cores)."""

    weight: Tensor
    bias: Tensor

    def __init__(
        self, weight_bias: tuple[Tensor, Tensor], *, stride: int = 1, padding: int = 0, groups: int = 1
    ) -> None:
        super().__init__()
        weight, bias = weight_bias
        self.register_buffer("weight", weight, persistent=False)
        self.register_buffer("bias", bias, persistent=False)
        self.stride, self.padding, self.groups = [stride, stride], [padding, padding], groups

    def forward(self, x: Tensor, *, relu: bool = False, add: Tensor | None = None) -> Tensor:
        """Convolve ``x``. ``add`` (same shape as the result) is overwritten where that saves a copy."""
        if x.device.type == "cpu" and torch.backends.mkldnn.is_available():
            geometry = (self.padding, self.stride, [1, 1], self.groups)
            if add is None:
                result: Tensor = torch.ops.mkldnn._convolution_pointwise(
                    x, self.weight, self.bias, *geometry, "relu" if relu else "none", [], ""
                )
            else:
                result = torch.ops.mkldnn._convolution_pointwise_.binary(
                    add, x, self.weight, self.bias, *geometry, "add", 1.0, "relu" if relu else None, [], ""
                )
            return result
        y = F.conv2d(x, self.weight, self.bias, self.stride, self.padding, 1, self.groups)
        if add is not None:
            y += add
        return y.relu_() if relu else y

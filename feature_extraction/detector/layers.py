"""The building blocks: weights that are taken by name and shape, products with their epilogue.

Shapes: x (B, C, H, W) float, any strides; weight (O, C / groups, k, k); bias (O,).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Geometry = tuple[list[int], list[int], list[int], int]
"""Of a convolution: stride, padding, dilation (y, x each), groups."""


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


@functools.cache
def has_fused_convolution(dtype: torch.dtype) -> bool:
    """Whether this processor and this PyTorch convolve, add and apply ReLU on the CPU in one oneDNN primitive.

    The operator is an internal of PyTorch, and oneDNN refuses types that the processor has no instructions for
    (bfloat16 without AVX-512 or AVX-NE-CONVERT), so it is tried once, on a few numbers, and its results are
    compared."""
    if not torch.backends.mkldnn.is_available():
        return False
    draw = torch.Generator().manual_seed(1)

    def numbers(*shape: int) -> Tensor:
        return (torch.rand(shape, generator=draw) - 0.5).to(dtype)

    x = numbers(1, 8, 6, 5).contiguous(memory_format=torch.channels_last)
    other = numbers(1, 8, 6, 5).contiguous(memory_format=torch.channels_last)
    weight, bias = numbers(8, 4, 3, 3), numbers(8)
    geometry = ([1, 1], [1, 1], [1, 1], 2)
    plain = F.conv2d(x.float(), weight.float(), bias.float(), *geometry)
    try:
        alone = _fused(x, weight, bias, geometry, relu=True, add=None)
        summed = _fused(x, weight, bias, geometry, relu=True, add=other.clone())
    except (RuntimeError, AttributeError, TypeError, NotImplementedError):
        return False
    unit = torch.finfo(dtype).eps
    return all(
        found.dtype == dtype and torch.allclose(found.float(), expected.relu(), rtol=unit, atol=8 * unit)
        for found, expected in ((alone, plain), (summed, plain + other.float()))
    )


def _fused(x: Tensor, weight: Tensor, bias: Tensor, geometry: Geometry, *, relu: bool, add: Tensor | None) -> Tensor:
    stride, padding, dilation, groups = geometry
    order = (padding, stride, dilation, groups)
    operators = torch.ops.mkldnn
    result: Tensor
    if add is None:
        after = "relu" if relu else "none"
        result = operators._convolution_pointwise(x, weight, bias, *order, after, [], "")
    else:
        then = "relu" if relu else None
        result = operators._convolution_pointwise_.binary(
            add, x, weight, bias, *order, "add", 1.0, then, [], ""
        )  # fmt: skip
    return result


def stored_as(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """The type that weights rounded to ``dtype`` are kept and multiplied in.

    A processor that does not multiply ``dtype`` multiplies float32 and rounds each result to ``dtype``: that is what
    the instructions it lacks would do, and 8 to 20 times faster than PyTorch's own loops over such numbers."""
    return torch.float32 if device.type == "cpu" and not has_fused_convolution(dtype) else dtype


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``x @ weight.T + bias``, multiplied in the weight's type, in the type of ``x``."""
    return F.linear(x.to(weight.dtype), weight, bias).to(x.dtype)


@functools.cache
def has_fused_cudnn(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this card and this PyTorch convolve, add and apply ReLU in one cuDNN call: tried once, on a few numbers,
    and compared. On an H200 it halves the time of the body in bfloat16, float16 and tf32."""
    if device.type != "cuda":
        return False
    draw = torch.Generator().manual_seed(1)
    x, other, weight = ((torch.rand(shape, generator=draw) - 0.5).to(device, dtype, memory_format=torch.channels_last)
                        for shape in ((1, 16, 6, 5), (1, 16, 6, 5), (16, 8, 3, 3)))  # fmt: skip
    bias = torch.zeros(16, device=device, dtype=dtype)
    geometry = ([1, 1], [1, 1], [1, 1], 2)
    plain = F.conv2d(x.float(), weight.float(), bias.float(), *geometry)
    try:
        alone = torch.cudnn_convolution_relu(x, weight, bias, *geometry)
        summed = torch.cudnn_convolution_add_relu(x, weight, other, 1.0, bias, *geometry)
    except (RuntimeError, AttributeError, TypeError, NotImplementedError):
        return False
    return all(
        torch.allclose(found.float(), expected.relu(), atol=0.02)  # tf32 and bfloat16 round to 3 digits
        for found, expected in ((alone, plain), (summed, plain + other.float()))
    )


def pointwise(x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    """A 1x1 convolution as the matrix product it is; ``x`` and the result lie channels last."""
    rows = x[:, :, ::stride, ::stride].permute(0, 2, 3, 1)
    return F.linear(rows, weight.flatten(1), bias).permute(0, 3, 1, 2)


class Conv(nn.Module):
    """A convolution, then optionally the sum with ``add``, then optionally ReLU.

    The three are one call where it can be had: on a CPU the epilogue then costs no pass over memory (a tenth of the
    body's time on two AVX-512 cores), on a GPU half of it. In float32 a GPU's matrix product is faster than its
    convolution: on an H200, batch 4, the grid's 62 ms an image became 33."""

    weight: Tensor
    bias: Tensor

    def __init__(
        self, weight_bias: tuple[Tensor, Tensor], *, stride: int = 1, padding: int = 0, groups: int = 1
    ) -> None:
        super().__init__()
        weight, bias = weight_bias
        self.register_buffer("weight", weight, persistent=False)
        self.register_buffer("bias", bias, persistent=False)
        self.geometry: Geometry = ([stride, stride], [padding, padding], [1, 1], groups)
        self.onednn = self.cudnn = self.exact_gpu = False
        """Set by ``place``: which calls there are for these weights, and whether they are float32 without TF32 on a
        GPU."""

    def place(self, device: torch.device, dtype: torch.dtype, *, tf32: bool) -> None:
        """Weight and bias on ``device``, rounded to ``dtype``, channels last."""
        kept = stored_as(device, dtype)
        self.weight = self.weight.to(dtype).to(device, kept, memory_format=torch.channels_last)
        self.bias = self.bias.to(dtype).to(device, kept)
        self.onednn = device.type == "cpu" and has_fused_convolution(kept)
        self.cudnn = has_fused_cudnn(device, kept)
        self.exact_gpu = device.type == "cuda" and dtype == torch.float32 and not tf32

    def forward(self, x: Tensor, *, relu: bool = False, add: Tensor | None = None) -> Tensor:
        """Convolve ``x``; the result has its type. ``add`` (same shape as the result) is overwritten where that saves
        a copy."""
        dtype, kept = x.dtype, self.weight.dtype
        x = x.to(kept)
        if add is not None:
            add = add.to(kept)
        if self.onednn:
            return _fused(x, self.weight, self.bias, self.geometry, relu=relu, add=add).to(dtype)
        return self._convolve(x, relu, add).to(dtype)

    def _convolve(self, x: Tensor, relu: bool, add: Tensor | None) -> Tensor:
        stride, _, _, groups = self.geometry
        is_product = self.exact_gpu and self.weight.shape[2] == 1
        if self.cudnn and relu and not is_product:
            if add is not None:
                return torch.cudnn_convolution_add_relu(x, self.weight, add, 1.0, self.bias, *self.geometry)
            if self.exact_gpu and groups > 1 and len(x) == 1:
                # one image: cuDNN's grouped float32 convolution is faster on planes (40 against 49 ms for the grid)
                planes = torch.cudnn_convolution_relu(
                    x.contiguous(), self.weight.contiguous(), self.bias, *self.geometry
                )
                return planes.contiguous(memory_format=torch.channels_last)
            return torch.cudnn_convolution_relu(x, self.weight, self.bias, *self.geometry)
        if is_product:
            y = pointwise(x, self.weight, self.bias, stride[0])
        else:
            y = F.conv2d(x, self.weight, self.bias, *self.geometry)
        if add is not None:
            y += add
        return y.relu_() if relu else y

"""What the proof in ``by_bfloat16.py`` takes for granted: E and F of every row, and the right side of the product.

The names are those of the proof.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from torch import Tensor

UNIT: Final = 2.0**-24
"""Unit roundoff of float32, round to nearest."""
UNIT_BFLOAT16: Final = 2.0**-9
"""Unit roundoff of bfloat16 (8 significant bits), round to nearest."""
ROUNDING: Final = {"cpu": 2.0**-23, "cuda": 2.0**-22}
"""Largest relative error of one addition inside a bfloat16 product; tensor cores truncate and keep fewer
guard bits."""
TINY: Final = 2.0**-126
"""Smallest normal float32; products below it may be taken for 0, so every bound has a floor."""
SLACK: Final = 1.0 + 2.0**-8
"""Covers the rounding of norms and bounds that are themselves computed in float32, and 1 / (1 - 2^-9)."""
GROUP: Final = 64
"""Centroids whose results are first looked at together, by their maximum."""
SQUARE_PARTS: Final = 3
"""bfloat16 summands of |c'|^2 / 2: three hold 24 bits, as many as float32."""
COLUMNS: Final = 32
"""The product's inner dimension is filled up to a multiple of this, the width of matrix instructions."""


@dataclass(frozen=True)
class Bounds:
    """What the centroids contribute to E and F; the names are those of the proof above."""

    norm: float
    """Largest |c'|."""
    lost: float
    """Largest |ec|, with what the subtraction of m rounded away."""
    square_error: float
    """Error of |c'|^2 / 2 as it stands in the product."""
    largest: float
    """Largest |c|."""
    summing: float
    """g of the product."""
    direct: float
    """g' of d + 4 roundings in float32."""
    floor: float
    """What a norm may have lost to squares below TINY."""

    def of_rows(self, x: Tensor, mean: Tensor, rounded: Tensor) -> tuple[Tensor, Tensor]:
        """E (m,) float32 and F (m,) float64 of rows (m, d); X is left in ``rounded`` (m, d)."""
        import torch

        shifted = x - mean
        rounded.copy_(shifted)
        norm = torch.linalg.vector_norm(shifted, dim=1)
        norm += self.floor
        lost = torch.linalg.vector_norm(shifted.sub_(rounded), dim=1) + self.floor + UNIT * norm
        error = lost * self.norm + (norm + lost) * (self.lost + self.summing * (self.norm + self.lost))
        error = error * SLACK + self.square_error
        size = torch.linalg.vector_norm(x, dim=1).double() * SLACK + self.floor
        faiss_error = self.direct * self.largest * (self.largest + 2 * size)
        faiss_error += 4 * UNIT * (size + self.largest).square()
        return error, faiss_error


def prepare(centroids: Tensor, mean: Tensor) -> tuple[Tensor, Bounds]:
    """The right side of the product, C and the parts of -|c'|^2 / 2 (k filled up, width), and its bounds."""
    import torch

    k, d = centroids.shape
    width = -(-(d + SQUARE_PARTS) // COLUMNS) * COLUMNS
    summing = width * ROUNDING[centroids.device.type]
    summing /= 1 - summing
    floor = math.sqrt(width * TINY)
    shifted = centroids - mean
    low = torch.zeros(-(-k // GROUP) * GROUP, width, dtype=torch.bfloat16, device=centroids.device)
    low[:k, :d] = shifted
    norm = torch.linalg.vector_norm(shifted.double(), dim=1)
    half_square = norm.square() / 2
    rest = half_square.clone()
    for part in range(d, d + SQUARE_PARTS):
        low[:k, part] = -rest
        rest += low[:k, part].double()
    low[k:, d] = -torch.finfo(torch.bfloat16).max  # fills the last group, never the nearest
    # |c - m - C|, with what the subtraction of m rounded away
    lost = torch.linalg.vector_norm((shifted - low[:k, :d]).double(), dim=1) + UNIT * norm
    largest_norm = float(norm.max()) * SLACK + floor
    return low, Bounds(
        norm=largest_norm,
        lost=float(lost.max()) * SLACK + floor,
        # |c'| was computed from the rounded c - m: off by UNIT of itself, twice in the square
        square_error=float(summing * half_square.max() + rest.abs().max()) * SLACK + 2 * UNIT * largest_norm**2,
        largest=float(torch.linalg.vector_norm(centroids.double(), dim=1).max()) * SLACK + floor,
        summing=summing,
        direct=(d + 4) * UNIT / (1 - (d + 4) * UNIT),
        floor=floor,
    )

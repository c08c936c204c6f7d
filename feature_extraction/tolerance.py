"""How far apart two results may be, and the words for how far they are: bounds only, ``compare`` measures.

Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How far one image's arrays are from the expected ones; None: there was nothing to compare."""

    features: float | None
    """Largest absolute difference over the largest absolute value expected; infinite where one is not a number."""
    boxes: float | None = None
    """Pixels of the original image, the farthest edge of all boxes compared."""
    classes: int | None = None
    """Boxes of another class than the expected one."""
    matched: float | None = None
    """Share of the boxes that were found again."""


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """How far apart results may be. Every field is a bound of the same name in ``Difference``, but for ``quantile``."""

    features: float
    boxes: float
    classes: int = 0
    matched: float = 1.0
    quantile: float = 1.0
    """Share of the images that have to be within the rest."""


class Level(IntEnum):
    """How far one image's arrays are from the expected ones, in one word. It says how far, not why: what is named after
    TF32 may come of something else that moves features as little."""

    EQUAL = 0
    ROUNDING = 1
    TF32 = 2
    DECODER = 3
    DIFFERENT = 4

    def __str__(self) -> str:
        return _WORDS[self]


_WORDS: Final = {
    Level.EQUAL: "equal",
    Level.ROUNDING: "float32 rounding",
    Level.TF32: "TF32",
    Level.DECODER: "other decoder",
    Level.DIFFERENT: "different",
}


SAME_NETWORK: Final = Tolerance(features=2e-4, boxes=1e-2)
"""Two correct float32 evaluations of the network, image by image: the bounds that tests/data/README.md gives with the
original's outputs. Other orders of summation were seen to move features by 8e-5 of the largest value (fc6 is a sum over
25,088 products behind 160 convolutions) and boxes by 2e-3 pixel; the classes and their order stay."""
BATCHED: Final = Tolerance(features=1e-5, boxes=1e-2)
"""The same images alone and in batches, or in several processes, on one machine: the sums are the same, their
order inside one matrix product may not be. 5e-6 was seen."""
PUBLISHED: Final = Tolerance(features=0.02, boxes=1.0, matched=0.9, quantile=0.99)
"""Against the published files, made on another GPU with other builds of cuDNN and libjpeg: not calibrated, no published
file was at hand. libjpeg builds alone move single pixels by 1 to 3 of 255, a near-tie exchanges a box."""
LADDER: Final = {
    Level.ROUNDING: SAME_NETWORK,
    Level.TF32: Tolerance(features=4e-2, boxes=1.0, matched=0.85),
    Level.DECODER: Tolerance(features=0.2, boxes=2.0, matched=0.5),
}
"""Rungs, no proofs: measured on synthetic weights, which magnify more than trained ones do, as the largest of each.
Tiny: 4 photographs; X-152: 1 in float32, 5 in TF32. On CPU, TF32 by rounding the factors of every product to 11 bits.

    what differs                           grids    box features   boxes found again
    float32: threads, AVX2    X-152        8e-7     2.2e-5         all, to 2e-4 pixel
    TF32                      tiny         1.8e-3   2.4e-2         97 % within 1 pixel
                              X-152        3.3e-3   3.6e-2         92 %; on a GPU 5.7e-3 and 92 %
    float16                   tiny         2.0e-3   3.7e-2         97 %; 0.1 was seen of a box that moved
    bfloat16                  tiny         1.7e-2   0.2            58 to 81 %
    every pixel by 1 of 255   tiny         4.7e-2   0.2            36 to 58 % within 2 pixels

So grids in bfloat16 stand on the rung of TF32, boxes in bfloat16 on those behind it, and pixels that all differ by 1 of
255 fall off the ladder: decoders differ in fewer of them."""

"""Features in two bytes a number, asked for by name, and what that costs, measured.

float16 keeps 11 bits: values between 6.1e-5 and 65,504 to a relative 4.9e-4, smaller ones to 3e-8. Larger ones it
cannot hold: they are refused, never written as infinity. numpy only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..errors import StoreError
from . import guard

FEATURES_DTYPE: Final = "option_features_dtype"
"""Root attribute of feature files whose features are not float32: their type's name."""
LARGEST: Final = float(np.finfo(np.float16).max)


class BeyondFloat16(StoreError):
    """Features that float16 cannot hold."""


@dataclass
class Loss:
    """How far float16 is from what was there, over all values seen."""

    largest_error: float = 0.0
    largest_value: float = 0.0
    squared_error: float = 0.0
    squared_value: float = 0.0

    def halve(self, values: NDArray[Any], image_id: str) -> NDArray[np.float16]:
        """``values`` (any shape) as float16, the difference counted. Raises BeyondFloat16 for a value beyond it, or
        that is not a number."""
        largest = max(float(values.max(initial=0.0)), -float(values.min(initial=0.0)))
        if not largest <= LARGEST:
            raise BeyondFloat16(
                f"the features of image {guard.shown(image_id)} reach {largest:,g}, float16 ends at {LARGEST:,.0f}: "
                "keep float32"
            )
        half = values.astype(np.float16)
        error = values - half.astype(values.dtype)  # exact in float32
        worst = max(float(error.max(initial=0.0)), -float(error.min(initial=0.0)))
        self.largest_error = max(self.largest_error, worst)
        self.largest_value = max(self.largest_value, largest)
        self.squared_error += float(np.square(error).sum(dtype=np.float64))
        self.squared_value += float(np.square(values).sum(dtype=np.float64))
        return half

    @property
    def relative(self) -> float:
        """Root of the mean squared error over that of the values."""
        return math.sqrt(self.squared_error / self.squared_value) if self.squared_value else 0.0

    def described(self) -> dict[str, float]:
        """As JSON keeps it."""
        return asdict(self)

    @classmethod
    def of(cls, described: Mapping[str, Any]) -> Loss:
        return cls(**{name: float(described[name]) for name in cls.__dataclass_fields__})

    def __str__(self) -> str:
        of_largest = self.largest_error / self.largest_value if self.largest_value else 0.0
        return (
            f"float16 moved features by at most {self.largest_error:.2g} ({of_largest:.2g} of the largest value, "
            f"{self.largest_value:.3g}), by {self.relative:.2g} of their size on average"
        )

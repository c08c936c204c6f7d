"""Seeded weights in place of the published ones: how they are drawn, and how they are recognised.

Every tensor is drawn from its own name, so anybody anywhere makes the same file. With n = standard normal and u =
uniform numbers, float32, of numpy's default generator seeded by CRC-32 of the name:

    frozen batch norm   running_mean, bias: 0.1 n     weight: 1 + 0.1 n (a quarter of it in bn3)
                        running_var: 0.75 + 0.5 u, u drawn after n (7000 times that in the stem)
    other biases        0.05 n
    other weights       (n - mean of n over the fan-in) * sqrt(gain / fan-in)

"The same" but for the last bit of a rare value: NumPy takes the far tail of n from the C library's log1pf, which glibc
2.41 rounds differently (1 value in a million, by at most 5e-7).
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

GAINS: Final = {"cls_logits": 1.0, "rpn.head.bbox_pred": 0.5, "cls_score": 8.0, "predictor.bbox_pred": 0.2}
"""Where the gain is not 2: chosen so that objectness, boxes and classes spread as a trained network's do."""
TELLING: Final = "backbone.body.stem.conv1.weight"
"""The tensor that is compared: in every checkpoint, small, and its values follow from nothing but its name."""
CLOSE: Final = 1e-5
"""Far more than a C library's last bit, far less than the distance of two weights."""


def tensor(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The weights called ``name``, float32 of ``shape``."""
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    n = generator.standard_normal(shape, dtype=np.float32)
    parts = name.split(".")
    if parts[-2] == "1" or "bn" in parts[-2]:
        if parts[-1] == "running_var":
            spread = np.float32(0.75) + np.float32(0.5) * generator.random(shape, dtype=np.float32)
            return spread * np.float32(7000) if "stem" in parts else spread
        if parts[-1] == "weight":
            return np.float32(0.25 if parts[-2] == "bn3" else 1) * (1 + np.float32(0.1) * n)
        return np.float32(0.1) * n
    if parts[-1] == "bias":
        return np.float32(0.05) * n
    fan_in = int(np.prod(shape[1:]))
    mean = n.reshape(len(n), -1).mean(axis=1, dtype=np.float64).astype(np.float32)
    gain = next((value for part, value in GAINS.items() if part in name), 2.0)
    centred: NDArray[np.float32] = n - mean.reshape(-1, *[1] * (n.ndim - 1))
    return centred * np.float32(np.sqrt(gain / fan_in))


def looks_synthetic(tensors: Mapping[str, Tensor]) -> bool:
    """Whether weights were drawn as above, on whatever machine, by this program or another that follows the rules."""
    found = tensors.get(TELLING)
    if found is None or found.dim() != 4 or not found.is_floating_point():
        return False
    expected = torch.from_numpy(tensor(TELLING, tuple(found.shape)))
    return bool(torch.allclose(found.detach().float(), expected, rtol=CLOSE, atol=CLOSE))

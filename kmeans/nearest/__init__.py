"""The nearest centroid of every row: the protocol, the implementations, and the choice between them."""

from __future__ import annotations

import os
from typing import Final

from feature_extraction.errors import DeviceError

from .by_bfloat16 import CertifiedSearch
from .by_faiss import FaissSearch
from .protocol import NearestSearch, SearchStats, pair_distances

__all__ = ["CertifiedSearch", "FaissSearch", "NearestSearch", "SearchStats", "choose", "find_device", "pair_distances"]

DRIVERS: Final = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/kfd")
"""One of them is there where a GPU can be: NVIDIA's driver, Windows' below WSL, AMD's."""
LEAST_CENTROIDS: Final = 512
"""Below this the product is too small a part of the work for bfloat16 to gain anything."""


def choose(method: str, device: str, k: int) -> NearestSearch:
    """The method that was asked for (``options.ASSIGNMENTS``); ``auto``: bfloat16 where it is faster."""
    if method == "auto":
        fast = device != "cpu" or has_fast_bfloat16()
        method = "bfloat16" if k >= LEAST_CENTROIDS and fast else "faiss"
    return CertifiedSearch(device) if method == "bfloat16" else FaissSearch()


def find_device(wanted: str, local_rank: int = 0) -> str:
    """The PyTorch device that ``--device`` means here. Raises DeviceError for ``cuda`` where there is no GPU."""
    if wanted == "cpu" or (wanted == "auto" and not any(os.path.exists(path) for path in DRIVERS)):
        return "cpu"  # without importing PyTorch, which takes seconds and 0.2 GB
    try:
        from torch import cuda

        count = cuda.device_count() if cuda.is_available() else 0
    except ImportError:
        count = 0
    if wanted == "cuda" and not count:
        raise DeviceError("--device cuda: PyTorch finds no GPU here; use --device cpu")
    return f"cuda:{local_rank % count}" if count else "cpu"


def has_fast_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 matrices in hardware."""
    try:
        with open("/proc/cpuinfo") as info:
            flags = next((line for line in info if line.startswith("flags")), "").split()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags

"""How much memory there is, and what a k-means run may do with it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from feature_extraction import machine

from .blocks import READ_AHEAD, Blocks, centroid_block, query_block

SHARE: Final = 0.8
"""Of the free memory that is used where ``--memory`` does not say."""
PROGRAM: Final = 400_000_000
"""Bytes of the interpreter, faiss, HDF5 and, for bfloat16, PyTorch (measured: 150 to 380 MB)."""
CENTROID_COPIES: Final = 5
"""Centroids, their sums, faiss's copy, the bfloat16 path's, one in a checkpoint being written."""
BLOCK_ROWS: Final = 16_384
"""Rows per block where memory allows."""


@dataclass(frozen=True)
class Plan:
    """Where the sample goes and how rows are cut."""

    in_memory: bool
    blocks: Blocks


def plan(budget: int, *, sample_rows: int, k: int, dim: int, threads: int = 1) -> Plan:
    """What fits into ``budget`` bytes. Blocks shrink first; then the sample moves to the disk.

    ``threads``: each holds one product of faiss, 17 MB at most."""
    row = dim * 4
    left = budget - PROGRAM - CENTROID_COPIES * k * row - threads * query_block() * min(k, centroid_block()) * 4
    blocks = Blocks.of(dim, min(BLOCK_ROWS, max(0, left) // 2 // ((READ_AHEAD + 1) * row)))
    in_memory = sample_rows * row <= left - (READ_AHEAD + 1) * blocks.rows * row
    return Plan(in_memory, blocks)


def budget(gigabytes: float | None) -> int:
    """Bytes that this process may use: as asked for, or its part of most of what is free."""
    return int(free_bytes() * SHARE / machine.processes_here() if gigabytes is None else gigabytes * 1e9)


def free_bytes() -> int:
    """Memory that can be had without swapping: of the machine or, if less, of the container."""
    free = [_available()]
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        (
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        ),
    ):
        try:
            free.append(int(Path(limit).read_text()) - int(Path(used).read_text()))
        except (OSError, ValueError):  # not there, or "max": no limit
            continue
    return max(0, min(free))


def _available() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2

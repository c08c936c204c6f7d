"""How rows may be cut without changing a bit, and reading the pieces ahead of the work on them.

faiss itself works on ``distance_compute_blas_query_bs`` rows at a time, so whole multiples of that change nothing; and
it treats short searches (rows * d below ``distance_compute_blas_threshold``; before 1.13: below 20 rows) by another
formula, which rounds differently, so no block may be short unless it is all there is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]
Indices = NDArray[np.int64]

READ_AHEAD: Final = 2
"""Blocks being read while one is computed on."""
FEW_ROWS: Final = 20
"""Below this number faiss before 1.13 took its other formula, whatever the dimension."""


class Vectors(Protocol):
    """n rows of dimension ``dim`` that can be read by range: a feature file or a training sample."""

    @property
    def count(self) -> int: ...

    @property
    def dim(self) -> int: ...

    @property
    def buffered(self) -> bool:
        """Whether ``read`` fills ``out``; otherwise it returns a view of what is in memory and ``out`` is not used."""
        ...

    def read(self, start: int, stop: int, out: Rows) -> Rows:
        """Rows start..stop as float32 (stop - start, dim)."""
        ...


@dataclass(frozen=True)
class Blocks:
    """Blocks of ``rows`` rows, none with fewer than ``least``."""

    rows: int
    least: int

    @classmethod
    def of(cls, dim: int, wanted: int) -> Blocks:
        """Blocks of about ``wanted`` rows of dimension ``dim``, never less than faiss needs."""
        multiple, least = query_block(), fewest_rows(dim)
        return cls(max(1, wanted // multiple, -(-least // multiple)) * multiple, least)

    def cut(self, start: int, stop: int) -> list[tuple[int, int]]:
        return block_ranges(start, stop, self.rows, self.least)


def query_block() -> int:
    """Rows that faiss multiplies at a time."""
    import faiss

    return int(faiss.cvar.distance_compute_blas_query_bs)


def centroid_block() -> int:
    """Centroids that faiss multiplies at a time."""
    import faiss

    return int(faiss.cvar.distance_compute_blas_database_bs)


def fewest_rows(dim: int) -> int:
    """Rows of dimension ``dim`` from which on faiss computes by matrix products."""
    import faiss

    return max(FEW_ROWS, -(-int(faiss.cvar.distance_compute_blas_threshold) // dim))


def block_ranges(start: int, stop: int, rows: int, least: int) -> list[tuple[int, int]]:
    """Cut start..stop into blocks of ``rows``; a rest shorter than ``least`` joins the last block."""
    cuts = [start, *range(start + rows, stop - least + 1, rows), stop]
    return [(a, b) for a, b in pairwise(cuts) if a < b]


def empty_rows(rows: int, dim: int) -> Rows:
    return np.empty((rows, dim), np.float32)


def read_blocks(
    vectors: Vectors, ranges: Iterable[tuple[int, int]], empty: Callable[[int, int], Rows] = empty_rows
) -> Iterator[tuple[int, Rows]]:
    """Yield (first row, rows) for each range while the next ones are being read, into what ``empty(rows, dim)`` gives.

    The rows may be overwritten as soon as the next block is asked for.
    """
    ranges = deque(ranges)
    longest = max((b - a for a, b in ranges), default=0) if vectors.buffered else 0
    buffers = [empty(longest, vectors.dim) for _ in range(READ_AHEAD + 1)]
    waiting: deque[tuple[int, Rows, Future[Rows]]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as ahead:
        used = None
        try:
            while ranges or waiting:
                if used is not None:
                    buffers.append(used)
                while ranges and buffers:
                    start, stop = ranges.popleft()
                    buffer = buffers.pop()
                    waiting.append((start, buffer, ahead.submit(vectors.read, start, stop, buffer[: stop - start])))
                start, used, future = waiting.popleft()
                yield start, future.result()
        finally:
            ahead.shutdown(cancel_futures=True)

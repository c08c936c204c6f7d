"""Nearest centroids by faiss, as published, with bits that depend on nothing but the numbers.

m rows x (m, d), k centroids c (k, d), both float32.

faiss computes |x|^2 + |c|^2 - 2 x.c, for ``query_block()`` rows and ``centroid_block()`` centroids at a time, by a
matrix product. How that product rounds depends on its shape, on a row's position in it, and, as OpenBLAS cuts it into
one piece per thread, on the number of threads: where norms are large and gaps are small the nearest centroid then
changes with the machine. So each product is computed by one thread, and the threads share the products: the result is
that of faiss with one thread, with any number of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import product
from typing import Any, Final

import numpy as np

from ..blocks import Indices, Rows, block_ranges, centroid_block, empty_rows, fewest_rows, query_block
from .protocol import SearchStats

LEAST_DIM_TO_CUT: Final = 65
"""Up to dimension 32 faiss multiplies all centroids at once, in kernels of its own: they are cut only well above."""
TASKS_PER_THREAD: Final = 4
"""Products that each thread gets, so that all end at about the same time."""
GATHERED: Final = 256
"""Rows at a time in which single rows are searched again, where their position is known not to matter."""


class FaissSearch:
    """Nearest centroids by ``faiss.knn``, which is what ``IndexFlatL2`` calls."""

    name = "faiss"
    stats: SearchStats | None = None

    def __init__(self, threads: int | None = None) -> None:
        """``threads``: how many share the work; None: as many as OpenMP has."""
        self._threads = threads
        self._workers: ThreadPoolExecutor | None = None
        self._centroids: Rows = np.empty((0, 0), np.float32)

    def set_centroids(self, centroids: Rows) -> None:
        self._centroids = np.ascontiguousarray(centroids)

    def empty(self, rows: int, dim: int) -> Rows:
        return empty_rows(rows, dim)

    def assign(self, block: Rows) -> Indices:
        return self.search(block)[0]

    def search(self, block: Rows) -> tuple[Indices, Rows]:
        block = np.ascontiguousarray(block)
        ids = np.empty(len(block), np.int64)
        distances = np.empty(len(block), np.float32)
        tasks = self._tasks(*block.shape)
        answers = self._pool().map(lambda task: _nearest(block[slice(*task[0])], self._centroids, *task[1]), tasks)
        for ((start, stop), (first, _)), (found, near) in zip(tasks, answers, strict=True):
            if first == 0:
                ids[start:stop], distances[start:stop] = found, near
                continue
            better = near < distances[start:stop]  # at a tie the centroid with the lower index, as in faiss
            ids[start:stop][better], distances[start:stop][better] = found[better] + first, near[better]
        return ids, distances

    def settle(self, block: Any, rows: Indices) -> Indices:
        """What ``assign(block)`` says of these rows (ascending) of the block, for less where they are few.

        ``block``: an array, or anything that gives its rows as arrays when they are asked for.
        """
        unit = _unit(block.shape[1])
        whole = len(block) // unit * unit
        if whole == 0 or 2 * len(rows) > len(block):
            return self.assign(block)[rows]
        ids = np.empty(len(rows), np.int64)
        inner = np.searchsorted(rows, whole)
        if inner < len(rows):  # behind the last whole product: products of another shape, searched as they stand
            ids[inner:] = self.assign(block[whole - unit :])[rows[inner:] - (whole - unit)]
        batches = _gathered if _position_does_not_matter(*self._centroids.shape) else _in_place
        for part, batch, where in batches(block, rows[:inner]):
            ids[part] = self.assign(batch)[where]
        return ids

    def _tasks(self, rows: int, dim: int) -> list[Task]:
        """Rows and centroids of each product, or of the few that one thread computes in turn."""
        ranges = block_ranges(0, rows, _unit(dim), fewest_rows(dim))
        k, block = len(self._centroids), centroid_block()
        blocks = -(-k // block)
        wanted = min(blocks, -(-TASKS_PER_THREAD * self._width() // max(1, len(ranges))))
        if self._width() == 1 or dim < LEAST_DIM_TO_CUT or rows < fewest_rows(dim):
            wanted = 1
        step = -(-blocks // wanted) * block
        return list(product(ranges, [(a, min(k, a + step)) for a in range(0, k, step)]))

    def _width(self) -> int:
        import faiss

        return self._threads or int(faiss.omp_get_max_threads())

    def _pool(self) -> ThreadPoolExecutor:
        if self._workers is None:
            self._workers = _pool(self._width())
        return self._workers


Task = tuple[tuple[int, int], tuple[int, int]]
"""Rows start..stop and centroids first..last of one search."""
Batch = tuple[Indices, Rows, Indices]
"""Which of the rows asked for, a block to search, and where in it they stand."""


def _pool(threads: int) -> ThreadPoolExecutor:
    import faiss

    # OpenMP's number of threads is each thread's own setting: these compute alone, the caller's stays
    return ThreadPoolExecutor(threads, "faiss", initializer=faiss.omp_set_num_threads, initargs=(1,))


def _unit(dim: int) -> int:
    """Rows of the smallest block that is made of whole products and is not short."""
    return -(-fewest_rows(dim) // query_block()) * query_block()


def _nearest(x: Rows, centroids: Rows, first: int, last: int) -> tuple[Indices, Rows]:
    """Nearest of the centroids first..last and the distance, for each row; by the calling thread."""
    import faiss

    distances, ids = faiss.knn(x, centroids[first:last], 1)
    return ids.ravel(), distances.ravel()


def _in_place(block: Any, rows: Indices) -> Iterator[Batch]:
    """Blocks of whole products in which every row has the position in its product that it has in ``block``."""
    position = rows % query_block()
    order = np.argsort(position, kind="stable")
    _, begins, several = np.unique(position[order], return_index=True, return_counts=True)
    turn = np.empty(len(rows), np.int64)  # rows with one position take turns
    turn[order] = np.arange(len(rows)) - np.repeat(begins, several)
    for i in range(int(turn.max(initial=-1)) + 1):
        part = np.flatnonzero(turn == i)
        batch = np.zeros((_unit(block.shape[1]), block.shape[1]), np.float32)
        batch[position[part]] = block[rows[part]]
        yield part, batch, position[part]


def _gathered(block: Any, rows: Indices) -> Iterator[Batch]:
    """Blocks of these rows alone, filled up."""
    size = _gathered_size(block.shape[1])
    for part in np.split(np.arange(len(rows)), range(size, len(rows), size)):
        yield part, np.resize(block[rows[part]], (size, block.shape[1])), np.arange(len(part))


def _gathered_size(dim: int) -> int:
    return min(_unit(dim), -(-fewest_rows(dim) // GATHERED) * GATHERED)


@cache
def _position_does_not_matter(k: int, dim: int) -> bool:
    """Whether this machine's products round a row alike at every position, and as in ``_gathered_size`` rows.

    Tried once, on rows and centroids so close together, far from the origin, that another rounding changes half of
    the answers. It is so with OpenBLAS's kernels for AVX-512, and not with those for AVX2.
    """
    rng = np.random.default_rng(0)
    k = min(k, centroid_block() + k % centroid_block())  # a whole product and the rest
    base = 30 * rng.standard_normal(dim)
    rows, centroids = ((base + 0.01 * rng.standard_normal((n, dim))).astype(np.float32) for n in (_unit(dim), k))
    shuffled = rng.permutation(len(rows))
    few = shuffled[: 2 * _gathered_size(dim)]

    def same() -> bool:
        expected, distances = _nearest(rows, centroids, 0, k)
        for chosen in (shuffled, *np.split(few, range(_gathered_size(dim), len(few), _gathered_size(dim)))):
            found, near = _nearest(rows[chosen], centroids, 0, k)
            if not (np.array_equal(found, expected[chosen]) and np.array_equal(near, distances[chosen])):
                return False
        return True

    with _pool(1) as alone:
        return alone.submit(same).result()

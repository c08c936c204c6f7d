"""k-means as faiss computes it, one readable block at a time.

n rows x (n, d) float32, k centroids (k, d) float32; distances are squared L2.

``faiss.Kmeans.train`` wants all rows in one array. Here faiss draws the sample and the initial centroids
(its ``rand_perm``), finds the nearest centroids (``IndexFlatL2``) and drives the random choice where
clusters are empty; this module does what lies between, the sums, in the order and the precision in which
faiss does it. So the bits are those of ``faiss.Kmeans`` (tests compare them), but the rows may lie in
memory, on a disk or on several machines, they are read once per iteration, and each iteration can be saved
and resumed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from feature_extraction import recipe
from kmeans.ranks import Solo
from kmeans.vectors import Indices, Rows, Vectors, block_ranges, read_blocks

SPLIT_STEP = 1 / 1024
"""Relative step by which a centroid and its copy are moved apart where a cluster was empty [faiss]."""
SPLIT_SEED = 1234
"""Seed of the choice of clusters to split, anew in every iteration [faiss]."""


@dataclass(frozen=True)
class Blocks:
    """How rows are cut so that searching them block by block gives the bits of searching them at once.

    faiss itself works on ``distance_compute_blas_query_bs`` rows at a time, so whole multiples of that
    change nothing; and it treats short searches (rows * d below ``distance_compute_blas_threshold``; before
    1.13: below 20 rows) by another formula, so no block may be short unless it is all there is.
    """

    rows: int
    least: int

    @classmethod
    def of(cls, dim: int, wanted: int) -> Blocks:
        """Blocks of about ``wanted`` rows of dimension ``dim``, never less than faiss needs."""
        import faiss

        multiple = query_block()
        least = max(20, -(-faiss.cvar.distance_compute_blas_threshold // dim))
        return cls(max(1, wanted // multiple, -(-least // multiple)) * multiple, least)

    def cut(self, start: int, stop: int) -> list[tuple[int, int]]:
        return block_ranges(start, stop, self.rows, self.least)


def query_block() -> int:
    """Rows that faiss multiplies at a time."""
    import faiss

    return int(faiss.cvar.distance_compute_blas_query_bs)


class Nearest(Protocol):
    """Finds the nearest centroid of each row."""

    def set_centroids(self, centroids: Rows) -> None: ...

    def search(self, block: Rows) -> tuple[Indices, Rows]:
        """Index (m,) of the nearest centroid and the squared distance (m,) to it, for rows (m, d)."""


@dataclass(frozen=True)
class Iteration:
    """What one iteration did; figures as faiss reports them."""

    objective: float
    """Sum of squared distances to the centroids that the iteration began with."""
    imbalance: float
    """k * sum(size^2) / n^2 of the cluster sizes: 1 where all are equal."""
    empty_split: int
    """Clusters that were empty and got half of another one."""
    seconds: float


@dataclass(frozen=True)
class State:
    """Everything training needs to go on: centroids after ``len(history)`` iterations."""

    centroids: Rows
    history: tuple[Iteration, ...] = ()
    converged: bool = False

    def figures(self) -> list[dict[str, Any]]:
        return [asdict(i) for i in self.history]


def permutation(n: int, seed: int) -> NDArray[np.int32]:
    """faiss's random permutation of 0..n-1: the same in every version since 1.6.3."""
    import faiss

    if n > np.iinfo(np.int32).max:
        raise ValueError(f"{n} rows: faiss draws from at most {np.iinfo(np.int32).max}")
    out = np.empty(n, np.int32)
    faiss.rand_perm(faiss.swig_ptr(out), n, seed)  # type: ignore[attr-defined]
    return out


def draw_sample(n: int, k: int) -> Indices:
    """The rows that faiss trains k centroids on, in its order: all n, or 256 k drawn at random."""
    most = k * recipe.KMEANS_MAX_POINTS_PER_CENTROID
    if n <= most:
        return np.arange(n, dtype=np.int64)
    return permutation(n, recipe.KMEANS_SEED)[:most].astype(np.int64)


def draw_initial(n: int, k: int) -> Indices:
    """The positions in the sample of n rows whose rows are the initial centroids, in order."""
    if n == k:  # faiss then copies the rows as they are
        return np.arange(k, dtype=np.int64)
    return permutation(n, recipe.KMEANS_SEED + 1)[:k].astype(np.int64)


def initial_centroids(sample: Vectors, total: int, first: int, k: int, ranks: Solo) -> Rows:
    """The initial centroids (k, d): rows of the sample of ``total`` rows, of which this rank has those from
    ``first``."""
    centroids = np.zeros((k, sample.dim), np.float32)
    for i, position in enumerate((draw_initial(total, k) - first).tolist()):
        if 0 <= position < sample.count:
            centroids[i] = sample.read(position, position + 1, centroids[i : i + 1])[0]
    return ranks.from_root(ranks.sum_to_root(centroids))


def train(
    sample: Vectors,
    state: State,
    iterations: int,
    nearest: Nearest,
    *,
    total: int,
    blocks: Blocks,
    ranks: Solo,
    on_iteration: Callable[[State], None],
) -> State:
    """Run k-means from ``state`` until ``iterations`` are done or, as in faiss, the objective stands still.

    ``sample``: this rank's slice of the ``total`` rows. ``on_iteration`` gets the new state after each
    iteration, on every rank.
    """
    if total == len(state.centroids) and not state.history:  # faiss: nothing to do, one iteration on record
        state = State(state.centroids, (Iteration(0.0, 1.0, 0, 0.0),), True)
        on_iteration(state)
    while len(state.history) < iterations and not state.converged:
        began = time.perf_counter()
        nearest.set_centroids(state.centroids)
        centroids, counts, objective = _sums(sample, state.centroids.shape, nearest, blocks)
        figures = np.array([objective], np.float32)
        centroids, counts = ranks.sum_to_root(centroids), ranks.sum_to_root(counts)
        figures = ranks.sum_to_root(figures)
        imbalance = len(counts) * float((counts.astype(np.float64) ** 2).sum()) / total**2
        split = 0
        if ranks.rank == 0:
            split = update(centroids, counts, total)
        centroids = ranks.from_root(centroids)
        numbers = ranks.from_root(np.array([float(figures[0]), imbalance, split]))
        done = Iteration(float(numbers[0]), float(numbers[1]), int(numbers[2]), time.perf_counter() - began)
        state = State(centroids, (*state.history, done), _stands_still(state.history, done))
        on_iteration(state)
    return state


def _stands_still(history: tuple[Iteration, ...], now: Iteration) -> bool:
    """Whether faiss stops here: it does, since 1.13, when the float32 objective repeats (but not at 0)."""
    import faiss

    if not history or not hasattr(faiss.ClusteringParameters(), "early_stop_threshold"):
        return False
    return now.objective == history[-1].objective != 0.0


def _sums(
    sample: Vectors, shape: tuple[int, ...], nearest: Nearest, blocks: Blocks
) -> tuple[Rows, NDArray[np.int64], np.float32]:
    """Sum (k, d) and number (k,) of the rows nearest to each centroid, and the objective."""
    sums = np.zeros(shape, np.float32)
    counts = np.zeros(shape[0], np.int64)
    objective = np.float32(0)
    for _, block in read_blocks(sample, blocks.cut(0, sample.count)):
        ids, distances = nearest.search(block)
        # one after the other in float32, as faiss adds them: another order would round differently
        objective = np.add.accumulate(np.append(objective, distances), dtype=np.float32)[-1]
        counts += np.bincount(ids, minlength=shape[0])
        add_rows(sums, ids, block)
    return sums, counts, objective


def add_rows(sums: Rows, ids: Indices, block: Rows) -> None:
    """sums[ids[i]] += block[i] for i = 0, 1, ..: in row order, each addition rounded to float32.

    The order decides the bits, so this is a loop; at d = 2048 it adds a row per microsecond, two orders of
    magnitude less than finding the row's centroid among 10,000.
    """
    add, targets = np.add, list(sums)
    for i, row in zip(ids.tolist(), block, strict=True):
        target = targets[i]
        add(target, row, target)


def update(sums: Rows, counts: NDArray[np.int64], n: int) -> int:
    """Turn sums into means, in place, and refill empty clusters; returns how many were empty.

    An empty cluster gets the centroid of another, chosen at random with a probability that grows with its
    size; the two are then moved apart by ``SPLIT_STEP``. All of it in faiss's precision and order.
    """
    import faiss

    k, d = sums.shape
    sizes = counts.astype(np.float32)
    full = sizes > 0
    sums[full] *= (np.float32(1) / sizes[full])[:, None]
    generator = faiss.RandomGenerator(SPLIT_SEED)  # type: ignore[attr-defined]
    # (1 + s, 1 - s, 1 + s, ...) and the opposite, in float64: the product is rounded to float32 once
    up = 1 + SPLIT_STEP * np.where(np.arange(d) % 2 == 0, 1.0, -1.0)
    empty = np.flatnonzero(~full)
    for i in empty.tolist():
        j = 0
        while np.float32(generator.rand_float()) >= np.float32((float(sizes[j]) - 1.0) / float(np.float32(n - k))):
            j = (j + 1) % k
        centroid = sums[j].copy()
        sums[i], sums[j] = centroid * up, centroid * (2 - up)
        sizes[i] = sizes[j] / np.float32(2)
        sizes[j] -= sizes[i]
    return len(empty)

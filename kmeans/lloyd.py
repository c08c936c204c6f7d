"""k-means as faiss computes it, one readable block at a time.

n rows x (n, d) float32, k centroids (k, d) float32; distances are squared L2.

``faiss.Kmeans.train`` wants all rows in one array. Here faiss draws the sample and the initial centroids
(its ``rand_perm``), finds the nearest centroids and drives the random choice where
clusters are empty; this module does what lies between, the sums, in the order and the precision in which
faiss does it. So the bits are those of ``faiss.Kmeans`` (tests compare them), but the rows may lie in
memory, on a disk, on a card or on several machines, they are read once per iteration, and each iteration can be
saved and resumed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from feature_extraction import recipe

from .blocks import Blocks, Indices, Rows, Vectors, read_blocks
from .comm import Communicator
from .nearest import NearestSearch
from .samples import Sample

SPLIT_STEP: Final = 1 / 1024
"""Relative step by which a centroid and its copy are moved apart where a cluster was empty [faiss]."""
SPLIT_SEED: Final = 1234
"""Seed of the choice of clusters to split, anew in every iteration [faiss]."""


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


def initial_centroids(sample: Vectors, total: int, first: int, k: int, comm: Communicator) -> Rows:
    """The initial centroids (k, d): rows of the sample of ``total`` rows, of which this process has those from
    ``first``."""
    centroids = np.zeros((k, sample.dim), np.float32)
    for i, position in enumerate((draw_initial(total, k) - first).tolist()):
        if 0 <= position < sample.count:
            row = sample.read(position, position + 1, centroids[i : i + 1])[0]
            centroids[i] = row if isinstance(row, np.ndarray) else row.cpu().numpy()
    return comm.broadcast(comm.reduce_sum(centroids))


@dataclass(frozen=True, kw_only=True)
class Run:
    """What stays the same from iteration to iteration."""

    sample: Sample
    """This process's slice of the rows."""
    total: int
    """Rows of all processes together."""
    blocks: Blocks
    nearest: NearestSearch
    comm: Communicator


def train(run: Run, state: State, iterations: int, on_iteration: Callable[[State], None]) -> State:
    """Run k-means from ``state`` until ``iterations`` are done or, as in faiss, the objective stands still.

    ``on_iteration`` gets the new state after each iteration, in every process.
    """
    if run.total == len(state.centroids) and not state.history:  # faiss: nothing to do, one iteration on record
        state = State(state.centroids, (Iteration(0.0, 1.0, 0, 0.0),), True)
        on_iteration(state)
    while len(state.history) < iterations and not state.converged:
        centroids, done = _iterate(run, state.centroids)
        state = State(centroids, (*state.history, done), _stands_still(state.history, done))
        on_iteration(state)
    return state


def _iterate(run: Run, centroids: Rows) -> tuple[Rows, Iteration]:
    """One iteration over all processes: the new centroids (k, d), and its figures."""
    began = time.perf_counter()
    comm = run.comm
    run.nearest.set_centroids(centroids)
    centroids, counts, objective = _sums(run, len(centroids))
    centroids, counts = comm.reduce_sum(centroids), comm.reduce_sum(counts)
    total_objective = comm.reduce_sum(np.array([objective], np.float32))
    imbalance = len(counts) * float((counts.astype(np.float64) ** 2).sum()) / run.total**2
    split = update(centroids, counts, run.total) if comm.rank == 0 else 0
    centroids = comm.broadcast(centroids)
    numbers = comm.broadcast(np.array([float(total_objective[0]), imbalance, split]))
    done = Iteration(float(numbers[0]), float(numbers[1]), int(numbers[2]), time.perf_counter() - began)
    return centroids, done


def _stands_still(history: tuple[Iteration, ...], now: Iteration) -> bool:
    """Whether faiss stops here: it does, since 1.13, when the float32 objective repeats (but not at 0)."""
    import faiss

    if not history or not hasattr(faiss.ClusteringParameters(), "early_stop_threshold"):
        return False
    return now.objective == history[-1].objective != 0.0


def _sums(run: Run, k: int) -> tuple[Rows, NDArray[np.int64], np.float32]:
    """Sum (k, d) and number (k,) of this process's rows nearest to each centroid, and their objective."""
    sums = run.sample.sums(k)
    counts = np.zeros(k, np.int64)
    objective = np.float32(0)
    for _, block in read_blocks(run.sample, run.blocks.cut(0, run.sample.count), run.nearest.empty):
        ids, distances = run.nearest.search(block)
        # one after the other in float32, as faiss adds them: another order would round differently
        objective = np.add.accumulate(np.append(objective, distances), dtype=np.float32)[-1]
        counts += np.bincount(ids, minlength=k)
        sums.add(ids, block)
    return sums.result(), counts, objective


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

"""The nearest centroid of every row: by faiss, or by a bfloat16 product whose every doubtful row faiss
settles.

Rows x (m, d), centroids c (k, d), both float32; D(x, c) = |x - c|^2. Results are those of
``faiss.IndexFlatL2``, which computes |x|^2 + |c|^2 - 2 x.c in float32 and is what the published script uses.

The bound
---------
D does not change when the mean centroid m is taken from both sides: x' = x - m, c' = c - m. That removes the
large common part of features after a ReLU, and with it most of the rounding error below. Let X, C be x', c'
as computed and rounded to bfloat16, ex = x' - X and ec = c' - C what the rounding took away. Then

    x'.c' = X.C + ex.c' + X.ec        so        |x'.c' - X.C| <= |ex| |c'| + |X| |ec|      (Cauchy-Schwarz)

and the norms on the right are measured, not assumed. The product is summed in float32 in an unknown order,
which costs at most g |X| |C| with g = d * ROUNDING / (1 - d * ROUNDING) [Higham, Accuracy and Stability of
Numerical Algorithms, 3.1], and on a CPU PyTorch rounds it to bfloat16 once more, at most 2^-9 of itself.
With P the computed product and s = |c'|^2 / 2 - P, all that together gives E with

    |D(x, c) - (|x'|^2 + 2 s)| <= 2 E.

faiss's own D is wrong as well, by at most F = g' (|x| + |c|)^2, g' as g for d + 4 roundings of 2^-24. So a
centroid whose s exceeds the smallest s by more than 2 E + F is not the nearest, neither in truth nor to
faiss. The few that remain are compared by their distances in the direct form, sum (x - c)^2, which does not
suffer from cancellation [faiss#3818]; if the best two of them are closer than 2 F (and their own rounding),
only faiss itself can say what faiss says, and the row is given to it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kmeans.vectors import Indices, Rows

UNIT = 2.0**-24
"""Unit roundoff of float32, round to nearest."""
UNIT_BFLOAT16 = 2.0**-9
"""Unit roundoff of bfloat16 (8 significant bits), round to nearest."""
ROUNDING = {"cpu": 2.0**-23, "cuda": 2.0**-22}
"""Largest relative error of one addition inside a bfloat16 product; tensor cores truncate and keep fewer
guard bits."""
SLACK = 1.0 + 2.0**-9
"""Covers the rounding of norms that are themselves computed in float32, and of the bound."""
TILE_ROWS = 512
"""Rows of one bfloat16 product: its scores (10,000 centroids: 20 MB) stay in the processor's cache."""
MOST_CANDIDATES = 64
"""Candidates per row, on average, beyond which comparing them one by one costs more than faiss."""
LEAST_CENTROIDS = 512
"""Below this the product is too small a part of the work for bfloat16 to gain anything."""


class Faiss:
    """Nearest centroids by ``IndexFlatL2``, as published. ``gpu``: the device, where faiss was built for
    GPUs."""

    name = "faiss"

    def __init__(self, gpu: int | None = None) -> None:
        self._gpu = gpu
        self._index: Any = None

    def set_centroids(self, centroids: Rows) -> None:
        """Search among ``centroids`` (k, d) from now on."""
        import faiss

        self._index = faiss.IndexFlatL2(centroids.shape[1])
        if self._gpu is not None:
            self._resources = faiss.StandardGpuResources()
            self._index = faiss.index_cpu_to_gpu(self._resources, self._gpu, self._index)
        self._index.add(centroids)

    def search(self, block: Rows) -> tuple[Indices, Rows]:
        """Index (m,) of the nearest centroid and the squared distance (m,) to it."""
        distances, ids = self._index.search(block, 1)
        return ids.ravel(), distances.ravel()


@dataclass
class Tally:
    """How the rows were decided."""

    rows: int = 0
    compared: int = 0
    """Rows with more than one candidate after the bfloat16 product."""
    settled_by_faiss: int = 0
    """Rows whose best two are closer than float32 can tell apart for certain."""


@dataclass
class BFloat16:
    """Nearest centroids by a bfloat16 product, proven or settled: the same ids as ``Faiss``, faster.

    ``device``: a PyTorch device. The product runs there; candidates are compared on the CPU.
    """

    device: str = "cpu"
    tally: Tally = field(default_factory=Tally)
    name = "bfloat16"

    def set_centroids(self, centroids: Rows) -> None:
        """Search among ``centroids`` (k, d) from now on."""
        import torch

        self._faiss = Faiss()
        self._faiss.set_centroids(centroids)
        self._centroids = centroids
        d = centroids.shape[1]
        rounding = d * ROUNDING[torch.device(self.device).type]
        self._sum_error = rounding / (1 - rounding)
        self._faiss_error = (d + 4) * UNIT / (1 - (d + 4) * UNIT)
        self._largest = math.sqrt(float(np.einsum("kd,kd->k", centroids, centroids, dtype=np.float64).max()))

        self._mean = torch.from_numpy(centroids.mean(0, dtype=np.float64).astype(np.float32)).to(self.device)
        shifted = torch.from_numpy(centroids).to(self.device) - self._mean
        low = shifted.bfloat16()
        self._low = low.t()
        # |c'| and |c' - C|, both with what the subtraction of m rounded away
        norm = torch.linalg.vector_norm(shifted, dim=1).double()
        lost = torch.linalg.vector_norm(shifted - low, dim=1).double() + UNIT * norm
        self._half_square = (norm.square() / 2).float()
        self._norm = float(norm.max()) * SLACK
        self._lost = float(lost.max()) * SLACK

    def search(self, block: Rows) -> tuple[Indices, Rows]:
        """Index (m,) of the nearest centroid and the squared distance (m,) to it, in the direct form."""
        ids = np.empty(len(block), np.int64)
        distances = np.empty(len(block), np.float32)
        for at in range(0, len(block), TILE_ROWS):
            tile = slice(at, at + TILE_ROWS)
            ids[tile], distances[tile] = self._search_tile(block[tile])
        return ids, distances

    def _search_tile(self, x: Rows) -> tuple[Indices, Rows]:
        rows, columns, margin = self._candidates(x)
        self.tally.rows += len(x)
        if len(rows) > MOST_CANDIDATES * len(x):
            self.tally.settled_by_faiss += len(x)
            return self._faiss.search(x)
        distances = pair_distances(x, rows, self._centroids, columns)
        first = np.searchsorted(rows, np.arange(len(x)))  # rows ascend, and so do the columns of one row
        number = np.append(first[1:], len(rows)) - first
        some = number > 0
        best = np.full(len(x), np.inf, np.float32)
        best[some] = np.minimum.reduceat(distances, first[some]) if some.any() else 0
        is_best = distances == best[rows]
        ids = np.zeros(len(x), np.int64)
        ids[rows[is_best][::-1]] = columns[is_best][::-1]  # the first of equals stays, as in faiss
        # a direct distance is off by at most (d + 3) roundings of itself
        doubt = distances * (1 - self._faiss_error) <= (best * (1 + self._faiss_error) + margin)[rows]
        unsure = np.bincount(rows[doubt], minlength=len(x)) != 1
        self.tally.compared += int((number > 1).sum())
        self.tally.settled_by_faiss += int(unsure.sum())
        if unsure.any():
            ids[unsure], best[unsure] = self._faiss.search(x[unsure])
        return ids, best

    def _candidates(self, x: Rows) -> tuple[Indices, Indices, NDArray[np.float64]]:
        """Pairs (row, centroid) that the bound cannot exclude, by row, and 2 F of each row (m,)."""
        import torch

        shifted = torch.from_numpy(x).to(self.device) - self._mean
        low = shifted.bfloat16()
        norm = torch.linalg.vector_norm(shifted, dim=1)
        lost = (torch.linalg.vector_norm(shifted - low, dim=1) + UNIT * norm) * SLACK
        product = self._product(low)
        error = lost * self._norm + norm * SLACK * (self._lost + self._sum_error * SLACK * self._norm)
        if product.dtype == torch.bfloat16:
            largest = torch.maximum(product.amax(1), -product.amin(1)).float()
            error += UNIT_BFLOAT16 * SLACK * largest
        score = torch.sub(self._half_square, product)
        size = torch.linalg.vector_norm(torch.from_numpy(x).to(self.device), dim=1).double()
        twice_faiss = 2 * self._faiss_error * SLACK * (size + self._largest).square()
        # the scores are rounded as well, by UNIT of half |c'|^2 and of themselves
        error += 4 * UNIT * (self._norm**2 + norm * self._norm)
        limit = score.amin(1) + (2 * error * SLACK + twice_faiss / 2).float()
        pairs = (score <= limit[:, None]).nonzero().cpu().numpy()
        return pairs[:, 0], pairs[:, 1], twice_faiss.cpu().numpy()

    def _product(self, low: Any) -> Any:
        """X.C (m, k): float32 on a GPU, rounded to bfloat16 on a CPU."""
        import torch

        if low.is_cuda:
            return torch.mm(low, self._low, out_dtype=torch.float32)
        return torch.mm(low, self._low)


def pair_distances(x: Rows, rows: Indices, centroids: Rows, columns: Indices) -> Rows:
    """|x[rows[i]] - centroids[columns[i]]|^2 (p,), summed from the differences, in float32."""
    import faiss

    out = np.empty(len(rows), np.float32)
    ptr = faiss.swig_ptr
    rows, columns = np.ascontiguousarray(rows), np.ascontiguousarray(columns)
    faiss.pairwise_indexed_L2sqr(  # type: ignore[attr-defined]
        x.shape[1], len(rows), ptr(x), ptr(rows), ptr(centroids), ptr(columns), ptr(out)
    )
    return out


def has_fast_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 matrices in hardware."""
    try:
        with open("/proc/cpuinfo") as info:
            flags = next((line for line in info if line.startswith("flags")), "").split()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def choose(method: str, device: str, k: int) -> Faiss | BFloat16:
    """The method that was asked for; ``auto``: bfloat16 where it is faster."""
    cuda = device.startswith("cuda")
    if method == "auto":
        fast = cuda or has_fast_bfloat16()
        method = "bfloat16" if k >= LEAST_CENTROIDS and fast else "faiss"
    if method == "bfloat16":
        return BFloat16(device)
    if cuda:
        import faiss

        if hasattr(faiss, "index_cpu_to_gpu") and hasattr(faiss, "StandardGpuResources"):
            return Faiss(int(device.partition(":")[2] or 0))
    return Faiss()

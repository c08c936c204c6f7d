"""The nearest centroid of every row: by faiss, or by a bfloat16 product whose every doubtful row faiss
settles.

Rows x (m, d), centroids c (k, d), both float32; D(x, c) = |x - c|^2. Results are those of
``faiss.IndexFlatL2``, which computes |x|^2 + |c|^2 - 2 x.c in float32 and is what the published script uses.

The bound: distances do not change when the mean centroid m is taken from both sides: x' = x - m,
c' = c - m. That removes the large part that all features after a ReLU share, and with it most of the
rounding error below. As D = |x'|^2 - 2 p with p = x'.c' - |c'|^2 / 2, the nearest centroid has the largest
p. Let X, C be x', c' as computed and rounded to bfloat16, ex = x' - X and ec = c' - C what the rounding
took away. Then

    x'.c' = X.C + ex.c' + X.ec        so        |x'.c' - X.C| <= |ex| |c'| + |X| |ec|      (Cauchy-Schwarz)

and the norms on the right are measured, not assumed. One product computes q = X.C - |c'|^2 / 2, the second
term split into bfloat16 summands that stand in further columns. It is summed in float32 in an unknown
order, which costs at most g (|X| |C| + |c'|^2 / 2) with g = n u / (1 - n u) for n summands and relative
errors of at most u [Higham, Accuracy and Stability of Numerical Algorithms, 3.1 and 4.2]. All this together
is E: |q - p| <= E.

On a CPU PyTorch rounds q once more, to bfloat16: with r = 2^-9 the largest rounded value v belongs to a q
of at least v - r |v|, so the largest p is at least v - r |v| - E.

faiss's D is wrong as well. Its |x|^2 is the same for all centroids; what is left is at most
F = g' (|c|^2 + 2 |x| |c|) + 4 u (|x| + |c|)^2, g' as g for d roundings of u = 2^-24, with the largest |c|. If D is not
within 2 F of the smallest, p is not within F of the largest, and faiss does not choose this centroid. What remains
possible are the centroids with q >= t = v - r |v| - 2 E - F, that is, as rounding is monotonic, those whose
rounded value is at least t - r |t|.

These few are compared by their distances in the direct form, sum (x - c)^2, which does not suffer from
cancellation as the expanded form does where norms are large and gaps are small [faiss#3818]. If the best
two are closer than 2 F (and the direct form's own rounding), only faiss can say what faiss says, and it is
asked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kmeans.cluster import Blocks
from kmeans.options import UsageError
from kmeans.vectors import Indices, Rows

UNIT = 2.0**-24
"""Unit roundoff of float32, round to nearest."""
UNIT_BFLOAT16 = 2.0**-9
"""Unit roundoff of bfloat16 (8 significant bits), round to nearest."""
ROUNDING = {"cpu": 2.0**-23, "cuda": 2.0**-22}
"""Largest relative error of one addition inside a bfloat16 product; tensor cores truncate and keep fewer
guard bits."""
TINY = 2.0**-126
"""Smallest normal float32; products below it may be taken for 0, so every bound has a floor."""
SLACK = 1.0 + 2.0**-8
"""Covers the rounding of norms and bounds that are themselves computed in float32, and 1 / (1 - 2^-9)."""
TILE_ROWS = 512
"""Rows of one bfloat16 product: its results (10,000 centroids: 10 MB) stay in the processor's cache."""
GROUP = 64
"""Centroids whose results are first looked at together, by their maximum."""
SQUARE_PARTS = 3
"""bfloat16 summands of |c'|^2 / 2: three hold 24 bits, as many as float32."""
COLUMNS = 32
"""The product's inner dimension is filled up to a multiple of this, the width of matrix instructions."""
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

    def assign(self, block: Rows) -> Indices:
        """Index (m,) of the nearest centroid."""
        return self.search(block)[0]


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

        # partial sums of a product must stay float32, or the bound does not hold
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
        self.tally = Tally()
        self._faiss = Faiss()
        self._faiss.set_centroids(centroids)
        self._centroids = centroids
        k, d = centroids.shape
        width = -(-(d + SQUARE_PARTS) // COLUMNS) * COLUMNS
        summing = width * ROUNDING[torch.device(self.device).type]
        self._summing = summing / (1 - summing)
        self._direct = (d + 4) * UNIT / (1 - (d + 4) * UNIT)

        self._floor = math.sqrt(width * TINY)  # what a norm may have lost to squares below TINY
        own = torch.from_numpy(centroids).to(self.device)
        self._mean = own.double().mean(0).float()
        shifted = own - self._mean
        self._low = torch.zeros(-(-k // GROUP) * GROUP, width, dtype=torch.bfloat16, device=self.device)
        self._low[:k, :d] = shifted
        self._tile = torch.zeros(TILE_ROWS, width, dtype=torch.bfloat16, device=self.device)
        self._tile[:, d : d + SQUARE_PARTS] = 1
        self._result = torch.empty(TILE_ROWS, len(self._low), dtype=torch.bfloat16)
        norm = torch.linalg.vector_norm(shifted.double(), dim=1)
        half_square = norm.square() / 2
        rest = half_square.clone()
        for part in range(d, d + SQUARE_PARTS):
            self._low[:k, part] = -rest
            rest += self._low[:k, part].double()
        self._low[k:, d] = -torch.finfo(torch.bfloat16).max  # fills the last group, never the nearest
        # |c - m - C|, with what the subtraction of m rounded away
        lost = torch.linalg.vector_norm((shifted - self._low[:k, :d]).double(), dim=1) + UNIT * norm
        self._norm = float(norm.max()) * SLACK + self._floor
        self._lost = float(lost.max()) * SLACK + self._floor
        self._square_error = float(self._summing * half_square.max() + rest.abs().max()) * SLACK
        # |c'| was computed from the rounded c - m: off by UNIT of itself, twice in the square
        self._square_error += 2 * UNIT * self._norm**2
        self._largest = float(torch.linalg.vector_norm(own.double(), dim=1).max()) * SLACK + self._floor

    def search(self, block: Rows) -> tuple[Indices, Rows]:
        """Index (m,) of the nearest centroid and the squared distance (m,) to it, in the direct form."""
        ids = self.assign(block)
        return ids, pair_distances(block, np.arange(len(block)), self._centroids, ids)

    def assign(self, block: Rows) -> Indices:
        """Index (m,) of the nearest centroid."""
        tiles = [self._candidates(block, at) for at in range(0, len(block), TILE_ROWS)]
        rows, columns = (np.concatenate(parts) for parts in list(zip(*tiles, strict=True))[:2])
        number = np.bincount(rows, minlength=len(block))
        several = number[rows] > 1
        self.tally.rows += len(block)
        self.tally.compared += int((number > 1).sum())
        if several.sum() > MOST_CANDIDATES * len(block):
            self.tally.settled_by_faiss += len(block)
            return self._faiss.assign(block)
        ids = np.zeros(len(block), np.int64)
        ids[rows] = columns  # right where there is one
        rows, columns = rows[several], columns[several]
        distances = pair_distances(block, rows, self._centroids, columns)
        best = np.full(len(block), np.inf)
        np.minimum.at(best, rows, distances)
        # a direct distance is off by at most d + 3 roundings of itself
        reach = best * (1 + self._direct) + 2 * len(self._mean) * TINY + 2 * np.concatenate([tile[2] for tile in tiles])
        possible = distances * (1 - self._direct) <= reach[rows]
        ids[rows[possible]] = columns[possible]
        np.subtract.at(number, rows[~possible], 1)
        unsure = np.flatnonzero(number != 1)
        if len(unsure):
            self.tally.settled_by_faiss += len(unsure)
            ids[unsure] = self._settle(block[unsure])
        return ids

    def _settle(self, rows: Rows) -> Indices:
        """What faiss says of these rows among many others: it treats few rows by another formula."""
        enough = max(len(rows), Blocks.of(rows.shape[1], 0).least)
        return self._faiss.assign(np.resize(rows, (enough, rows.shape[1])))[: len(rows)]

    def _candidates(self, block: Rows, at: int) -> tuple[Indices, Indices, NDArray[np.float64]]:
        """Pairs (row of the block, centroid) that the bound cannot exclude, and F of each row, for one
        tile."""
        import torch

        x = torch.from_numpy(block[at : at + TILE_ROWS]).to(self.device)
        low = self._tile[: len(x)]
        kept = low[:, : x.shape[1]]
        shifted = x - self._mean
        kept.copy_(shifted)
        norm = torch.linalg.vector_norm(shifted, dim=1)
        norm += self._floor
        lost = torch.linalg.vector_norm(shifted.sub_(kept), dim=1) + self._floor + UNIT * norm
        error = lost * self._norm + (norm + lost) * (self._lost + self._summing * (self._norm + self._lost))
        error = error * SLACK + self._square_error
        size = torch.linalg.vector_norm(x, dim=1).double() * SLACK + self._floor
        faiss_error = self._direct * self._largest * (self._largest + 2 * size)
        faiss_error += 4 * UNIT * (size + self._largest).square()

        product = self._product(low)
        rounding = UNIT_BFLOAT16 * SLACK if product.dtype == torch.bfloat16 else UNIT
        # in groups of every (k / GROUP)-th centroid, so that the maxima are taken along whole rows
        groups = product.view(len(product), GROUP, -1)
        highest = groups.amax(1)
        value = highest.amax(1).double()
        limit = value - rounding * value.abs() - 2 * error.double() - faiss_error
        limit = (limit - 2 * rounding * limit.abs()).float()
        row, group = (highest >= limit[:, None]).nonzero(as_tuple=True)
        pair, member = (groups[row, :, group] >= limit[row, None]).nonzero(as_tuple=True)
        columns = member * groups.shape[2] + group[pair]
        return (row[pair] + at).cpu().numpy(), columns.cpu().numpy(), faiss_error.cpu().numpy()

    def _product(self, low: Any) -> Any:
        """q (m, k, filled up): float32 on a GPU, rounded to bfloat16 on a CPU."""
        import torch

        if low.is_cuda:
            return torch.mm(low, self._low.t(), out_dtype=torch.float32)
        return torch.mm(low, self._low.t(), out=self._result[: len(low)])


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


def device(wanted: str, local_rank: int = 0) -> str:
    """The PyTorch device that ``--device`` means here. Raises UsageError for ``cuda`` where there is no
    GPU."""
    if wanted == "cpu":
        return "cpu"
    try:
        from torch import cuda

        count = cuda.device_count() if cuda.is_available() else 0
    except ImportError:
        count = 0
    if wanted == "cuda" and not count:
        raise UsageError("--device cuda: PyTorch finds no GPU here; use --device cpu")
    return f"cuda:{local_rank % count}" if count else "cpu"


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

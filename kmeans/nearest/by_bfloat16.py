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
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from ..blocks import Indices, Rows, empty_rows, fewest_rows
from .bounds import GROUP, SLACK, SQUARE_PARTS, TINY, UNIT, UNIT_BFLOAT16, prepare
from .by_faiss import FaissSearch
from .protocol import SearchStats, pair_distances

if TYPE_CHECKING:
    from torch import Tensor

PAIRS: Final = 16_384
"""Pairs of row and centroid compared at a time on a card: 0.13 GB of differences at d = 2048."""


@dataclass(frozen=True)
class Tiling:
    """How many rows one product takes, and how its candidates are listed."""

    rows: int
    room: int | None
    """Candidates, and groups of them, that are listed per row, on average, in lists of fixed length: nothing then
    waits for a number. None: as many as there are, which is no wait on a CPU."""
    most: int
    """Candidates per row, on average, beyond which comparing them one by one costs more than faiss."""

    @property
    def on_card(self) -> bool:
        """Whether the steps are those of a card: results in float32, nothing that waits for a number."""
        return self.room is not None


ON_CPU: Final = Tiling(rows=512, room=None, most=64)
"""Results of 10,000 centroids, 10 MB, stay in the processor's cache."""
ON_CARD: Final = Tiling(rows=8192, room=8, most=8)
"""At 10,000 centroids of dimension 2048 a product of 0.34 TFLOP: 0.4 ms at 790 TFLOP/s, several times what it takes to
start the 40 steps around it."""


class CertifiedSearch:
    """Nearest centroids by a bfloat16 product, proven or settled: the same ids as ``FaissSearch``, faster.

    ``device``: a PyTorch device. Blocks are arrays, or tensors that lie on the device already.
    """

    name = "bfloat16"

    def __init__(self, device: str = "cpu", tiling: Tiling | None = None) -> None:
        self.device = device
        self.stats: SearchStats | None = None
        self._tiling = tiling or (ON_CARD if device.startswith("cuda") else ON_CPU)
        self._faiss = FaissSearch()

    def set_centroids(self, centroids: Rows) -> None:
        """Search among ``centroids`` (k, d) from now on."""
        import torch

        # partial sums of a product must stay float32, or the bound does not hold
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
        self._decided = self.stats = SearchStats()
        self._faiss.set_centroids(centroids)
        self._on_host = centroids
        self._centroids = torch.from_numpy(centroids).to(self.device)
        self._mean = self._centroids.double().mean(0).float()
        self._low, self._bounds = prepare(self._centroids, self._mean)
        k, width = self._low.shape
        d = centroids.shape[1]
        self._tile = torch.zeros(self._tiling.rows, width, dtype=torch.bfloat16, device=self.device)
        self._tile[:, d : d + SQUARE_PARTS] = 1
        self._result = torch.empty(0 if self._tiling.on_card else self._tiling.rows, k, dtype=torch.bfloat16)

    def empty(self, rows: int, dim: int) -> Rows:
        """Page-locked where a card reads it: its copies then run at the bus's speed, several times that of others."""
        import torch

        if self.device.startswith("cuda") and rows:
            with suppress(RuntimeError):  # no more memory can be locked
                array: Rows = torch.empty(rows, dim, pin_memory=True).numpy()
                return array
        return empty_rows(rows, dim)

    def assign(self, block: Any) -> Indices:
        """Index (m,) of the nearest centroid."""
        if self._is_short(block):
            return self._faiss.assign(fetched(block))
        x = self._to_device(block)
        return self._settled(x, self._decide(x).cpu().numpy())

    def search(self, block: Any) -> tuple[Indices, Rows]:
        """Index (m,) of the nearest centroid and the squared distance (m,) to it, in the direct form."""
        import torch

        if self._is_short(block):
            rows = fetched(block)
            ids = self._faiss.assign(rows)
            return ids, pair_distances(rows, np.arange(len(ids)), self._on_host, ids)
        x = self._to_device(block)
        found = self._decide(x)
        near = self._distances(x, torch.arange(len(x), device=x.device), found.clamp_min(0))
        packed = torch.stack([found, near.view(torch.int32).long()]).cpu().numpy()  # one transfer, one wait
        ids, distances = packed[0].copy(), packed[1].astype(np.int32).view(np.float32)
        unsure = np.flatnonzero(ids < 0)
        ids = self._settled(x, ids)
        if len(unsure):
            rows = np.ascontiguousarray(Fetched(x)[unsure])
            distances[unsure] = pair_distances(rows, np.arange(len(unsure)), self._on_host, ids[unsure])
        return ids, distances

    def _is_short(self, block: Any) -> bool:
        """Whether faiss searches so few rows by another formula, with another rounding."""
        short = len(block) < fewest_rows(block.shape[1])
        self._decided.rows += len(block)
        self._decided.settled_by_faiss += len(block) if short else 0
        return short

    def _to_device(self, block: Any) -> Tensor:
        import torch

        if isinstance(block, torch.Tensor):
            return block
        # the block stays as it is until the ids are fetched, which waits for the copy
        return torch.from_numpy(np.ascontiguousarray(block)).to(self.device, non_blocking=True)

    def _settled(self, x: Tensor, ids: Indices) -> Indices:
        """``ids`` with faiss's answer where they are negative."""
        unsure = np.flatnonzero(ids < 0)
        if len(unsure):
            self._decided.settled_by_faiss += len(unsure)
            ids[unsure] = self._faiss.settle(Fetched(x), unsure)
        return ids

    def _decide(self, x: Tensor) -> Tensor:
        """The id (m,) of each row; -1 where only faiss can tell."""
        import torch

        m, size = len(x), self._tiling.rows
        found = _together([self._candidates(x[at : at + size], at) for at in range(0, m, size)], self._tiling)
        unsure = torch.full((m,), -1, dtype=torch.int64, device=x.device)
        if len(found.rows) > self._tiling.most * m:
            return unsure
        rows, columns = found.rows, found.columns
        number = torch.zeros_like(unsure).scatter_add_(0, rows, torch.ones_like(rows))
        only = unsure.scatter(0, rows, columns)  # right where there is one; none: the lists of its tile were too short
        if not self._tiling.on_card:  # on a card finding them costs a wait, comparing them all does not
            contested = (number > 1)[rows]
            rows, columns = rows[contested], columns[contested]
            self._decided.compared += int((number > 1).sum())
        distances = self._distances(x, rows, columns).double()
        best = torch.full((m,), math.inf, dtype=torch.float64, device=x.device)
        best.scatter_reduce_(0, rows, distances, "amin")
        # a direct distance is off by at most d + 3 roundings of itself
        reach = best * (1 + self._bounds.direct) + 2 * x.shape[1] * TINY + 2 * found.faiss_error
        possible = distances * (1 - self._bounds.direct) <= reach[rows]
        left = torch.zeros_like(unsure).scatter_add_(0, rows, possible.long())
        # what is not possible goes to a place behind the last row
        winner = torch.full((m + 1,), -1, dtype=torch.int64, device=x.device)
        winner = winner.scatter_(0, torch.where(possible, rows, m), columns)[:m]
        ids = torch.where(left == 1, winner, -1)
        ids = torch.where(number == 1, only, ids)
        return ids

    def _candidates(self, x: Tensor, at: int) -> Candidates:
        """What the bound cannot exclude, for one tile: rows at.. of the block."""
        import torch

        low = self._tile[: len(x)]
        error, faiss_error = self._bounds.of_rows(x, self._mean, low[:, : x.shape[1]])
        product = self._product(low)
        rounding = UNIT_BFLOAT16 * SLACK if product.dtype != x.dtype else UNIT
        # in groups of every (k / GROUP)-th centroid, so that the maxima are taken along whole rows
        groups = product.view(len(product), GROUP, -1)
        highest = groups.amax(1)
        value = highest.amax(1).double()
        limit = value - rounding * value.abs() - 2 * error.double() - faiss_error
        limit = (limit - 2 * rounding * limit.abs()).float()
        room = None if self._tiling.room is None else self._tiling.room * len(x)
        hits, hit_count = positions(highest >= limit[:, None], room)
        row, group = hits // groups.shape[2], hits % groups.shape[2]
        inside = groups.transpose(1, 2)[row, group] >= limit[row, None]
        if room is not None:  # what stands behind the last hit is none
            inside &= torch.arange(len(hits), device=hits.device)[:, None] < hit_count
        found, count = positions(inside, room)
        pair = found // GROUP
        columns = found % GROUP * groups.shape[2] + group[pair]
        return Candidates(row[pair] + at, columns, faiss_error, hit_count, count, len(x))

    def _product(self, low: Tensor) -> Tensor:
        """q (m, k, filled up): float32 on a card, rounded to bfloat16 on a CPU."""
        import torch

        if not self._tiling.on_card:
            return torch.mm(low, self._low.t(), out=self._result[: len(low)])
        if low.is_cuda:
            return torch.mm(low, self._low.t(), out_dtype=torch.float32)
        return torch.mm(low.float(), self._low.float().t())  # the same numbers, for trying a card's steps without one

    def _distances(self, x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """|x[rows[i]] - c[columns[i]]|^2 (p,), summed from the differences, in float32."""
        import torch

        if not self._tiling.on_card:
            return torch.from_numpy(pair_distances(x.numpy(), rows.numpy(), self._on_host, columns.numpy()))
        cuts = range(0, max(1, len(rows)), PAIRS)
        pieces = [(x[rows[a : a + PAIRS]] - self._centroids[columns[a : a + PAIRS]]).square_().sum(1) for a in cuts]
        return torch.cat(pieces)


class Candidates(NamedTuple):
    """Pairs (row of the block, centroid) that the bound cannot exclude, of one tile."""

    rows: Tensor
    columns: Tensor
    faiss_error: Tensor
    """F of each row of the tile."""
    hits: Tensor
    """() groups of centroids that hold candidates."""
    number: Tensor
    """() candidates; what stands in ``rows`` and ``columns`` behind them is none."""
    size: int


class Pairs(NamedTuple):
    """The candidates of a block; none of a tile whose candidates did not fit into its lists."""

    rows: Tensor
    columns: Tensor
    faiss_error: Tensor


def _together(tiles: list[Candidates], tiling: Tiling) -> Pairs:
    """The candidates of all tiles; on a card this waits, once, for their numbers."""
    import torch

    if tiling.room is not None:
        numbers = torch.stack([torch.stack([tile.hits, tile.number]) for tile in tiles]).tolist()
        for i, (tile, (hits, count)) in enumerate(zip(tiles, numbers, strict=True)):
            upto = count if max(hits, count) <= tiling.room * tile.size else 0
            tiles[i] = tile._replace(rows=tile.rows[:upto], columns=tile.columns[:upto])
    rows, columns, faiss_error = (torch.cat(parts) for parts in list(zip(*tiles, strict=True))[:3])
    return Pairs(rows, columns, faiss_error)


def positions(mask: Tensor, room: int | None) -> tuple[Tensor, Tensor]:
    """Where ``mask`` holds, as positions in it flattened, ascending, and how many they are ().

    ``room``: the length of the answer, whatever the number, so that nothing waits for it; what stands behind the last
    one is a position, but none where ``mask`` holds.
    """
    import torch

    flat = mask.flatten()
    if room is None:
        found = flat.nonzero().squeeze(1)
        return found, torch.tensor(len(found))
    upto = flat.cumsum(0, dtype=torch.int32)
    wanted = torch.arange(1, room + 1, dtype=torch.int32, device=mask.device)
    return torch.searchsorted(upto, wanted).clamp_max(len(flat) - 1), upto[-1]


def fetched(block: Any) -> Rows:
    """A block, be it an array or a tensor, as an array."""
    rows = block if isinstance(block, np.ndarray) else block.cpu().numpy()
    return np.ascontiguousarray(rows)


class Fetched:
    """The rows of a tensor as arrays, brought to the host when they are asked for."""

    def __init__(self, x: Tensor) -> None:
        self._x = x
        self.shape = tuple(x.shape)

    def __len__(self) -> int:
        return len(self._x)

    def __getitem__(self, wanted: slice | Indices) -> Rows:
        import torch

        where = wanted if isinstance(wanted, slice) else torch.from_numpy(wanted).to(self._x.device)
        rows: Rows = self._x[where].cpu().numpy()
        return rows

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Rows:
        return self[:]

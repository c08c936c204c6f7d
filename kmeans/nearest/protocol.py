"""What a search for nearest centroids offers, whoever does it.

m rows x (m, d), k centroids c (k, d), both float32; distances are squared L2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..blocks import Indices, Rows


@dataclass
class SearchStats:
    """How the rows were decided."""

    rows: int = 0
    compared: int = 0
    """Rows with more than one candidate after the bfloat16 product."""
    settled_by_faiss: int = 0
    """Rows whose best two are closer than float32 can tell apart for certain."""


class NearestSearch(Protocol):
    """Finds the nearest centroid of each row, as ``faiss.IndexFlatL2`` does."""

    name: str
    stats: SearchStats | None
    """Since the last ``set_centroids``; None where every row is decided alike."""

    def set_centroids(self, centroids: Rows) -> None:
        """Search among ``centroids`` (k, d) from now on."""
        ...

    def empty(self, rows: int, dim: int) -> Rows:
        """Memory (rows, dim) for blocks: of a kind that the search takes them from without a further copy."""
        ...

    def assign(self, block: Rows) -> Indices:
        """Index (m,) of the nearest centroid, for rows (m, d)."""
        ...

    def search(self, block: Rows) -> tuple[Indices, Rows]:
        """Index (m,) of the nearest centroid and the squared distance (m,) to it, for rows (m, d)."""
        ...


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

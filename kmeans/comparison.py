"""Two vocabularies on the same rows: how well each describes them, and whether they say the same of them.

Shapes: ours a (m, d), theirs b (n, d), rows x (r, d), all float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from feature_extraction.errors import VocabularyError

from . import nearest
from .blocks import Indices, Rows
from .matching import Matching, match
from .nearest_cells import Cell, NearestRows
from .vectors import FeatureFile

BLOCK_ROWS: Final = 16_384
"""Rows at a time, about."""


@dataclass(frozen=True)
class Side:
    """One of the two vocabularies on the rows."""

    objective: float
    """Sum over the rows of the squared L2 to the nearest centroid, summed in float64."""
    sizes: Indices
    """int64 (k,): rows of each word."""
    near: NearestRows
    """The rows nearest to each word, as numbers in the file."""

    @property
    def used(self) -> int:
        return int((self.sizes > 0).sum())


@dataclass(frozen=True)
class Comparison:
    """What the rows and the centroids showed."""

    ours: Side
    theirs: Side
    matching: Matching
    rows: int
    images: int
    common: Indices
    """int64 (m,): rows of a word of ours whose word in theirs is its partner."""

    @property
    def share(self) -> float:
        """Of all rows, those whose word in ours is matched with their word in theirs."""
        return int(self.common.sum()) / max(1, self.rows)

    @property
    def same_numbers(self) -> int:
        """Words of ours that are matched with the word of the same number."""
        return int((self.matching.partner == np.arange(len(self.matching.partner))).sum())

    @property
    def radius(self) -> float:
        """How far a row is from its word in theirs, as the root of the mean square: what distances of words are
        measured by."""
        return float(np.sqrt(self.theirs.objective / max(1, self.rows)))

    @property
    def excess(self) -> float:
        """How much larger our objective is than theirs, in parts of theirs; below 0 where it is smaller."""
        ours, theirs = self.ours.objective, self.theirs.objective
        return ours / theirs - 1 if theirs else float(ours > 0)


def compare(
    ours: Rows, theirs: Rows, file: FeatureFile, images: Indices, *, device: str, tick: Callable[[int], None]
) -> Comparison:
    """Compare the centroids ``ours`` and ``theirs`` on the rows of these images (their places in ``file.ids``).

    ``tick`` hears how many rows were done. Raises StoreError for rows that cannot be read or are not finite,
    VocabularyError for centroids that are beyond all measure."""
    matching = match(ours, theirs)
    sides = [_Running(centroids, device) for centroids in (ours, theirs)]
    common = np.zeros(len(ours), np.int64)
    for rows, block in _blocks(file, images):
        norms = np.einsum("nd,nd->n", block, block)
        if len(bad := np.flatnonzero(~np.isfinite(norms))):
            file.refuse(int(rows[bad[0]]), block[bad[0]])
        mine, yours = (side.see(rows, block) for side in sides)
        common += np.bincount(mine[matching.partner[mine] == yours], minlength=len(ours))
        tick(len(block))
    file.refuse_if_changed()
    first, second = (Side(s.objective, s.sizes, s.near) for s in sides)
    return Comparison(first, second, matching, len(images) * file.rows_per_image, len(images), common)


class _Running:
    """One vocabulary, while rows go by."""

    def __init__(self, centroids: Rows, device: str) -> None:
        self._centroids = centroids
        self._search = nearest.choose("auto", device, len(centroids))
        self._search.set_centroids(centroids)
        self.objective = 0.0
        self.sizes = np.zeros(len(centroids), np.int64)
        self.near = NearestRows(len(centroids))

    def see(self, rows: Indices, block: Rows) -> Indices:
        """The words (r,) of these rows of the file."""
        words = self._search.assign(block)
        if words.min() < 0:  # as faiss says where every distance is infinite
            raise VocabularyError("distances to the centroids are beyond float32: these are no words of such features")
        apart = nearest.pair_distances(block, np.arange(len(block)), self._centroids, words)
        self.objective += float(apart.sum(dtype=np.float64))
        self.sizes += np.bincount(words, minlength=len(self.sizes))
        nearer = apart < self.near.distances[words, -1]
        self.near.merge(words[nearer], rows[nearer], apart[nearer])
        return words


def _blocks(file: FeatureFile, images: Indices) -> Iterator[tuple[Indices, Rows]]:
    """(row numbers, rows) of the images, some at a time; the rows are overwritten by the next ones."""
    per_image = file.rows_per_image
    at_once = max(1, BLOCK_ROWS // per_image)
    buffer = np.empty((at_once * per_image, file.dim), np.float32)
    for start in range(0, len(images), at_once):
        rows = (images[start : start + at_once, None] * per_image + np.arange(per_image)).ravel()
        block = buffer[: len(rows)]
        file.gather(rows, _placed_in(block))
        yield rows, block


def _placed_in(block: Rows) -> Callable[[Indices, Rows], None]:
    def place(where: Indices, values: NDArray[np.float32]) -> None:
        block[where] = values

    return place


def cells_of(side: Side, word: int, file: FeatureFile, target: str) -> list[Cell]:
    """The rows nearest to a word, the nearest first, as cells of the images of ``target``."""
    kept = side.near.rows[word] >= 0
    places = [file.place_of_row(row) for row in side.near.rows[word][kept].tolist()]
    squares = side.near.distances[word][kept].tolist()
    return [Cell(target, *place, square) for place, square in zip(places, squares, strict=True)]

"""The cells nearest the centroid of a word: as the k-means kept them, or found by reading a part of the features.

``run_kmeans.py`` sees every cell when it assigns a target and keeps the nearest of each word beside the centroids. For
vocabularies from elsewhere, features of a bounded number of images are read here, and the page says so.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import h5py
import numpy as np
from numpy.typing import NDArray

from feature_extraction.errors import KitError
from feature_extraction.storage.store import features_of, read_array
from kmeans.nearest_cells import KEPT, Cell

from .files import FeatureEntry, one_line, opened, spread
from .words import Postings, Target, Vocabulary

FIRST_WORDS: Final = 40
"""Of the words that matter most, so many cells are looked at, wherever they lie."""
MAX_IMAGES: Final = 2000
"""Images whose features are read for this: 1 GB of the published ones."""


@dataclass(frozen=True)
class Chosen:
    """Words whose nearest cells are shown."""

    first: Sequence[int]
    """Those that matter most: asked for, largest, median, rarest."""
    pictured: Sequence[int]
    """All of them, in the order in which they matter."""


@dataclass
class Nearest:
    """The nearest cells of some words."""

    cells: dict[int, list[Cell]]
    how: str
    """How they were found, for the page."""


def nearest_cells(vocabulary: Vocabulary, postings: Postings, words: Chosen, files: dict[str, FeatureEntry]) -> Nearest:
    """The nearest cells of the pictured ``words``. ``files``: target -> its grid features."""
    found: defaultdict[int, list[Cell]] = defaultdict(list)
    for kept in vocabulary.kept.values():
        for word in words.pictured:
            found[word] += kept.of_word(word)
    how = [_how_kept(vocabulary.kept)] if vocabulary.kept else []
    others = [target for target in vocabulary.targets if target.name not in vocabulary.kept]
    if others:
        read = _Reader(vocabulary, files, words)
        images = _images_to_read(others, postings, words, files)
        for target, rows in images:
            for word, cell in read.cells(target, rows):
                found[word].append(cell)
        how += [_how_read(sum(len(rows) for _, rows in images), others), *read.remarks]
    best = {word: sorted(cells, key=_by_distance)[:KEPT] for word, cells in found.items()}
    return Nearest(best, " ".join(how))


def _by_distance(cell: Cell) -> tuple[float, str, str, int]:
    return cell.distance, cell.target, cell.image_id, cell.cell


def _how_kept(targets: Iterable[str]) -> str:
    return (
        f"The cells shown of a word are the nearest to its centroid of all cells of {' and '.join(sorted(targets))}, "
        "as the k-means kept them."
    )


def _how_read(read: int, targets: list[Target]) -> str:
    count = sum(len(target.ids) for target in targets)
    of = f"{count:,} {'image' if count == 1 else 'images'} of {' and '.join(target.name for target in targets)}"
    if read == count:
        return f"The cells shown of a word are the nearest to its centroid of all cells of {of}."
    return (
        f"The cells shown of a word are the nearest to its centroid of those in {read:,} of {of}: no nearest cells "
        "were kept for these, and features of more images were not read for this page."
    )


def _images_to_read(
    targets: list[Target], postings: Postings, words: Chosen, files: dict[str, FeatureEntry]
) -> list[tuple[Target, NDArray[np.int64]]]:
    """(target, rows of images): at most MAX_IMAGES, those of the first words, then of the others by turns."""
    readable = [target for target in targets if target.name in files]
    if sum(len(t.ids) for t in readable) <= MAX_IMAGES:
        return [(target, np.arange(len(target.ids))) for target in readable]
    picked: dict[tuple[str, int], None] = {}
    rounds = [(word, FIRST_WORDS) for word in words.first] + [(word, KEPT) for word in words.pictured]
    names = {target.name for target in readable}
    cells_of = {word: _spread(postings, word, count, names) for word, count in reversed(rounds)}
    for turn in range(FIRST_WORDS):
        for word, _ in rounds:
            if turn < len(cells_of[word]) and len(picked) < MAX_IMAGES:
                picked[cells_of[word][turn]] = None
    by_target: defaultdict[str, list[int]] = defaultdict(list)
    for name, row in picked:
        by_target[name].append(row)
    return [(t, np.array(sorted(by_target[t.name]), np.int64)) for t in readable if t.name in by_target]


def _spread(postings: Postings, word: int, count: int, names: set[str]) -> list[tuple[str, int]]:
    """Up to ``count`` images that have the word, spread over those that do."""
    images: list[tuple[str, int]] = []
    for target, cells in postings.cells_of(word):
        if target.name in names:
            rows = np.unique(cells // target.words.shape[1])
            images += [(target.name, int(rows[i])) for i in spread(len(rows), count)]
    return [images[i] for i in spread(len(images), count)]


class _Reader:
    """Cells of the wanted words in feature files, with their distances."""

    def __init__(self, vocabulary: Vocabulary, files: dict[str, FeatureEntry], words: Chosen) -> None:
        self._centroids, self._files = vocabulary.centroids, files
        self._wanted = np.zeros(vocabulary.k, bool)
        self._wanted[list(words.pictured)] = True
        self.remarks: list[str] = []

    def cells(self, target: Target, rows: NDArray[np.int64]) -> list[tuple[int, Cell]]:
        """(word, cell) of each cell of the images in ``rows`` whose word is wanted."""
        found: list[tuple[int, Cell]] = []
        try:
            with opened(self._files[target.name]) as file:
                there = set(self._files[target.name].ids)
                for row in rows.tolist():
                    if target.ids[row] in there:
                        found += self._of_image(file, target, row)
        except KitError as error:
            self.remarks.append(f"Of {target.name} not all could be read: {one_line(error)}.")
        return found

    def _of_image(self, file: h5py.File, target: Target, row: int) -> list[tuple[int, Cell]]:
        """Raises StoreError for features that cannot be read, ValueError for those of another shape."""
        words, image_id = target.words[row], target.ids[row]
        cells = np.flatnonzero(self._wanted[words])
        if not len(cells):
            return []
        apart = self._features(file, target, image_id)[cells] - self._centroids[words[cells]]
        squares = np.einsum("cd,cd->c", apart, apart, dtype=np.float64)
        return [
            (int(words[cell]), Cell(target.name, image_id, cell, square))
            for cell, square in zip(cells.tolist(), squares.tolist(), strict=True)
            if np.isfinite(square)
        ]

    def _features(self, file: h5py.File, target: Target, image_id: str) -> NDArray[np.float32]:
        """(g * g, d)."""
        array = features_of(file, image_id)
        cells, dim = target.words.shape[1], self._centroids.shape[1]
        if math.prod(array.shape) != cells * dim:
            raise ValueError(f"features of shape {array.shape} for {cells} cells of {dim} values")
        return read_array(array).astype(np.float32).reshape(cells, dim)

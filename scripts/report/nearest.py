"""The cells nearest the centroid of a word: as the k-means kept them, or found by reading a part of the features.

``run_kmeans.py`` sees every cell when it assigns a target and keeps the nearest of each word beside the centroids. For
vocabularies from elsewhere, features of a bounded number of images are read here, and the page says so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from feature_extraction.errors import KitError
from kmeans.nearest_cells import KEPT, Cell

from .files import FeatureEntry, opened, spread
from .words import Postings, Target, Vocabulary

FIRST_WORDS: Final = 40
"""Of the words that matter most, so many cells are looked at, wherever they lie."""
MAX_IMAGES: Final = 2000
"""Images whose features are read for this: 1 GB of the published ones."""


@dataclass
class Nearest:
    """The nearest cells of some words."""

    cells: dict[int, list[Cell]]
    how: str
    """How they were found, for the page."""


def nearest_cells(
    vocabulary: Vocabulary,
    postings: Postings,
    first: Sequence[int],
    words: Sequence[int],
    files: dict[str, FeatureEntry],
) -> Nearest:
    """The nearest cells of ``words``. ``first``: those of them that matter most. ``files``: target -> its features."""
    found: defaultdict[int, list[Cell]] = defaultdict(list)
    for kept in vocabulary.kept.values():
        for word in words:
            found[word] += kept.of_word(word)
    others = [target for target in vocabulary.targets if target.name not in vocabulary.kept]
    how = [f"The cells shown of a word are the nearest to its centroid of {_told(vocabulary.kept)}, as the k-means kept them."]  # fmt: skip # noqa: E501
    how = how if vocabulary.kept else []
    if others:
        read = _Reader(vocabulary, files)
        images = _images_to_read(others, postings, first, words, files)
        wanted = np.zeros(vocabulary.k, bool)
        wanted[list(words)] = True
        for target, rows in images:
            for word, cell in read.distances(target, rows, wanted):
                found[word].append(cell)
        how += [_how_read(sum(len(rows) for _, rows in images), sum(len(t.ids) for t in others)), *read.remarks]
    best = {w: sorted(cells, key=lambda c: (c.distance, c.target, c.image_id, c.cell))[:KEPT] for w, cells in found.items()}  # fmt: skip # noqa: E501
    return Nearest(best, " ".join(how))


def _told(names: Iterable[str]) -> str:
    return " and ".join(names)


def _how_read(read: int, of: int) -> str:
    if read == of:
        return f"The cells shown of a word are the nearest to its centroid of all cells of {of:,} images."
    return (
        f"The cells shown of a word are the nearest to its centroid of those in {read:,} of {of:,} images: no nearest "
        "cells were kept with this vocabulary, and features of more images were not read for this page."
    )


def _images_to_read(
    targets: list[Target],
    postings: Postings,
    first: Sequence[int],
    words: Sequence[int],
    files: dict[str, FeatureEntry],
) -> list[tuple[Target, NDArray[np.int64]]]:
    """(target, rows of images): at most MAX_IMAGES, those of the first words, then of the others by turns."""
    readable = [target for target in targets if target.name in files]
    if sum(len(t.ids) for t in readable) <= MAX_IMAGES:
        return [(target, np.arange(len(target.ids))) for target in readable]
    picked: dict[tuple[str, int], None] = {}
    rounds = [(word, FIRST_WORDS) for word in first] + [(word, KEPT) for word in words]
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
    """Distances of cells to the centroids of their words."""

    def __init__(self, vocabulary: Vocabulary, files: dict[str, FeatureEntry]) -> None:
        self._centroids = vocabulary.centroids
        self._files = files
        self.remarks: list[str] = []

    def distances(
        self, target: Target, rows: NDArray[np.int64], wanted: NDArray[np.bool_]
    ) -> list[tuple[int, Cell]]:
        """(word, cell) of each cell of the images in ``rows`` whose word is wanted."""
        found: list[tuple[int, Cell]] = []
        try:
            with opened(self._files[target.name]) as file:
                for row in rows.tolist():
                    words, image_id = target.words[row], target.ids[row]
                    cells = np.flatnonzero(wanted[words])
                    if len(cells) and image_id in file:
                        features = self._features(file[image_id], target)
                        apart = features[cells] - self._centroids[words[cells]]
                        lengths = np.einsum("cd,cd->c", apart, apart, dtype=np.float64)
                        for cell, length in zip(cells.tolist(), lengths.tolist(), strict=True):
                            if np.isfinite(length):
                                found.append((int(words[cell]), Cell(target.name, image_id, cell, length)))
        except KitError as error:
            self.remarks.append(f"Of {target.name} not all could be read: {error}.")
        return found

    def _features(self, group: Any, target: Target) -> NDArray[np.float32]:
        """(g * g, d). Raises ValueError for other shapes, which ``opened`` turns into a StoreError."""
        dataset = group["features"]
        cells, dim = target.words.shape[1], self._centroids.shape[1]
        if dataset.size != cells * dim:
            raise ValueError(f"features of shape {dataset.shape} for {cells} cells of {dim} values")
        return np.asarray(dataset[()], dtype=np.float32).reshape(cells, dim)

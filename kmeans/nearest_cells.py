"""The cells nearest to each centroid of a target: what a report shows of a visual word.

They come from the pass over the target that assigns it: of each block the rows are noted that are nearer to their
centroid than the ``KEPT`` nearest so far. k words, at most ``KEPT`` cells each, ordered by distance, then row.

The file ``..._nearest_cells_....npz``: image_ids (m,) text, of the images that occur; image (k, KEPT) int32, index into
them, -1 behind the last; cell (k, KEPT) int32, the row's place in its image, row major; distance (k, KEPT) float32,
squared; centroids_sha256, what they belong to.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from feature_extraction.storage.bounded import load_npz

from .blocks import Indices, Rows
from .nearest import pair_distances
from .partial import Frame
from .results import ASSIGN, DIGEST, are_texts, published, reading
from .vectors import FeatureFile

KEPT: Final = 12
"""Cells kept of each word."""


class NearestRows:
    """The nearest rows of each centroid among those seen: rows (k, KEPT) int64, -1 behind the last; distances."""

    def __init__(self, k: int) -> None:
        self.rows: Indices = np.full((k, KEPT), -1, np.int64)
        self.distances: Rows = np.full((k, KEPT), np.inf, np.float32)

    def see(self, first: int, block: Rows, ids: Indices, centroids: Rows) -> Frame:
        """Take rows first.. of the target, the block (m, d), with their centroids; returns what is to be noted."""
        distances = pair_distances(block, np.arange(len(ids)), centroids, ids)
        noted = np.flatnonzero(distances < self.distances[ids, -1])  # a later row yields to an equal one
        frame = Frame(ids, noted.astype(np.uint32), distances[noted])
        self.replay(first, frame)
        return frame

    def replay(self, first: int, frame: Frame) -> None:
        """Take what was noted of the rows first.. of the target."""
        places = frame.noted.astype(np.int64)
        self.merge(frame.ids[places], first + places, frame.distances)

    def merge(self, words: Indices, rows: Indices, distances: Rows) -> None:
        """Take rows (m,) of the target, with the words they belong to and their distances."""
        if not len(words):
            return
        touched = np.unique(words)
        words = np.concatenate([words, np.repeat(touched, KEPT)])
        rows = np.concatenate([rows, self.rows[touched].ravel()])
        distances = np.concatenate([distances, self.distances[touched].ravel()])
        real = rows >= 0
        words, rows, distances = words[real], rows[real], distances[real]
        order = np.lexsort((rows, distances, words))
        words, rows, distances = words[order], rows[order], distances[order]
        place = np.arange(len(words)) - np.searchsorted(words, words, side="left")
        kept = place < KEPT
        self.rows[words[kept], place[kept]] = rows[kept]
        self.distances[words[kept], place[kept]] = distances[kept]


def save(path: Path, work: Path, nearest: NearestRows, file: FeatureFile, centroids_sha256: str) -> None:
    """Write the nearest cells of a target."""
    used = nearest.rows >= 0
    image, cell = np.divmod(nearest.rows, file.rows_per_image)
    images, index = np.unique(image[used], return_inverse=True)
    numbers = np.full(nearest.rows.shape, -1, np.int32)
    numbers[used] = index
    arrays = {
        "image_ids": np.array([file.ids[i] for i in images.tolist()], dtype=np.str_),
        "image": numbers,
        "cell": np.where(used, cell, -1).astype(np.int32),
        "distance": np.where(used, nearest.distances, np.float32(np.inf)),
        DIGEST: np.array(centroids_sha256),
    }
    with published(path, work) as out:
        np.savez(out, allow_pickle=False, **arrays)


class Cell(NamedTuple):
    """A row of a target, told by where it is in its image."""

    target: str
    image_id: str
    cell: int
    """Place in the image, row major: (cell // G, cell % G) on a grid of G x G."""
    distance: float
    """Squared L2 to the centroid."""


class NearestCells:
    """What ``save`` wrote, of one target."""

    def __init__(self, target: str, arrays: dict[str, NDArray[Any]]) -> None:
        self._target, self._arrays = target, arrays
        self.centroids_sha256 = str(arrays[DIGEST])

    def of_word(self, word: int) -> list[Cell]:
        """At most ``KEPT`` cells, the nearest first."""
        a = self._arrays
        return [
            Cell(self._target, str(a["image_ids"][image]), int(cell), float(distance))
            for image, cell, distance in zip(a["image"][word], a["cell"][word], a["distance"][word], strict=True)
            if image >= 0
        ]


def load(path: Path, target: str, k: int) -> NearestCells:
    """Read what ``save`` wrote. Raises VocabularyError for anything else."""
    with reading(path, "an .npz file of nearest cells", ASSIGN):
        arrays = load_npz(path, ("image_ids", "image", "cell", "distance", DIGEST))
        for name, kind in (("image", "i"), ("cell", "i"), ("distance", "f")):
            if arrays[name].shape != (k, KEPT) or arrays[name].dtype.kind != kind:
                raise ValueError(f"{name} {arrays[name].dtype} {arrays[name].shape}, expected ({k}, {KEPT})")
        if not -1 <= arrays["image"].min() <= arrays["image"].max() < max(1, len(arrays["image_ids"])):
            raise ValueError("it names images that it does not list")
        if not are_texts(arrays["image_ids"]):
            raise ValueError("its image ids are not texts")
    return NearestCells(target, arrays)

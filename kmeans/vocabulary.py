"""The finished visual vocabulary: centroids, the ids of an image's cells, the ids of new features."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np

from feature_extraction.errors import VocabularyError

from . import nearest, nearest_cells, results
from .blocks import Blocks, Indices, Rows
from .nearest_cells import Cell, NearestCells

BLOCK_ROWS: Final = 16_384


@dataclass(eq=False, repr=False)
class Vocabulary:
    """k visual words of dimension d."""

    centroids: Rows
    """float32 (k, d)."""
    images: dict[str, dict[str, Indices]]
    """Target -> image id -> int64 (cells,)."""
    cells: dict[str, NearestCells] = field(default_factory=dict)
    """Target -> the cells nearest to each word."""
    _search: nearest.NearestSearch | None = None

    def __repr__(self) -> str:
        k, d = self.centroids.shape
        targets = ", ".join(f"{name} ({len(ids):,} images)" for name, ids in self.images.items())
        return f"Vocabulary({k:,} words of {d} numbers; {targets or 'no targets'})"

    def __getstate__(self) -> dict[str, Any]:
        """For other processes (DataLoader's workers), each of which makes its own search when it first assigns."""
        return {**vars(self), "_search": None}

    def ids(self, image_id: str, target: str | None = None) -> Indices:
        """The words of an image's cells, row major, int64 (cells,).

        ``target``: where to look, e.g. "mscoco_train"; None: in all. Raises KeyError for an unknown image
        or target and for an id that several targets give different words.
        """
        among = _chosen(self.images, target)
        found = {name: ids[image_id] for name, ids in among.items() if image_id in ids}
        if not found:
            raise KeyError(f"no image {image_id!r} in {', '.join(among) or 'no target'}")
        first = next(iter(found.values()))
        if any(not np.array_equal(first, other) for other in found.values()):
            raise KeyError(f"image {image_id!r} is in {' and '.join(found)}: say which by target=")
        return first

    def nearest_cells(self, word: int, target: str | None = None) -> list[Cell]:
        """The cells nearest to a word, the nearest first, at most ``nearest_cells.KEPT``.

        ``target``: of which; None: of all that were loaded. Raises KeyError for an unknown target, IndexError for an
        unknown word, TypeError for what is no whole number."""
        word = operator.index(word)
        if not 0 <= word < len(self.centroids):
            raise IndexError(f"no word {word}: the vocabulary has {len(self.centroids)}, from 0")
        found = [cell for cells in _chosen(self.cells, target).values() for cell in cells.of_word(word)]
        return sorted(found, key=lambda cell: cell.distance)[: nearest_cells.KEPT]

    def assign(self, features: Any) -> Indices:
        """The nearest word of each feature: (..., d) -> int64 (...). Raises ValueError for another
        dimension or NaN."""
        rows = np.ascontiguousarray(features, dtype=np.float32)
        k, d = self.centroids.shape
        if rows.ndim == 0 or rows.shape[-1] != d:
            raise ValueError(f"features of shape {rows.shape}; their last dimension should be {d}")
        flat = rows.reshape(-1, d)
        if not np.isfinite(flat).all():
            raise ValueError("features contain NaN or infinity")
        if self._search is None:
            self._search = nearest.choose("auto", "cpu", k)
            self._search.set_centroids(self.centroids)
        blocks = Blocks.of(d, BLOCK_ROWS).cut(0, len(flat))
        parts = [self._search.assign(flat[a:b]) for a, b in blocks]
        return np.concatenate([np.empty(0, np.int64), *parts]).reshape(rows.shape[:-1])


T = TypeVar("T")


def _chosen(among: dict[str, T], target: str | None) -> dict[str, T]:
    if target is None:
        return among
    if target not in among:
        raise KeyError(f"no target {target!r}; loaded: {', '.join(among) or 'none'}")
    return {target: among[target]}


def load_vocabulary(
    centroids: str | Path, clusters: Sequence[str | Path] | Mapping[str, str | Path] | None = None
) -> Vocabulary:
    """Load what ``run_kmeans.py`` wrote.

    ``centroids``: the ``.npy`` of the centroids. ``clusters``: the ``.npz`` files of image ids and clusters
    to load, or a dict target -> file; by default all that lie beside the centroids and belong to them.
    Pickles are never opened. Raises VocabularyError for files that are missing, not what they should be, or made with
    other centroids.
    """
    centroids = Path(centroids)
    words = results.load_centroids(centroids)
    digest = results.digest(words)
    if clusters is None:
        chosen = results.image_clusters_beside(centroids)
    elif isinstance(clusters, Mapping):
        chosen = {target: Path(path) for target, path in clusters.items()}
    else:
        chosen = {Path(path).stem: Path(path) for path in clusters}
    recorded = results.load_json(results.stats_of(centroids.resolve()))
    images, cells = {}, {}
    for target, path in chosen.items():
        ids, values, made_with = results.load_image_clusters(path)
        if (made_with or _made_with(recorded if clusters is None else {}, digest, target)) != digest:
            raise VocabularyError(
                f"{path} was made with other centroids than {centroids}, an earlier vocabulary of the same name:"
                f" {results.ASSIGN}, or move the file away"
            )
        if values.size and not 0 <= values.min() <= values.max() < len(words):
            raise VocabularyError(f"{path} names clusters that {centroids} does not have")
        images[target] = dict(zip(ids, values, strict=True))
        beside = path.with_name(path.name.replace("_img_id_to_cluster_id_", "_nearest_cells_"))
        if beside != path and beside.exists():
            cells[target] = nearest_cells.load(beside, target, len(words))
            if cells[target].centroids_sha256 != digest:
                del cells[target]
    return Vocabulary(words, images, cells)


def _made_with(recorded: dict[str, Any], digest: str, target: str) -> str:
    """Digest of the centroids that a target was made with, where its file, of an earlier version, does not say.

    What the statistics list was made with their centroids, what they do not list was not."""
    if not recorded:
        return digest  # nothing says anything
    return str(recorded.get("targets", {}).get(target, {}).get(results.DIGEST, ""))

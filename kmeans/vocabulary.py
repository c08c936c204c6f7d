"""The finished visual vocabulary: centroids, the ids of an image's cells, the ids of new features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kmeans import outputs
from kmeans.assign import BFloat16, Faiss, choose
from kmeans.cluster import Blocks
from kmeans.vectors import Indices, Rows

BLOCK_ROWS = 16_384


@dataclass
class Vocabulary:
    """k visual words of dimension d."""

    centroids: Rows
    """float32 (k, d)."""
    images: dict[str, dict[str, Indices]]
    """Target -> image id -> int64 (cells,)."""
    _nearest: Faiss | BFloat16 | None = field(default=None, repr=False)

    def ids(self, image_id: str, target: str | None = None) -> Indices:
        """The words of an image's cells, row major, int64 (cells,).

        ``target``: where to look, e.g. "mscoco_train"; None: in all. Raises KeyError for an unknown image
        or target and for an id that several targets give different words.
        """
        if target is not None and target not in self.images:
            raise KeyError(f"no target {target!r}; loaded: {', '.join(self.images) or 'none'}")
        among = self.images if target is None else {target: self.images[target]}
        found = {name: ids[image_id] for name, ids in among.items() if image_id in ids}
        if not found:
            raise KeyError(f"no image {image_id!r} in {', '.join(among) or 'no target'}")
        first = next(iter(found.values()))
        if any(not np.array_equal(first, other) for other in found.values()):
            raise KeyError(f"image {image_id!r} is in {' and '.join(found)}: say which by target=")
        return first

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
        if self._nearest is None:
            self._nearest = choose("auto", "cpu", k)
            self._nearest.set_centroids(self.centroids)
        blocks = Blocks.of(d, BLOCK_ROWS).cut(0, len(flat))
        parts = [self._nearest.assign(flat[a:b]) for a, b in blocks]
        return np.concatenate([np.empty(0, np.int64), *parts]).reshape(rows.shape[:-1])


def load_vocabulary(
    centroids: str | Path, clusters: Sequence[str | Path] | dict[str, str | Path] | None = None
) -> Vocabulary:
    """Load what ``run_kmeans.py`` wrote.

    ``centroids``: the ``.npy`` of the centroids. ``clusters``: the ``.npz`` files of image ids and clusters
    to load, or a dict target -> file; by default all that lie beside the centroids and belong to them.
    Pickles are never opened. Raises OutputError for files that are missing or not what they should be.
    """
    centroids = Path(centroids)
    words = outputs.load_centroids(centroids)
    if clusters is None:
        files = outputs.image_clusters_beside(centroids)
    elif isinstance(clusters, dict):
        files = {target: Path(path) for target, path in clusters.items()}
    else:
        files = {Path(path).stem: Path(path) for path in clusters}
    images = {}
    for target, path in files.items():
        ids, values = outputs.load_image_clusters(path)
        if values.size and not 0 <= values.min() <= values.max() < len(words):
            raise outputs.OutputError(f"{path} names clusters that {centroids} does not have")
        images[target] = dict(zip(ids, values, strict=True))
    return Vocabulary(words, images)

"""A vocabulary as the k-means left it: centroids, statistics, the word of every cell; and what follows from them.

Shapes: k words of dimension d; a target has n images of g x g cells. Words are kept as int32: 5.3 million cells of
COCO train take 21 MB.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from feature_extraction.config import Grid
from feature_extraction.errors import UnknownName, VocabularyError
from feature_extraction.names import printable
from feature_extraction.storage import bounded
from kmeans import nearest_cells, results
from kmeans.nearest_cells import NearestCells

from .files import FeatureEntry, one_line

NAME: Final = re.compile(
    r"(?P<head>.+)_centroids(?P<tail>(?P<k>\d{1,9})_iter\d{1,9}_d(?P<d>\d{1,9})_grid(?P<g>\d{1,4})(_imsize\d{1,9})?)"
)
"""Stem of the published name of centroids."""


@dataclass
class Target:
    """The words of all cells of one feature file."""

    name: str
    """``mscoco_valid``, or a file's stem."""
    ids: list[str]
    """Image ids in row order."""
    words: NDArray[np.int32]
    """(n, g * g), row by row of the grid."""

    @cached_property
    def row_of(self) -> dict[str, int]:
        return {image_id: row for row, image_id in enumerate(self.ids)}

    def of(self, image_id: str) -> NDArray[np.int32] | None:
        """The words of one image (g * g,), None where it is not among the images."""
        row = self.row_of.get(image_id)
        return None if row is None else self.words[row]


@dataclass
class Vocabulary:
    """One file of centroids with everything that lies beside it."""

    path: Path
    centroids: NDArray[np.float32]
    """(k, d) float32."""
    grid_size: int
    stats: dict[str, Any] = field(default_factory=dict)
    """What run_kmeans.py says of the training; empty for centroids from elsewhere."""
    targets: list[Target] = field(default_factory=list)
    kept: dict[str, NearestCells] = field(default_factory=dict)
    """Target -> the cells nearest to each word, where the k-means kept them."""
    remarks: list[str] = field(default_factory=list)
    """What could not be used, and why."""

    @property
    def k(self) -> int:
        return len(self.centroids)

    @property
    def d(self) -> int:
        return int(self.centroids.shape[1])

    @property
    def name(self) -> str:
        return self.path.stem

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """(k,) int64: cells of each word in all targets."""
        counts = [np.bincount(t.words.ravel(), minlength=self.k) for t in self.targets]
        return np.sum(counts, axis=0, dtype=np.int64) if counts else np.zeros(self.k, np.int64)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the centroids."""
        return results.digest(self.centroids)

    @property
    def cells(self) -> int:
        return int(self.sizes.sum())

    @property
    def used(self) -> int:
        """Words that at least one cell has."""
        return int((self.sizes > 0).sum())

    @cached_property
    def by_size(self) -> NDArray[np.int64]:
        """Words that are used, the largest first; of equal ones the lower number."""
        order = np.argsort(-self.sizes, kind="stable")
        return order[: self.used]

    @property
    def iterations(self) -> list[dict[str, Any]]:
        """Objective, imbalance and clusters split of each iteration, where they were written down."""
        rounds = self.stats.get("iterations")
        sound = isinstance(rounds, list) and all(isinstance(r, dict) and _is_number(r.get("objective")) for r in rounds)
        return rounds if isinstance(rounds, list) and sound else []

    @property
    def origin(self) -> dict[str, str]:
        """File, SHA-256 and tensor of centroids that were taken from elsewhere; empty where they were trained here."""
        found = self.stats.get("origin")
        names = ("file", "sha256", "tensor")
        sound = isinstance(found, dict) and all(isinstance(found.get(name), str) for name in names)
        return {name: found[name] for name in names} if isinstance(found, dict) and sound else {}

    @property
    def unused(self) -> list[int]:
        """Words that no cell has."""
        return np.flatnonzero(self.sizes == 0).tolist()

    def target(self, label: str) -> Target | None:
        return next((t for t in self.targets if t.name == label), None)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and bool(np.isfinite(value))


def vocabularies_in(datasets: Path, entries: list[FeatureEntry]) -> tuple[list[Vocabulary], list[str]]:
    """Every vocabulary below the data folder, the one with the most targets (of equal ones, words) first; and what is
    to be said of centroids that cannot be used."""
    paths: dict[str, Path] = {}
    for folder in (results.FOLDER, results.ALIAS):
        for path in sorted((datasets / folder).glob("*.npy")):
            if "_cluster_index_centroids" not in path.name and NAME.fullmatch(path.stem):
                paths.setdefault(path.name, path)
    found, remarks = [], []
    for path in paths.values():
        try:
            found.append(_read(path, entries))
        except VocabularyError as error:
            remarks.append(one_line(error))
    return sorted(found, key=lambda v: (-len(v.targets), -v.k, v.name)), remarks


def chosen(vocabularies: list[Vocabulary], name: str | None) -> Vocabulary | None:
    """The vocabulary whose words the page shows. Raises UnknownName."""
    if name is None:
        return vocabularies[0] if vocabularies else None
    for vocabulary in vocabularies:
        if vocabulary.name == name.removesuffix(".npy"):
            return vocabulary
    known = ", ".join(v.name for v in vocabularies) or "none yet"
    raise UnknownName(f"no vocabulary {printable(name)!r} in {results.FOLDER}/; there: {printable(known)}")


def _read(path: Path, entries: list[FeatureEntry]) -> Vocabulary:
    """The vocabulary of these centroids. Raises VocabularyError where the file holds none."""
    name = NAME.fullmatch(path.stem)
    assert name is not None
    stats = _statistics(results.stats_of(path))
    vocabulary = Vocabulary(path, results.load_centroids(path, int(name["k"]), int(name["d"])), int(name["g"]), stats)
    with_ids, without = results.image_clusters_beside(path), _indices_beside(path, name)
    for target in sorted({*with_ids, *without}):
        try:
            if target in with_ids:
                _take(vocabulary, target, with_ids[target])
            else:
                words, ids = _published(without[target], target, entries)
                vocabulary.targets.append(Target(target, ids, _checked(words, len(ids), vocabulary)))
        except VocabularyError as error:
            vocabulary.remarks.append(f"the words of {target} cannot be used: {one_line(error)}")
    return vocabulary


def _statistics(path: Path) -> dict[str, Any]:
    """What lies beside centroids; empty where that is nothing, or nothing sensible."""
    try:
        stats = bounded.read_json(path)
    except (OSError, ValueError):
        return {}
    return stats if isinstance(stats, dict) else {}


def _indices_beside(path: Path, name: re.Match[str]) -> dict[str, Path]:
    """Target -> the published file of its words, which names no images. Those of a vocabulary whose source's name goes
    on where this one's ends are not among them."""
    head, tail = name["head"], name["tail"]
    start, end, other_end = f"{head}_", f"_cluster_index_centroids{tail}.npy", f"_centroids{tail}.npy"
    files = [p for p in path.parent.glob("*.npy") if p.name.startswith(start) and p.name.endswith(other_end)]
    longer = tuple(p.name.removesuffix(other_end) + "_" for p in files if p != path and not p.name.endswith(end))
    found = [p for p in files if p.name.endswith(end) and not p.name.startswith(longer)]
    return {p.name[len(start) : -len(end)]: p for p in found if len(p.name) > len(start) + len(end)}


def _take(vocabulary: Vocabulary, target: str, path: Path) -> None:
    """Add the words of a target that this kit has assigned, with the cells that it kept. Raises VocabularyError."""
    ids, words, made_with = results.load_image_clusters(path)
    if not made_with:  # by an earlier version: the statistics know
        told = vocabulary.stats.get("targets")
        told = told.get(target) if isinstance(told, dict) else None
        made_with = str(told.get(results.DIGEST, "")) if isinstance(told, dict) else ""
    if made_with and made_with != vocabulary.digest:
        raise VocabularyError(f"they were made with other centroids: {results.ASSIGN}")
    vocabulary.targets.append(Target(target, ids, _checked(words, len(ids), vocabulary)))
    beside = path.with_name(path.name.replace("_img_id_to_cluster_id_", "_nearest_cells_"))
    if beside.exists():
        try:
            kept = nearest_cells.load(beside, target, vocabulary.k)
        except VocabularyError as error:
            vocabulary.remarks.append(one_line(error))
        else:
            if kept.centroids_sha256 == vocabulary.digest:
                vocabulary.kept[target] = kept


def _published(path: Path, target: str, entries: list[FeatureEntry]) -> tuple[NDArray[Any], list[str]]:
    """(words, image ids) of a published .npy, with the ids of its feature file. Raises VocabularyError."""
    entry = next((e for e in entries if e.label == target and e.spec == Grid.name and e.whole), None)
    if entry is None:
        raise VocabularyError("no list of image ids beside them, and no feature file to take the ids from")
    with results.reading(path, "a whole .npy file", results.ASSIGN):
        return bounded.load_npy(path, mmap=True), entry.ids


def _checked(words: NDArray[Any], images: int, vocabulary: Vocabulary) -> NDArray[np.int32]:
    """As (images, g * g). Raises VocabularyError where these are no words of this vocabulary."""
    cells = vocabulary.grid_size**2
    if words.dtype.kind not in "iu" or words.size != images * cells:
        raise VocabularyError(f"{words.size:,} {words.dtype} values for {images:,} images of {cells} cells")
    if words.size and not 0 <= int(words.min()) <= int(words.max()) < vocabulary.k:
        raise VocabularyError(f"words {words.min()} to {words.max()}, the vocabulary has {vocabulary.k:,}")
    return np.ascontiguousarray(words, dtype=np.int32).reshape(images, cells)


class Postings:
    """Where each word occurs: for every target its cells ordered by word."""

    def __init__(self, vocabulary: Vocabulary | None) -> None:
        self._targets: list[tuple[Target, NDArray[Any], NDArray[np.int64]]] = []
        for target in vocabulary.targets if vocabulary is not None else []:
            assert vocabulary is not None
            flat = target.words.ravel()
            order = np.argsort(flat if vocabulary.k > 1 << 16 else flat.astype(np.uint16), kind="stable")
            starts = np.concatenate([[0], np.cumsum(np.bincount(flat, minlength=vocabulary.k))])
            self._targets.append((target, order.astype(np.int32 if len(flat) < 1 << 31 else np.int64), starts))

    def cells_of(self, word: int) -> list[tuple[Target, NDArray[Any]]]:
        """(target, its cells of this word as row numbers image * g * g + cell, ascending)."""
        return [(target, order[starts[word] : starts[word + 1]]) for target, order, starts in self._targets]

    def similar_images(
        self, words: NDArray[np.int32], but: tuple[str, str], count: int
    ) -> list[tuple[Target, str, int]]:
        """(target, image id, cells in common) of the images whose cells have most words in common with ``words``,
        best first. ``but``: (target, image id) that is not looked for. A word that both have three times counts 3."""
        found: list[tuple[int, int, int]] = []
        for number, (target, order, starts) in enumerate(self._targets):
            shared = np.zeros(len(target.ids), np.int32)
            per_image = target.words.shape[1]
            for word, times in zip(*np.unique(words, return_counts=True), strict=True):
                rows, counts = np.unique(order[starts[word] : starts[word + 1]] // per_image, return_counts=True)
                shared[rows] += np.minimum(counts, times).astype(np.int32)
            if target.name == but[0] and but[1] in target.row_of:
                shared[target.row_of[but[1]]] = 0
            best = np.argsort(-shared, kind="stable")[:count]
            found += [(-int(shared[row]), number, int(row)) for row in best if shared[row]]
        return [
            (self._targets[n][0], self._targets[n][0].ids[row], -common) for common, n, row in sorted(found)[:count]
        ]


def nearest_words(centroids: NDArray[np.float32], words: list[int], count: int) -> dict[int, list[tuple[int, float]]]:
    """The ``count`` nearest other words of each word, with their distances, nearest first."""
    if not words or len(centroids) < 2:
        return {word: [] for word in words}
    squares = np.einsum("kd,kd->k", centroids, centroids, dtype=np.float64)
    count = min(count, len(centroids) - 1)
    result: dict[int, list[tuple[int, float]]] = {}
    for start in range(0, len(words), 256):
        block = np.array(words[start : start + 256])
        distances = squares[block, None] + squares[None] - 2 * (centroids[block] @ centroids.T).astype(np.float64)
        distances[np.arange(len(block)), block] = np.inf
        near = np.argpartition(distances, count - 1, axis=1)[:, :count]
        for word, row, candidates in zip(block.tolist(), distances, near, strict=True):
            ordered = sorted(candidates.tolist(), key=lambda c: (row[c], c))
            result[word] = [(c, float(np.sqrt(max(0.0, row[c])))) for c in ordered]
    return result

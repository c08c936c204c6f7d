"""Which words the page shows, and what it says of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from feature_extraction.errors import UsageError
from kmeans.nearest_cells import KEPT, Cell

from .files import FeatureEntry
from .nearest import Chosen, Nearest, nearest_cells
from .photographs import CellCut, Photographs
from .words import Postings, Vocabulary, nearest_words

EACH: Final = 8
"""Of the largest, the median and the rarest words, so many."""
CELLS: Final = 8
"""Nearest cells shown of the words that only stand in the images above: nearly all the time goes into their
photographs. Of the others all that are kept."""
NEIGHBOURS: Final = 6
"""Words named as the nearest of a word."""
ABOVE: Final = "Words of the images above"


@dataclass
class Row:
    """One word as the page shows it."""

    word: int
    size: int
    """Cells."""
    share: float
    images: int
    cells: list[tuple[Cell, CellCut | None]]
    """The nearest cells, and where each is cut from (None: its photograph is not here)."""
    neighbours: list[tuple[int, float]]
    """The nearest other words, with the distance of their centroids."""
    pictured: bool
    """Whether its cells were looked for."""


@dataclass
class WordList:
    """Some words under one heading."""

    title: str
    rows: list[Row]


def choose_words(vocabulary: Vocabulary, asked: Sequence[int], grids: list[NDArray[np.int64]]) -> dict[str, list[int]]:
    """Heading -> words, each word once, those that matter most first. Raises UsageError for words there are not."""
    for word in asked:
        if not 0 <= word < vocabulary.k:
            raise UsageError(f"--words: no word {word}; {vocabulary.name} has 0 to {vocabulary.k - 1}")
    by_size = vocabulary.by_size.tolist()
    middle = max(0, len(by_size) // 2 - EACH // 2)
    chosen = {
        "Asked for": list(asked),
        "The largest": by_size[:EACH],
        "Around the median": by_size[middle : middle + EACH],
        "The rarest": by_size[::-1][:EACH],
        ABOVE: by_turns(grids),
    }
    seen: set[int] = set()
    for title, words in chosen.items():
        chosen[title] = [w for w in dict.fromkeys(words) if w not in seen]
        seen.update(words)
    return {title: words for title, words in chosen.items() if words}


def by_turns(grids: list[NDArray[np.int64]]) -> list[int]:
    """The words of all grids: first the most frequent one of each, then the second, and so on; some more than once."""
    ordered = []
    for grid in grids:
        words, counts = np.unique(grid, return_counts=True)
        ordered.append(words[np.argsort(-counts, kind="stable")].tolist())
    return list(_interleaved(ordered))


def _interleaved(lists: list[list[int]]) -> Iterable[int]:
    for turn in range(max(map(len, lists), default=0)):
        yield from (one[turn] for one in lists if turn < len(one))


def word_lists(
    chosen: dict[str, list[int]],
    limit: int,
    postings: Postings,
    vocabulary: Vocabulary,
    files: dict[str, FeatureEntry],
    photographs: Photographs,
) -> tuple[list[WordList], Nearest]:
    """The ``chosen`` words with their nearest cells, whose photographs are asked for; ``limit``: words with cells.

    ``files``: target -> its grid features."""
    everything = [word for words in chosen.values() for word in words]
    words = Chosen([w for title, some in chosen.items() if title != ABOVE for w in some], everything[:limit])
    nearest = nearest_cells(vocabulary, postings, words, files)
    neighbours = nearest_words(vocabulary.centroids, everything, NEIGHBOURS)
    with_cells = set(words.pictured)

    def row(word: int, count: int) -> Row:
        near = nearest.cells.get(word, [])[:count]
        cells = [(cell, source_of(cell, vocabulary.grid_size, files, photographs)) for cell in near]
        size = int(vocabulary.sizes[word])
        images = sum(len(np.unique(c // t.words.shape[1])) for t, c in postings.cells_of(word))
        share = size / max(1, vocabulary.cells)
        return Row(word, size, share, images, cells, neighbours[word], word in with_cells)

    counts = {title: CELLS if title == ABOVE else KEPT for title in chosen}
    return [WordList(title, [row(word, counts[title]) for word in some]) for title, some in chosen.items()], nearest


def source_of(near: Cell, grid_size: int, files: dict[str, FeatureEntry], photographs: Photographs) -> CellCut | None:
    """Where a cell is cut from, None where its photograph is not here; it is asked for."""
    entry = files.get(near.target)
    path = None if entry is None else photographs.path_of(entry, near.image_id)
    if path is None or not 0 <= near.cell < grid_size**2:
        return None
    cut = CellCut(path, grid_size, near.cell)
    photographs.want(cut)
    return cut

"""What ``make verify-kmeans`` found about a vocabulary and another, with the cells of the words that differ most."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from feature_extraction.errors import VocabularyError
from feature_extraction.places import to_type
from kmeans import results
from kmeans.former import FORMER
from kmeans.nearest_cells import KEPT, Cell

from ..verify_kmeans import findings
from .files import FeatureEntry, one_line
from .photographs import CellCut, Photographs
from .vocabulary_rows import source_of
from .words import Vocabulary

SIDES: Final = ("ours", "theirs")


@dataclass(frozen=True)
class ComparedWord:
    """A word of one of the two."""

    side: str
    word: int
    rows: int
    """Of those that were compared."""
    cells: list[tuple[Cell, CellCut | None]]
    """The nearest of those rows, and where each is cut from (None: its photograph is not here)."""


@dataclass(frozen=True)
class Pair:
    """Two words that are matched."""

    distance: float
    """In distances of a row to its word."""
    common: int
    """Rows that are in both."""
    words: tuple[ComparedWord, ComparedWord]


@dataclass
class Compared:
    """The comparison as the page shows it."""

    found: dict[str, Any]
    names: dict[str, str]
    """ours, theirs -> name of the file."""
    farthest: list[Pair] = field(default_factory=list)
    alone: dict[str, list[ComparedWord]] = field(default_factory=dict)
    """ours, theirs -> its largest words without a partner."""


def comparison_of(
    vocabulary: Vocabulary | None, files: dict[str, FeatureEntry], photographs: Photographs
) -> Compared | None:
    """The comparison that ``vocabulary`` is one side of, None where there is none; its photographs are asked for.

    ``files``: target -> its grid features."""
    found = None if vocabulary is None else _document(vocabulary)
    if vocabulary is None or found is None:
        return None

    def word(side: str, told: dict[str, Any]) -> ComparedWord:
        cells = [Cell(found["rows"]["target"], *cell) for cell in told["cells"][:KEPT]]
        cut = [(cell, source_of(cell, vocabulary.grid_size, files, photographs)) for cell in cells]
        return ComparedWord(side, told["word"], told["rows"], cut)

    radius = found["radius"] or 1.0
    farthest = [
        Pair(told["distance"] / radius, told["common"], (word("ours", told["ours"]), word("theirs", told["theirs"])))
        for told in found["farthest"][: findings.SHOWN]
        if told["distance"]
    ]
    alone = {side: [word(side, w) for w in found[f"alone_{side}"]["largest"][: findings.SHOWN]] for side in SIDES}
    return Compared(found, {side: Path(found[side]["path"]).name for side in SIDES}, farthest, alone)


def _document(vocabulary: Vocabulary) -> dict[str, Any] | None:
    """Beside the centroids, or beside former ones that were compared with these."""
    beside = results.compared_of(vocabulary.path)
    former = sorted(vocabulary.path.parent.glob(f"{FORMER}*/*.compared.json"))
    for path in (beside, *former):
        try:
            found = findings.load(path)
        except FileNotFoundError:
            continue
        except VocabularyError as error:
            vocabulary.remarks.append(one_line(error))
            continue
        if vocabulary.digest in (found[side][results.DIGEST] for side in SIDES):
            return found
        if path == beside:
            vocabulary.remarks.append(f"{path.name} is about other centroids: run {to_type('verify-kmeans')} again")
    return None

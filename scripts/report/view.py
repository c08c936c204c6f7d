"""What was gathered, in the form in which the template shows it: places and sizes in a photograph's own pixels."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from markupsafe import Markup
from PIL import Image

from feature_extraction.config import Boxes
from feature_extraction.drawing import edges_of, plates_of
from kmeans.nearest_cells import Cell

from .compared import ComparedWord
from .files import FeatureEntry
from .gallery import Album, Card, Failures, Sample
from .photographs import CELL_SIDE, CellCut, Photographs, Picture, Thumbnail, as_jpeg
from .plots import Plots
from .template import short
from .vocabulary_rows import Row
from .words import Vocabulary

LABELS: Final = 6
"""The best boxes of an image whose labels are written into it, where they do not cover each other."""
PANEL: Final = (363, 384)
"""Widest and highest, in CSS pixels, that a photograph is shown ..."""
LETTERS: Final = 11.5
"""... and the size of letters in it, in CSS pixels."""
LETTER: Final = 0.6
"""Width of a letter, in parts of its size: a little more than those of the fonts of browsers."""
ABSENT_SIZE: Final = (640, 480)
"""(W, H) of an image that is nowhere, where no box file says more."""


@dataclass
class Sprites:
    """Pictures that are used in several places, each once in the page, as ``<image id=...>``."""

    images: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    """Id -> (data URI, width, height)."""
    _ids: dict[Any, str] = field(default_factory=dict)

    def add(self, key: Any, image: Image.Image, quality: int = 80) -> str:
        """The id of a picture; ``key`` tells whether it is there already."""
        if key not in self._ids:
            self._ids[key] = f"p{len(self._ids)}"
            encoded = base64.b64encode(as_jpeg(image, quality)).decode()
            self.images[self._ids[key]] = ("data:image/jpeg;base64," + encoded, image.width, image.height)
        return self._ids[key]


class View:
    """What was gathered, in the form in which the template shows it."""

    def __init__(self, photographs: Photographs, sprites: Sprites, plots: Plots, names: Sequence[str] | None) -> None:
        self._photographs, self.sprites, self._plots, self._names = photographs, sprites, plots, names

    def small(self, thumbnail: Thumbnail | None) -> dict[str, Any]:
        """A small picture: sprite, width and height; no sprite where there is no photograph."""
        picture = Picture(None) if thumbnail is None else self._photographs.get(thumbnail)
        image = picture.image
        if image is None:
            return {"sprite": "", "w": 4, "h": 3}
        return {"sprite": self.sprites.add(thumbnail, image, 75), "w": image.width, "h": image.height}

    def failures(self, failures: Failures, datasets: Path) -> dict[str, Any]:
        """The images of a file that gave no features, their paths below the data folder."""
        shown = [
            {"path": f["path"].removeprefix(f"{datasets}/"), "reason": f["reason"], "small": self.small(thumbnail)}
            for f, thumbnail in failures.shown
        ]
        return {"count": failures.count, "reasons": failures.reasons, "as_in": failures.as_in, "shown": shown}

    def album(self, album: Album) -> dict[str, Any]:
        figures = [
            (entry, figure)
            for entry in album.split.files.values()
            for figure in self._sample_plots(entry, album.samples[entry.name])
        ]
        boxed = Boxes.name in album.split.files
        return {"split": album.split, "cards": [self.card(c) for c in album.cards], "figures": figures, "boxed": boxed}

    def card(self, card: Card) -> dict[str, Any]:
        """One image: its photograph, boxes and words in the photograph's own pixels."""
        picture = Picture(None, why="no image of this id was found")
        if card.photograph is not None:
            picture = self._photographs.get(card.photograph)
        size = picture.size if picture.image is not None else card.recorded_size
        if picture.image is not None and card.recorded_size not in ((0, 0), size):
            card.remarks.append(
                f"the photograph has {size[0]} x {size[1]} pixels, the one the boxes were made of had "
                f"{card.recorded_size[0]} x {card.recorded_size[1]}: it is another one"
            )
        w, h = size if all(size) else ABSENT_SIZE
        sprite = "" if picture.image is None else self.sprites.add(card.photograph, picture.image)
        pixel = max(w / PANEL[0], h / PANEL[1])
        marks, text = card.marks((w, h), self._names), LETTERS * pixel
        labels = plates_of(marks[:LABELS], (w, h), lambda label: ((len(label) * LETTER + 0.8) * text, text * 1.45))
        return {
            "card": card, "w": w, "h": h, "sprite": sprite, "why": picture.why, "marks": marks,
            "line": pixel, "text": text, "labels": labels,
            "words": self._cells(card, w, h), "edges": [] if card.words is None else self._edges(card, w, h),
            "similar": [(s, self.small(s.photograph)) for s in card.similar],
            "remarks": card.remarks,
        }  # fmt: skip

    def _cells(self, card: Card, w: float, h: float) -> list[dict[str, Any]]:
        if card.words is None:
            return []
        n = len(card.words)
        return [
            {"word": int(word), "x": x * w / n, "y": y * h / n, "w": w / n, "h": h / n, "row": y + 1, "column": x + 1}
            for (y, x), word in np.ndenumerate(card.words)
        ]

    def _edges(self, card: Card, w: float, h: float) -> list[tuple[float, float, float, float]]:
        assert card.words is not None
        n = len(card.words)
        return [(x1 * w / n, y1 * h / n, x2 * w / n, y2 * h / n) for x1, y1, x2, y2 in edges_of(card.words)]

    def row(self, row: Row, there: set[int]) -> dict[str, Any]:
        """A word's row; ``there``: all words that have one, to which links lead."""
        neighbours = [(word, distance, word in there) for word, distance in row.neighbours]
        return {"row": row, "neighbours": neighbours, **self._strip(("word", row.word), row.cells)}

    def compared_word(self, word: ComparedWord) -> dict[str, Any]:
        """The same of a word of one of two vocabularies."""
        return {"row": word, **self._strip((word.side, word.word), word.cells)}

    def _strip(self, key: tuple[str, int], shown: Sequence[tuple[Cell, CellCut | None]]) -> dict[str, Any]:
        """Cells as one sprite, and where each of them lies in it."""
        tiles, at = [], 0
        for near, cell in shown:
            picture = Picture(None) if cell is None else self._photographs.get(cell)
            tiles.append((near, picture.image))
        present = [image for _, image in tiles if image is not None]
        sprite = self.sprites.add(key, _side_by_side(present), 76) if present else ""
        cells = []
        for near, image in tiles:
            width = 0 if image is None else image.width
            told = f"{short(near.image_id, 80)}, cell {near.cell}, distance {near.distance**0.5:.4g}"
            cells.append({"told": told, "id": near.image_id, "x": at, "w": width, "sprite": sprite if width else ""})
            at += width
        return {"cells": cells, "width": at, "height": CELL_SIDE}

    def vocabulary_plots(self, vocabulary: Vocabulary | None) -> list[Markup]:
        if vocabulary is None:
            return []
        objective = [float(r["objective"]) for r in vocabulary.iterations]
        plots = [self._plots.objective(objective)] if objective else []
        return plots + ([self._plots.sizes(vocabulary.sizes)] if vocabulary.used else [])

    def _sample_plots(self, entry: FeatureEntry, sample: Sample) -> list[Markup]:
        shapes = {f.shape for f in sample.features}
        if len(shapes) != 1 or not all(np.isfinite(f).all() and f.size for f in sample.features):
            return []
        features = np.stack(sample.features)
        lengths = np.linalg.norm(features, axis=-1)
        plots = [self._plots.histogram(lengths.ravel(), f"length of a feature, {entry.spec}", "features")]
        if lengths.ndim == 3:
            plots.append(self._plots.heat_map(lengths.mean(0), "mean length by cell"))
        areas = np.concatenate([*sample.areas, []])
        areas = areas[np.isfinite(areas)]
        if areas.size:
            plots.append(self._plots.histogram(areas, "area of a box, parts of the image", "boxes"))
        return plots


def _side_by_side(images: list[Image.Image]) -> Image.Image:
    """Pictures of one height side by side."""
    strip = Image.new("RGB", (sum(i.width for i in images), max(i.height for i in images)))
    at = 0
    for image in images:
        strip.paste(image, (at, 0))
        at += image.width
    return strip

"""The images of the page: a few of every file, with their boxes, their words and the images that are like them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
from numpy.typing import NDArray

from feature_extraction.config import Boxes, Grid
from feature_extraction.drawing import BoxMark, marks_of
from feature_extraction.errors import KitError, UsageError
from feature_extraction.names import printable
from feature_extraction.storage.store import array_names, array_of, read_array

from .files import HOSTILE, FeatureEntry, Split, one_line, opened, spread
from .photographs import Photographs, Thumbnail
from .words import Postings, Vocabulary

SIDE: Final = 360
"""Pixels: longer side of a photograph on the page; half of it where very many are shown."""
MANY: Final = 200
"""Photographs, from which on they are shown at half the size."""
SMALL_SIDE: Final = 112
"""Pixels: longer side of the images that are like another."""
SIMILAR: Final = 5
REASONS: Final = 5
"""Reasons of failures that are told with their numbers."""
MAX_BOXES: Final = 100
"""Boxes drawn of one image."""
MAX_VALUES: Final = 1 << 24
"""Values of a data set that are read at once: 64 MB; the published features of an image are 131,072."""


@dataclass
class Similar:
    """An image that has words in common with another one."""

    image_id: str
    target: str
    common: int
    """Cells."""
    photograph: Thumbnail | None


@dataclass
class Card:
    """One image on the page."""

    anchor: str
    """Its HTML id."""
    image_id: str
    photograph: Thumbnail | None = None
    recorded_size: tuple[int, int] = (0, 0)
    """(W, H) that the box file gives; zeros where there is none."""
    boxes: NDArray[Any] | None = None
    obj_id: NDArray[Any] | None = None
    scores: NDArray[Any] | None = None
    words: NDArray[np.int64] | None = None
    """(g, g)."""
    similar: list[Similar] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def marks(self, size: tuple[int, int], names: Sequence[str] | None) -> list[BoxMark]:
        """The boxes as they are drawn on a photograph of ``size`` (W, H)."""
        if self.boxes is None:
            return []
        try:
            return marks_of(self.boxes, size, names, obj_id=self.obj_id, scores=self.scores)
        except UsageError as error:
            self.remarks.append(one_line(error))
            return []


@dataclass
class Sample:
    """What was read of one file's shown images, for its figures."""

    features: list[NDArray[np.float32]] = field(default_factory=list)
    """One array for each image."""
    areas: list[NDArray[Any]] = field(default_factory=list)
    """Of the boxes, in parts of their image."""
    classes: list[NDArray[Any]] = field(default_factory=list)


@dataclass
class Album:
    """The shown images of one split."""

    split: Split
    cards: list[Card]
    samples: dict[str, Sample]
    """By the name of the file."""


def albums_of(
    splits: list[Split], per_file: int, photographs: Photographs, vocabulary: Vocabulary | None, postings: Postings
) -> list[Album]:
    """Choose and read the images to show, and ask for their photographs."""
    shown = sum(min(per_file, len(split.first.ids)) for split in splits)
    side = SIDE if shown <= MANY else SIDE // 2
    albums = []
    for number, split in enumerate(splits):
        ids = [split.first.ids[i] for i in spread(len(split.first.ids), per_file)]
        cards = [Card(f"i{number}-{i}", image_id) for i, image_id in enumerate(ids)]
        samples = {e.name: _fill(e, cards, photographs, side) for e in split.files.values()}
        for card in cards:
            if vocabulary is not None and Grid.name in split.files:
                _add_words(card, split, vocabulary, postings, photographs, splits)
            if card.photograph is not None:
                photographs.want(card.photograph)
        albums.append(Album(split, cards, samples))
    return albums


def _fill(entry: FeatureEntry, cards: list[Card], photographs: Photographs, side: int) -> Sample:
    """Read what ``entry`` says of the cards' images."""
    sample = Sample()
    try:
        with opened(entry) as file:
            there = set(entry.ids)
            for card in cards:
                if card.image_id not in there:
                    card.remarks.append(f"not in {entry.name}")
                    continue
                try:
                    READERS[entry.spec](file, card, sample)
                except (KitError, *HOSTILE) as error:
                    card.remarks.append(f"{entry.name}: {one_line(error)}")
                if card.photograph is None:
                    path = photographs.path_of(entry, card.image_id)
                    card.photograph = None if path is None else Thumbnail(path, side)
    except KitError as error:
        for card in cards:
            card.remarks.append(one_line(error))
    return sample


def _values(file: h5py.File, card: Card, name: str) -> NDArray[Any]:
    """One array of an image. Raises StoreError, OSError for what is none; ValueError for what is too large."""
    array = array_of(file, card.image_id, name)
    if math.prod(array.shape) > MAX_VALUES:
        raise ValueError(f"{name} has the shape {array.shape}")
    return read_array(array)


def _read_grid(file: h5py.File, card: Card, sample: Sample) -> None:
    sample.features.append(_values(file, card, "features").astype(np.float32))


def _read_boxes(file: h5py.File, card: Card, sample: Sample) -> None:
    sample.features.append(_values(file, card, "features").astype(np.float32))
    boxes, obj_id = _values(file, card, "boxes"), _values(file, card, "obj_id")
    w, h = int(_values(file, card, "img_w")), int(_values(file, card, "img_h"))
    if not (0 < w < 1 << 20 and 0 < h < 1 << 20):
        raise ValueError(f"an image of {w} x {h} pixels")
    if boxes.ndim != 2 or boxes.shape[1] != 4 or obj_id.shape != (len(boxes),):
        raise ValueError(f"boxes of shape {boxes.shape}, obj_id of shape {obj_id.shape}")
    card.recorded_size = w, h
    card.boxes, card.obj_id = boxes[:MAX_BOXES], obj_id[:MAX_BOXES]
    if "cls_prob" in array_names(file, card.image_id):
        card.scores = _values(file, card, "cls_prob")[:MAX_BOXES, 1:].max(axis=1)
    if len(boxes) > MAX_BOXES:
        card.remarks.append(f"the best {MAX_BOXES} of {len(boxes)} boxes are drawn")
    sample.areas.append((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / (w * h))
    sample.classes.append(obj_id)


READERS: Final = {Grid.name: _read_grid, Boxes.name: _read_boxes}


def _add_words(
    card: Card,
    split: Split,
    vocabulary: Vocabulary,
    postings: Postings,
    photographs: Photographs,
    splits: list[Split],
) -> None:
    """The card's words, and the images that have most in common with it."""
    target = vocabulary.target(split.label)
    words = None if target is None else target.of(card.image_id)
    if words is None:
        return
    card.words = words.reshape(vocabulary.grid_size, vocabulary.grid_size).astype(np.int64)
    files = {s.label: s.first for s in splits}
    for other, image_id, common in postings.similar_images(words, (split.label, card.image_id), SIMILAR):
        path = photographs.path_of(files[other.name], image_id) if other.name in files else None
        thumbnail = None if path is None else Thumbnail(path, SMALL_SIDE)
        if thumbnail is not None:
            photographs.want(thumbnail)
        card.similar.append(Similar(image_id, other.name, common, thumbnail))


@dataclass
class Failures:
    """The images of one file that gave no features."""

    count: int
    reasons: list[tuple[str, int]]
    """The most frequent ones, with the number of images."""
    shown: list[tuple[dict[str, str], Thumbnail | None]]
    """The first, each with the thumbnail that is asked for (None: there is no such file)."""
    as_in: str = ""
    """Name of an earlier file with the same list."""


def failures_of(entries: list[FeatureEntry], count: int, photographs: Photographs) -> dict[str, Failures]:
    """By name of the file; at most ``count`` of each are shown."""
    found: dict[str, Failures] = {}
    lists: list[FeatureEntry] = []
    for entry in entries:
        if not entry.failures:
            continue
        reasons = Counter(failure["reason"] for failure in entry.failures).most_common(REASONS)
        shown = [(failure, _thumbnail(entry, failure, photographs)) for failure in entry.failures[:count]]
        same = next((other.name for other in lists if other.failures == entry.failures), "")
        found[entry.name] = Failures(len(entry.failures), reasons, shown, same)
        lists.append(entry)
    return found


def _thumbnail(entry: FeatureEntry, failure: dict[str, str], photographs: Photographs) -> Thumbnail | None:
    path = _failed_path(entry, failure, photographs)
    if path is None:
        return None
    thumbnail = Thumbnail(path, SMALL_SIDE, damaged=True)
    photographs.want(thumbnail)
    return thumbnail


def _failed_path(entry: FeatureEntry, failure: dict[str, str], photographs: Photographs) -> Path | None:
    """The file that failed, where the report's path leads to one of the folders that hold this file's images."""
    path = Path(failure["path"])
    if printable(failure["path"]) == failure["path"] and photographs.holds(entry, path) and path.is_file():
        return path
    return photographs.path_of(entry, failure["id"])

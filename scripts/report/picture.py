"""One picture of a few images, for a README or a slide: photograph, boxes and visual words side by side, and below them
what the words look like."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

from feature_extraction.class_names import names_in
from feature_extraction.config import Boxes, Grid
from feature_extraction.drawing import draw, draw_words, grid_of, ink_on, word_colour
from feature_extraction.errors import UsageError
from feature_extraction.images.decode import decode_image
from feature_extraction.names import printable
from feature_extraction.places import checkpoint_folders, to_type
from feature_extraction.storage.files import atomic_file
from feature_extraction.storage.store import array_of, read_array

from .files import Split, entries_in, opened, splits_of
from .nearest import Chosen, nearest_cells
from .photographs import CELL_SIDE, Photographs
from .vocabulary_rows import by_turns, source_of
from .words import Postings, Vocabulary, chosen, vocabularies_in

PANEL: Final = (456, 304)
"""(W, H) in pixels of each of the three pictures of an image."""
GAP: Final = 8
CAPTION: Final = 34
"""Pixels: height of the lines above and below."""
CAPTIONS: Final = ("photograph", "boxes, the best ones thickest", "8 x 8 grid, a colour for each visual word")
WORDS, COLUMNS = 4, 2
"""So many words are shown by their nearest cells, side by side in so many columns."""
TAG: Final = (64, CELL_SIDE)
"""(W, H) in pixels of a word's colour with its number."""
PAPER, INK, LOUD = "#ffffff", "#1d2227", "#9b1c31"


def picture_of(datasets: Path, image_ids: Sequence[str]) -> Image.Image:
    """A row of three pictures for each image, RGB. Raises UsageError for an image without photograph, boxes or
    words; StoreError for files that cannot be read."""
    datasets = datasets.resolve()
    entries = entries_in(datasets)
    splits = splits_of(entries)
    vocabularies, _ = vocabularies_in(datasets, entries)
    vocabulary = chosen(vocabularies, None)
    if vocabulary is None:
        raise UsageError(f"no vocabulary yet: {to_type('kmeans')}")
    names = names_in(datasets, *checkpoint_folders())
    with closing(Photographs(datasets)) as photographs:
        found = [_found(image_id, splits, vocabulary, photographs) for image_id in image_ids]
        rows = [_row(*one, names) for one in found]
        strips = _strips(vocabulary, [words for _, _, words in found], splits, photographs)
    note = "synthetic weights: right shapes, no meaning" if any(e.synthetic for e in entries) else ""
    return _laid_out(rows, strips, note)


def _found(
    image_id: str, splits: list[Split], vocabulary: Vocabulary, photographs: Photographs
) -> tuple[Path, dict[str, NDArray[Any]], NDArray[np.int64]]:
    """The image's file, its boxes with their classes and size, and its words (g, g). Raises UsageError, StoreError."""
    for split in splits:
        target = vocabulary.target(split.label)
        words = None if target is None else target.of(image_id)
        path = photographs.path_of(split.first, image_id)
        if words is not None and path is not None and {Grid.name, Boxes.name} <= set(split.files):
            with opened(split.files[Boxes.name]) as file:
                arrays = {n: read_array(array_of(file, image_id, n)) for n in ("boxes", "obj_id", "img_w", "img_h")}
            return path, arrays, grid_of(words)
    raise UsageError(f"image {printable(image_id)}: expected a photograph, boxes, a grid and words of it")


def _row(
    path: Path, arrays: dict[str, NDArray[Any]], words: NDArray[np.int64], names: Sequence[str] | None
) -> list[Image.Image]:
    """The three pictures of an image."""
    photograph = _enlarged(np.asarray(decode_image(path), np.uint8))
    scale = np.array(photograph.size * 2) / np.array([arrays["img_w"], arrays["img_h"]] * 2)
    boxed = draw(photograph, arrays["boxes"] * scale, names, obj_id=arrays["obj_id"], labels=4 if names else 0)
    return [ImageOps.fit(p, PANEL) for p in (photograph, boxed, draw_words(photograph, words))]


def _strips(
    vocabulary: Vocabulary, grids: list[NDArray[np.int64]], splits: list[Split], photographs: Photographs
) -> list[tuple[int, list[Image.Image]]]:
    """(word, its nearest cells) of the most frequent words of the grids."""
    words = list(dict.fromkeys(by_turns(grids)))[:WORDS]
    files = {split.label: split.files[Grid.name] for split in splits if Grid.name in split.files}
    near = nearest_cells(vocabulary, Postings(vocabulary), Chosen(words, words), files)
    cuts = {w: [source_of(c, vocabulary.grid_size, files, photographs) for c in near.cells.get(w, [])] for w in words}
    photographs.load()
    found = {w: [photographs.get(cut).image for cut in cuts[w] if cut is not None] for w in words}
    return [(word, [image for image in images if image is not None]) for word, images in found.items()]


def _enlarged(pixels: NDArray[Any]) -> Image.Image:
    """A photograph that fills a panel: lines are drawn in the size in which they are seen."""
    photograph = Image.fromarray(pixels)
    scale = max(PANEL[0] / photograph.width, PANEL[1] / photograph.height)
    size = (max(1, round(photograph.width * scale)), max(1, round(photograph.height * scale)))
    return photograph.resize(size, Image.Resampling.LANCZOS)


def _laid_out(rows: list[list[Image.Image]], strips: list[tuple[int, list[Image.Image]]], note: str) -> Image.Image:
    width = len(CAPTIONS) * (PANEL[0] + GAP) + GAP
    below = CAPTION + len(rows) * (PANEL[1] + GAP)
    height = below + CAPTION + -(-len(strips) // COLUMNS) * (CELL_SIDE + GAP)
    sheet = Image.new("RGB", (width, height), PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(19)
    for column, caption in enumerate(CAPTIONS):
        x = GAP + column * (PANEL[0] + GAP)
        pen.text((x, CAPTION / 2), caption, INK, font, anchor="lm")
        for number, row in enumerate(rows):
            sheet.paste(row[column], (x, CAPTION + number * (PANEL[1] + GAP)))
    middle = below + (CAPTION - GAP) / 2
    pen.text((GAP, middle), "what words look like: the cells nearest to each", INK, font, anchor="lm")
    pen.text((width - GAP, middle), note, LOUD, font, anchor="rm")
    each = (width - GAP) // COLUMNS
    for number, (word, cells) in enumerate(strips):
        strip = _strip(word, cells, each - GAP)
        down, across = divmod(number, COLUMNS)
        sheet.paste(strip, (GAP + across * each, below + CAPTION - GAP // 2 + down * (CELL_SIDE + GAP)))
    return sheet


def _strip(word: int, cells: list[Image.Image], width: int) -> Image.Image:
    """A word's colour with its number, and as many of its cells as there is room for."""
    strip = Image.new("RGB", (width, CELL_SIDE), PAPER)
    colour = word_colour(word)
    strip.paste(colour, (0, 0, *TAG))
    centre = (TAG[0] / 2, TAG[1] / 2)
    ImageDraw.Draw(strip).text(centre, str(word), ink_on(colour), ImageFont.load_default(19), anchor="mm")
    at = TAG[0] + GAP
    for cell in cells:
        if at + cell.width <= width:
            strip.paste(cell, (at, 0))
            at += cell.width + GAP // 2
    return strip


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a picture as JPEG. Raises OSError where it cannot be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        picture.save(file, "JPEG", quality=80, optimize=True, progressive=True)

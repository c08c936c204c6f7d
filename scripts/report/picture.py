"""One picture of a few images, for a README or a slide: photograph, boxes and visual words side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

from feature_extraction.class_names import names_in
from feature_extraction.config import Boxes, Grid
from feature_extraction.drawing import draw, draw_words
from feature_extraction.errors import UsageError
from feature_extraction.images.decode import decode_image
from feature_extraction.names import printable
from feature_extraction.places import checkpoint_folders
from feature_extraction.storage.store import array_of, read_array

from .files import Split, entries_in, opened, splits_of
from .photographs import Photographs
from .words import Vocabulary, chosen, vocabularies_in

PANEL: Final = (456, 304)
"""(W, H) in pixels of each of the three pictures of an image."""
GAP: Final = 8
CAPTION: Final = 34
"""Pixels: height of the lines above and below."""
CAPTIONS: Final = ("photograph", "boxes, the best ones thickest", "8 x 8 grid, a colour for each visual word")
PAPER, INK, LOUD = "#ffffff", "#1d2227", "#9b1c31"


def picture_of(datasets: Path, image_ids: Sequence[str]) -> Image.Image:
    """A row of three pictures for each image, RGB. Raises UsageError for an image without photograph, boxes or
    words; StoreError for files that cannot be read."""
    datasets = datasets.resolve()
    entries = entries_in(datasets)
    splits = splits_of(entries)
    vocabularies, _ = vocabularies_in(datasets, entries)
    vocabulary = chosen(vocabularies, None)
    photographs = Photographs(datasets)
    names = names_in(datasets, *checkpoint_folders())
    rows = [_row(image_id, splits, vocabulary, photographs, names) for image_id in image_ids]
    note = "synthetic weights: right shapes, no meaning" if any(e.synthetic for e in entries) else ""
    return _laid_out(rows, note)


def _row(
    image_id: str,
    splits: list[Split],
    vocabulary: Vocabulary | None,
    photographs: Photographs,
    names: Sequence[str] | None,
) -> list[Image.Image]:
    for split in splits:
        target = None if vocabulary is None else vocabulary.target(split.label)
        words = None if target is None else target.of(image_id)
        path = photographs.path_of(split.first, image_id)
        if words is None or path is None or not {Grid.name, Boxes.name} <= set(split.files):
            continue
        photograph = _enlarged(np.asarray(decode_image(path), np.uint8))
        with opened(split.files[Boxes.name]) as file:
            arrays = {n: read_array(array_of(file, image_id, n)) for n in ("boxes", "obj_id", "img_w", "img_h")}
        scale = np.array(photograph.size * 2) / np.array([arrays["img_w"], arrays["img_h"]] * 2)
        boxes, obj_id = arrays["boxes"] * scale, arrays["obj_id"]
        boxed = draw(photograph, boxes, names, obj_id=obj_id, labels=4 if names else 0)
        return [ImageOps.fit(p, PANEL) for p in (photograph, boxed, draw_words(photograph, words))]
    raise UsageError(f"image {printable(image_id)}: expected a photograph, boxes, a grid and words of it")


def _enlarged(pixels: NDArray[Any]) -> Image.Image:
    """A photograph that fills a panel: lines are drawn in the size in which they are seen."""
    photograph = Image.fromarray(pixels)
    scale = max(PANEL[0] / photograph.width, PANEL[1] / photograph.height)
    size = (max(1, round(photograph.width * scale)), max(1, round(photograph.height * scale)))
    return photograph.resize(size, Image.Resampling.LANCZOS)


def _laid_out(rows: list[list[Image.Image]], note: str) -> Image.Image:
    width = len(CAPTIONS) * (PANEL[0] + GAP) + GAP
    height = CAPTION + len(rows) * (PANEL[1] + GAP) + (CAPTION if note else 0)
    sheet = Image.new("RGB", (width, height), PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(19)
    for column, caption in enumerate(CAPTIONS):
        x = GAP + column * (PANEL[0] + GAP)
        pen.text((x, CAPTION / 2), caption, INK, font, anchor="lm")
        for number, row in enumerate(rows):
            sheet.paste(row[column], (x, CAPTION + number * (PANEL[1] + GAP)))
    if note:
        pen.text((width - GAP, height - CAPTION / 2 - GAP / 2), note, LOUD, font, anchor="rm")
    return sheet


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a picture as JPEG. Raises OSError where it cannot be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, "JPEG", quality=80, optimize=True, progressive=True)

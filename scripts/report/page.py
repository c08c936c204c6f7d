"""The page: everything that is shown is gathered, each photograph is read once, then the template is filled."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import jinja2
import numpy as np
from markupsafe import Markup
from PIL import Image

from feature_extraction.class_names import names_in, read_names
from feature_extraction.config import Boxes, Grid
from feature_extraction.drawing import PALETTE, edges_of, ink_on, plates_of, word_colour
from feature_extraction.errors import UsageError
from feature_extraction.names import printable
from feature_extraction.places import checkpoint_folders
from kmeans.nearest_cells import Cell

from .compared import ComparedWord, comparison_of
from .files import FeatureEntry, entries_in, splits_of
from .gallery import Album, Card, Failures, Sample, albums_of, failures_of
from .nearest import Nearest
from .photographs import CELL_SIDE, CellCut, Photographs, Picture, Thumbnail, as_jpeg
from .plots import Plots
from .verdict import is_troubling, verdict, warnings_of
from .vocabulary_rows import WordList, choose_words, word_lists
from .words import Postings, Vocabulary, chosen, vocabularies_in

FAILURES: Final = 12
"""Failures of a file that are shown with a thumbnail; their number and the list's place are told of the others."""
LABELS: Final = 6
"""The best boxes of an image whose labels are written into it, where they do not cover each other."""
PANEL: Final = (363, 384)
"""Widest and highest, in CSS pixels, that a photograph is shown ..."""
LETTERS: Final = 11.5
"""... and the size of letters in it, in CSS pixels."""
LETTER: Final = 0.6
"""Width of a letter, in parts of its size: a little more than those of the fonts of browsers."""
HERE: Final = Path(__file__).parent
ABSENT_SIZE: Final = (640, 480)
"""(W, H) of an image that is nowhere, where no box file says more."""


@dataclass(frozen=True, kw_only=True)
class PageOptions:
    """What the page is to show."""

    datasets: Path
    per_file: int = 12
    """Images of each file."""
    words: tuple[int, ...] = ()
    """Words asked for by number."""
    rows: int = 800
    """Words at most whose nearest cells are cut from their photographs."""
    images: tuple[Path, ...] = ()
    """Further folders with images."""
    names: Path | None = None
    """File of the class names; None: looked for in the data folder and beside the checkpoint."""
    vocabulary: str | None = None
    """Name of the centroids' file; None: the one with most targets."""


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


def page_of(options: PageOptions) -> str:
    """The whole page as HTML. Raises a KitError for what a user can mend; damaged files are told of in the page."""
    if not options.datasets.is_dir():
        raise UsageError(f"{printable(options.datasets)} is not a folder: --datasets names the one with COCO, VG, ...")
    datasets = options.datasets.resolve()
    names = read_names(options.names) if options.names else names_in(datasets, *checkpoint_folders())
    entries = entries_in(datasets)
    splits = splits_of(entries)
    vocabularies, unusable = vocabularies_in(datasets, entries)
    vocabulary = chosen(vocabularies, options.vocabulary)
    postings = Postings(vocabulary)
    files = {s.label: s.files[Grid.name] for s in splits if Grid.name in s.files}
    with closing(Photographs(datasets, options.images)) as photographs:
        albums = albums_of(splits, options.per_file, photographs, vocabulary, postings)
        lists, nearest = _words(options, vocabulary, postings, albums, files, photographs)
        compared = comparison_of(vocabulary, files, photographs)
        failures = failures_of(entries, FAILURES, photographs)
        photographs.load()
    view = _View(photographs, Sprites(), Plots(), names)
    return _render(
        datasets=datasets,
        written=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        verdict=verdict(entries, vocabulary),
        warnings=warnings_of(entries, vocabulary) + unusable,
        synthetic=any(e.synthetic for e in entries),
        entries=entries,
        failures={name: view.failures(found, datasets) for name, found in failures.items()},
        albums=[view.album(album) for album in albums],
        class_names=names is not None,
        colours=len(PALETTE),
        vocabulary=vocabulary,
        others=[v for v in vocabularies if v is not vocabulary],
        lists=[(words.title, [view.row(row) for row in words.rows]) for words in lists],
        nearest=nearest,
        compared=compared,
        pairs=[] if compared is None else [(p, [view.compared_word(w) for w in p.words]) for p in compared.farthest],
        alone={}
        if compared is None
        else {s: [view.compared_word(w) for w in some] for s, some in compared.alone.items()},
        plots=view.vocabulary_plots(vocabulary),
        sprites=view.sprites.images,
    )


def _words(
    options: PageOptions,
    vocabulary: Vocabulary | None,
    postings: Postings,
    albums: list[Album],
    files: dict[str, FeatureEntry],
    photographs: Photographs,
) -> tuple[list[WordList], Nearest]:
    if vocabulary is None:
        if options.words:
            raise UsageError("--words: there is no vocabulary yet: make kmeans")
        return [], Nearest({}, "")
    grids = [card.words for album in albums for card in album.cards if card.words is not None]
    chosen_words = choose_words(vocabulary, options.words, grids)
    limit = max(options.rows, len(options.words))
    return word_lists(chosen_words, limit, postings, vocabulary, files, photographs)


class _View:
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

    def row(self, row: Any) -> dict[str, Any]:
        """A word's row."""
        return {"row": row, **self._strip(("word", row.word), row.cells)}

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
            cells.append({"near": near, "x": at, "w": width, "sprite": sprite if image is not None else ""})
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
        if sample.areas:
            areas = np.concatenate(sample.areas)
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


def _render(**content: Any) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # whatever is shown of names, attributes and reasons: no control characters
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    environment.filters.update(
        number=_number, bytes=_bytes, colour=word_colour, ink=ink_on, short=_short, percent=_percent, path=_path
    )
    environment.tests["troubling"] = is_troubling
    style = (HERE / "report.css").read_text(encoding="utf-8")
    script = (HERE / "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    template = environment.get_template("report.html.j2")
    specs = {Grid.name: "grid", Boxes.name: "boxes"}
    return template.render(
        style=Markup(style), script=Markup(script), digest=digest, specs=specs, **content
    )  # our own two files


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int | np.integer) else f"{value:,.1f}"


def _bytes(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


def _percent(part: float) -> str:
    return f"{100 * part:.2g}%" if part < 0.01 else f"{part:.1%}"


def _short(text: Any, limit: int = 300) -> str:
    """At most ``limit`` characters of something from outside."""
    shown = printable(str(text))
    return shown if len(shown) <= limit else shown[: limit - 1] + "\u2026"


def _path(text: Any) -> Markup:
    """The same of a path, which may be broken behind its slashes."""
    return Markup("/<wbr>").join(map(Markup.escape, _short(text).split("/")))

"""The photographs behind the features: found by id, each file decoded once for all that is cut from it.

A picture is asked for first (``thumbnail``, ``cell``), then all files are read (``load``), then the pictures are had
(``get``). Files are hostile until shown otherwise, as in the extraction.
"""

from __future__ import annotations

import io
import os
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import h5py
import numpy as np
from PIL import Image

from feature_extraction.errors import ImageError, KitError, reason
from feature_extraction.images.decode import decode_image
from feature_extraction.images.files import MAX_PIXELS, open_regular
from feature_extraction.images.listing import list_images
from feature_extraction.images.quiet import quiet_pillow
from feature_extraction.machine import threads
from feature_extraction.storage.store import open_features, source_of

from .files import HOSTILE, FeatureEntry

CELL_SIDE: Final = 56
"""Pixels: height of a cell on the page."""
MAX_ASPECT: Final = 2.0
"""A cell wider or higher than this is shown pressed: a panorama's cell would fill the row."""
MAX_DAMAGED_BYTES: Final = 1 << 26
"""Of a broken file, so much is looked at."""


@dataclass(frozen=True)
class Thumbnail:
    """A whole photograph, made smaller."""

    path: Path
    side: int
    """Pixels of the longer side."""
    damaged: bool = False
    """Whether as much as can be made out of a broken file will do."""


@dataclass(frozen=True)
class CellCut:
    """One cell of a photograph's grid."""

    path: Path
    grid_size: int
    cell: int
    """Row by row, from the upper left."""


@dataclass(frozen=True)
class Picture:
    """Something cut from a photograph, or why there is nothing."""

    image: Image.Image | None
    size: tuple[int, int] = (0, 0)
    """(W, H) of the photograph itself."""
    why: str = ""


class Photographs:
    """Where the images of each split lie, and what was cut from them."""

    def __init__(self, datasets: Path, further: Iterable[Path] = ()) -> None:
        """``further``: folders that are searched for any image. Raises ImageFolderError where one is none."""
        self._datasets = datasets
        self._further_folders = list(further)
        self._further = [{i.id: i.path for i in list_images(folder).images} for folder in self._further_folders]
        self._by_folder: dict[Path, dict[str, Path]] = {}
        self._opened: dict[str, h5py.File | None] = {}
        self._wanted: defaultdict[Path, set[Thumbnail | CellCut]] = defaultdict(set)
        self._had: dict[Thumbnail | CellCut, Picture] = {}

    def path_of(self, entry: FeatureEntry, image_id: str) -> Path | None:
        """The image's file: in the catalogue's folder, in one of the further ones, or where the features were made
        from, if that is still the same file."""
        folders = self._folders(entry)
        direct = next((path for folder in folders if (path := _named(folder, entry, image_id))), None)
        if direct is not None:
            return direct
        places = [*(self._listed(folder, entry) for folder in folders), *self._further]
        listed = next((place[image_id] for place in places if image_id in place), None)
        return listed or self._recorded(entry, image_id)

    def _recorded(self, entry: FeatureEntry, image_id: str) -> Path | None:
        if entry.name not in self._opened:
            try:
                self._opened[entry.name] = open_features(entry.path)
            except (KitError, *HOSTILE):
                self._opened[entry.name] = None
        file = self._opened[entry.name]
        return None if file is None else recorded_path(file, image_id)

    def close(self) -> None:
        """Close the feature files that were asked for their images' places."""
        for file in filter(None, self._opened.values()):
            file.close()
        self._opened.clear()

    def holds(self, entry: FeatureEntry, path: Path) -> bool:
        """Whether a path lies in one of the folders that are searched: the report beside a file from elsewhere could
        name any."""
        real = path.resolve()
        return any(real.is_relative_to(folder.resolve()) for folder in [*self._folders(entry), *self._further_folders])

    def _folders(self, entry: FeatureEntry) -> list[Path]:
        if entry.row is None:
            return []
        data, split = entry.row.data, entry.row.split
        return [data.images_dir(self._datasets / f, split) for f in dict.fromkeys((data.folder, data.published_folder))]

    def _listed(self, folder: Path, entry: FeatureEntry) -> dict[str, Path]:
        if folder not in self._by_folder:
            assert entry.row is not None
            try:
                listing = list_images(folder, entry.row.data.pattern, entry.row.data.recursive)
                self._by_folder[folder] = {image.id: image.path for image in listing.images}
            except KitError:  # no folder: the images lie elsewhere, or nowhere
                self._by_folder[folder] = {}
        return self._by_folder[folder]

    def want(self, what: Thumbnail | CellCut) -> None:
        """Ask for a picture; ``load`` makes it."""
        if what not in self._had:
            self._wanted[what.path].add(what)

    def load(self) -> None:
        """Make all that was asked for, each file decoded once."""
        work = list(self._wanted.items())
        self._wanted.clear()
        with ThreadPoolExecutor(max(2, threads())) as pool:
            for made in pool.map(lambda item: _cut(*item), work):
                self._had.update(made)

    def get(self, what: Thumbnail | CellCut) -> Picture:
        """A picture that was asked for before ``load``."""
        return self._had[what]


def _named(folder: Path, entry: FeatureEntry, image_id: str) -> Path | None:
    """The image's file where all of a split lie in one folder under their published names: 83,000 names need not be
    read for the few that are shown. Ids may be hostile: only a name of the folder's own is looked for."""
    if entry.row is None or entry.row.data.recursive or image_id.startswith(".") or set(image_id) & {"/", "\0"}:
        return None
    path = folder / f"{image_id}.jpg"
    try:
        return path if path.is_file() else None
    except (OSError, ValueError):  # too long a name, or bytes that no name has
        return None


def recorded_path(file: h5py.File, image_id: str) -> Path | None:
    """The image file that the features were made from, where it still is what it was. A feature file from elsewhere
    could name any file: only one of exactly the recorded size and time of change is looked into."""
    try:
        source = source_of(file, image_id)
        if source is None:
            return None
        now = os.stat(source.path)
        same = (now.st_size, now.st_mtime_ns) == (source.size, source.mtime_ns)
    except (KitError, *HOSTILE):
        return None
    return Path(source.path) if same else None


def _cut(path: Path, wanted: set[Thumbnail | CellCut]) -> dict[Thumbnail | CellCut, Picture]:
    try:
        size, image = _read(path, wanted)
    except (ImageError, OSError) as error:
        if any(isinstance(what, Thumbnail) and what.damaged for what in wanted):
            seen = _what_can_be_seen(path)
            if seen is not None:
                return {what: Picture(_cut_out(seen, what), seen.size) for what in wanted}
        return dict.fromkeys(wanted, Picture(None, why=reason(error)))
    return {what: Picture(_cut_out(image, what), size) for what in wanted}


def _read(path: Path, wanted: set[Thumbnail | CellCut]) -> tuple[tuple[int, int], Image.Image]:
    """((W, H) of the file, its pixels in RGB, perhaps fewer of them). Raises ImageError, OSError."""
    need = max(w.side if isinstance(w, Thumbnail) else w.grid_size * CELL_SIDE for w in wanted)
    jpeg = _read_jpeg(path, need)
    if jpeg is not None:
        return jpeg
    pixels = np.asarray(decode_image(path), dtype=np.uint8)
    return (pixels.shape[1], pixels.shape[0]), Image.fromarray(pixels)


def _read_jpeg(path: Path, need: int) -> tuple[tuple[int, int], Image.Image] | None:
    """The same of a JPEG, decoded at a half, a quarter or an eighth of its size if ``need`` pixels of the longer side
    are left; None for others, and for what is damaged. To be looked at, not to be computed with: the tries that find
    data missing take twice the decoding."""
    try:
        with open_regular(os.fspath(path)) as file, quiet_pillow(), Image.open(file, formats=("JPEG",)) as image:
            width, height = size = image.size
            if image.format != "JPEG" or image.mode not in ("RGB", "L") or width * height > MAX_PIXELS:
                return None
            part = min(1.0, need / max(size))
            image.draft(None, (max(1, round(width * part)), max(1, round(height * part))))
            image.load()
            return size, image if image.mode == "RGB" else image.convert("RGB")  # the first way copies nothing
    except ImageError:
        return None  # the careful way says what is wrong with it


def _what_can_be_seen(path: Path) -> Image.Image | None:
    """As much of a JPEG as its data give: behind an end marker libjpeg takes what is missing for gray."""
    try:
        with open_regular(os.fspath(path)) as file, quiet_pillow():
            content = file.read(MAX_DAMAGED_BYTES) + b"\xff\xd9"
            image = Image.open(io.BytesIO(content), formats=("JPEG",))
            return image.convert("RGB") if image.width * image.height <= MAX_PIXELS else None
    except (ImageError, OSError):
        return None


def _cut_out(image: Image.Image, what: Thumbnail | CellCut) -> Image.Image:
    if isinstance(what, Thumbnail):
        scale = min(1.0, what.side / max(image.size))
        return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), _FILTER)
    y, x = divmod(what.cell, what.grid_size)
    w, h = image.width / what.grid_size, image.height / what.grid_size
    width = round(CELL_SIDE * min(MAX_ASPECT, max(1 / MAX_ASPECT, w / h)))
    return image.resize((width, CELL_SIDE), _FILTER, box=(x * w, y * h, (x + 1) * w, (y + 1) * h))


_FILTER: Final = Image.Resampling.LANCZOS


def as_jpeg(image: Image.Image, quality: int = 80) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, optimize=True)
    return buffer.getvalue()

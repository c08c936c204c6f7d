"""Layouts of no one program: the arrays of the feature file by their own names.

npz          KEY.npz: every array; ``numpy.load`` takes one at a time
safetensors  00000.safetensors, ...: KEY/array of the images of a file, ``ids`` in its metadata
webdataset   00000.tar, ...: KEY.array.npy for every array, KEY.json for the numbers (id, img_w, img_h)
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from . import pickles
from .entries import Entry
from .form import Format, library
from .keys import why_no_file
from .places import Folder

LONG_AGO: Final = (1980, 1, 1, 0, 0, 0)
"""The same images give the same files."""


class Npz(Format):
    """A folder of KEY.npz, not compressed."""

    def open_place(self, path: Path) -> Folder:
        return Folder(path)

    def encode(self, images: Sequence[Entry]) -> Iterator[tuple[str, bytes]]:
        for image in images:
            buffer = io.BytesIO()
            with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
                for name, array in image.arrays.items():
                    archive.writestr(zipfile.ZipInfo(f"{name}.npy", LONG_AGO), pickles.npy_of(array))
            yield f"{image.key}.npz", buffer.getvalue()

    def why_unfit(self, key: str) -> str:
        return why_no_file(key, ".npz")


class _Several(Format):
    """A folder of numbered files of ``per_file`` images each."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.images_per_piece = self.config.per_file
        self._number = {key: index // self.images_per_piece for index, key in enumerate(self.keys)}

    def open_place(self, path: Path) -> Folder:
        return Folder(path)

    def name_of(self, images: Sequence[Entry], ending: str) -> str:
        return f"{self._number[images[0].key]:05d}.{ending}"


class Safetensors(_Several):
    """Files of tensors."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._save = library("safetensors.numpy").save

    def encode(self, images: Sequence[Entry]) -> Iterator[tuple[str, bytes]]:
        tensors = {f"{image.key}/{name}": array for image in images for name, array in image.arrays.items()}
        ids = json.dumps([image.key for image in images], ensure_ascii=False)
        yield self.name_of(images, "safetensors"), self._save(tensors, {"ids": ids})

    def why_unfit(self, key: str) -> str:
        return "" if key and "/" not in key else "its name and those of its arrays are parted by a '/'"


class WebDataset(_Several):
    """Tar files of samples."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._writer = library("webdataset").TarWriter

    def encode(self, images: Sequence[Entry]) -> Iterator[tuple[str, bytes]]:
        buffer = io.BytesIO()
        with self._writer(buffer, encoder=False, mtime=0, user="", group="", format="PAX_FORMAT") as writer:
            for image in images:
                numbers = {name: array.item() for name, array in image.arrays.items() if not array.ndim}
                sample = {f"{name}.npy": pickles.npy_of(array) for name, array in image.arrays.items() if array.ndim}
                writer.write(
                    {"__key__": image.key, "json": json.dumps({"id": image.key, **numbers}).encode(), **sample}
                )
        yield self.name_of(images, "tar"), buffer.getvalue()

    def why_unfit(self, key: str) -> str:
        return why_no_file(key, "") or ("WebDataset cuts names at the first '.'" if "." in key else "")

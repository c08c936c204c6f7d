"""ViLBERT-MT and 12-in-1: a pickled dict an image, as .npy files or in an LMDB.

    .npy   bbox float32 (N, 4), num_boxes int, objects int64 (N,), image_width, image_height int,
           cls_prob float32 (N, 1601) with the background first, image_id str, features (N, D)
    LMDB   image_id str, image_h, image_w, num_boxes int, boxes float32 (N, 4), features (N, D); ``keys``: list of bytes

Quirks, by name: ``objects`` (.npy) is the published program's slip: argmax over all classes, background too, of all
rows but the first. ``base64`` (LMDB) is the older form, which fga's image_dataset.py reads: boxes, features and
cls_prob as base64 of their float32, num_boxes counting all rows.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import StoreError
from . import pickles
from .entries import Entry
from .form import Format
from .keys import why_no_file
from .lmdb_place import Lmdb, why_no_key
from .places import Folder

ALL_ROWS = (
    "num_boxes counts all rows: the file does not hold the confidences (obj_conf), which say how many rows survived "
    "suppression; extract with --obj_conf"
)


class VilbertNpy(Format):
    """A folder of KEY.npy."""

    needs = ("boxes", "obj_id", "img_w", "img_h", "cls_prob")
    least_boxes = 1

    def open_place(self, path: Path) -> Folder:
        return Folder(path)

    def encode(self, images: Sequence[Entry]) -> Iterator[tuple[str, bytes]]:
        for image in images:
            probs = _with_background(image)
            mis_sliced = "objects" in self.config.quirks
            said = {
                "bbox": image.boxes,
                "num_boxes": image.num_boxes,
                "objects": probs[1:].argmax(1) if mis_sliced else image.objects,
                "image_width": image.width,
                "image_height": image.height,
                "cls_prob": probs,
                "image_id": image.key,
                "features": image.features,
            }
            yield f"{image.key}.npy", pickles.npy_of_dict(said)

    def why_unfit(self, key: str) -> str:
        return why_no_file(key, ".npy")

    def notes(self) -> list[str]:
        return [] if "obj_conf" in self.layout else [ALL_ROWS]


class VilbertLmdb(Format):
    """An LMDB of a dict an image."""

    needs = ("boxes", "img_w", "img_h")
    least_boxes = 1

    def required(self) -> tuple[str, ...]:
        return (*self.needs, "cls_prob") if self._old else self.needs

    @property
    def _old(self) -> bool:
        return "base64" in self.config.quirks

    def open_place(self, path: Path) -> Lmdb:
        return Lmdb(path)

    def encode(self, images: Sequence[Entry]) -> Iterator[tuple[str, bytes]]:
        for image in images:
            size = {"image_id": image.key, "image_h": image.height, "image_w": image.width}
            if self._old:
                probs = _base64(_with_background(image))
                said = {**size, "num_boxes": len(image.features), "boxes": _base64(image.boxes)}
                said |= {"features": _base64(image.features), "cls_prob": probs}
            else:
                said = {**size, "num_boxes": image.num_boxes, "boxes": image.boxes, "features": image.features}
            yield image.key, pickles.dumps(said)

    def why_unfit(self, key: str) -> str:
        return why_no_key(key)

    def notes(self) -> list[str]:
        return [] if self._old or "obj_conf" in self.layout else [ALL_ROWS]


def _with_background(image: Entry) -> NDArray[np.float32]:
    """(N, 1601): the class probabilities, the background's first. Raises StoreError where that is not stored."""
    if not image.background.stored:
        raise StoreError(
            "cls_prob is stored without the background, which ViLBERT has first: extract with --class_probs"
        )
    return image.arrays["cls_prob"]


def _base64(array: NDArray[Any]) -> bytes:
    return base64.b64encode(array.astype("<f4").tobytes())

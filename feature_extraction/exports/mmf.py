"""MMF (VisualBERT, MMBT, Pythia, Hateful Memes): features beside a dict about them, as .npy files or in an LMDB.

.npy   KEY.npy (N, D) and KEY_info.npy: bbox float32 (N, 4), num_boxes int, objects int64 (N,),
       cls_prob float32 (N, 1600) without background, image_width, image_height int; a grid is KEY.npy alone
LMDB   the same in one dict, with feature_path, the key; ``keys``: list of bytes
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from . import pickles
from .entries import Entry
from .form import Format
from .keys import why_no_file
from .lmdb_place import Lmdb, why_no_key
from .places import Folder
from .vilbert import ALL_ROWS

NO_PROBS = "cls_prob is left out: the file holds none; it is stored with --class_probs"


def info_of(image: Entry) -> dict[str, Any]:
    """What MMF is told of the boxes."""
    info: dict[str, Any] = {
        "bbox": image.boxes,
        "num_boxes": image.num_boxes,
        "objects": image.objects,
        "image_width": image.width,
        "image_height": image.height,
    }
    if "cls_prob" in image.arrays:
        # MMF with --background stores all columns
        info["cls_prob"] = image.arrays["cls_prob"] if image.background.is_class else image.class_probs
    return info


def why_not_read(key: str) -> str:
    """Why MMF would not find an image called so; empty if it does."""
    return "MMF cuts names at '.npy'" if ".npy" in key else ""


class MmfNpy(Format):
    """A folder of KEY.npy and, of boxes, KEY_info.npy."""

    def open_place(self, path: Path) -> Folder:
        return Folder(path)

    def encode(self, images: Sequence[Entry]) -> Iterator[tuple[str, bytes]]:
        for image in images:
            yield f"{image.key}.npy", pickles.npy_of(image.features)
            if "boxes" in image.arrays:
                yield f"{image.key}_info.npy", pickles.npy_of_dict(info_of(image))

    def why_unfit(self, key: str) -> str:
        beside = "MMF takes names in _info for what lies beside features" if key.endswith("_info") else ""
        return why_no_file(key, "_info.npy") or why_not_read(key) or beside

    def notes(self) -> list[str]:
        return _notes(self) if "boxes" in self.layout else []


class MmfLmdb(Format):
    """An LMDB of a dict an image."""

    needs = ("boxes", "obj_id", "img_w", "img_h")

    def open_place(self, path: Path) -> Lmdb:
        return Lmdb(path)

    def encode(self, images: Sequence[Entry]) -> Iterator[tuple[str, bytes]]:
        for image in images:
            said = {"feature_path": image.key, "features": image.features, **info_of(image)}
            yield image.key, pickles.dumps({"cls_prob": None, **said})

    def why_unfit(self, key: str) -> str:
        return why_no_key(key) or why_not_read(key)

    def notes(self) -> list[str]:
        return _notes(self)


def _notes(form: Format) -> list[str]:
    notes = [] if "cls_prob" in form.layout else [NO_PROBS]
    return notes if "obj_conf" in form.layout else [*notes, ALL_ROWS]

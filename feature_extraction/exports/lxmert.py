"""LXMERT's text form: a line an image, ten columns between tabs, arrays in base64.

    img_id, img_h, img_w, objects_id int64 (N,), objects_conf float32 (N,), attrs_id int64 (N,),
    attrs_conf float32 (N,), num_boxes, boxes float32 (N, 4), features float32 (N, D)

LXMERT's pretraining weighs the losses of objects and attributes by the two confidences; its other programs do not read
them. ``objects_conf`` is LXMERT's own: the largest probability of a class but the background. Boxes are cut off at the
edges of the image, beyond which LXMERT's data sets accept none.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .entries import Entry
from .form import Format
from .places import Lines

NO_ATTRIBUTES = (
    "attrs_id and attrs_conf are zeros: this detector's recipes have no attributes (LXMERT's pretraining loss of them "
    "is 0, its other programs do not read them)"
)
NO_CONFIDENCE = (
    "objects_conf is zeros: the file holds neither cls_prob nor obj_conf (LXMERT's pretraining loss of objects is 0, "
    "its other programs do not read it); extract with --class_probs"
)
SURVIVING = (
    "objects_conf is obj_conf, the best class that survived suppression; LXMERT's own is the best of all: extract with "
    "--class_probs"
)


class LxmertTsv(Format):
    """One file of lines."""

    needs = ("boxes", "obj_id", "img_w", "img_h")
    least_boxes = 1

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.tally = {"boxes_cut": 0, "images_cut": 0}

    def open_place(self, path: Path) -> Lines:
        return Lines(path)

    def encode(self, images: Sequence[Entry]) -> Iterator[tuple[str, bytes]]:
        for image in images:
            number = len(image.features)
            columns = [
                image.key.encode(),
                b"%d" % image.height,
                b"%d" % image.width,
                _base64(image.arrays["obj_id"], np.int64),
                _base64(self._confidence(image), np.float32),
                _base64(np.zeros(number), np.int64),
                _base64(np.zeros(number), np.float32),
                b"%d" % number,
                _base64(self._cut(image), np.float32),
                _base64(image.features, np.float32),
            ]
            yield image.key, b"\t".join(columns) + b"\n"

    def _confidence(self, image: Entry) -> NDArray[Any]:
        if "cls_prob" in image.arrays:
            return np.asarray(image.class_probs.max(1))
        return image.arrays.get("obj_conf", np.zeros(len(image.features), np.float32))

    def _cut(self, image: Entry) -> NDArray[np.float32]:
        """The boxes within 0..width, 0..height."""
        edges = np.array([image.width, image.height] * 2, np.float32)
        inside = image.boxes.clip(np.float32(0), edges)
        moved = int((inside != image.boxes).any(1).sum())
        self.tally["boxes_cut"] += moved
        self.tally["images_cut"] += bool(moved)
        return inside

    def why_unfit(self, key: str) -> str:
        if any(char < " " or char == "\x7f" for char in key):
            return "it holds control characters, which part columns and lines"
        return "csv takes names that begin with a quotation mark for quoted" if key[:1] in ('"', "") else ""

    def notes(self) -> list[str]:
        notes = [NO_ATTRIBUTES]
        if "cls_prob" not in self.layout:
            notes.append(SURVIVING if "obj_conf" in self.layout else NO_CONFIDENCE)
        if self.tally["boxes_cut"]:
            boxes, images = int(self.tally["boxes_cut"]), int(self.tally["images_cut"])
            notes.append(f"{boxes:,} boxes of {images:,} images reached beyond their image and were cut at its edges")
        return notes


def _base64(array: NDArray[Any], dtype: type[Any]) -> bytes:
    return base64.b64encode(np.asarray(array, dtype).tobytes())

"""The images of a feature file, one after the other, as formats take them.

N = boxes, D = feature dimension, as in ``storage.store``. Of features asked for in float16 the loss is counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ..config import OPTION
from ..errors import StoreError
from ..names import printable
from ..storage import guard, store
from ..storage.half import Loss
from ..storage.stored import InFile
from .spec import ExportConfig

Arrays = Mapping[str, NDArray[Any]]
Layout = Mapping[str, tuple[str, tuple[int, ...]]]
"""dtype and shape of each array of an image."""


@dataclass(frozen=True)
class Background:
    """What a file has of the background, the first of the detector's classes."""

    stored: bool = True
    """Whether the first column of ``cls_prob`` is its."""
    is_class: bool = False
    """Whether boxes were ranked and named by it, too: ``obj_id`` is -1 there."""


@dataclass(frozen=True)
class Entry:
    """One image to be written."""

    key: str
    """What it is called in OUT."""
    arrays: Arrays
    """As stored; the features chosen under ``features``, in the type asked for. Little endian, row after row."""
    background: Background = Background()

    @property
    def features(self) -> NDArray[Any]:
        """(N, D), or (G, G, D) of a grid."""
        return self.arrays["features"]

    @property
    def boxes(self) -> NDArray[np.float32]:
        """(N, 4), x1, y1, x2, y2, pixels of the original image."""
        return self.arrays["boxes"]

    @property
    def width(self) -> int:
        return int(self.arrays["img_w"])

    @property
    def height(self) -> int:
        return int(self.arrays["img_h"])

    @property
    def class_probs(self) -> NDArray[np.float32]:
        """(N, classes), without the background."""
        return self.arrays["cls_prob"][:, int(self.background.stored) :]

    @property
    def objects(self) -> NDArray[np.int64]:
        """(N,): the class of each box as the published programs count: from the background where that is one."""
        return self.arrays["obj_id"] + int(self.background.is_class)

    @property
    def num_boxes(self) -> int:
        """Boxes with a confidence other than zero; all, where no confidence is stored."""
        conf = self.arrays.get("obj_conf")
        return len(self.features) if conf is None else int(np.count_nonzero(conf))


class Entries:
    """Reads the images of one file; every array is compared with its checksum."""

    def __init__(self, file: h5py.File, config: ExportConfig) -> None:
        self._file, self._config = file, config
        self.loss = Loss()
        """What float16 has cost so far."""
        self._needs: tuple[str, ...] = ()
        self._least = 0
        self._dim: int | None = None
        made = store.provenance(file)
        self._background = Background(made.get("class_probs") != "foreground", bool(made.get(OPTION + "background")))

    def require(self, needs: tuple[str, ...], least_boxes: int) -> None:
        """Let ``read`` refuse an image without these arrays, or with fewer boxes."""
        self._needs, self._least = (self._config.features, *needs), least_boxes

    def layout(self, image_id: str) -> Layout:
        """dtype and shape of the arrays of one image, without reading them. Raises StoreError."""
        arrays = {name: store.array_of(self._file, image_id, name) for name in store.array_names(self._file, image_id)}
        return {name: (array.dtype.str, array.shape) for name, array in arrays.items()}

    def read(self, image_id: str, key: str) -> Entry:
        """One image. Raises StoreError where it is damaged, lacks an array, or has one of another shape."""
        stored = InFile(self._file, image_id).read()
        wrong = [f"no {name}" for name in self._needs if name not in stored] or list(self._wrong_shapes(stored))
        if wrong:
            what = printable(", ".join(wrong))
            raise StoreError(f"{self._file.filename}: image {guard.shown(image_id)} has {what}: this is another layout")
        if len(stored[self._config.features]) < self._least:
            raise StoreError(
                f"{self._file.filename}: image {guard.shown(image_id)} has no boxes, with which the readers of "
                f"{self._config.format} cannot do: leave it out (--ids)"
            )
        arrays = {name: _plain(self._in_type(name, values, image_id)) for name, values in stored.items()}
        return Entry(key, {**arrays, "features": arrays[self._config.features]}, self._background)

    def _in_type(self, name: str, values: NDArray[Any], image_id: str) -> NDArray[Any]:
        """The array as it is to be written: features in the type asked for, everything else as it is."""
        if not name.startswith("features"):
            return values
        if self._config.dtype == "float16" and values.dtype != np.float16:
            return self.loss.halve(values, image_id)
        return values.astype(self._config.dtype)

    def _wrong_shapes(self, stored: Arrays) -> Iterator[str]:
        """What does not fit together in one image, or to the image before it."""
        features = stored[self._config.features]
        rows = features.shape[:1]
        fitting = {"boxes": (*rows, 4), "obj_id": rows, "obj_conf": rows, "img_w": (), "img_h": ()}
        if "boxes" in stored:
            for name in fitting.keys() & stored.keys():
                if stored[name].shape != fitting[name]:
                    yield f"{name} of shape {stored[name].shape} beside features of {features.shape}"
            if "cls_prob" in stored and (stored["cls_prob"].ndim, stored["cls_prob"].shape[:1]) != (2, rows):
                yield f"cls_prob of shape {stored['cls_prob'].shape} beside features of {features.shape}"
        if features.ndim < 2 or features.shape[-1] != (self._dim or features.shape[-1]):
            yield f"features of shape {features.shape}"
        else:
            self._dim = features.shape[-1]


def _plain(array: NDArray[Any]) -> NDArray[Any]:
    shape = array.shape
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(shape)

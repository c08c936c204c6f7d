"""fga: all features of a split in one HDF5 array.

    {split}_features    (M, 37, D)     row 0: the mean of the image's rows; then 36 of them, or zeros behind the last
    {split}_image_ids   bytes (M,)     what each image is called; fga does not read it

fga takes images by their place: the list given with --ids decides it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
from h5py import h5d, h5p, h5s, h5t

from ..errors import StoreError
from ..storage import files
from ..storage.assemble import Sink
from .entries import Entry
from .form import Format, Piece

ROWS: Final = 36


class FgaH5(Format):
    """One HDF5 file."""

    needs = ("boxes",)

    def open_place(self, path: Path) -> Stacked:
        shape = (len(self.keys), ROWS + 1, self.layout["features"][1][-1])
        return Stacked(path, self.config.split, shape, np.dtype(self.config.dtype), self.keys)

    def encode(self, images: Sequence[Entry]) -> Iterator[tuple[str, bytes]]:
        for image in images:
            rows = image.features
            stack = np.zeros((ROWS + 1, rows.shape[-1]), rows.dtype)
            if len(rows):
                stack[0] = rows.mean(0, dtype=np.float64)
            stack[1 : len(rows[:ROWS]) + 1] = rows[:ROWS]
            yield image.key, stack.tobytes()


class Stacked:
    """The arrays, laid out in full at the beginning; pieces are written where they belong, past HDF5."""

    def __init__(
        self, path: Path, split: str, shape: tuple[int, ...], dtype: np.dtype[Any], keys: Sequence[str]
    ) -> None:
        self._path, self._row = path, int(np.prod(shape[1:])) * dtype.itemsize
        self._names = (f"{split}_features", f"{split}_image_ids")
        self._shape, self._dtype, self._keys = shape, dtype, keys
        self._next = self._offset = 0
        self._fd = -1

    def begin(self, pieces: Sequence[Piece]) -> None:
        if not self._path.exists():
            with files.atomic_file(self._path) as empty:
                self._lay_out(Path(os.fsdecode(empty.name)))
        self._offset = self._check()
        self._fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        self._next = len(pieces)

    def _lay_out(self, path: Path) -> None:
        names = np.array([key.encode() for key in self._keys])
        made = h5p.create(h5p.DATASET_CREATE)
        made.set_layout(h5d.CONTIGUOUS)
        made.set_alloc_time(h5d.ALLOC_TIME_EARLY)
        made.set_fill_time(h5d.FILL_TIME_NEVER)
        made.set_obj_track_times(False)
        fd = os.open(path, os.O_RDWR)
        try:
            sink = Sink(fd)
            with h5py.File(sink, "w") as file:
                file[self._names[1]] = names
                space = h5s.create_simple(self._shape)
                h5d.create(file.id, self._names[0].encode(), h5t.py_create(self._dtype), space, made)
        finally:
            os.close(fd)
        if sink.error is not None:
            raise sink.error

    def _check(self) -> int:
        """The byte at which the features begin."""
        with h5py.File(self._path, "r", locking=False) as file:
            array = file[self._names[0]]
            offset = array.id.get_offset()
            if (array.shape, array.dtype) != (self._shape, self._dtype) or offset is None:
                raise StoreError(f"{self._path} is not what was laid out: delete its folder to start anew")
            if [key.decode() for key in file[self._names[1]][()]] != list(self._keys):
                raise StoreError(f"{self._path}: its ids are not what was written: delete its folder to start anew")
            return int(offset)

    def put(self, name: str, data: bytes) -> None:
        os.lseek(self._fd, self._offset + self._next * self._row, os.SEEK_SET)
        files.write_fully(self._fd, data)
        self._next += 1

    def sync(self) -> None:
        os.fsync(self._fd)

    def finish(self, pieces: Sequence[Piece]) -> None:
        os.close(self._fd)

    def read(self, pieces: Sequence[Piece]) -> Iterator[bytes]:
        self._check()
        with self._path.open("rb", buffering=0) as file:
            files.drop_cached(file.fileno())
            for index in range(len(pieces)):
                yield os.pread(file.fileno(), self._row, self._offset + index * self._row)

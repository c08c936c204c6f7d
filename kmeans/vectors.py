"""A feature file as one matrix whose rows can be read by range.

Shapes: n rows of d float32 values; image i of a file owns rows i * r .. (i + 1) * r, r = rows per image
(G * G of a grid file, N of a box file). Row order is that of ``store.image_ids``.

Feature files hold one small contiguous array per image. HDF5 tells where in the file its bytes lie, and
plain ``preadv`` puts them where they are wanted: no copy, no global lock, so several readers and the
arithmetic run side by side. Whatever is not plain (compressed, chunked, another type) goes through
h5py, which gives the same rows more slowly.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from feature_extraction.errors import StoreError
from feature_extraction.names import printable
from feature_extraction.storage import store

from .blocks import Indices, Rows

READERS: Final = 4
"""Threads that read images of one block: enough to keep a fast disk busy, few enough for a slow one."""
PART: Final = 32
"""Images of a sample that one thread reads in turn: short, so that the readers stay close together on the disk."""


class FeatureFile:
    """A finished feature file as one matrix. Raises StoreError for anything that cannot be used.

    The whole structure is checked when it is opened, every image's shape and type: a wrong file
    is found before the long work, not in the middle of it.
    """

    buffered = True

    def __init__(self, path: Path, *, dim: int, grid_size: int) -> None:
        self.path, self.dim, self._grid_size = path, dim, grid_size
        self._through_hdf5 = threading.Lock()
        self._open()

    def _open(self) -> None:
        path = self.path
        try:  # before HDF5 opens it, so that another file in its place is noticed below; a pipe must not be waited for
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            store.open_features(path).close()  # says what is wrong
            raise
        try:
            self._h5 = store.open_features(path)
        except BaseException:
            os.close(self._fd)
            raise
        self._as_opened = os.fstat(self._fd)
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="read")
        try:
            self.ids = store.image_ids(self._h5)
            self.provenance = store.provenance(self._h5)
            if not self.ids:
                raise StoreError(f"{path} holds no images: make or download it again")
            self.rows_per_image, self._offsets = self._survey()
            self.refuse_if_changed()
        except BaseException:
            self.close()
            raise

    @property
    def count(self) -> int:
        return len(self.ids) * self.rows_per_image

    @property
    def plain(self) -> bool:
        """Whether every array is read by ``preadv``, without HDF5."""
        return bool((self._offsets >= 0).all())

    def fingerprint(self) -> dict[str, Any]:
        """Tells this file, as it was when it was opened, from another or a changed one, without reading 40 GB."""
        return {
            "path": str(self.path.resolve()),
            "bytes": self._as_opened.st_size,
            "modified_ns": self._as_opened.st_mtime_ns,
            "images": len(self.ids),
        }

    def changed(self) -> str:
        """What happened to the file since it was opened; empty if nothing did."""
        now, then = os.fstat(self._fd), self._as_opened
        if (now.st_size, now.st_mtime_ns) != (then.st_size, then.st_mtime_ns):
            return "was written to"
        try:
            named = self.path.stat()
        except FileNotFoundError:
            return "was removed"
        return "" if os.path.samestat(named, then) else "was replaced"

    def refuse_if_changed(self) -> None:
        """Raise StoreError if the file is not what it was when it was opened."""
        if what := self.changed():
            raise StoreError(f"{self.path} {what} while it was read: wait until it is finished, then run again")

    def reopen(self) -> None:
        """Read the file that has the path now. Raises StoreError as opening does."""
        self.close()
        self._open()

    def place_of_row(self, row: int) -> tuple[str, int]:
        """Image id and cell (or box) of a row."""
        image, cell = divmod(row, self.rows_per_image)
        return self.ids[image], cell

    def read(self, start: int, stop: int, out: Rows) -> Rows:
        """Rows start..stop into ``out`` (stop - start, d), by several readers."""
        first, last = start // self.rows_per_image, (stop - 1) // self.rows_per_image
        bounds = np.linspace(first, last + 1, min(READERS, last + 1 - first) + 1).astype(int)
        parts = [
            (max(start, a * self.rows_per_image), min(stop, b * self.rows_per_image))
            for a, b in pairwise(bounds.tolist())
        ]
        for _ in self._readers.map(lambda p: self.read_serial(p[0], p[1], out[p[0] - start : p[1] - start]), parts):
            pass
        return out

    def read_serial(self, start: int, stop: int, out: Rows) -> Rows:
        """Rows start..stop into ``out`` (stop - start, d), by the calling thread."""
        r, at = self.rows_per_image, start
        while at < stop:
            image, row = divmod(at, r)
            upto = min(stop, (image + 1) * r)
            self._read_image(image, row, out[at - start : upto - start])
            at = upto
        return out

    def gather(self, rows: Indices, place: Callable[[Indices, Rows], None]) -> None:
        """Read the given rows, in file order and only the images that hold one, and hand them over.

        ``place(where, values)`` gets positions in ``rows`` and the rows (m, d) that belong there; it is
        called from several threads, never twice for one position.
        """
        order = np.argsort(rows, kind="stable")
        images, begins = np.unique(rows[order] // self.rows_per_image, return_index=True)
        ends = np.append(begins[1:], len(rows))

        def work(part: Indices) -> None:
            buffer = np.empty((self.rows_per_image, self.dim), np.float32)
            for i in part.tolist():
                where = order[begins[i] : ends[i]]
                wanted = rows[where] - images[i] * self.rows_per_image
                low, high = int(wanted[0]), int(wanted[-1]) + 1
                self._read_image(int(images[i]), low, buffer[: high - low])
                place(where, buffer[wanted - low])

        parts = np.array_split(np.arange(len(images)), max(1, len(images) // PART))
        for _ in self._readers.map(work, parts):
            pass

    def check_finite(self, start: int, block: Rows, norms: NDArray[np.float32]) -> None:
        """Raise StoreError, naming the image, if a row of the block that starts at row ``start`` is not
        finite.

        ``norms`` (m,): squared norms; they are finite unless a row is not, or is too large for float32.
        """
        bad = np.flatnonzero(~np.isfinite(norms))
        if len(bad):
            self.refuse(start + int(bad[0]), block[bad[0]])

    def refuse(self, row: int, values: Rows) -> None:
        """Raise StoreError for row ``row`` of the file, which holds ``values`` (d,)."""
        image, cell = self.place_of_row(row)
        what = "NaN" if np.isnan(values).any() else "infinity"
        if np.isfinite(values).all():
            what = f"{np.abs(values).max():g}, whose square is beyond float32"
        raise StoreError(
            f"{self.path}: the features of image {printable(image)!r} contain {what} (row"
            f" {cell} of {self.rows_per_image}):"
            " extract this image again, or download the file again"
        )

    def close(self) -> None:
        if self._fd >= 0:
            self._readers.shutdown()
            self._h5.close()
            fd, self._fd = self._fd, -1  # closed once, even where that fails
            os.close(fd)

    def __enter__(self) -> FeatureFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _survey(self) -> tuple[int, Indices]:
        """Rows per image, and the byte offset of every image's features (-1: read it by h5py)."""
        offsets = np.full(len(self.ids), -1, np.int64)
        expected: tuple[int, ...] = ()
        for i, name in enumerate(self.ids):
            array = store.features_of(self._h5, name)
            shape, dtype = array.shape, array.dtype
            if i == 0:
                self._check_shape(shape)
                expected = shape
            if shape != expected:
                raise StoreError(
                    f"{self.path}: image {printable(name)!r} has features of shape {shape}, the images before it"
                    f" {expected}: make the file again"
                )
            if dtype.kind != "f" or dtype.itemsize > 4:
                raise StoreError(
                    f"{self.path}: image {printable(name)!r} has features of type {dtype}, expected float32:"
                    " make the file again"
                )
            # None unless the bytes lie in one piece, unfiltered
            offset = array.get_offset()
            if offset is not None and dtype == np.dtype("<f4") and np.little_endian:
                offsets[i] = offset
        return math.prod(expected[:-1]), offsets

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        if len(shape) < 2 or shape[-1] != self.dim or 0 in shape:
            raise StoreError(
                f"{self.path} has features of shape {shape}; their last dimension should be --feat_dim"
                f" {self.dim}: give the file's own, or another file"
            )
        grid = self._grid_size
        if len(shape) == 3 and shape[:2] != (grid, grid):
            raise StoreError(
                f"{self.path} has features of shape {shape}, expected ({grid}, {grid}, {self.dim}):"
                " --grid_size does not fit the file"
            )

    def _read_image(self, image: int, row: int, out: Rows) -> None:
        """Rows row.. of one image into ``out``, which must be contiguous."""
        offset = int(self._offsets[image])
        if offset >= 0:
            read_fully(self._fd, out, offset + row * self.dim * 4, self.path)
            return
        name = self.ids[image]
        try:
            with self._through_hdf5:
                values = store.read_array(store.features_of(self._h5, name))
        except (OSError, RuntimeError, ValueError) as error:
            raise StoreError(
                f"{self.path}: the features of image {printable(name)!r} cannot be read ({error});"
                " make or download the file again"
            ) from error
        out[:] = values.reshape(self.rows_per_image, self.dim)[row : row + len(out)]


def read_fully(fd: int, out: Rows, offset: int, path: Path) -> None:
    """Fill the contiguous array ``out`` from byte ``offset`` on. Raises StoreError where the file ends
    before."""
    view = out.reshape(-1).view(np.uint8).data
    while view:
        got = os.preadv(fd, [view], offset)
        if got == 0:
            raise StoreError(f"{path} ends before byte {offset + len(view)}: it was cut while in use")
        view, offset = view[got:], offset + got

"""The rows of a feature file, read in order, in blocks, ahead of the work on them.

Shapes: n rows of d float32 values; image i of a file owns rows i * r .. (i + 1) * r, r = rows per image
(G * G of a grid file, N of a box file). Row order is that of ``store.image_ids``.

Feature files hold one small contiguous dataset per image. HDF5 tells where in the file its bytes lie, and
plain ``preadv`` puts them where they are wanted: no copy, no global lock, so several readers and the
arithmetic run side by side. Whatever is not plain (compressed, chunked, linked, another type) goes through
h5py, which gives the same rows more slowly.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
from numpy.typing import NDArray

from feature_extraction.errors import StoreError
from feature_extraction.storage import store

Rows = NDArray[np.float32]
Indices = NDArray[np.int64]

READERS = 4
"""Threads that read images of one block: enough to keep a fast disk busy, few enough for a slow one."""
READ_AHEAD = 2
"""Blocks being read while one is computed on."""


class Vectors(Protocol):
    """n rows of dimension ``dim`` that can be read by range: a feature file or a training sample."""

    @property
    def count(self) -> int: ...

    @property
    def dim(self) -> int: ...

    def read(self, start: int, stop: int, out: Rows) -> Rows:
        """Rows start..stop as float32 (stop - start, dim): ``out``, filled, or a view of rows in memory."""


class FeatureFile:
    """A finished feature file as one matrix. Raises StoreError for anything that cannot be used.

    The whole structure is checked when it is opened, every image's shape and type: a wrong file
    is found before the long work, not in the middle of it.
    """

    def __init__(self, path: Path, *, dim: int, grid_size: int) -> None:
        self.path = path
        self.dim = dim
        self._h5 = store.open_features(path)
        self.ids = store.image_ids(self._h5)
        self.provenance = store.provenance(self._h5)
        if not self.ids:
            self.close()
            raise StoreError(f"{path} holds no images: make or download it again")
        try:
            self.rows_per_image, self._offsets = self._survey(grid_size)
        except BaseException:
            self.close()
            raise
        self._fd = os.open(path, os.O_RDONLY)
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="read")

    @property
    def count(self) -> int:
        return len(self.ids) * self.rows_per_image

    @property
    def plain(self) -> bool:
        """Whether every dataset is read by ``preadv``, without HDF5."""
        return bool((self._offsets >= 0).all())

    def fingerprint(self) -> dict[str, Any]:
        """Tells this file from another or a changed one, without reading 40 GB."""
        status = self.path.stat()
        return {
            "path": str(self.path.resolve()),
            "bytes": status.st_size,
            "modified_ns": status.st_mtime_ns,
            "images": len(self.ids),
        }

    def image_of_row(self, row: int) -> str:
        return self.ids[row // self.rows_per_image]

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

        # short parts in file order, so that the readers stay close together on the disk
        parts = np.array_split(np.arange(len(images)), max(1, len(images) // 32))
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
        what = "NaN" if np.isnan(values).any() else "infinity"
        if np.isfinite(values).all():
            what = f"{np.abs(values).max():g}, whose square is beyond float32"
        raise StoreError(
            f"{self.path}: the features of image {self.image_of_row(row)!r} contain {what} (row"
            f" {row % self.rows_per_image} of {self.rows_per_image}):"
            " extract this image again, or download the file again"
        )

    def close(self) -> None:
        self._h5.close()
        if hasattr(self, "_fd"):
            self._readers.shutdown()
            os.close(self._fd)
            del self._fd

    def __enter__(self) -> FeatureFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _survey(self, grid_size: int) -> tuple[int, Indices]:
        """Rows per image, and the byte offset of every image's features (-1: read it by h5py)."""
        offsets = np.full(len(self.ids), -1, np.int64)
        file_number = h5py.h5o.get_info(self._h5.id).fileno
        size = self.path.stat().st_size
        rows = 0
        for i, name in enumerate(self.ids):
            try:
                dataset = h5py.h5d.open(self._h5.id, f"{name}/features".encode())
            except KeyError:
                raise StoreError(
                    f"{self.path}: image {name!r} has no features: the file is damaged; make it again"
                ) from None
            shape, dtype = dataset.shape, dataset.dtype
            if i == 0:
                rows = self._rows_of(shape, grid_size)
                expected = shape
            if shape != expected:
                raise StoreError(
                    f"{self.path}: image {name!r} has features of shape {shape}, the images before it"
                    f" {expected}: make the file again"
                )
            if dtype.kind != "f" or dtype.itemsize > 4:
                raise StoreError(
                    f"{self.path}: image {name!r} has features of type {dtype}, expected float32: make the file again"
                )
            # None unless the bytes lie in one piece, unfiltered and not in an external raw file
            offset = dataset.get_offset()
            if (
                offset is not None
                and dtype == np.dtype("<f4")
                and np.little_endian
                and dataset.get_storage_size() == rows * self.dim * 4
                and offset + rows * self.dim * 4 <= size
                and h5py.h5o.get_info(dataset).fileno == file_number  # not linked from another file
            ):
                offsets[i] = offset
        return rows, offsets

    def _rows_of(self, shape: tuple[int, ...], grid_size: int) -> int:
        if len(shape) < 2 or shape[-1] != self.dim:
            raise StoreError(
                f"{self.path} has features of shape {shape}; their last dimension should be --feat_dim"
                f" {self.dim}: give the file's own, or another file"
            )
        if len(shape) == 3 and shape[:2] != (grid_size, grid_size):
            raise StoreError(
                f"{self.path} has features of shape {shape}, expected ({grid_size}, {grid_size}, {self.dim}):"
                " --grid_size does not fit the file"
            )
        return math.prod(shape[:-1])

    def _read_image(self, image: int, row: int, out: Rows) -> None:
        """Rows row.. of one image into ``out``, which must be contiguous."""
        offset = int(self._offsets[image])
        if offset < 0:
            name = self.ids[image]
            try:
                values = self._h5[f"{name}/features"][()]
            except OSError as error:
                raise StoreError(
                    f"{self.path}: the features of image {name!r} cannot be read ({error});"
                    " make or download the file again"
                ) from error
            out[:] = values.reshape(self.rows_per_image, self.dim)[row : row + len(out)]
            return
        read_fully(self._fd, out, offset + row * self.dim * 4, self.path)


def read_fully(fd: int, out: Rows, offset: int, path: Path) -> None:
    """Fill the contiguous array ``out`` from byte ``offset`` on. Raises StoreError where the file ends
    before."""
    view = out.reshape(-1).view(np.uint8).data
    while view:
        got = os.preadv(fd, [view], offset)
        if got == 0:
            raise StoreError(f"{path} ends before byte {offset + len(view)}: it was cut while in use")
        view, offset = view[got:], offset + got


class InMemory:
    """A sample that lies in memory as one array (n, d)."""

    def __init__(self, values: Rows) -> None:
        self.values = values
        self.count, self.dim = values.shape

    def read(self, start: int, stop: int, out: Rows) -> Rows:
        """A view; ``out`` is not used."""
        return self.values[start:stop]


class Scratch:
    """A sample that lies in a file on disk, row after row: it costs no memory, whatever its size."""

    def __init__(self, path: Path, count: int, dim: int) -> None:
        self.path, self.count, self.dim = path, count, dim
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)

    def place(self, where: Indices, values: Rows) -> None:
        width = self.dim * 4
        for at, row in zip((where * width).tolist(), values, strict=True):
            if os.pwrite(self._fd, row, at) != width:
                raise OSError(f"{self.path}: short write")

    def flush(self) -> None:
        os.fsync(self._fd)

    def read(self, start: int, stop: int, out: Rows) -> Rows:
        read_fully(self._fd, out, start * self.dim * 4, self.path)
        return out

    def close(self) -> None:
        os.close(self._fd)


def block_ranges(start: int, stop: int, rows: int, least: int) -> list[tuple[int, int]]:
    """Cut start..stop into blocks of ``rows``; a rest shorter than ``least`` joins the last block.

    faiss treats short searches by another formula, which rounds differently: a short last block would not
    give what a search for all rows gives.
    """
    cuts = [start, *range(start + rows, stop - least + 1, rows), stop]
    return [(a, b) for a, b in pairwise(cuts) if a < b]


def read_blocks(vectors: Vectors, ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, Rows]]:
    """Yield (first row, rows) for each range while the next ones are being read.

    The rows may be overwritten as soon as the next block is asked for.
    """
    ranges = deque(ranges)
    longest = 0 if isinstance(vectors, InMemory) else max((b - a for a, b in ranges), default=0)
    buffers = [np.empty((longest, vectors.dim), np.float32) for _ in range(READ_AHEAD + 1)]
    waiting: deque[tuple[int, Rows, Future[Rows]]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as ahead:
        used = None
        try:
            while ranges or waiting:
                if used is not None:
                    buffers.append(used)
                while ranges and buffers:
                    start, stop = ranges.popleft()
                    buffer = buffers.pop()
                    waiting.append((start, buffer, ahead.submit(vectors.read, start, stop, buffer[: stop - start])))
                start, used, future = waiting.popleft()
                yield start, future.result()
        finally:
            ahead.shutdown(cancel_futures=True)

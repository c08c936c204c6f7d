"""The arrays of one image, looked at before HDF5 reads them (``guard``): plain numbers of a bounded size, whole, inside
the file; anything else is a StoreError of one line. h5py's low-level calls, numpy.
"""

from __future__ import annotations

import math
from typing import Any, Final

import h5py
import numpy as np
from h5py import h5d, h5g, h5s, h5t
from numpy.typing import NDArray

from ..errors import StoreError
from .guard import MAKE_AGAIN, SMALLEST_ENTRY, hard_links, is_hard, kind_at, reason, shown

LARGEST_ARRAY: Final = 256 << 20
"""Bytes of one array; the published ones take up to 0.5 MB."""
FILTERS: Final = {1: "gzip", 2: "shuffle"}
"""Known to HDF5 by these numbers."""


def plain_array(file: h5py.File, group: Any, image_id: str, name: str) -> Any:
    """The array ``name`` of an image's group, as a low-level DatasetID that is safe to read: numbers, of a bounded
    size, whole, inside the file. Raises StoreError for anything else."""
    path = file.filename
    where = f"{path}: {shown(name)} of image {shown(image_id)}"
    try:
        if not group.links.exists(name.encode()):
            below = next(hard_links(file, group, path), None)
            if below is not None and kind_at(group, below) == h5g.GROUP:
                raise StoreError(
                    f"{path}: {shown(image_id)} holds groups, not arrays (as {shown(image_id + '/' + below)}): its "
                    "images are nested, which this program does not read"
                )
            raise StoreError(f"{path}: image {shown(image_id)} has no {name}: {MAKE_AGAIN}")
        if not is_hard(group, name.encode()):
            raise StoreError(f"{where} is a link to elsewhere: only what lies in the file itself is read; {MAKE_AGAIN}")
        kind = kind_at(group, name)
        if kind != h5g.DATASET:
            raise StoreError(f"{where} is no array: {MAKE_AGAIN}")
        dataset = h5d.open(group, name.encode())
        problem = _problem(dataset, file.id.get_filesize())
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, MemoryError) as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"{where} cannot be read ({reason(error)}): {MAKE_AGAIN}") from error
    if problem:
        raise StoreError(f"{where} {problem}; {MAKE_AGAIN}")
    return dataset


def _problem(dataset: Any, file_size: int) -> str | None:
    """Why a data set is not plain and whole; None if it is."""
    kind = dataset.get_type().get_class()
    if kind not in (h5t.INTEGER, h5t.FLOAT):
        return "is not made of plain numbers"
    space = dataset.get_space()
    if space.get_simple_extent_type() not in (h5s.SCALAR, h5s.SIMPLE):
        return "has no shape"
    shape, itemsize = space.get_simple_extent_dims(), dataset.get_type().get_size()
    size = itemsize * math.prod(map(int, shape))
    if itemsize > 16 or size > LARGEST_ARRAY:
        return f"claims {size:,} bytes (shape {shape}), expected at most {LARGEST_ARRAY:,}"
    made = dataset.get_create_plist()
    layout = made.get_layout()
    if layout == h5d.VIRTUAL:
        return "is put together of other data sets: only what lies in the file itself is read"
    if made.get_external_count():
        return "lies in another file: only what lies in the file itself is read"
    if layout == h5d.CONTIGUOUS:
        offset = dataset.get_offset()
        if size and (offset is None or dataset.get_storage_size() != size or offset + size > file_size):
            return f"claims {size:,} bytes that the file does not hold"
    elif layout == h5d.CHUNKED:
        return _problem_of_chunks(dataset, made, shape, itemsize, file_size)
    elif layout != h5d.COMPACT or dataset.get_storage_size() != size:
        return "is stored in a way that this program does not read"
    return None


def _problem_of_chunks(dataset: Any, made: Any, shape: tuple[int, ...], itemsize: int, file_size: int) -> str | None:
    for index in range(made.get_nfilters()):
        code = made.get_filter(index)[0]
        if code not in FILTERS:
            return f"is stored with the filter {code}, expected none but {' and '.join(FILTERS.values())}"
    expected, chunk_size = 1, itemsize
    for side, chunk in zip(shape, made.get_chunk(), strict=True):
        expected *= -(-int(side) // int(chunk))
        chunk_size *= int(chunk)
    if chunk_size > LARGEST_ARRAY:
        return f"is stored in blocks of {chunk_size:,} bytes, expected at most {LARGEST_ARRAY:,}"
    if expected > file_size // SMALLEST_ENTRY or dataset.get_num_chunks() != expected:
        return f"claims {expected:,} blocks that the file does not hold"
    if dataset.get_storage_size() > file_size:
        return f"claims {dataset.get_storage_size():,} bytes that the file does not hold"
    return None


def read_array(dataset: Any) -> NDArray[Any]:
    """The numbers of an array that ``plain_array`` gave."""
    values = np.empty(dataset.shape, dataset.dtype)
    dataset.read(h5s.ALL, h5s.ALL, values)
    return values

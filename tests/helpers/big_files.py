"""A feature file of published layout and size whose features are holes, but for those that are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import h5py
import numpy as np
from h5py import h5d, h5o, h5p, h5s, h5t
from numpy.typing import NDArray


def write_sparse_grid(path: Path, ids: Iterable[str], filled: Mapping[str, NDArray[np.float32]]) -> None:
    """``<id>/features`` (8, 8, 2048) float32 of every id, in one piece, each with room of its own in the file; numbers
    only where ``filled`` has them. On the disk it takes what is filled."""
    shape = (8, 8, 2048)
    early = h5p.create(h5p.DATASET_CREATE)
    early.set_alloc_time(h5d.ALLOC_TIME_EARLY)
    early.set_fill_time(h5d.FILL_TIME_NEVER)
    kind = h5t.py_create(np.dtype(np.float32))
    with h5py.File(path, "w") as file:
        for image_id in ids:
            group = file.create_group(image_id).id
            dataset = h5d.create(group, None, kind, h5s.create_simple(shape), early)
            if image_id in filled:
                dataset.write(h5s.ALL, h5s.ALL, np.ascontiguousarray(filled[image_id]))
            h5o.link(dataset, group, b"features")

"""What a feature file holds and what made it, read in no time: the names, one image, the root's attributes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from . import store
from .derive import DERIVED


def describe(path: Path) -> dict[str, Any]:
    """As JSON keeps it: images, bytes, first and last id, the arrays of the first image, what made the file.
    Raises StoreError."""
    with store.open_features(path) as file:
        ids = store.image_ids(file)
        made = store.provenance(file)
        first = ids[0] if ids else None
        return {
            "file": path.name,
            "bytes": path.stat().st_size,
            "images": len(ids),
            "first": first,
            "last": ids[-1] if ids else None,
            "arrays": _arrays(file, first) if first is not None else {},
            "checksums": bool(first is not None and store.checksums_of(file, first)),
            "made": {**made, DERIVED: _parsed(made[DERIVED])} if DERIVED in made else made,
        }


def _arrays(file: Any, image_id: str) -> dict[str, dict[str, Any]]:
    """dtype, shape and bytes on the disk of each array of one image."""
    found = {}
    for name in store.array_names(file, image_id):
        array = store.array_of(file, image_id, name)
        size = array.dtype.itemsize
        for side in array.shape:
            size *= side
        packed = {"stored": array.get_storage_size()} if array.get_storage_size() != size else {}
        found[name] = {"dtype": str(array.dtype), "shape": list(array.shape), "bytes": size, **packed}
    return found


def _parsed(text: object) -> Any:
    try:
        return json.loads(str(text))
    except (ValueError, RecursionError):
        return text

"""Box files with boxes clipped to the image, for readers that refuse a box beyond it.

A region proposal may reach into the padding right of the image and below it, up to 2 % of its side. Shapes and frame as
in ``storage.store``: boxes float32 (N, 4), x1, y1, x2, y2 in pixels of the original image; clipped as extraction with
``Boxes(clip=True)`` stores them, 0 <= x <= W - 1, 0 <= y <= H - 1. Features, classes and sizes stay, bit for bit.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
import torch

from feature_extraction.detector import boxes as box_ops
from feature_extraction.errors import StoreError
from feature_extraction.progress import Progress
from feature_extraction.storage import derive, store
from feature_extraction.storage.bounded import read_json
from feature_extraction.storage.source import Source, stamp_of

CLIPPED: Final = "clipped"
"""Attribute of a file: its boxes were clipped."""
DECIDES: Final = ("kind", "num_boxes", "checkpoint_sha256", "precision", "engine")
"""Attributes in which files that are put together may not differ; the published files have none."""
Arrays = dict[str, Any]


def stamps(parts: Mapping[str, Path]) -> list[dict[str, Any]]:
    """What a file made of these says of them. Raises OSError."""
    return [stamp_of(path, name) for name, path in parts.items()]


def is_outdated(path: Path, parts: Mapping[str, Path]) -> bool:
    """Whether ``path`` was made here, of files of which all are among ``parts``, and of another version of them, or of
    fewer. Where one of them is gone, the file is all that is left. Raises OSError."""
    try:
        with store.open_features(path) as file:
            attributes = store.provenance(file)
        said = json.loads(str(attributes[derive.DERIVED]))["of"] if attributes.get(CLIPPED) else None
        names = [one["name"] for one in said or ()]
    except (StoreError, ValueError, KeyError, TypeError):
        return False
    return said is not None and said != stamps(parts) and all(name in parts for name in names)


def clip(path: Path, sources: Mapping[str, Path], only: Mapping[str, Path], label: str) -> str:
    """Write the file ``path``, whatever is there: the images of all sources (name -> path), the first that has an image
    giving it, or of them those that ``only``, one annotation file or none, names. Returns what it holds. Raises
    StoreError, OSError."""
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(store.open_features(source)) for source in sources.values()]
        made = [store.provenance(file) for file in opened]
        _refuse_other_making(made, list(sources))
        said = derive.derived("clip", stamps({**sources, **only}))
        where: dict[str, h5py.File] = {}
        for file in reversed(opened):
            where |= dict.fromkeys(store.image_ids(file), file)
        ids = sorted(where.keys() & _named_by(only) if only else where, key=str.encode)
        if not ids:
            raise StoreError(f"{', '.join(sources)}: no image in them{''.join(f' that {name} names' for name in only)}")
        images = ((image_id, *_clipped(where[image_id], image_id)) for image_id in ids)
        attributes = {**derive.joined(made), CLIPPED: True, derive.DERIVED: said}
        with contextlib.closing(Progress(len(ids), label)) as bar:
            derive.write_whole(path, images, len(ids), attributes, lambda done, _: bar.advance(done - bar.now, 0))
    return f"{len(ids):,} image{'s' * (len(ids) != 1)} of {' and '.join(sources)}, boxes clipped"


def _clipped(file: h5py.File, image_id: str) -> tuple[Arrays, Source | None]:
    arrays, source = derive.read(file, image_id)
    return clipped(arrays, f"{file.filename}: image {image_id!r}"), source


def clipped(arrays: Arrays, name: str) -> Arrays:
    """The arrays of one image of a box file, its boxes clipped. Raises StoreError where there are none."""
    boxes, width, height = (arrays.get(key) for key in ("boxes", "img_w", "img_h"))
    if boxes is None or width is None or height is None or boxes.shape[1:] != (4,) or width.shape or height.shape:
        raise StoreError(
            f"{name} has no boxes, or not the image's size: expected a box file, as extract-...-boxes makes"
        )
    inside = box_ops.clip(torch.from_numpy(np.asarray(boxes)), (int(height), int(width)))
    return {**arrays, "boxes": inside.numpy()}


def _refuse_other_making(made: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    """Raise StoreError if the files should not be put together."""
    first = made[0]
    for other, name in zip(made[1:], names[1:], strict=True):
        differ = [key for key in DECIDES if key in first and key in other and first[key] != other[key]]
        differ += ["synthetic_weights"] * (bool(first.get("synthetic_weights")) != bool(other.get("synthetic_weights")))
        if differ:
            raise StoreError(
                f"{names[0]} and {name} were made differently ({', '.join(differ)}): make one of them again"
            )


def _named_by(only: Mapping[str, Path]) -> set[str]:
    """The images that an annotation file names. Raises StoreError."""
    (name, path), *_ = only.items()
    try:
        return {str(datum["img_id"]) for datum in read_json(path)}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise StoreError(f"{name} is no list of questions with an img_id ({error}): download it again") from error

"""From findings to cases for the laboratory: which images, where they lie, what batches they may have been in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import h5py

from feature_extraction.config import Spec
from feature_extraction.detector.build import choose_device
from feature_extraction.detector.files import find_checkpoint
from feature_extraction.errors import ImageError, ImageFolderError
from feature_extraction.features import computation_of
from feature_extraction.images.decode import read_size
from feature_extraction.images.listing import list_images
from feature_extraction.names import printable
from feature_extraction.storage import store

from .evidence import Findings, some
from .explain import Case, Explanation, Laboratory, explain
from .files import spec_of
from .hypotheses import NEIGHBOURS, Size
from .options import Options
from .pattern import suspect

MOST_IMAGES: Final = 3
"""Images that are recomputed: each costs as much as some dozen extractions."""


def check(options: Options) -> None:
    """Raises KitError where checkpoint, device or the folder of images that were named are not to be had."""
    find_checkpoint(options.checkpoint_dir)
    choose_device(options.device)
    if options.images is not None:
        list_images(options.images)


def recompute(
    ours: h5py.File, published: h5py.File, found: Findings, options: Options, say: Callable[[str], None]
) -> Explanation:
    """Explain the worst images; ``say`` hears what it will cost. Raises KitError where images or checkpoint are not to
    be had."""
    ids = [evidence.id for evidence in found.worst_first]
    paths = _Paths(ours, options.images)
    chosen = [image_id for image_id in ids if paths.of(image_id) is not None][:MOST_IMAGES]
    if not chosen:
        raise ImageFolderError(
            f"none of the images that differ ({some(ids)}) is {paths.where}: --explain FOLDER names where they lie"
        )
    spec = spec_of(ours, store.read_image(ours, chosen[0]))
    laboratory = Laboratory(find_checkpoint(options.checkpoint_dir), choose_device(options.device), spec)
    sizes = _Sizes(spec)
    every = store.image_ids(ours)
    cases = [_case(ours, published, image_id, paths, sizes.common(image_id, every, paths)) for image_id in chosen]
    suspicion = suspect(found)
    return explain(laboratory, cases, sizes.of, suspicion.causes if suspicion is not None else (), say)


def _case(ours: h5py.File, published: h5py.File, image_id: str, paths: _Paths, common: tuple[Size, ...]) -> Case:
    path = paths.of(image_id)
    assert path is not None
    theirs = store.read_image(published, image_id)
    mine: dict[str, Any] = {name: array for name, array in store.read_image(ours, image_id).items() if name in theirs}
    return Case(image_id, path, mine, theirs, common)


class _Paths:
    """Where images lie: in the folder that was given, or where our file says that they were read."""

    def __init__(self, ours: h5py.File, folder: Path | None) -> None:
        self._ours = ours
        self._listed = None if folder is None else {i.id: i.path for i in list_images(folder).images}
        self.where = f"in {printable(folder)}" if folder is not None else "where our file says that it was read"

    def of(self, image_id: str) -> Path | None:
        if self._listed is not None:
            return self._listed.get(image_id)
        source = store.source_of(self._ours, image_id)
        path = Path(source.path) if source is not None else None
        return path if path is not None and path.is_file() else None


class _Sizes:
    """What the network sees of images, by their headers."""

    def __init__(self, spec: Spec) -> None:
        self._computation = computation_of(spec)

    def of(self, path: Path) -> Size:
        """(H, W). Raises ImageError."""
        return self._computation.network_size(*read_size(path))

    def common(self, image_id: str, every: Sequence[str], paths: _Paths) -> tuple[Size, ...]:
        """What the image would have been padded to with its neighbours, in batches of each size."""
        at, found = every.index(image_id), []
        for batch in NEIGHBOURS:
            start = at // batch * batch
            sizes = [size for name in every[start : start + batch] if (size := self._try(paths.of(name))) is not None]
            if sizes:
                found.append((max(h for h, _ in sizes), max(w for _, w in sizes)))
        return tuple(dict.fromkeys(found))

    def _try(self, path: Path | None) -> Size | None:
        try:
            return self.of(path) if path is not None else None
        except (ImageError, OSError):
            return None

"""Feature files made of feature files: some images of one, several as one, one as several, the same in fewer bytes.

A file made here says what the files it was made of say of their making, and in ``derived`` what was done (JSON: the
command, the files, what was chosen). It is written beside its name, read back, synced and renamed; killed before,
nothing has changed, and the same call begins anew and removes what was left. Images keep their ``source``; checksums
are compared on reading.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import h5py

from ..errors import KitError, StoreError, reason
from . import files, guard, store
from .assemble import read_back, write_features
from .half import FEATURES_DTYPE, Loss
from .journal import Arrays, checksum
from .source import Source, digest_of, stamp_of
from .stored import InFile

DERIVED: Final = "derived"
NOTES: Final = frozenset(
    ("device_name", "numpy", "h5py", "source_revision", "archive", "archive_version", "images", "failed", DERIVED)
)
"""Attributes that may differ between files of one recipe."""
WHICH: Final = ("dataset", "split")
"""Attributes that say which images, not how."""
LOSS: Final = "float16_"
"""How the names of attributes begin that say what float16 lost."""
MOST_NAMED: Final = 100
"""Files that ``derived`` names; the rest is counted, the digest is of all."""

MOST_OPEN: Final = 64
Image = tuple[str, Arrays, Source | None]
Tell = Callable[[int, int], None]
"""Called every 64 images with how many are done of how many. What it raises ends the making."""


@dataclass(frozen=True)
class Made:
    """One file that was made."""

    path: Path
    images: int
    already: bool = False
    """Whether it was there, made by the same call, before."""


def subset(source: Path, ids: Sequence[str], output: Path, tell: Tell) -> Made:
    """Write the images ``ids`` of one file; row order is that of every feature file, ascending. Raises StoreError."""
    with store.open_features(source) as file:
        store.require(file, ids)
        return _subset(file, ids, output, tell)


def split_evenly(source: Path, parts: int, folder: Path, tell: Tell) -> list[Made]:
    """Write one file as ``parts`` files of almost as many images each: NAME-00001-of-00004.h5, in row order."""
    with store.open_features(source) as file:
        ids = store.image_ids(file)
        if not 1 <= parts <= len(ids):
            raise StoreError(f"{source} holds {len(ids):,} images: they cannot be parted into {parts:,} files")
        bounds = [len(ids) * n // parts for n in range(parts + 1)]
        names = [f"{source.stem}-{n:05d}-of-{parts:05d}.h5" for n in range(1, parts + 1)]
        return [_subset(file, ids[bounds[n] : bounds[n + 1]], folder / name, tell) for n, name in enumerate(names)]


def split_by_lists(source: Path, lists: Mapping[str, Sequence[str]], folder: Path, tell: Tell) -> list[Made]:
    """Write NAME-LIST.h5 for every list of ids, by its name. Raises StoreError where an image stands in two."""
    seen: dict[str, str] = {}
    for name, ids in lists.items():
        for image_id in ids:
            if image_id in seen:
                raise StoreError(f"image {guard.shown(image_id)} stands in two lists: {seen[image_id]} and {name}")
            seen[image_id] = name
    with store.open_features(source) as file:
        store.require(file, seen)  # before the first file is written
        return [_subset(file, ids, folder / f"{source.stem}-{name}.h5", tell) for name, ids in lists.items()]


def _subset(file: h5py.File, ids: Sequence[str], output: Path, tell: Tell) -> Made:
    wanted = sorted(ids, key=str.encode)
    said = derived("subset", [stamp_of(Path(file.filename))], file, ids=digest_of(wanted))
    attributes = {**_made(file), "failed": 0, DERIVED: said}
    return _write(output, _of(file, wanted), len(wanted), attributes, tell)


def merge(sources: Sequence[Path], output: Path, tell: Tell, *, any_split: bool = False) -> Made:
    """Write the images of several files as one. They must be of one recipe, ``any_split``: but for data set and split.
    An image in several of them must be the same, bit for bit. Raises StoreError naming the first difference."""
    with contextlib.closing(OpenFiles()) as opened:
        made: list[dict[str, Any]] = []
        homes: dict[str, Path] = {}
        for path in sources:
            file = opened.get(path)
            made.append(store.provenance(file))
            _refuse_other_recipe(sources[0], made[0], path, made[-1], any_split)
            for image_id in store.image_ids(file):
                if image_id in homes:
                    _refuse_other_contents(image_id, opened.get(homes[image_id]), opened.get(path))
                homes.setdefault(image_id, path)
        ids = sorted(homes, key=str.encode)
        attributes = {**joined(made), DERIVED: derived("merge", [stamp_of(path) for path in sources])}
        images = ((i, *read(opened.get(homes[i]), i)) for i in ids)
        return _write(output, images, len(ids), attributes, tell)


def repack(source: Path, output: Path, tell: Tell, *, gzip: int = 0, half: bool = False) -> tuple[Made, Loss | None]:
    """Write the same images compressed (``gzip`` 1 to 9), plain (0), or with features in float16 (``half``), whose loss
    is measured and written into the file."""
    loss = Loss()
    with store.open_features(source) as file:
        ids = store.image_ids(file)
        attributes = _made(file)
        if half and FEATURES_DTYPE in attributes:
            raise StoreError(f"{source} holds features in {attributes[FEATURES_DTYPE]} already: leave --dtype out")
        if half:
            attributes[FEATURES_DTYPE] = "float16"

        def halved() -> Iterator[Image]:
            for image_id, arrays, made_from in _of(file, ids):
                halves = {n: loss.halve(a, image_id) if n.startswith("features") else a for n, a in arrays.items()}
                yield image_id, halves, made_from
            attributes.update({f"{LOSS}{name}": value for name, value in loss.described().items()})

        attributes[DERIVED] = derived("repack", [stamp_of(source)], file, gzip=gzip, dtype="float16" if half else "")
        images = halved() if half else _of(file, ids)
        return _write(output, images, len(ids), attributes, tell, gzip), loss if half else None


class OpenFiles:
    """Feature files, the last ``MOST_OPEN`` of them open: an operating system lets a process open some thousand."""

    def __init__(self) -> None:
        self._open: dict[Path, h5py.File] = {}

    def get(self, path: Path) -> h5py.File:
        """The open file; it stays open until so many others were asked for. Raises StoreError."""
        file = self._open.pop(path, None) or store.open_features(path)
        self._open[path] = file
        if len(self._open) > MOST_OPEN:
            self._open.pop(next(iter(self._open))).close()
        return file

    def close(self) -> None:
        for file in self._open.values():
            file.close()


# --- reading ---------------------------------------------------------------------------------------------------


def _of(file: h5py.File, ids: Iterable[str]) -> Iterator[Image]:
    return ((image_id, *read(file, image_id)) for image_id in ids)


def read(file: h5py.File, image_id: str) -> tuple[Arrays, Source | None]:
    """The arrays of one image and what they were made of. Raises StoreError where they are not what was written."""
    image = InFile(file, image_id)
    return image.read(), image.source


def _refuse_other_recipe(
    first: Path, made: Mapping[str, Any], path: Path, other: Mapping[str, Any], any_split: bool
) -> None:
    for name in sorted({*made, *other} - NOTES, key=lambda name: (name != "kind", name)):  # which says most
        if (name in WHICH and any_split) or name.startswith(LOSS):
            continue
        if made.get(name) != other.get(name):
            way_out = "; if that is meant, --any_split" if name in WHICH else ""
            raise StoreError(
                f"{first} and {path} are not of one recipe: {guard.shown(name)} is {_stated(made, name)} and "
                f"{_stated(other, name)}{way_out}"
            )


def _stated(made: Mapping[str, Any], name: str) -> str:
    return repr(made[name]) if name in made else "not stated"


def _refuse_other_contents(image_id: str, first: h5py.File, second: h5py.File) -> None:
    sums = [{name: checksum(array) for name, array in read(file, image_id)[0].items()} for file in (first, second)]
    different = sorted({name for name, _ in sums[0].items() ^ sums[1].items()})
    if different:
        raise StoreError(
            f"image {guard.shown(image_id)} is in {first.filename} and in {second.filename}, with other "
            f"{', '.join(map(guard.shown, different))}: take it out of one of them (subset)"
        )


# --- what the new file says ---------------------------------------------------------------------------------------


def _made(file: h5py.File) -> dict[str, Any]:
    return {"schema_version": store.SCHEMA_VERSION, **store.provenance(file)}


def joined(made: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What all files say; where they differ, each of what they say."""
    joined: dict[str, Any] = {"schema_version": store.SCHEMA_VERSION}
    for name in dict.fromkeys(name for one in made for name in one):
        found = list(dict.fromkeys(one[name] for one in made if name in one))
        if len(found) == 1:
            joined[name] = found[0]
        elif name != DERIVED and all(isinstance(value, str) for value in found):
            joined[name] = " + ".join(map(str, found[:8])) + (" + ..." if len(found) > 8 else "")
    return {**joined, "failed": sum(int(one.get("failed") or 0) for one in made)}


def derived(command: str, of: Sequence[Mapping[str, Any]], file: h5py.File | None = None, **chosen: Any) -> str:
    """JSON for ``derived``: made by this command ``of`` files (``stamp_of``); of one ``file`` with what that was
    derived from itself."""
    said: dict[str, Any] = {"by": command, **chosen, "files": len(of), "of": of[:MOST_NAMED]}
    said["of_sha256"] = hashlib.sha256(json.dumps(of).encode()).hexdigest()
    before = store.provenance(file).get(DERIVED) if file is not None else None
    if isinstance(before, str) and len(before) < guard.LARGEST_ATTRIBUTE // 4:
        said["before"] = before
    return json.dumps(said)


# --- writing ------------------------------------------------------------------------------------------------------


def write_whole(
    output: Path, images: Iterable[Image], count: int, attributes: dict[str, Any], tell: Tell, gzip: int = 0
) -> None:
    """Write ``count`` images, in row order, as the feature file ``output``, whatever has that name now, and read it
    back. ``attributes`` may grow while images are read. Raises StoreError; then nothing has changed."""
    attributes["images"] = count
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with files.making(output) as path:
            room = None if gzip else output.parent  # what compression leaves is not known before
            written = write_features(path, _counted(images, count, room, tell), attributes, gzip)
            read_back(path, written)
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, KitError):
            raise
        raise StoreError(f"{output} cannot be written: {reason(error)}. Nothing was changed") from error


def _write(
    output: Path, images: Iterable[Image], count: int, attributes: dict[str, Any], tell: Tell, gzip: int = 0
) -> Made:
    """The file at its name, where no other file has it. Raises StoreError."""
    if output.suffix != ".h5":
        raise StoreError(f"{output}: expected a file name that ends in .h5")
    if os.path.lexists(output):
        return _already(output, attributes[DERIVED])
    write_whole(output, images, count, attributes, tell, gzip)
    return Made(output, count)


def _already(output: Path, said: str) -> Made:
    """What has that name: made by the same call before. Raises StoreError where it is something else."""
    with contextlib.suppress(StoreError), store.open_features(output) as found:
        if store.provenance(found).get(DERIVED) == said:
            return Made(output, len(store.image_ids(found)), already=True)
    raise StoreError(
        f"{output} exists and was made of something else, or otherwise: move it away, or give another name"
    )


def _counted(images: Iterable[Image], count: int, room: Path | None, tell: Tell) -> Iterator[Image]:
    for done, image in enumerate(images):
        if not done and room is not None:
            size = sum(array.nbytes for array in image[1].values())
            files.check_room(room, size * count, f"{count:,} images")
        yield image
        if done % 64 == 63 or done + 1 == count:
            tell(done + 1, count)

"""Feature files made of feature files: some images of one, several as one, one as several, the same in fewer bytes.

A file made here says what the files it was made of say of their making, and in ``derived`` what was done (JSON: the
command, the files, what was chosen). It is written beside its name, read back, synced and renamed; killed before,
nothing has changed and the same call begins anew. Images keep their ``source``; checksums are compared on reading.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import h5py

from ..errors import StoreError
from . import files, guard, store
from .assemble import read_back, write_features
from .half import FEATURES_DTYPE, Loss
from .journal import Arrays, checksum
from .source import Source
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
        wanted = _there(file, ids)
        said = _derived("subset", [source], file, ids=_digest(wanted))
        attributes = {**_made(file), "failed": 0, DERIVED: said}
        return _write(output, _of(file, wanted), len(wanted), attributes, tell)


def split_evenly(source: Path, parts: int, folder: Path, tell: Tell) -> list[Made]:
    """Write one file as ``parts`` files of almost as many images each: NAME-00001-of-00004.h5, in row order."""
    with store.open_features(source) as file:
        ids = store.image_ids(file)
    if not 1 <= parts <= len(ids):
        raise StoreError(f"{source} holds {len(ids):,} images: they cannot be parted into {parts:,} files")
    bounds = [len(ids) * n // parts for n in range(parts + 1)]
    names = [f"{source.stem}-{n:05d}-of-{parts:05d}" for n in range(1, parts + 1)]
    return _split(source, {name: ids[bounds[n] : bounds[n + 1]] for n, name in enumerate(names)}, folder, tell)


def split_by_lists(source: Path, lists: Mapping[str, Sequence[str]], folder: Path, tell: Tell) -> list[Made]:
    """Write NAME-LIST.h5 for every list of ids, by its name. Raises StoreError where an image stands in two."""
    seen: dict[str, str] = {}
    for name, ids in lists.items():
        for image_id in ids:
            if image_id in seen:
                raise StoreError(f"image {guard.shown(image_id)} stands in two lists: {seen[image_id]} and {name}")
            seen[image_id] = name
    with store.open_features(source) as file:
        _there(file, list(seen))  # before the first file is written
    return _split(source, {f"{source.stem}-{name}": ids for name, ids in lists.items()}, folder, tell)


def _split(source: Path, lists: Mapping[str, Sequence[str]], folder: Path, tell: Tell) -> list[Made]:
    folder.mkdir(parents=True, exist_ok=True)
    return [subset(source, ids, folder / f"{name}.h5", tell) for name, ids in lists.items()]


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
        attributes = {**_joined(made), DERIVED: _derived("merge", sources, None)}
        images = ((i, *_read(opened.get(homes[i]), i)) for i in ids)
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

        attributes[DERIVED] = _derived("repack", [source], file, gzip=gzip, dtype="float16" if half else "")
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


def _there(file: h5py.File, ids: Sequence[str]) -> list[str]:
    """``ids`` in row order. Raises StoreError where some are not in the file."""
    missing = sorted(set(ids) - set(store.image_ids(file)))
    if missing:
        some = ", ".join(map(guard.shown, missing[:5])) + (", ..." if len(missing) > 5 else "")
        raise StoreError(
            f"{file.filename} has no features of {len(missing):,} of the {len(ids):,} images asked for: {some}"
        )
    return sorted(ids, key=str.encode)


def _of(file: h5py.File, ids: Iterable[str]) -> Iterator[Image]:
    return ((image_id, *_read(file, image_id)) for image_id in ids)


def _read(file: h5py.File, image_id: str) -> tuple[Arrays, Source | None]:
    """Raises StoreError where the image is not what was written."""
    image = InFile(file, image_id)
    return image.read(), image.source


def _refuse_other_recipe(
    first: Path, made: Mapping[str, Any], path: Path, other: Mapping[str, Any], any_split: bool
) -> None:
    for name in sorted({*made, *other} - NOTES):
        if (name in WHICH and any_split) or name.startswith(LOSS):
            continue
        if made.get(name) != other.get(name):
            way_out = "; if that is meant, --any_split" if name in WHICH else ""
            raise StoreError(
                f"{first} and {path} are not of one recipe: {guard.shown(name)} is {made.get(name)!r} and "
                f"{other.get(name)!r}{way_out}"
            )


def _refuse_other_contents(image_id: str, first: h5py.File, second: h5py.File) -> None:
    sums = [{name: checksum(array) for name, array in _read(file, image_id)[0].items()} for file in (first, second)]
    different = sorted({name for name, _ in sums[0].items() ^ sums[1].items()})
    if different:
        raise StoreError(
            f"image {guard.shown(image_id)} is in {first.filename} and in {second.filename}, with other "
            f"{', '.join(map(guard.shown, different))}: take it out of one of them (subset)"
        )


# --- what the new file says ---------------------------------------------------------------------------------------


def _made(file: h5py.File) -> dict[str, Any]:
    return {"schema_version": store.SCHEMA_VERSION, **store.provenance(file)}


def _joined(made: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What all files say; where they differ, each of what they say."""
    joined: dict[str, Any] = {"schema_version": store.SCHEMA_VERSION}
    for name in dict.fromkeys(name for one in made for name in one):
        found = list(dict.fromkeys(one[name] for one in made if name in one))
        if len(found) == 1:
            joined[name] = found[0]
        elif name != DERIVED and all(isinstance(value, str) for value in found):
            joined[name] = " + ".join(map(str, found[:8])) + (" + ..." if len(found) > 8 else "")
    return {**joined, "failed": sum(int(one.get("failed") or 0) for one in made)}


def _derived(command: str, sources: Sequence[Path], file: h5py.File | None, **chosen: Any) -> str:
    """JSON for ``derived``; of one file with what that was derived from itself."""
    of = []
    for source in sources:
        stamp = source.stat()
        of.append({"name": source.name, "bytes": stamp.st_size, "mtime_ns": stamp.st_mtime_ns})
    said: dict[str, Any] = {"by": command, **chosen, "files": len(of), "of": of[:MOST_NAMED]}
    said["of_sha256"] = hashlib.sha256(json.dumps(of).encode()).hexdigest()
    before = store.provenance(file).get(DERIVED) if file is not None else None
    if isinstance(before, str) and len(before) < guard.LARGEST_ATTRIBUTE // 4:
        said["before"] = before
    return json.dumps(said)


def _digest(ids: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(ids).encode()).hexdigest()


# --- writing ------------------------------------------------------------------------------------------------------


def _write(
    output: Path, images: Iterable[Image], count: int, attributes: dict[str, Any], tell: Tell, gzip: int = 0
) -> Made:
    """The file, whole, at its name. ``attributes`` may grow while images are read. Raises StoreError where another file
    has that name, or anything fails."""
    if output.suffix != ".h5":
        raise StoreError(f"{output}: expected a file name that ends in .h5")
    if output.exists():
        with store.open_features(output) as found:
            if store.provenance(found).get(DERIVED) == attributes[DERIVED]:
                return Made(output, len(store.image_ids(found)), already=True)
        raise StoreError(
            f"{output} exists and was made of something else, or otherwise: move it away, or give another name"
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(output)
    attributes["images"] = count
    try:
        with files.atomic_file(output) as held:
            files.try_lock(held, held.name)  # tells a later run that this one is at work
            path = Path(str(held.name))
            written = write_features(path, _counted(images, count, output.parent, tell), attributes, gzip)
            read_back(path, written)
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"{output} cannot be written: {' '.join(str(error).split())}. Nothing was changed") from error
    return Made(output, count)


def _counted(images: Iterable[Image], count: int, folder: Path, tell: Tell) -> Iterator[Image]:
    for done, image in enumerate(images):
        if not done:
            size = sum(array.nbytes for array in image[1].values())
            files.check_room(folder, size * count, f"{count:,} images")
        yield image
        if done % 256 == 255 or done + 1 == count:
            tell(done + 1, count)


def _remove_leftovers(output: Path) -> None:
    """What killed runs left beside the name."""
    of_ours = re.compile(rf"\.{re.escape(output.name[:40])}\.\d+-[0-9a-f]{{8}}")
    for left in output.parent.iterdir():
        if of_ours.fullmatch(left.name) and not files.is_locked(left):
            with contextlib.suppress(OSError):
                left.unlink()

"""The HDF5 contract: what a feature file looks like and in which order it is read.

Layout (that of the published files), N = boxes, G = grid size, D = feature dimension:

    grid    <image id>/features   float32 (G, G, D)
    boxes   <image id>/features   float32 (N, D)
            <image id>/obj_id     int64   (N,)     class 0..1599, background removed
            <image id>/boxes      float32 (N, 4)   x1, y1, x2, y2, pixels of the original image
            <image id>/img_w      int64   ()       pixels of the original image
            <image id>/img_h      int64   ()
    and, where the recipe asks for them:
            <image id>/cls_prob   float32 (N, classes)   background first (class_probs "foreground": without it)
            <image id>/obj_conf   float32 (N,)     the score that ranked the box; 0: it has none
            <image id>/features_fc7   float32 (N, D)   fc7, where features are fc6 and both are stored

N is the same for all images (root attribute num_boxes), but for files with the attribute option_min_boxes (from that to
num_boxes) or option_boxes_sha256 (boxes that a file gave): there it is each image's own. Other attributes option_*
name what is not as X-LXMERT has it, among them option_layer (features are "fc7"; or "both") and option_background
(obj_id -1 is the background).

Files of this kit carry root attributes that say what made them (``provenance``) and, on each image's group, what it
was made from (``source``) and the CRC-32 of its arrays (``crc32``); the published files have none of these.
numpy and h5py only.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
from h5py import h5a, h5d, h5g, h5o, h5p, h5s, h5t
from numpy.typing import NDArray

from ..errors import StoreError
from . import arrays as plain_arrays
from . import guard, stream
from .source import Source

SCHEMA_VERSION: Final = 1
SOURCE: Final = "source"
"""Attribute of an image's group: the image file it was made from, as JSON (path, size, mtime_ns, sha256)."""
CHECKSUMS: Final = "crc32"
"""Attribute of an image's group: its id, CRC-32 of the bytes of each of its arrays and of ``source``, as JSON."""

SMALLEST_COMPRESSED: Final = 4096
"""Bytes of an array below which compressing it makes it larger."""


def work_dir(output: Path) -> Path:
    """Where the unfinished parts of ``output``, a feature file or an export, lie beside it."""
    return output.with_name(output.name + ".work")


def report_path(output: Path) -> Path:
    """The list of images without features, beside ``output``."""
    return output.with_name(output.name.removesuffix(".h5") + ".report.json")


def open_features(path: Path) -> h5py.File:
    """Open a finished feature file for reading. Raises StoreError, with the way out, for anything else.

    Nothing outside the file is read, whatever it says (``guard``); that holds for the arrays too, where they are read
    by ``features_of``, ``array_of`` or ``read_image`` and not by ``file[...]``."""
    if not path.exists() and work_dir(path).is_dir():
        raise StoreError(f"{path} is unfinished: run the command that makes it again, it resumes")
    return _of_known_version(guard.open_plain(path), path)


def open_remote_features(far: stream.Stream) -> h5py.File:
    """The same for a file that lies elsewhere; whether a name of the root leads elsewhere is seen when it is used.
    Raises StoreError, and what ``far`` raises."""
    return _of_known_version(stream.open_stream(far), far.name)


def _of_known_version(file: h5py.File, path: Path | str) -> h5py.File:
    version = provenance(file).get("schema_version", SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        file.close()
        raise StoreError(
            f"{path} has schema version {version}, this program knows {SCHEMA_VERSION}: use the matching release"
        )
    return file


def image_ids(file: h5py.File) -> list[str]:
    """Ids of all images in row order: ascending as UTF-8 byte strings, the order in which HDF5 itself
    (and so the published ``f.keys()``) lists them; "10" comes before "9" where ids are not zero-padded."""
    return sorted(guard.hard_links(file, file.id, file.filename), key=str.encode)


def holds(file: h5py.File, image_id: str) -> bool:
    """Whether the file has an image of this id; others are not read. Raises StoreError where that cannot be told."""
    return guard.holds(file, image_id)


def require(file: h5py.File, wanted: Collection[str]) -> None:
    """Raise StoreError, naming some, where the file has not all of the images ``wanted``."""
    missing = sorted(set(wanted).difference(image_ids(file)))
    if missing:
        some = ", ".join(map(guard.shown, missing[:5])) + (", ..." if len(missing) > 5 else "")
        raise StoreError(
            f"{file.filename} has no features of {len(missing):,} of the {len(wanted):,} images asked for: {some}"
        )


def provenance(file: h5py.File) -> dict[str, Any]:
    """What made the file, from its root attributes; empty for the published files."""
    return guard.attributes(file)


# --- the arrays of one image ------------------------------------------------------------------------------


def features_of(file: h5py.File, image_id: str) -> h5d.DatasetID:
    """The features of one image as h5py's low-level data set, safe to read: plain numbers of a bounded size, whole,
    inside the file. ``.shape``, ``.dtype``; ``.get_offset()`` is the byte at which they lie in one piece, None where
    they do not. Read them there, or by ``read_array``. Raises StoreError for anything else."""
    return array_of(file, image_id, "features")


def array_of(file: h5py.File, image_id: str, name: str) -> h5d.DatasetID:
    """The array ``name`` of one image, as ``features_of``."""
    return plain_arrays.plain_array(file, guard.image_group(file, image_id), image_id, name)


def array_names(file: h5py.File, image_id: str) -> list[str]:
    """Names of the arrays of one image, ascending. Raises StoreError for too many."""
    return _array_names(file, guard.image_group(file, image_id), image_id)


def _array_names(file: h5py.File, group: h5g.GroupID, image_id: str) -> list[str]:
    names = list(guard.hard_links(file, group, f"{file.filename}: image {image_id!r}"))
    if len(names) > guard.MOST_ARRAYS:
        raise StoreError(f"{file.filename}: image {image_id!r} has {len(names):,} arrays: this is another layout")
    return names


def read_array(array: h5d.DatasetID) -> NDArray[Any]:
    """The numbers of an array that ``features_of`` or ``array_of`` gave. Raises OSError if they cannot be read."""
    return plain_arrays.read_array(array)


def read_image(file: h5py.File, image_id: str) -> dict[str, NDArray[Any]]:
    """All arrays of one image by name. Raises StoreError, OSError."""
    group = guard.image_group(file, image_id)
    names = _array_names(file, group, image_id)
    return {name: read_array(plain_arrays.plain_array(file, group, image_id, name)) for name in names}


def source_of(file: h5py.File, image_id: str) -> Source | None:
    """The image file that the features were made from; None in files of an earlier version and published ones."""
    return Source.of(_attribute(guard.image_group(file, image_id), SOURCE))


def checksums_of(file: h5py.File, image_id: str) -> dict[str, int]:
    """CRC-32 of each of the image's arrays; empty in files of an earlier version and published ones. Raises StoreError
    where they are another image's, or what they say of the source is not what was written."""
    return checksums_beside(guard.image_group(file, image_id), image_id)


def checksums_beside(group: h5g.GroupID, image_id: str) -> dict[str, int]:
    """``checksums_of``, of a group that is open."""
    raw = guard.text_attribute(group, CHECKSUMS.encode())
    if raw is None:
        return {}
    try:
        found = json.loads(raw)
        whose, source = str(found["id"]), found["source"]
        sums = {str(name): int(crc) for name, crc in found["arrays"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StoreError(f"the checksums of image {guard.shown(image_id)} are damaged") from error
    if whose != image_id:
        raise StoreError(f"holds what was written of image {guard.shown(whose)} under another name")
    written = guard.text_attribute(group, SOURCE.encode())
    if source != (None if written is None else zlib.crc32(written)):
        raise StoreError(f"what image {guard.shown(image_id)} says of its source is damaged")
    return sums


def _attribute(group: h5g.GroupID, name: str) -> object:
    raw = guard.text_attribute(group, name.encode())
    try:
        return json.loads(raw) if raw is not None else None
    except (ValueError, RecursionError):
        return None


def write_image(
    file: h5py.File,
    image_id: str,
    arrays: Mapping[str, NDArray[Any]],
    source: Source | None,
    checksums: Mapping[str, int],
    gzip: int = 0,
) -> None:
    """Write one image's group in the published layout, with what it was made from and the CRC-32 of each array.
    ``gzip``: level at which arrays of some size are compressed, 0 for none."""
    group = file.create_group(image_id).id
    for name, array in arrays.items():
        # what group[name] = array does, without asking the same of HDF5 for every array of a hundred thousand
        space = h5s.create_simple(array.shape) if array.shape else h5s.create(h5s.SCALAR)
        made = _compressed(array.shape, gzip) if gzip and array.nbytes >= SMALLEST_COMPRESSED else _PLAIN
        dataset = h5d.create(group, None, h5t.py_create(array.dtype, logical=True), space, made)
        dataset.write(h5s.ALL, h5s.ALL, np.ascontiguousarray(array))
        h5o.link(dataset, group, name.encode())
    said = json.dumps(source.described()).encode() if source is not None else None
    sealed = {"id": image_id, "arrays": dict(checksums), "source": zlib.crc32(said) if said is not None else None}
    _write_text(group, CHECKSUMS, json.dumps(sealed).encode())
    if said is not None:
        _write_text(group, SOURCE, said)


_PLAIN: Final = h5p.create(h5p.DATASET_CREATE)
_PLAIN.set_obj_track_times(False)  # the same data give the same file


def _compressed(shape: tuple[int, ...], level: int) -> Any:
    """One block of HDF5, its bytes sorted by their weight before they are compressed: a reader takes arrays whole."""
    made = h5p.create(h5p.DATASET_CREATE)
    made.set_obj_track_times(False)
    made.set_chunk(shape)
    made.set_shuffle()
    made.set_deflate(level)
    return made


def _write_text(group: h5g.GroupID, name: str, text: bytes) -> None:
    value = np.array(text)
    h5a.create(group, name.encode(), h5t.py_create(value.dtype), h5s.create(h5s.SCALAR)).write(value)

"""Reading HDF5 files that nobody vouches for: what is not plain is refused before HDF5 acts on it.

HDF5 follows what a file says: links into other files, data in raw files or pipes, views put together of other data
sets, filters loaded from plug-ins, sizes that no memory holds. Here only hard links, and plain arrays of numbers that
lie inside the file, are read; everything else is a StoreError of one line. h5py's low-level calls, numpy.
"""

from __future__ import annotations

import contextlib
import os
import stat
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
from h5py import h5a, h5g, h5l, h5s, h5t

from ..errors import StoreError
from . import trees

SIGNATURE: Final = b"\x89HDF\r\n\x1a\n"
MOST_ARRAYS: Final = 64
"""Arrays of one image; the published layout has up to 6."""
MOST_ATTRIBUTES: Final = 256
LARGEST_ATTRIBUTE: Final = 1 << 16
"""Bytes, HDF5's own limit for those beside an object."""
LONGEST_NAME: Final = 4096
SMALLEST_ENTRY: Final = 8
"""Bytes that a name costs at least in the file: bounds how many there can be."""
CACHE: Final = 4 << 20
"""Bytes that HDF5 keeps of what describes groups and arrays, beside the list of all names."""
LARGEST_CACHE: Final = 128 << 20
"""HDF5's own limit."""
MAKE_AGAIN: Final = "make or download it again"


class NotThere(StoreError):
    """No file of this name."""


class CutOff(StoreError):
    """A file shorter than it says."""


def shown(text: str | bytes) -> str:
    """A name from a file, as it can be printed: quoted, shortened, control characters escaped."""
    text = text.decode("utf-8", "backslashreplace") if isinstance(text, bytes) else text
    text = text if len(text) <= 80 else text[:77] + "..."
    return repr(text) if text.isprintable() else ascii(text)


# --- opening --------------------------------------------------------------------------------------------------


class ReadOnly(h5py.File):  # type: ignore[misc]  # h5py is not annotated
    """A file that was only read has nothing to lose when it is closed, so that closing it never fails."""

    base: int | None = None
    """The byte that addresses count from, once it is known."""
    pread: trees.Pread | None = None
    """Reads pieces of a file that is not on this machine; None of one that is."""

    def close(self) -> None:
        with contextlib.suppress(OSError, RuntimeError):  # HDF5 passes a failing close() on, as RuntimeError
            super().close()


def open_plain(path: Path) -> h5py.File:
    """Open an HDF5 file for reading. Raises StoreError with the true reason: a wrong kind of file, no permission, in
    use, cut off, something else. The root's links and attributes are looked at, nothing is followed."""
    _look_before(path)
    try:
        file = ReadOnly(path, "r")
    except FileNotFoundError as error:
        raise NotThere(f"{path} does not exist: extract or download it first") from error
    except (OSError, RuntimeError, ValueError) as error:
        raise why_not(path, str(error)) from error
    try:
        walkable(file, file.id, path)
        size_cache(file, hard_links(file, file.id, path))
        attributes(file)
    except BaseException:
        file.close()
        raise
    return file


def _look_before(path: Path) -> None:
    """Refuse what is no HDF5 file without letting HDF5 open it; opening a pipe would wait for ever."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise StoreError(f"{path} is no file (but a folder, pipe or device): name a feature file")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            at = 0  # the signature lies at 0, or behind a block of the user's own of 512 bytes, 1024, ...
            while at + len(SIGNATURE) <= size:
                file.seek(at)
                if file.read(len(SIGNATURE)) == SIGNATURE:
                    return
                at = at * 2 or 512
            file.seek(0)
            begin = file.read(64)
    except PermissionError as error:
        raise StoreError(f"{path} may not be read: {error.strerror}; ask its owner, or copy it") from error
    except FileNotFoundError as error:
        raise NotThere(f"{path} does not exist: extract or download it first") from error
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from error
    if not size:
        raise StoreError(f"{path} is empty: {MAKE_AGAIN}")
    raise no_hdf5(path, begin)


def no_hdf5(path: Path | str, begin: bytes) -> StoreError:
    page = begin.lstrip()[:1] == b"<" or begin[:8] == b"version "
    hint = " (a web page or a pointer to the real file)" if page else ""
    return StoreError(f"{path} is not an HDF5 file; it begins with {begin[:16]!r}{hint}: {MAKE_AGAIN}")


def why_not(path: Path | str, said: str) -> StoreError:
    said = " ".join(said.split())
    if "unable to lock" in said or "already open for write" in said or "errno = 11" in said:
        return StoreError(
            f"{path} is in use: another program has it open for writing, or did not close it; wait, or close it there"
        )
    if "truncated file" in said:
        return CutOff(f"{path} is not a whole HDF5 file: it is shorter than it says ({said}): {MAKE_AGAIN}")
    if "errno = " in said:
        return StoreError(f"{path} cannot be read ({said})")
    return StoreError(f"{path} is not a whole HDF5 file ({said}): it is damaged or something else; {MAKE_AGAIN}")


def size_cache(file: h5py.File, names: Iterable[str]) -> None:
    """Let HDF5 keep the list of the root's ``names``, which it wants whole at every look for one, and little more. Left
    to itself it keeps 32 MB as they lie in the file, six times as much in memory, and reads a longer list (by that size
    of half a million images; tried with smaller caches) anew for every image."""
    config = file.id.get_mdc_config()
    room = 2 * sum(len(name.encode()) + 8 for name in names)  # it doubles where it grows
    config.max_size = min(LARGEST_CACHE, CACHE + room)
    file.id.set_mdc_config(config)


# --- links ----------------------------------------------------------------------------------------------------


def walkable(file: h5py.File, group: Any, where: object) -> None:
    """Raise StoreError where HDF5 would walk a group's names for ever; to be asked before it looks for one of them."""
    try:
        # not h5o.get_info, which walks the names itself, to say how much room they take
        header = h5g.get_objinfo(group, b".").objno[0]
        trees.check_group(_pread(file), file.id.get_filesize(), base_of(file), header)
    except (trees.Looped, OSError, RuntimeError, struct.error) as error:
        raise StoreError(f"{where}: its names cannot be read ({reason(error)}): {MAKE_AGAIN}") from error


def _pread(file: h5py.File) -> trees.Pread:
    far: trees.Pread | None = getattr(file, "pread", None)
    if far is not None:
        return far
    fd = file.id.get_vfd_handle()
    return lambda pieces: [os.pread(fd, size, offset) for offset, size in pieces]


def base_of(file: h5py.File) -> int:
    """The byte that addresses count from. Raises StoreError where they are not of 8 bytes, as in all usual files."""
    base = getattr(file, "base", None)
    if base is None:
        if file.id.get_create_plist().get_sizes() != (8, 8):
            raise StoreError(f"{file.filename}: its addresses have another size than 8 bytes: this is another layout")
        base = int(file.userblock_size)
        if isinstance(file, ReadOnly):
            file.base = base
    return int(base)


def hard_links(file: h5py.File, group: Any, where: object) -> Iterator[str]:
    """Names of a group's links, in HDF5's order. Raises StoreError for a link that leads elsewhere, for a name that is
    no text, and where there are more of them than the file has room for. ``where`` names the group in messages."""
    most = file.id.get_filesize() // SMALLEST_ENTRY
    names: list[bytes] = []
    wrong: list[str] = []

    def look(name: bytes, info: Any) -> int | None:
        if info.type != h5l.TYPE_HARD:
            kind = "an external" if info.type == h5l.TYPE_EXTERNAL else "a soft"
            wrong.append(f"{shown(name)} is {kind} link: only what lies in the file itself is read")
        elif len(names) >= most:
            wrong.append("more names than the file has room for: it is damaged or made to harm")
        elif len(name) > LONGEST_NAME:
            wrong.append(f"{shown(name)}: a name of {len(name):,} bytes")
        else:
            names.append(name)
        return 1 if wrong else None

    try:
        group.links.iterate(look, info=True)
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise StoreError(f"{where}: its names cannot be read ({reason(error)}): {MAKE_AGAIN}") from error
    if wrong:
        raise StoreError(f"{where}: {wrong[0]}; {MAKE_AGAIN}")
    for name in names:
        try:
            yield name.decode()
        except UnicodeDecodeError as error:
            raise StoreError(f"{where}: the name {shown(name)} is not UTF-8: {MAKE_AGAIN}") from error


def reason(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


# --- attributes ---------------------------------------------------------------------------------------------------


def attributes(file: h5py.File) -> dict[str, Any]:
    """The root's attributes: texts, numbers and booleans. Raises StoreError for any other, and for too many."""
    path = file.filename
    try:
        count = h5a.get_num_attrs(file.id)
        if count > MOST_ATTRIBUTES:
            raise StoreError(
                f"{path} has {count:,} attributes, expected at most {MOST_ATTRIBUTES}: it is no feature file"
            )
        found: dict[str, Any] = {}
        for index in range(count):
            attribute = h5a.open(file.id, index=index)
            name = attribute.name
            if not _is_plain_value(attribute):
                raise StoreError(
                    f"{path}: its attribute {shown(name)} is no text or number: it was not made by this program"
                )
            value = file.attrs[name.decode()]
            found[name.decode()] = value.item() if hasattr(value, "item") else value
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, MemoryError) as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"{path}: its attributes cannot be read ({reason(error)}): {MAKE_AGAIN}") from error
    return found


def _is_plain_value(attribute: Any) -> bool:
    """Whether an attribute is one number, boolean or text of a bounded size."""
    kind = attribute.get_type()
    if attribute.get_space().get_simple_extent_type() != h5s.SCALAR or attribute.get_storage_size() > LARGEST_ATTRIBUTE:
        return False
    return kind.get_class() in (h5t.INTEGER, h5t.FLOAT, h5t.STRING) or kind.dtype == np.dtype(bool)


def text_attribute(group: Any, name: bytes) -> bytes | None:
    """A text of fixed length beside an object; None where there is none, or it is something else."""
    if not h5a.exists(group, name):
        return None
    attribute = h5a.open(group, name)
    kind = attribute.get_type()
    if kind.get_class() != h5t.STRING or kind.is_variable_str() or not _is_plain_value(attribute):
        return None
    value = np.empty((), f"S{kind.get_size()}")
    attribute.read(value)
    return bytes(value[()])


# --- images -------------------------------------------------------------------------------------------------------


def image_group(file: h5py.File, image_id: str) -> Any:
    """The group of one image (a low-level GroupID). Raises StoreError where there is none."""
    path = file.filename
    try:
        if "/" in image_id or image_id in ("", ".") or not is_hard(file.id, image_id.encode()):
            raise KeyError
        group = h5g.open(file.id, image_id.encode())
    except (KeyError, UnicodeEncodeError) as error:
        raise StoreError(f"{path} holds no image {shown(image_id)}") from error
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        if kind_at(file.id, image_id) == h5g.DATASET:
            raise StoreError(
                f"{path}: {shown(image_id)} is an array at the top of the file, where every name is an image's group: "
                "this is another layout"
            ) from error
        raise StoreError(f"{path}: image {shown(image_id)} cannot be read ({reason(error)}): {MAKE_AGAIN}") from error
    walkable(file, group, f"{path}: image {shown(image_id)}")
    return group


def holds(file: h5py.File, name: str) -> bool:
    """Whether the root has a name, whatever it leads to. Raises StoreError where its names cannot be read."""
    try:
        return bool(file.id.links.exists(name.encode()))
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise StoreError(f"{file.filename}: its names cannot be read ({reason(error)}): {MAKE_AGAIN}") from error


def is_hard(group: Any, name: bytes) -> bool:
    return bool(group.links.exists(name)) and group.links.get_info(name).type == h5l.TYPE_HARD


def kind_at(group: Any, name: str) -> int | None:
    try:
        return int(h5g.get_objinfo(group, name.encode()).type)
    except (OSError, RuntimeError, ValueError, KeyError):
        return None

"""All arrays of an image with their checksums, as fast as a disk gives them.

HDF5 takes a tenth of a millisecond to open one array, and a box file has half a million. It is asked what the first
header of a kind says; of another header with the same bytes but for the address of its numbers it would say the same.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from dataclasses import dataclass
from typing import Any, Final

import h5py
import numpy as np
from h5py import h5d, h5g, h5t
from numpy.typing import NDArray

from ..errors import StoreError
from . import arrays, guard, store
from .journal import checksum

MOST_HEADERS: Final = 1024
"""Remembered of one name: arrays of that name have so many shapes, where the number of boxes varies."""
LONGEST_HEADER: Final = 4096
"""Bytes; those of ours have under 300."""
Described = tuple[str, tuple[int, ...]]
"""dtype and shape."""


@dataclass(frozen=True)
class Header:
    """What HDF5 said of one array whose numbers lie in one piece, and the header it read that from."""

    before: bytes
    behind: bytes
    """The header's bytes but for the 8 that are the address of its numbers."""
    described: Described
    size: int
    """Bytes of the numbers."""

    @property
    def length(self) -> int:
        return len(self.before) + 8 + len(self.behind)


class ArrayReader:
    """Reads the arrays of one file: where they lie in one piece, past HDF5."""

    def __init__(self, file: h5py.File) -> None:
        self._file = file
        self._fd: int = file.id.get_vfd_handle()
        self._base, self._size = guard.base_of(file), file.id.get_filesize()
        self._headers: dict[str, dict[bytes, Header]] = {}
        self._buffer: NDArray[np.uint8] = np.empty(1 << 20, np.uint8)
        self._json: dict[Any, str] = {}

    def look(self, image_id: str) -> tuple[str, dict[str, int], dict[str, int]]:
        """The image's layout as JSON (name -> [dtype, shape], by name), and the CRC-32 of each array, found and as it
        was written (empty if it does not say). Raises StoreError, OSError, and what HDF5 raises of a damaged file."""
        group = guard.image_group(self._file, image_id)
        layout: dict[str, Described] = {}
        sums: dict[str, int] = {}
        for name in guard.hard_links(self._file, group, f"image {guard.shown(image_id)}"):
            if len(sums) >= guard.MOST_ARRAYS:
                raise StoreError(f"has more than {guard.MOST_ARRAYS} arrays")
            layout[name], sums[name] = self._array(group, image_id, name)
        key = tuple(layout.items())
        if key not in self._json:
            self._json[key] = json.dumps(layout)
        return self._json[key], sums, store.checksums_beside(group, image_id)

    def _array(self, group: Any, image_id: str, name: str) -> tuple[Described, int]:
        address = h5g.get_objinfo(group, name.encode()).objno[0]
        headers = self._headers.get(name)
        if headers:
            some = next(iter(headers.values()))
            raw = os.pread(self._fd, some.length, self._base + address)
            at = len(some.before)
            known = headers.get(raw[:at] + raw[at + 8 :])
            if known is not None:
                offset = self._base + int.from_bytes(raw[at : at + 8], "little")
                if offset + known.size <= self._size:
                    return known.described, self._crc(offset, known.size)
        asked = self._ask(group, name)
        if asked is not None:
            described, offset, size = asked
            self._learn(name, address, described, offset, size)
            return described, self._crc(offset, size)
        values = arrays.read_array(arrays.plain_array(self._file, group, image_id, name))
        return (values.dtype.str, values.shape), checksum(values)

    def _ask(self, group: Any, name: str) -> tuple[Described, int, int] | None:
        """dtype and shape, offset and bytes of an array that lies in one piece in this file; None of any other."""
        try:
            array = h5d.open(group, name.encode())
            kind = array.get_type()
            if kind.get_class() not in (h5t.INTEGER, h5t.FLOAT):
                return None
            shape = array.get_space().get_simple_extent_dims()
            size = kind.get_size()
            for side in shape:
                size *= side
            offset = array.get_offset()  # None unless the bytes lie in one piece in this file
            if offset is None or array.get_storage_size() != size or offset + size > self._size:
                return None
            return ((kind.dtype.str, shape), offset, size) if 0 < size <= arrays.LARGEST_ARRAY else None
        except (OSError, RuntimeError, ValueError, KeyError, TypeError):
            return None  # to be asked again, and the reason told, by the guard

    def _learn(self, name: str, address: int, described: Described, offset: int, size: int) -> None:
        """Remember a header of the classic form that names the address of its numbers once."""
        raw = os.pread(self._fd, LONGEST_HEADER, self._base + address)
        if len(raw) < 16 or raw[0] != 1:
            return
        raw = raw[: 16 + struct.unpack_from("<I", raw, 8)[0]]
        mark = (offset - self._base).to_bytes(8, "little")
        if raw.count(mark) == 1:
            before, _, behind = raw.partition(mark)
            headers = self._headers.setdefault(name, {})
            some = next(iter(headers.values()), None)
            if some is not None and (len(some.before), len(some.behind)) != (len(before), len(behind)):
                headers.clear()
            if len(headers) < MOST_HEADERS:
                headers[before + behind] = Header(before, behind, described, size)

    def _crc(self, offset: int, size: int) -> int:
        if size > len(self._buffer):
            self._buffer = np.empty(size, np.uint8)
        view = self._buffer[:size].data
        at = 0
        while at < size:
            got = os.preadv(self._fd, [view[at:]], offset + at)
            if not got:
                raise StoreError(f"the file ends at byte {offset + at:,}: it was cut off")
            at += got
        return zlib.crc32(view)

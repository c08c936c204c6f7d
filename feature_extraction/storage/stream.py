"""Reading HDF5 files that do not lie on this machine, through the same guard as those that do.

What reads the pieces is somebody else's (scripts.verify.remote: HTTP ranges); here is only what HDF5 needs of it. h5py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import h5py

from . import guard


class Stream(Protocol):
    """A file elsewhere. h5py reads through ``readinto`` after ``seek``, whole or not at all: its driver crashes where
    fewer bytes come than it asked for."""

    name: str

    def seek(self, offset: int, whence: int = 0, /) -> int: ...

    def readinto(self, buffer: Any, /) -> int: ...

    def pread(self, pieces: Sequence[tuple[int, int]], /) -> list[bytes]: ...


def open_stream(stream: Stream) -> h5py.File:
    """Open an HDF5 file that lies elsewhere, as ``guard.open_plain``; but the root's links are looked at one by one,
    when they are asked for: listing them takes thousands of requests. Raises StoreError, and what ``stream`` raises."""
    (begin,) = stream.pread([(0, 64)])
    if not begin.startswith(guard.SIGNATURE):
        raise guard.no_hdf5(stream.name, begin)
    try:
        file = guard.ReadOnly(stream, "r")
    except (OSError, RuntimeError, ValueError) as error:
        raise guard.why_not(stream.name, str(error)) from error
    file.pread = stream.pread
    try:
        guard.walkable(file, file.id, stream.name)
        guard.attributes(file)
    except BaseException:
        file.close()
        raise
    return file

"""Arrays in an ``.npz`` that nobody vouches for: what is not a plain, whole array is refused before it is read.

``numpy.load`` believes the sizes that a file claims, and leaves errors of a dozen types to its caller.
"""

from __future__ import annotations

import io
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

WRONG: Final = (
    zipfile.BadZipFile,
    zlib.error,
    tokenize.TokenError,
    struct.error,
    EOFError,
    KeyError,
    MemoryError,
    NotImplementedError,
    OverflowError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)
"""What numpy and zipfile raise for files that are no arrays."""


def save_npz(file: IO[bytes], arrays: dict[str, NDArray[Any]]) -> None:
    np.savez(file, allow_pickle=False, **arrays)


def read_npz(path: Path, names: Iterable[str], optional: Iterable[str] = ()) -> dict[str, NDArray[Any]]:
    """The arrays of these names, those of ``optional`` where they are there. Raises ValueError for anything that
    ``save_npz`` would not have written, OSError where the file cannot be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            there = set(archive.namelist())
            wanted = [*names, *(name for name in optional if f"{name}.npy" in there)]
            return {name: _read(archive, f"{name}.npy", path.stat().st_size) for name in wanted}
    except WRONG as error:
        raise ValueError(" ".join(str(error).split())[:300] or type(error).__name__) from error


def _read(archive: zipfile.ZipFile, member: str, file_size: int) -> NDArray[Any]:
    info = archive.getinfo(member)
    if info.compress_type != zipfile.ZIP_STORED or info.file_size > file_size:
        raise ValueError(f"{member} is compressed, or claims more bytes than the file has")
    with archive.open(info) as file:
        content = io.BytesIO(file.read())  # to the end, where its CRC-32 is compared
    if npy.read_magic(content) == (1, 0):
        shape, fortran, dtype = npy.read_array_header_1_0(content)
    else:
        raise ValueError(f"{member} is of a version that is not written here")
    size = dtype.itemsize * int(np.prod([int(side) for side in shape], dtype=object))
    rest = content.getbuffer()[content.tell() :]
    if dtype.hasobject or fortran or size != len(rest):
        raise ValueError(f"{member} claims {size:,} bytes of {dtype}, there are {len(rest):,}")
    return np.frombuffer(bytes(rest), dtype).reshape(shape).copy()

"""Small files and arrays from elsewhere, read without trusting them: sizes first, then contents.

Nothing larger than a file can hold is allocated because the file claims it; no pickle is read. Every function raises
ValueError with the reason, in words without control characters, and OSError as the system gives it. NumPy is imported
where arrays are read, nothing else is needed.
"""

from __future__ import annotations

import io
import json
import math
import os
import stat
import tokenize
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from ..names import printable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MOST_JSON: Final = 64 << 20
"""Bytes: a report about 150,000 images that all failed has 30 MB."""
MOST_HEADER: Final = 1 << 12
"""Bytes of the text in which an .npy file describes itself; ours have 118."""
PLAIN: Final = "biufU"
"""Kinds of numbers and text that arrays may hold: no objects, no records."""


def read_bytes(path: Path, most: int) -> bytes:
    """All of a regular file of at most so many bytes."""
    with _regular(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"more than {most} bytes")
    return content


def read_json(path: Path, most: int = MOST_JSON) -> Any:
    """The document in a file, of at most so many bytes and of a nesting that Python takes."""
    try:
        return json.loads(read_bytes(path, most))
    except RecursionError:
        raise ValueError("nested too deep") from None
    except ValueError as error:  # the texts of json name places, never contents
        raise ValueError(printable(str(error))) from None


def load_npy(path: Path, *, mmap: bool = False, records: bool = False) -> NDArray[Any]:
    """The array in an ``.npy`` file; its description has to be that of a file of just this size. ``mmap``: read only,
    as it is used. ``records``: rows of named columns, too."""
    import numpy as np

    with _regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        array = _described(file, size, records=records)
        if mmap and array.size:
            return np.memmap(path, array.dtype, "r", file.tell(), array.shape, "F" if array.fortran else "C")
        return array.read(file)


def load_npz(path: Path, names: Collection[str], optional: Collection[str] = ()) -> dict[str, NDArray[Any]]:
    """The arrays of these names in an ``.npz`` file that holds them, perhaps the ``optional`` ones, and no others,
    stored as they are; every one is compared with its CRC-32."""
    with _regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            with zipfile.ZipFile(_BoundedReads(file, size), "r") as archive:
                infos = archive.infolist()
                _check_members(infos, names, optional, size)
                return {info.filename.removesuffix(".npy"): _member(archive, info) for info in infos}
        except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
            raise ValueError(f"a damaged archive: {printable(str(error))}") from None


def _regular(path: Path) -> BinaryIO:
    """An open regular file: no pipe, which would be waited for, no device."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise ValueError("not a regular file")
    return os.fdopen(handle, "rb")


class _BoundedReads(io.RawIOBase):
    """A file of which zipfile reads the list of members in one piece, however long that claims to be."""

    MOST: Final = 1 << 20

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.size = file, size

    def read(self, size: int | None = -1, /) -> bytes:
        wanted = self.MOST if size is None or size < 0 else size
        if wanted > max(self.MOST, self.size - self.file.tell()):
            raise zipfile.BadZipFile(f"{wanted} bytes are to be read, {self.size} are there")
        return self.file.read(wanted)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True


def _check_members(infos: list[zipfile.ZipInfo], names: Collection[str], optional: Collection[str], size: int) -> None:
    found = [info.filename for info in infos]
    needed, allowed = ({f"{name}.npy" for name in some} for some in (names, (*names, *optional)))
    if len(set(found)) != len(found) or not needed <= set(found) <= allowed:
        shown = ", ".join(map(printable, found[:5]))
        raise ValueError(f"arrays {shown or 'none'}, expected {', '.join(names)}")
    for info in infos:
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size or info.flag_bits & 1:
            raise ValueError(f"{info.filename} is compressed or encrypted")
    if sum(info.file_size for info in infos) > size:
        raise ValueError("more content is claimed than is there")


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NDArray[Any]:
    with archive.open(info) as file:
        array = _described(file, info.file_size)
        found = array.read(file)
        if file.read(1):  # zipfile compares the CRC-32 at the end
            raise ValueError(f"{info.filename} is longer than it says")
        return found


class _Described:
    """An array that is still in its file."""

    def __init__(self, shape: tuple[int, ...], fortran: bool, dtype: np.dtype[Any]) -> None:
        self.shape, self.fortran, self.dtype = shape, fortran, dtype
        self.size = math.prod(shape) * dtype.itemsize

    def read(self, file: Any) -> NDArray[Any]:
        import numpy as np

        content = np.empty(self.size, np.uint8)
        got = 0
        while got < self.size and (count := file.readinto(content[got:])):
            got += count
        if got != self.size:
            raise ValueError(f"{self.size} bytes of numbers are claimed, {got} are there")
        return np.ndarray(self.shape, self.dtype, content, order="F" if self.fortran else "C")


def _described(file: Any, size: int, *, records: bool = False) -> _Described:
    """What an ``.npy`` file of so many bytes says of itself; ``file`` stands behind it."""
    import numpy as np
    from numpy.lib import format as npy

    try:
        version = npy.read_magic(file)
        read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
        shape, fortran, dtype = read(_Counted(file), max_header_size=MOST_HEADER)
    except (
        KeyError, SyntaxError, TypeError, MemoryError, RecursionError, UnicodeError, OverflowError, tokenize.TokenError,
    ) as error:  # fmt: skip
        raise ValueError(f"no .npy file that can be read ({type(error).__name__})") from None
    except ValueError as error:
        raise ValueError(f"no .npy file that can be read: {printable(str(error).splitlines()[0][:200])}") from None
    columns = [dtype[name].base for name in dtype.names] if records and dtype.names else [dtype]
    plain = all(column.kind in PLAIN and column.subdtype is None for column in columns)
    if not plain or len(shape) > 8 or any(n < 0 for n in shape):
        raise ValueError(
            f"an array of {len(shape)} dimensions of {printable(str(dtype))[:100]}, expected plain numbers"
        )
    array = _Described(shape, fortran, np.dtype(dtype))
    if array.size != size - file.tell():
        raise ValueError(f"{array.size} bytes of numbers are claimed, {size - file.tell()} are there")
    return array


class _Counted:
    """The description's claimed length can be 4 GB: no more is read than a description may have."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def read(self, size: int = -1, /) -> bytes:
        content: bytes = self.file.read(min(size, MOST_HEADER + 1) if size >= 0 else MOST_HEADER + 1)
        return content

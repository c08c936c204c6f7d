"""Pickles for the published programs that read nothing else. They are written here, and never read.

NumPy 2 pickles arrays by a function that NumPy before 1.26 does not have, and the programs of this family pin older
ones. Here an array is written as ``numpy.ndarray`` and its state, by names that every NumPy and every Python 3 has;
what is read is a plain array that may be written to.
"""

from __future__ import annotations

import copyreg
import io
import pickle
from typing import Any, Final

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

PROTOCOL: Final = 3
"""Of every Python 3."""


def dumps(value: object) -> bytes:
    """``value``, made of dict, list, str, bytes, int and arrays, as a pickle."""
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, PROTOCOL)
    pickler.dispatch_table = {**copyreg.dispatch_table, np.ndarray: _reduced}
    pickler.dump(value)
    return buffer.getvalue()


def npy_of(array: NDArray[Any]) -> bytes:
    """What ``numpy.save`` writes of an array of numbers."""
    buffer = io.BytesIO()
    npy.write_array(buffer, np.ascontiguousarray(array) if array.ndim else array, version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def npy_of_dict(value: dict[str, Any]) -> bytes:
    """What ``numpy.save`` writes of a dict: an array of one object, pickled."""
    array = np.empty((), object)
    array[()] = value
    buffer = io.BytesIO()
    npy.write_array_header_1_0(buffer, npy.header_data_from_array_1_0(array))
    return buffer.getvalue() + dumps(array)


def _reduced(array: NDArray[Any]) -> tuple[Any, ...]:
    """An empty array, and the state it is given then: version, shape, dtype, row after row, values."""
    values = list(array.flat) if array.dtype.hasobject else np.ascontiguousarray(array).tobytes()
    return np.ndarray, ((0,), "b"), (1, array.shape, array.dtype, False, values)

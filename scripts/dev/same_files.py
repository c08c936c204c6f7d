#!/usr/bin/env python3
"""Whether two folders hold the same results: python same_files.py ONE OTHER. Exits 1 and names every difference.

HDF5 files are compared dataset by dataset, bit by bit (attributes tell where and when a file was made, and differ);
.npy and .pkl byte by byte; everything else is passed over.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np


def arrays(path: Path) -> dict[str, bytes]:
    """Dataset name -> type, shape and content."""
    found: dict[str, bytes] = {}

    def visit(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset):
            value = np.asarray(item[()])
            found[name] = f"{value.dtype} {value.shape}".encode() + value.tobytes()

    with h5py.File(path, "r") as file:
        file.visititems(visit)
    return found


def results(folder: Path) -> set[Path]:
    return {p.relative_to(folder) for p in folder.rglob("*") if p.suffix in (".h5", ".npy", ".pkl") and p.is_file()}


def differences(one: Path, other: Path) -> Iterator[str]:
    for name in sorted(results(one) ^ results(other)):
        yield f"{name} is in one folder only"
    for name in sorted(results(one) & results(other)):
        if name.suffix != ".h5":
            if (one / name).read_bytes() != (other / name).read_bytes():
                yield f"{name} differs"
            continue
        a, b = arrays(one / name), arrays(other / name)
        for key in sorted(a.keys() | b.keys()):
            if a.get(key) != b.get(key):
                yield f"{name}: {key} differs"


def main() -> int:
    one, other = (Path(a) for a in sys.argv[1:])
    wrong = list(differences(one, other))
    print("\n".join(wrong) if wrong else f"{len(results(one))} files equal, bit by bit")
    return 1 if wrong or not results(one) else 0


if __name__ == "__main__":
    sys.exit(main())

"""An LMDB environment as the published programs open it: a folder of data.mdb, key -> value, and the list of all keys.

Batches are committed whole, each on the disk before the next begins: LMDB needs no help with kills.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from ..errors import StoreError
from . import pickles
from .form import Piece, library

KEYS: Final = "keys"
"""Under this key lies the pickled list of all others."""
LONGEST_KEY: Final = 511
"""Bytes, LMDB's own limit."""
FIRST_SIZE: Final = 1 << 30
"""Bytes of address space to begin with; more is taken as it is needed."""


def why_no_key(key: str) -> str:
    """Why an image cannot be called so in an LMDB; empty if it can."""
    if key == KEYS:
        return f"under {KEYS!r} lies the list of all keys"
    return "" if 0 < len(key.encode()) <= LONGEST_KEY else f"a key of LMDB has at most {LONGEST_KEY} bytes"


class Lmdb:
    """A value for every piece."""

    def __init__(self, path: Path) -> None:
        self._lmdb = library("lmdb")
        self._path = path
        self._waiting: list[tuple[bytes, bytes]] = []
        self._env: Any = None

    def begin(self, pieces: Sequence[Piece]) -> None:
        with self._explained():  # keys behind these pieces will be put again
            # one writer, known by the work folder's lock: LMDB's own would leave a file beside the data
            self._env = self._lmdb.open(str(self._path), map_size=FIRST_SIZE, lock=False, readahead=False)

    def put(self, name: str, data: bytes) -> None:
        self._waiting.append((name.encode(), data))

    def sync(self) -> None:
        with self._explained():
            while not self._committed():
                self._env.set_mapsize(2 * self._env.info()["map_size"])
            self._env.sync(True)
        self._waiting.clear()

    def _committed(self) -> bool:
        """Whether the address space was large enough for what waits; all of it is in the file then."""
        try:
            with self._env.begin(write=True) as transaction:
                for key, value in self._waiting:
                    transaction.put(key, value)
        except self._lmdb.MapFullError:
            return False
        return True

    def finish(self, pieces: Sequence[Piece]) -> None:
        self.put(KEYS, pickles.dumps([name.encode() for name, _, _ in pieces]))
        self.sync()
        with self._explained():
            entries = self._env.stat()["entries"]
            self._env.close()
        if entries != len(pieces) + 1:
            raise StoreError(
                f"{self._path} holds {entries:,} keys after writing {len(pieces) + 1:,}: delete it, run again"
            )

    def read(self, pieces: Sequence[Piece]) -> Iterator[bytes]:
        keys = pickles.dumps([name.encode() for name, _, _ in pieces])
        with self._explained():
            env: Any = self._lmdb.open(str(self._path), readonly=True, lock=False, readahead=False)
            try:
                with env.begin() as transaction:
                    if transaction.get(KEYS.encode()) != keys:
                        raise StoreError(f"{self._path}: the list of keys is not what was written: the disk lost it")
                    for name, _, _ in pieces:
                        yield transaction.get(name.encode()) or b""
            finally:
                env.close()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except self._lmdb.Error as error:
            said = " ".join(str(error).split())  # of a full disk: Input/output error
            free = shutil.disk_usage(self._path.parent).free
            raise StoreError(
                f"LMDB cannot write or read {self._path}: {said} ({free / 1e6:,.0f} MB free there). What is written is "
                "kept: the same command goes on"
            ) from error

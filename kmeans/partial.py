"""The index of a target while it is computed: appended block by block, resumed after a crash.

    path        frames, one after the other
    path.json   what they belong to

A frame is a head (magic, rows, rows noted, CRC-32 of all the rest), the rows' clusters as little-endian int64, and of
the rows noted their places in the block (uint32) and distances (float32; see nearest_cells.py). The first frame that is
not what was written, be it torn, zeros after a power loss or a flipped bit, ends what is taken over: from there on the
target is computed again.
"""

from __future__ import annotations

import os
import struct
import time
import zlib
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from feature_extraction.storage import files

from .blocks import Indices, Rows
from .results import load_json, save_json

MAGIC: Final = 0x584C4B31
HEAD: Final = struct.Struct("<IIII")
SYNC_EVERY: Final = 1.0
"""Seconds after which a finished block is synced: what a power loss takes is at most this much work, and noticed."""


class Frame(NamedTuple):
    """One block of rows: their clusters, and the rows among them that may be nearest to their centroid."""

    ids: Indices
    noted: NDArray[np.uint32]
    """Places in the block."""
    distances: Rows
    """Squared distances (noted,)."""


class PartialIndex:
    """Clusters of one process's rows of a target. ``frames`` are those of an earlier run, to go on after."""

    def __init__(self, path: Path, key: dict[str, Any], multiple: int) -> None:
        """``key``: what decides the result; frames of another are not used. ``multiple``: of how many rows the
        beginning that is taken over must be made, so that going on rounds as one run does."""
        self.path = path
        note = path.with_name(path.name + ".json")
        path.parent.mkdir(parents=True, exist_ok=True)
        self.frames: list[Frame] = []
        length = 0
        if load_json(note) == key and path.exists():
            self.frames, length = _sound(path, multiple)
        else:
            path.unlink(missing_ok=True)
            save_json(note, path.parent, key)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self.cut_off = os.fstat(self._fd).st_size - length
        """Bytes of the earlier run that were torn or damaged."""
        os.ftruncate(self._fd, length)
        os.lseek(self._fd, length, os.SEEK_SET)
        self._synced = time.monotonic()

    @property
    def rows(self) -> int:
        return sum(len(frame.ids) for frame in self.frames)

    def append(self, frame: Frame) -> None:
        """Add the next rows."""
        body = frame.ids.astype("<i8").tobytes() + frame.noted.astype("<u4").tobytes()
        body += frame.distances.astype("<f4").tobytes()
        files.write_fully(self._fd, _head(len(frame.ids), len(frame.noted), body) + body)
        self.frames.append(frame)
        if time.monotonic() - self._synced > SYNC_EVERY:
            os.fsync(self._fd)
            self._synced = time.monotonic()

    def ids(self) -> Indices:
        """All clusters so far (rows,)."""
        return np.concatenate([np.empty(0, np.int64), *(frame.ids for frame in self.frames)])

    def close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1  # closed once, even where that fails
            os.close(fd)

    def discard(self) -> None:
        """Close and remove it."""
        self.close()
        self.path.unlink(missing_ok=True)
        self.path.with_name(self.path.name + ".json").unlink(missing_ok=True)

    def __enter__(self) -> PartialIndex:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _head(rows: int, noted: int, body: bytes) -> bytes:
    return HEAD.pack(MAGIC, rows, noted, zlib.crc32(struct.pack("<II", rows, noted) + body))


def _sound(path: Path, multiple: int) -> tuple[list[Frame], int]:
    """The sound frames at the beginning, as many as end at a multiple of ``multiple`` rows, and their bytes."""
    frames: list[Frame] = []
    rows = position = good_bytes = good_frames = 0
    with path.open("rb") as file:
        while len(head := file.read(HEAD.size)) == HEAD.size:
            magic, count, noted, _ = HEAD.unpack(head)
            left = os.fstat(file.fileno()).st_size - file.tell()
            if magic != MAGIC or 8 * count + 8 * noted > left:
                break
            body = file.read(8 * count + 8 * noted)
            if _head(count, noted, body) != head:
                break
            frames.append(
                Frame(
                    np.frombuffer(body, "<i8", count).astype(np.int64),
                    np.frombuffer(body, "<u4", noted, 8 * count).astype(np.uint32),
                    np.frombuffer(body, "<f4", noted, 8 * count + 4 * noted).astype(np.float32),
                )
            )
            rows += count
            position += HEAD.size + len(body)
            if rows % multiple == 0:
                good_bytes, good_frames = position, len(frames)
    return frames[:good_frames], good_bytes

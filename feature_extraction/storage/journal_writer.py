"""Writing a journal (``journal``): locked, cleaned of a torn end, appended to, synced."""

from __future__ import annotations

import json
import os
import threading
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from ..errors import StoreBusy
from . import files
from .journal import (
    HEAD,
    HEAD_CRC,
    MAGIC,
    WHOLE_HEAD,
    Damaged,
    Record,
    Status,
    checksum,
    journal_name,
    journals,
    record_of,
    scan,
    share_of,
)
from .source import Source

UNSURE: Final = 64 << 20
"""Bytes at the end of a journal that a power loss may have left as zeros although their length was written."""


class JournalWriter:
    """The journal of share ``index`` of ``count``: locked, cleaned of a torn end, appended to. Used by one
    thread or several. Raises StoreBusy where another process holds it, OSError as the system gives it."""

    def __init__(self, folder: Path, index: int, count: int) -> None:
        self.folder, self.index, self.count = folder, index, count
        self.path = folder / journal_name(index, count)
        self._file = self._open()
        self._lock = threading.Lock()
        self._failed: OSError | None = None
        self._looked = time.monotonic()
        try:
            for other in journals(folder):
                if not other.name.endswith(f"-of-{count:05d}.log") and files.is_locked(other):
                    raise StoreBusy(busy(folder, other))
            self.length, damaged = _sound_end(self.path)
            if self.length != os.fstat(self._file.fileno()).st_size:
                self._file.truncate(self.length)
            for record in damaged:
                self.void(record.id, record.place)
            self.sync()
            files.sync_folder(folder)
        except BaseException:
            self._file.close()
            raise

    def _open(self) -> IO[bytes]:
        while True:
            file = self.path.open("ab", buffering=0)  # held for the life of the run
            try:
                if not files.try_lock(file, self.path):
                    raise StoreBusy(busy(self.folder, self.path))
                if files.same_file(file, self.path):
                    return file
            except BaseException:
                file.close()
                raise
            file.close()  # its last owner removed it between our opening and locking it

    def add(
        self, image_id: str, arrays: Mapping[str, NDArray[Any]], source: Source | None, recipe: str | None
    ) -> Record:
        """Append the features of one image."""
        more: dict[str, Any] = {"crc32": [checksum(a) for a in arrays.values()]}
        if source is not None:
            more["source"] = source.described()
        if recipe is not None:
            more["recipe"] = recipe
        return self._append("done", image_id, arrays, more)

    def same(self, image_id: str, source: Source) -> None:
        """Append that the file ``source`` now has the bytes that features are stored of."""
        self._append("same", image_id, {}, {"source": source.described()})

    def void(self, image_id: str, place: str) -> None:
        """Append that what lies at ``place`` (``Record.place``) is damaged, so that it is computed again."""
        self._append("void", image_id, {}, {"place": place})

    def end(self, plan: str, failures: Sequence[Mapping[str, str]]) -> None:
        """Append that this process has done all of its share, but for ``failures`` (id, path, reason);
        ``plan`` identifies the list of images."""
        self._append("end", "", {}, {"plan": plan, "failures": list(failures)})
        self.sync()

    def sync(self) -> None:
        """Return when everything appended is on the disk."""
        with self._lock:
            self._check()
            try:
                os.fsync(self._file.fileno())
            except OSError as error:
                # what is on the disk now is unknown, and a later sync would not say so: nothing more is appended
                self._failed = error
                raise
            if time.monotonic() - self._looked > 10:
                self._looked = time.monotonic()
                self.path.stat()  # FileNotFoundError: the folder was taken away from under us

    def close(self) -> None:
        self._file.close()

    def _check(self) -> None:
        if self._failed is not None:
            raise OSError(self._failed.errno, f"{self._failed.strerror}, before", str(self.path))

    def _append(
        self, status: Status, image_id: str, arrays: Mapping[str, NDArray[Any]], more: Mapping[str, Any]
    ) -> Record:
        layout = [[name, a.dtype.str, list(a.shape)] for name, a in arrays.items()]
        described = {"status": status, "id": image_id, "arrays": layout, "time": round(time.time(), 3), **more}
        raw = json.dumps(described).encode()
        payload = b"".join(np.ascontiguousarray(a).tobytes() for a in arrays.values())
        payload_crc = zlib.crc32(payload)
        head = HEAD.pack(MAGIC, len(raw), len(payload), zlib.crc32(raw), payload_crc)
        record = head + HEAD_CRC.pack(zlib.crc32(head)) + raw + payload
        with self._lock:
            self._check()
            try:
                files.write_fully(self._file.fileno(), record)
            except OSError as error:
                self._failed = error  # a torn record, and nothing behind it
                raise
            start, self.length = self.length, self.length + len(record)
        return record_of(self.path, described, start, start + WHOLE_HEAD + len(raw), len(payload), payload_crc)


def _sound_end(journal: Path) -> tuple[int, list[Record]]:
    """Byte behind the last sound record, and the damaged ones before it as far back as a power loss reaches."""
    recent: list[Record] = []
    for record in scan(journal):
        recent.append(record)
        while recent[-1].start - recent[0].stop > UNSURE:
            recent.pop(0)
    damaged: list[Record] = []
    end = None
    for record in reversed(recent):
        try:
            record.read()
        except Damaged:
            if end is not None:
                damaged.append(record)
        else:
            end = record.stop if end is None else end
    if end is None:  # nothing sound in the last megabytes: keep what comes before them
        end = recent[0].start if recent else 0
    return end, damaged


def busy(folder: Path, journal: Path) -> str:
    share = share_of(journal)
    who = f"process {share[0] + 1} of {share[1]}" if share else journal.name
    output = folder.name.removesuffix(".work")
    return f"another run is making {output} right now ({who} holds {journal}): wait for it, or stop it first"

"""From journals to a feature file that cannot be wrong: gathered, written, read back, renamed; or nothing changes.

HDF5 must not learn of a failing write: it loses what it had cached and accepts the file, or ends the process. It writes
through ``Sink``, which keeps the first error to itself and lets HDF5 close in peace a file that is then thrown away.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import h5py

from ..errors import StoreError
from ..names import json_printable
from . import files, guard, store
from .journal import Arrays, Damaged, checksum, journals
from .reader import ArrayReader
from .source import FileStamp, Source
from .stored import Candidate, InFile, Stored, open_finished


@dataclass(frozen=True)
class Outcome:
    """What a finished file holds."""

    images: int
    failed: list[dict[str, str]]
    """What gave no features: id, path and reason of each, by path."""
    dropped: list[str]
    """Ids of images that the earlier file held and that are no longer listed, or failed now."""


class Incomplete(StoreError):
    """Images have neither features of their bytes nor a reason: ``missing`` are their ids."""

    def __init__(self, message: str, missing: list[str]) -> None:
        super().__init__(message)
        self.missing = missing


RATE: Final = "images_per_second"
"""Its name in the events of the shares and in the report."""
Kind = tuple[tuple[str, str, tuple[int, ...]], ...]
"""Name, dtype and shape of each array."""
Written = tuple[Kind, tuple[int, ...]]
"""What was handed to HDF5 of one image: its arrays, and the CRC-32 of each."""


@dataclass(frozen=True)
class Assembly:
    """One feature file to be made from the journals in ``folder``."""

    output: Path
    folder: Path
    recipe: str
    identity: Mapping[str, Any]
    notes: Mapping[str, Any]
    current: Mapping[str, FileStamp | None]
    """All listed images; None where it is not known what their files are now."""
    ended: Sequence[Path]
    """The journals whose last record says what failed."""
    expected: Mapping[Path, int]
    """The journals that are known to exist, and their length as far as it is known (else 0)."""
    void: Callable[[str, str], None]
    """Records for the next run that what is stored of an image at a place is damaged."""
    say: Callable[[str], None]
    sha256: Callable[[str], str] | None = None
    """Digest of an image's bytes now, empty where they cannot be read; None: of the file at its stamp's path."""
    rate: float | None = None
    """Images per second of the run, where it is known: for the report, never for the file itself, which does not depend
    on how fast it was made."""

    def run(self) -> Outcome:
        """Make the file. Raises StoreError, which says what is missing, or OSError; then nothing has changed."""
        deadline = files.Deadline(files.patience(self.folder))
        self._wait_for_journals(deadline)
        while True:
            with contextlib.ExitStack() as stack:
                finished = open_finished(self.output)
                if finished is not None:
                    stack.enter_context(finished)
                stored = Stored(finished, self.recipe)
                stored.learn({*self.expected, *journals(self.folder)})
                chosen = {i: stored.of_these_bytes(i, stamp, self.sha256) for i, stamp in self.current.items()}
                failures = self._failures(stored)
                missing = self._missing(chosen, stored, {failure["id"] for failure in failures})
                # on a shared folder a journal, or the finished file, may be there and not be seen yet
                if missing and files.patience(self.folder) > files.PATIENCE_HERE and deadline.wait():
                    continue
                if missing:
                    raise self._incomplete(missing)
                return self._make({i: c for i, c in chosen.items() if c}, stored.in_file, failures)

    def _wait_for_journals(self, deadline: files.Deadline) -> None:
        """Wait until each journal is seen as long as its share left it."""
        for journal, length in self.expected.items():
            said = False
            while _length(journal) < length and deadline.wait():
                if not said:
                    self.say(f"waiting for {journal.name}, which another machine wrote, to be seen here")
                    said = True

    def _failures(self, stored: Stored) -> list[dict[str, str]]:
        """What the shares said gave no features, by path."""
        said = [
            failure for journal in self.ended if journal in stored.ends for failure in stored.ends[journal].failures
        ]
        return sorted(said, key=lambda failure: failure["path"])

    def _missing(self, chosen: Mapping[str, list[Candidate]], stored: Stored, failed: set[str]) -> dict[str, str]:
        """Listed images that have neither features of their bytes nor a reason, and why not."""
        return {
            image_id: "its file was replaced" if stored.knows(image_id) else "no features"
            for image_id, candidates in chosen.items()
            if not candidates and image_id not in failed
        }

    def _incomplete(self, missing: Mapping[str, str]) -> Incomplete:
        some = ", ".join(f"{image_id!r} ({why})" for image_id, why in list(missing.items())[:8])
        more = ", ..." if len(missing) > 8 else ""
        return Incomplete(
            f"{self.output} is not written yet: {len(missing):,} of {len(self.current):,} images are missing: "
            f"{some}{more}. All others are kept in {self.folder}: run the command again (all its shares)",
            list(missing),
        )

    def _make(
        self, chosen: Mapping[str, list[Candidate]], in_file: set[str], failures: list[dict[str, str]]
    ) -> Outcome:
        dropped = sorted(in_file - chosen.keys(), key=str.encode) if chosen else []
        new = any(not isinstance(candidates[0], InFile) for candidates in chosen.values())
        if new or dropped:
            temporary = self._temporary()
            try:
                with temporary.open("xb") as held:
                    files.try_lock(held, temporary)  # tells a later assembler that this one is at work
                    written = self._write(temporary, chosen, len(failures))
                    read_back(temporary, written)
                    temporary.replace(self.output)
                    files.sync_folder(self.output.parent)
            except BaseException:
                with contextlib.suppress(OSError):
                    temporary.unlink()
                raise
        outcome = Outcome(len(chosen), failures, dropped)
        self._report(outcome)
        return outcome

    def _temporary(self) -> Path:
        """Where this process assembles; what a killed one left of its own is removed."""
        host = socket.gethostname()
        for left in self.folder.glob("assembled*.h5"):
            # a lock may hold on one machine only: the file of another one is left alone while it may be growing
            here = files.patience(self.folder) <= files.PATIENCE_HERE or left.name.startswith(f"assembled-{host}-")
            with contextlib.suppress(FileNotFoundError):
                if not files.is_locked(left) and (here or time.time() - left.stat().st_mtime > 600):
                    left.unlink()
        return self.folder / f"assembled-{host}-{os.getpid()}.h5"

    def _write(self, path: Path, chosen: Mapping[str, list[Candidate]], failed: int) -> dict[str, Written]:
        """Write the file, synced. Raises StoreError if something stored is damaged, after noting all of it."""
        damaged: list[str] = []

        def images() -> Iterator[tuple[str, Arrays, Source | None]]:
            for image_id in sorted(chosen, key=str.encode):
                arrays, source = self._first_sound(image_id, chosen[image_id])
                if arrays is None:
                    damaged.append(image_id)
                elif not damaged:  # only to be read on, to note all at once
                    yield image_id, arrays, source

        attributes = {"schema_version": store.SCHEMA_VERSION, **self.identity, **self.notes}
        written = write_features(path, images(), {**attributes, "images": len(chosen), "failed": failed})
        if damaged:
            raise self._incomplete(dict.fromkeys(damaged, "what was stored of it is damaged"))
        return written

    def _first_sound(self, image_id: str, candidates: list[Candidate]) -> tuple[Arrays | None, Source | None]:
        for candidate in candidates:
            try:
                return candidate.read(), candidate.source
            except Damaged as error:
                self.say(str(error))
                self.void(image_id, candidate.place)
        return None, None

    def _report(self, outcome: Outcome) -> None:
        report = {"output": self.output.name, "images": outcome.images, "failed": outcome.failed}
        rate = {} if self.rate is None else {RATE: self.rate}
        told = {**report, **rate, **self.identity, **self.notes}
        text = json_printable(json.dumps(told, indent=1, ensure_ascii=False))
        files.atomic_write(store.report_path(self.output), text + "\n")


def _length(journal: Path) -> int:
    try:
        return journal.stat().st_size
    except FileNotFoundError:
        return -1


# --- writing and reading back -------------------------------------------------------------------------------


def write_features(
    path: Path, images: Iterable[tuple[str, Arrays, Source | None]], attributes: Mapping[str, Any], gzip: int = 0
) -> dict[str, Written]:
    """Write a feature file to the empty file ``path``, synced; returns what was handed over, by image. ``attributes``
    are asked for behind the last image. Raises OSError as the system gave it."""
    written: dict[str, Written] = {}
    kinds: dict[Kind, Kind] = {}
    fd = os.open(path, os.O_RDWR)
    try:
        sink = Sink(fd)
        with h5py.File(sink, "w") as file:
            for image_id, arrays, source in images:
                sums = {name: checksum(array) for name, array in arrays.items()}
                store.write_image(file, image_id, arrays, source, sums, gzip)
                kind = tuple((name, a.dtype.str, a.shape) for name, a in arrays.items())
                written[image_id] = (kinds.setdefault(kind, kind), tuple(sums.values()))
                if not len(written) & (len(written) - 1):  # twice as many as the last time
                    guard.size_cache(file, [*written, *written])
                if sink.error is not None:
                    break
            file.attrs.update(attributes)
        if sink.error is not None:
            raise sink.error
        os.fsync(fd)
        files.drop_cached(fd)
    finally:
        os.close(fd)
    return written


def read_back(path: Path, written: Mapping[str, Written]) -> None:
    """Raise StoreError unless the file holds what was ``written``, byte for byte, and nothing else."""
    expected: dict[Kind, str] = {}
    with guard.ReadOnly(path, "r", locking=False) as file:
        found = store.image_ids(file)
        if set(found) != written.keys():
            raise StoreError(f"{path} holds {len(found):,} images after writing {len(written):,}: the disk lost some")
        guard.size_cache(file, found)
        reader = ArrayReader(file)
        for image_id in found:
            kind, sums = written[image_id]
            if kind not in expected:
                expected[kind] = json.dumps({name: (dtype, shape) for name, dtype, shape in sorted(kind)})
            names = [name for name, _, _ in kind]
            crcs = dict(zip(names, sums, strict=True))
            if reader.look(image_id) != (expected[kind], crcs, crcs):
                raise StoreError(f"{path}: the features of {image_id!r} are not what was written: the disk lost them")


class Sink:
    """The file that HDF5 writes to, on an open descriptor. HDF5 never learns of an error: the first is kept in
    ``error``, and from then on what it writes stays in memory, so that it can close the file."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._at = self._end = 0
        self._late: list[tuple[int, bytes]] = []
        self.error: BaseException | None = None

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._end}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        size, at = len(view), self._at
        if self.error is None:
            try:
                while at < self._at + size:
                    at += os.pwrite(self._fd, view[at - self._at :], at)
            except BaseException as error:  # an interrupt too: this is called from within HDF5
                self.error = error
        if self.error is not None:
            self._late.append((self._at, bytes(view)))
        self._at += size
        self._end = max(self._end, self._at)
        return size

    def read(self, size: int) -> bytes:
        buffer = bytearray(size)
        self.readinto(buffer)
        return bytes(buffer)

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        done = 0
        try:
            while done < len(view):
                got = os.preadv(self._fd, [view[done:]], self._at + done)
                if not got:
                    break
                done += got
        except BaseException as error:
            self.error = self.error or error
        view[done:] = bytes(len(view) - done)
        for offset, data in self._late:
            low, high = max(offset, self._at), min(offset + len(data), self._at + len(view))
            if low < high:
                view[low - self._at : high - self._at] = data[low - offset : high - offset]
        self._at += len(view)
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        self._end = self._at if size is None else size
        try:
            os.ftruncate(self._fd, self._end)
        except BaseException as error:
            self.error = self.error or error
        return self._end

    def flush(self) -> None:
        """Nothing is held back; the caller syncs."""

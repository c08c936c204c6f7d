"""One export from beginning to end: what can be refused first, then images into pieces, read back, renamed."""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import h5py

from ..errors import StoreError
from ..storage import files, guard, store
from ..storage.half import Loss
from ..storage.source import digest_of, stamp_of
from . import keys, spec
from .entries import Entries
from .form import Format, Piece, Place
from .ledger import Ledger, open_ledger, publish, read_record, record_path, refuse_other, remove_work
from .spec import ExportConfig
from .table import FORMS

BATCH: Final = 64 << 20
"""Bytes that a kill may cost: so much is written between two syncs."""
MOST_PIECES: Final = 4096
"""Pieces that a kill may cost, where they are small."""


class Stopping(Protocol):
    """An event that says whether to stop."""

    def is_set(self) -> bool: ...


@dataclass(frozen=True)
class Exported:
    """What was made."""

    images: int
    size: int
    """Bytes of all pieces."""
    seconds: float
    """Of this run, verification included."""
    written: int
    """Bytes that this run wrote."""
    notes: list[str]
    """What has to be known of it."""
    already: bool = False
    """Whether it was there, whole, before."""


class Stopped(StoreError):
    """The run was asked to stop; what is written is kept."""


def export(config: ExportConfig, stopping: Stopping, tell: Callable[[int, int], None] = lambda a, b: None) -> Exported:
    """Write one feature file in another layout. ``tell`` is called with the images done and all of them.

    Killed at any instant, the same call goes on; OUT appears when it is whole and has been read back. Raises UsageError
    for what does not go together, StoreError for what cannot be written, OSError as the system gives it."""
    started = time.monotonic()
    spec.check(config)
    with store.open_features(config.source) as file:
        ids = _chosen(file, config)
        names = keys.keys_of(ids, config.keys)
        entries = Entries(file, config)
        form = FORMS[config.format](config, entries.layout(ids[0]), names)
        entries.require(form.required(), form.least_boxes)
        keys.refuse_unfit(names, form.why_unfit, config.format)
        settings = {**config.identity, "from": stamp_of(config.source), "ids": digest_of(ids)}
        if os.path.lexists(config.output):
            return _already(config, settings)
        with open_ledger(config.output, settings) as ledger:
            if ledger.images:
                entries.loss = Loss.of(ledger.tallies["loss"])
                form.tally.update(ledger.tallies["form"])
            place = form.open_place(ledger.data)
            job = Job(config, form, entries, ledger, place, list(zip(ids, names, strict=True)))
            before = sum(size for _, size, _ in ledger.pieces)
            job.write(stopping, tell)
            job.verify()
            size = sum(size for _, size, _ in ledger.pieces)
            notes = [*([str(entries.loss)] if config.dtype == "float16" else []), *form.notes()]
            record = {**settings, "images": len(ids), "bytes": size, "notes": notes, "made": store.provenance(file)}
            if config.dtype == "float16":
                record["loss"] = entries.loss.described()
            publish(ledger, config.output, record)
    return Exported(len(ids), size, time.monotonic() - started, size - before, notes)


@dataclass(frozen=True)
class Job:
    """The writing of one export, from what is on the disk to all."""

    config: ExportConfig
    form: Format
    entries: Entries
    ledger: Ledger
    place: Place
    images: Sequence[tuple[str, str]]
    """Id and key of each."""

    def write(self, stopping: Stopping, tell: Callable[[int, int], None]) -> None:
        """Write what is missing."""
        place = self.place
        place.begin(self.ledger.pieces)
        done, waiting, size = self.ledger.images, list[Piece](), 0
        total = len(self.images)
        for group in self._groups(done):
            for name, data in self.form.encode([self.entries.read(*image) for image in group]):
                if not self.ledger.pieces and not waiting:
                    self._check_room(len(data) * total // len(group))
                place.put(name, data)
                waiting.append((name, len(data), zlib.crc32(data)))
                size += len(data)
            done += len(group)
            if size >= BATCH or len(waiting) >= MOST_PIECES or done == total or stopping.is_set():
                self._keep(done, waiting)
                tell(done, total)
                waiting, size = [], 0
            if stopping.is_set() and done < total:
                raise Stopped(f"stopped: {done:,} of {total:,} images are written. The same command goes on from here")
        place.finish(self.ledger.pieces)

    def _keep(self, done: int, pieces: list[Piece]) -> None:
        self.place.sync()
        self.ledger.append(done, pieces, {"loss": self.entries.loss.described(), "form": self.form.tally})

    def _groups(self, start: int) -> Iterator[Sequence[tuple[str, str]]]:
        step = self.form.images_per_piece
        for at in range(start, len(self.images), step):
            yield self.images[at : at + step]

    def _check_room(self, size: int) -> None:
        files.check_room(self.config.output.parent, size, f"{len(self.images):,} images")

    def verify(self) -> None:
        """Read everything back. Raises StoreError where it is not what was written; then all is written anew."""
        pieces = self.ledger.pieces
        for (name, size, crc), data in zip(pieces, self.place.read(pieces), strict=True):
            if len(data) != size or zlib.crc32(data) != crc:
                self.ledger.forget()
                raise StoreError(
                    f"{self.config.output}: {guard.shown(name)} is not what was written, the disk lost it. "
                    "Run the command again: it writes everything anew"
                )


def _chosen(file: h5py.File, config: ExportConfig) -> list[str]:
    """The images to be written, in order."""
    if config.ids is None:
        if there := store.image_ids(file):
            return there
        raise StoreError(f"{config.source} holds no images")
    wanted = keys.read_ids(config.ids)
    store.require(file, wanted)
    return wanted


def _already(config: ExportConfig, settings: dict[str, Any]) -> Exported:
    """OUT is there: of this same export, or it is somebody's."""
    record = read_record(config.output)
    way_out, beside = "or give another output", record_path(config.output)
    if not record:
        raise StoreError(f"{config.output} exists and was not made by this program: move it away, {way_out}")
    refuse_other(record, settings, f"{config.output} was made", f"move it and {beside} away, {way_out}")
    remove_work(config.output)
    return Exported(record["images"], record["bytes"], 0.0, 0, list(record["notes"]), already=True)

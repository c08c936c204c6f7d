"""What is stored of each image, in journals and the finished file, and whether it is of the image's bytes now."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

import h5py

from ..errors import StoreError
from . import files, store
from .guard import CutOff, NotThere
from .journal import Arrays, Damaged, Record, checksum, scan
from .source import FileStamp, Source

IN_FILE: Final = "file"
"""What a ``void`` record calls the finished file."""


class InFile:
    """Features that the finished file holds of one image: the same doors as a journal's ``Record``."""

    def __init__(self, file: h5py.File, image_id: str) -> None:
        self._file, self.id = file, image_id
        self.source: Source | None = None
        with contextlib.suppress(StoreError):  # damaged: reading it will say so
            self.source = store.source_of(file, image_id)
        self.place = IN_FILE

    def read(self) -> Arrays:
        """The arrays by name. Raises Damaged if they are not what was written, or cannot be read."""
        try:
            arrays = store.read_image(self._file, self.id)
            written = store.checksums_of(self._file, self.id)
        except (StoreError, OSError, KeyError, RuntimeError, ValueError) as error:
            if "errno = " in str(error):  # the disk or server did not answer: it may yet
                raise StoreError(f"{self._file.filename} cannot be read ({error})") from error
            raise Damaged(f"{self._file.filename}: the features of {self.id!r} cannot be read ({error})") from error
        if written and written != {name: checksum(array) for name, array in arrays.items()}:
            raise Damaged(
                f"{self._file.filename}: the features of {self.id!r} do not have the checksums they were written with"
            )
        return arrays


Candidate = Record | InFile


class Stored:
    """The features of one recipe that the journals of a work folder and a finished file hold."""

    def __init__(self, finished: h5py.File | None, recipe: str) -> None:
        self._finished, self._recipe = finished, recipe
        self.in_file: set[str] = set(store.image_ids(finished)) if finished is not None else set()
        self._records: dict[str, list[Record]] = {}
        self._same: dict[str, list[Source]] = {}
        self._void: set[tuple[str, str]] = set()
        self.ends: dict[Path, Record] = {}
        """The record by which a share ended, of each journal that ends with one."""
        self.foreign = False
        """Whether a journal holds features of another recipe, or of an earlier version, which did not say."""

    def learn(self, journals: Iterable[Path]) -> None:
        """Take in what ``journals`` say; one that is gone by now says nothing."""
        for journal in journals:
            last = None
            with contextlib.suppress(FileNotFoundError):
                for last in scan(journal):
                    self.take(last)
            if last is not None and last.status == "end":
                self.ends[journal] = last

    def take(self, record: Record) -> None:
        """Take in what one record says."""
        if record.status == "done":
            self.foreign |= record.recipe != self._recipe
            if record.recipe in (None, self._recipe):
                self._records.setdefault(record.id, []).append(record)
        elif record.status == "same" and record.source is not None:
            self.remember(record.id, record.source)
        elif record.status == "void":
            self.forget(record.id, str(record.more.get("place")))

    def remember(self, image_id: str, source: Source) -> None:
        """``source`` is another file, or the same one touched, with bytes that features are stored of."""
        self._same.setdefault(image_id, []).append(source)

    def forget(self, image_id: str, place: str) -> None:
        """What is stored of the image at ``place`` is damaged."""
        self._void.add((image_id, place))

    def ids(self) -> Iterator[str]:
        """Of all images of which features are stored."""
        yield from (image_id for image_id in self._records if self.knows(image_id))
        yield from (image_id for image_id in self.in_file - self._records.keys() if self.knows(image_id))

    def knows(self, image_id: str) -> bool:
        """Whether features of the image are stored, of whatever bytes."""
        in_file = image_id in self.in_file and (image_id, IN_FILE) not in self._void
        return in_file or any((image_id, r.place) not in self._void for r in self._records.get(image_id, ()))

    def candidates(self, image_id: str) -> list[Candidate]:
        """All that is stored of the image, the newest first."""
        found: list[Candidate] = [
            r
            for r in sorted(self._records.get(image_id, ()), key=lambda r: r.time, reverse=True)
            if (image_id, r.place) not in self._void
        ]
        if self._finished is not None and image_id in self.in_file and (image_id, IN_FILE) not in self._void:
            found.append(InFile(self._finished, image_id))
        return found

    def is_current(self, image_id: str, stamp: FileStamp, digest: Callable[[], str]) -> tuple[bool, Source | None]:
        """Whether features of the bytes of the file with this stamp are stored; and what to remember where its
        digest had to be asked for and is that of stored features."""
        sources = [candidate.source for candidate in self.candidates(image_id)]
        digests = {source.sha256 for source in sources if source is not None}
        if not digests:  # nothing, or features of an earlier version, which recorded no source
            return bool(sources), None
        known = self._digest_of(image_id, sources, lambda found: found == stamp)
        if known is not None:
            return known in digests, None
        try:
            now = digest()
        except OSError:  # reading it for its features will say why
            return False, None
        return now in digests, Source(*stamp, now) if now in digests else None

    def of_these_bytes(
        self, image_id: str, stamp: FileStamp | None, sha256: Callable[[str], str] | None = None
    ) -> list[Candidate]:
        """What is stored of the bytes of the file with this stamp, the newest first; of the newest source where
        there is no stamp, or the file cannot be asked. Shares on different machines may name the same file by
        different paths, and copies of it by different times; then its contents decide (``sha256`` of the id; None: of
        the file at the stamp's path)."""
        found = self.candidates(image_id)
        sources = [candidate.source for candidate in found]
        newest = next((source for source in sources if source is not None), None)
        if newest is None:  # features of an earlier version, if any
            return found
        wanted: str | None = newest.sha256
        if stamp is not None:
            wanted = self._digest_of(image_id, sources, lambda s: s == stamp) or self._digest_of(
                image_id, sources, lambda s: s[1:] == stamp[1:]
            )
            if wanted is None:
                wanted = _sha256_at(stamp) if sha256 is None else sha256(image_id)
                if not wanted and (sha256 is None or stamp.size < 0):
                    wanted = newest.sha256
        return [candidate for candidate in found if candidate.source and candidate.source.sha256 == wanted]

    def _digest_of(self, image_id: str, sources: list[Source | None], fits: Callable[[FileStamp], bool]) -> str | None:
        known = [*reversed(self._same.get(image_id, ())), *(source for source in sources if source is not None)]
        return next((source.sha256 for source in known if fits(source.stamp)), None)


def _sha256_at(stamp: FileStamp) -> str:
    try:
        return files.sha256_of(stamp.path)
    except (OSError, ValueError):
        return ""


def open_finished(output: Path) -> h5py.File | None:
    """The file at the final path; None where there is none. Raises StoreError for what is no feature file of ours."""
    deadline = files.Deadline(files.patience(output.parent))
    shared = files.patience(output.parent) > files.PATIENCE_HERE
    while True:
        if not output.exists():
            return None
        try:
            file = store.open_features(output)
            break
        except NotThere:
            return None
        except CutOff:  # another machine may just have written it: its size as seen here is that of the one before
            if not shared or not deadline.wait():
                raise
    if not store.provenance(file):
        file.close()
        raise StoreError(
            f"{output} exists and was not made by this program (it says nothing of its making): move it "
            "away, or give another output"
        )
    return file

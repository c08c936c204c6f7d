"""A feature file in the making: resumed, shared by processes, assembled whole or not at all.

A file at its final path is whole: it is assembled beside it from the journals (``journal``) and renamed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py

from ..errors import StoreError
from .journal import PartWriter, Record, part_name, scan, sync_folder, write_aside
from .store import SCHEMA_VERSION, open_features, provenance, report_path, work_dir, write_image


def plan_digest(ids: Iterable[str]) -> str:
    """Identifies a list of image ids."""
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()


@dataclass(frozen=True)
class Outcome:
    """What a finished file holds."""

    images: int
    failed: list[dict[str, str]]
    """What gave no features: id, path and reason of each, by path."""


class Store:
    """One output file being made, by this process and perhaps others.

    ``identity`` is all that decides the values in the file; resuming with another is refused. ``notes`` are
    written into the file too but may differ between runs. Process ``index`` of ``count`` does its share
    of the images; the one that ends last assembles the file."""

    def __init__(
        self, output: Path, identity: Mapping[str, Any], notes: Mapping[str, Any], index: int = 0, count: int = 1
    ) -> None:
        self.output, self.identity, self.notes = output, dict(identity), dict(notes)
        self.folder = work_dir(output)
        self.index, self.count = index, count
        self._earlier = self._open_earlier()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._check_manifest()
        self.part = PartWriter(self.folder, index, count)
        try:
            self.done = self._earlier | {r.id for r in self._records() if r.status == "done"}
        except BaseException:
            self.part.close()
            raise

    def _open_earlier(self) -> set[str]:
        """Ids in a file that is already at the final path (an earlier run that had failures, or fewer images)."""
        if not self.output.exists():
            return set()
        with open_features(self.output) as file:
            made = provenance(file)
            if not made:
                raise StoreError(
                    f"{self.output} exists and was not made by this program (it says nothing of its making): move it "
                    "away, or give another output"
                )
            self._compare(made, f"{self.output} was made", "move it away, or give another output")
            return set(file)

    def _compare(self, found: Mapping[str, Any], what: str, way_out: str) -> None:
        different = [
            f"{key} {found.get(key)!r}, now {value!r}"
            for key, value in self.identity.items()
            if found.get(key) != value
        ]
        if different:
            raise StoreError(f"{what} with another recipe: {'; '.join(different)}. Use the same one, {way_out}")

    def _check_manifest(self) -> None:
        path = self.folder / "manifest.json"
        if not path.exists():
            leftovers = sorted(self.folder.glob("part-*.log"))
            if leftovers and not self.output.exists():
                raise StoreError(f"{self.folder} has parts but no manifest.json: delete the folder to start anew")
            for part in leftovers:  # a clean-up was interrupted: everything is in the finished file
                part.unlink()
            write_aside(path, json.dumps(self.identity, indent=1))
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise StoreError(f"{path} is damaged ({error}): delete {self.folder} to start anew") from error
        self._compare(found, f"{self.folder} was begun", f"or delete {self.folder} to start anew")

    def _records(self) -> Iterator[Record]:
        for part in sorted(self.folder.glob("part-*.log")):
            yield from scan(part)

    def check_space(self, images: int, bytes_per_image: int) -> None:
        """Raise StoreError if the disk cannot take the parts still missing and the assembled file beside them."""
        missing = max(0, images - len(self.done))
        needed = (missing + images) * bytes_per_image
        free = shutil.disk_usage(self.folder).free
        if missing and needed > free:
            raise StoreError(
                f"not enough space in {self.output.parent}: {needed / 1e9:,.1f} GB needed ({missing:,} images to do "
                f"and the finished file of {images:,}, {bytes_per_image:,} bytes each), {free / 1e9:,.1f} GB free; "
                "make space or give another output. Nothing was started"
            )

    def finish(self, ids: Sequence[str], failures: Sequence[Mapping[str, str]]) -> Outcome | None:
        """Say that this process has done its share of ``ids`` (all images, the same list for every process), but
        for its ``failures`` (each with id, path, reason).

        Returns the outcome if the file is whole now (by this process), None if others still have to end."""
        digest = plan_digest(ids)
        self.part.end(digest, failures)
        try:
            with (self.folder / "assemble.lock").open("wb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not (self.folder / "manifest.json").exists():
                    return None  # a process that ended at the same time assembled the file and cleaned up
                ends = [self._end_of(index, digest) for index in range(self.count)]
                if None in ends:
                    return None
                return self._assemble([failure for end in ends if end for failure in end["failures"]], len(ids))
        except FileNotFoundError:
            if self.folder.exists():
                raise
            return None

    def _end_of(self, index: int, digest: str) -> dict[str, Any] | None:
        """What process ``index`` said when it ended; None while it has not."""
        part = self.folder / part_name(index, self.count)
        last = None
        if part.exists():
            for last in scan(part):  # noqa: B007
                pass
        if last is None or last.status != "end":
            return None
        if last.description["plan"] != digest:
            raise StoreError(
                f"{part} was ended over another list of images: the folder changed in between; run process "
                f"{index + 1} of {self.count} again"
            )
        return last.description

    def _assemble(self, failures: list[dict[str, str]], images: int) -> Outcome:
        done = {record.id: record for record in self._records() if record.status == "done"}
        every = set(done) | self._earlier
        assert len(every) + len(failures) >= images, "an image has neither features nor a reason"
        if done:
            aside = self.folder / "assembled.h5"
            with h5py.File(aside, "w") as file, contextlib.ExitStack() as stack:
                earlier = stack.enter_context(open_features(self.output)) if self._earlier else None
                for image_id in sorted(every, key=str.encode):
                    if image_id in done:
                        write_image(file, image_id, done[image_id].read())
                    elif earlier is not None:
                        earlier.copy(earlier[image_id], file, image_id)
                attributes = {"schema_version": SCHEMA_VERSION, **self.identity, **self.notes}
                file.attrs.update({**attributes, "images": len(every), "failed": len(failures)})
            with aside.open("rb") as written:
                os.fsync(written.fileno())
        outcome = Outcome(len(every), sorted(failures, key=lambda f: f["path"]))
        self._write_report(outcome)
        if done:
            aside.replace(self.output)
            sync_folder(self.output.parent)
        self._clean_up()
        return outcome

    def _write_report(self, outcome: Outcome) -> None:
        report = {"output": self.output.name, "images": outcome.images, "failed": outcome.failed}
        text = json.dumps({**report, **self.identity, **self.notes}, indent=1, ensure_ascii=False)
        write_aside(report_path(self.output), text + "\n")

    def _clean_up(self) -> None:
        # the manifest goes first: without it a folder is not resumed from, and a second finisher sees it is late
        for path in sorted(self.folder.iterdir(), key=lambda p: p.name != "manifest.json"):
            path.unlink()
        with contextlib.suppress(OSError):  # another process that ended with us may still hold its lock file
            self.folder.rmdir()

    def close(self) -> None:
        self.part.close()

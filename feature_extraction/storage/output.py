"""A feature file in the making: resumed, shared by processes, assembled whole or not at all.

A file at its final path is whole: it is assembled beside it from the journals (``journal``), read back, and renamed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..config import OPTION
from ..errors import StoreError, reason
from . import files, shares
from .assemble import RATE, Assembly, Incomplete, Outcome
from .bounded import read_json
from .journal import journal_name, journals
from .journal_writer import JournalWriter
from .shares import FolderClosed, Register
from .source import FileStamp, Source
from .store import image_ids, open_features, provenance, report_path, work_dir
from .stored import Stored, open_finished

__all__ = ["FileStamp", "Incomplete", "Outcome", "Output", "Source", "plan_digest"]

MANIFEST = "manifest.json"


def plan_digest(ids: Iterable[str]) -> str:
    """Identifies a list of image ids."""
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()


def recipe_digest(identity: Mapping[str, Any]) -> str:
    """Identifies what decides the values of features."""
    return hashlib.sha256(json.dumps(dict(identity), sort_keys=True).encode()).hexdigest()[:16]


class Output:
    """One feature file being made, by this process and perhaps others, on this machine or others.

    ``identity`` is all that decides the values in the file; resuming with another is refused. ``notes`` are
    written into the file too but may differ between runs. Process ``index`` of ``count`` does its share
    of the images; the one that ends last assembles the file. ``say`` is told what is waited for.

    Raises StoreError (StoreBusy where another process does this share) for everything that goes wrong with files."""

    def __init__(
        self,
        path: Path,
        identity: Mapping[str, Any],
        notes: Mapping[str, Any],
        index: int = 0,
        count: int = 1,
        *,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.path, self.identity, self.notes = path, dict(identity), dict(notes)
        self.folder = work_dir(path)
        self.index, self.count = index, count
        self.waiting: list[int] = []
        """After ``finish`` returned None: the shares that have not ended, counted from 0."""
        self._recipe = recipe_digest(identity)
        self._say = say
        self._pinned = False
        with in_one_line(f"{path} cannot be made"), contextlib.ExitStack() as stack:
            self._finished = open_finished(path)
            if self._finished is not None:
                stack.enter_context(self._finished)
                self._compare(provenance(self._finished), f"{path} was made", "move it away, or give another output")
            self._begin()
            stack.callback(self._journal.close)
            self._stored = Stored(self._finished, self._recipe)
            self._stored.learn(journals(self.folder))
            self._check_manifest()
            self._at_end = stack.pop_all()

    # --- what is stored ---------------------------------------------------------------------------------

    def is_current(self, image_id: str, path: str, size: int, mtime_ns: int, digest: Callable[[], str]) -> bool:
        """Whether features of exactly the bytes of this image file are stored, in the finished file or any journal.

        The same path, size and modification time as recorded are the same bytes; otherwise ``digest()``, the SHA-256
        of the file now, is compared with the recorded one, and where it is equal, remembered. Features of an earlier
        version of this kit, which recorded no source, count as current."""
        with in_one_line(f"{self.path}: {image_id!r}"):
            current, also = self._stored.is_current(image_id, FileStamp(path, size, mtime_ns), digest)
            if also is not None:
                self._stored.remember(image_id, also)
                self._journal.same(image_id, also)
            return current

    def known(self, image_id: str) -> bool:
        """Whether features of the image are stored, of whatever bytes."""
        return self._stored.knows(image_id)

    def check_room(self, images: int, bytes_per_image: int) -> None:
        """Raise StoreError if the disk cannot take what is missing of ``images`` and the assembled file beside it."""
        missing = max(0, images - sum(1 for _ in self._stored.ids()))
        if missing:
            what = f"{missing:,} images to do and the finished file of {images:,}, {bytes_per_image:,} bytes each"
            with in_one_line(f"{self.path} cannot be made"):
                files.check_room(self.path.parent, (missing + images) * bytes_per_image, what)

    # --- storing ----------------------------------------------------------------------------------------

    def add(self, image_id: str, arrays: Mapping[str, NDArray[Any]], source: Source | None) -> None:
        """Append the features of one image, made from the file ``source``. On the disk after ``sync``."""
        with self._kept():
            if not self._pinned:
                self._pin()
            record = self._journal.add(image_id, {k: np.asarray(v) for k, v in arrays.items()}, source, self._recipe)
            self._stored.take(record)

    def sync(self) -> None:
        """Return when everything added is on the disk."""
        with self._kept():
            self._journal.sync()

    def finish(
        self,
        current: Mapping[str, FileStamp],
        failures: Sequence[Mapping[str, str]],
        sha256: Callable[[str], str] | None = None,
        *,
        images_per_second: float | None = None,
    ) -> Outcome | None:
        """Say that this process has done its share of the images, but for its ``failures`` (id, path, reason).

        ``current``: all listed images, the same ids for every process, and what their files are now; ``sha256``: the
        digest of an image's bytes now, empty where they are none to use (None: that of the file at its stamp's path).
        ``images_per_second``: of this process, for the report beside the file; None where it computed nothing.
        Returns the outcome if the file is whole now, None if others still have to end (``waiting``).
        Raises StoreError if an image has neither features of its bytes nor a reason, or anything fails on the way:
        then the journals are as they were, and the same command goes on from there."""
        with self._kept():
            plan = plan_digest(current)
            self._keep_plan(plan, current)
            self._journal.end(plan, failures)
            ended = {"event": "ended", "share": self.index, "of": self.count, "plan": plan, RATE: images_per_second}
            try:
                self._register.append({**ended, "length": self._journal.length})
                if not self._all_ended(plan):
                    return None
                with files.exclusive(self.folder / "assemble.lock", wait=True):
                    outcome = self._assembly(current, sha256).run()
            except (FolderClosed, OSError, StoreError):
                # another process may have written the file while this one ended, and taken the folder away
                if self.folder.exists() and not self._register.closed:
                    raise
                return self._made_by_another(current, failures)
            self._journal.close()
        self._clean_up()
        return outcome

    def close(self) -> None:
        """Let go of the files. What was added and not synced may be lost."""
        with contextlib.suppress(OSError, RuntimeError):
            self._at_end.close()

    # --- beginning --------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Take this share's journal, in a folder that nobody is removing."""
        deadline = files.Deadline(files.patience(self.path.parent))
        begun = {"event": "begun", "share": self.index, "of": self.count, "notes": self.notes}
        shares.remove_leftovers(self.folder)
        while True:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._journal = JournalWriter(self.folder, self.index, self.count)
                try:
                    self._register = Register(self.folder)
                    self._register.append(begun)
                    return
                except BaseException:
                    self._journal.close()
                    raise
            except FileNotFoundError:  # removed, by one that finished, between two of our calls
                if not deadline.wait():
                    raise
            except FolderClosed:  # its file is written: the one that wrote it is removing the folder, or was killed
                if not deadline.wait() and self._register.take_over():
                    shares.remove(self.folder)

    def _compare(self, found: Mapping[str, Any], what: str, way_out: str) -> None:
        different = [f"{key} {found.get(key)!r}, now {self.identity.get(key)!r}" for key in self._other_values(found)]
        if different:
            raise StoreError(f"{what} with another recipe: {'; '.join(different)}. Use the same one, {way_out}")

    def _other_values(self, found: Mapping[str, Any]) -> list[str]:
        """What differs from the identity; an option is not there where it has the published value."""
        options = [key for key in found if key.startswith(OPTION) and key not in self.identity]
        return [key for key in (*self.identity, *options) if found.get(key) != self.identity.get(key)]

    def _check_manifest(self) -> None:
        """Refuse to go on with what another recipe has stored; a folder without any features pins none."""
        if not self._stored.foreign:
            return
        path = self.folder / MANIFEST
        found = what_it_says(path)
        if found is None and not path.exists():
            if self._finished is None:
                raise StoreError(f"{self.folder} has journals but no {MANIFEST}: delete the folder to start anew")
        elif found is None:
            raise StoreError(f"{path} is damaged: delete {self.folder} to start anew")
        else:
            self._compare(found, f"{self.folder} was begun", f"or delete {self.folder} to start anew")

    def _pin(self) -> None:
        """Write down the recipe with the first stored image, or find that another process has."""
        path = self.folder / MANIFEST
        text = json.dumps(self.identity, indent=1)
        deadline = files.Deadline(files.patience(self.folder))
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            files.sync_folder(self.folder)
        except (FileExistsError, PermissionError):  # the second is sshfs's word for the first (see shares)
            found = what_it_says(path)
            while found is None and deadline.wait():  # another one is writing it right now
                found = what_it_says(path)
            if found is None or self._other_values(found):
                self._stored.learn(journals(self.folder))
                self._check_manifest()
                files.atomic_write(path, text)  # of a run that stored nothing
        self._pinned = True

    # --- finishing --------------------------------------------------------------------------------------

    def _all_ended(self, plan: str) -> bool:
        """Whether this share was the last to end. Raises StoreError if another one had another list of images."""
        self.waiting = []
        for index in range(self.count):
            event = self._register.state_of(index, self.count)
            said = event.get("plan") if event is not None and event["event"] == "ended" else None
            journal = self.folder / journal_name(index, self.count)
            if event is None:  # an earlier version kept no events
                learnt = Stored(None, self._recipe)
                learnt.learn([journal])
                said = learnt.ends[journal].more.get("plan") if journal in learnt.ends else None
            if said is None:
                self.waiting.append(index)
            elif said != plan:
                raise StoreError(
                    f"{journal} was ended over another list of images: the folder changed in between; run process "
                    f"{index + 1} of {self.count} again"
                )
        return not self.waiting

    def _assembly(self, current: Mapping[str, FileStamp], sha256: Callable[[str], str] | None) -> Assembly:
        ended = {i: self._register.state_of(i, self.count) or {} for i in range(self.count)}
        expected = {self.folder / journal_name(*share): 0 for share in self._register.shares()}
        expected |= {self.folder / journal_name(i, self.count): int(e.get("length", 0)) for i, e in ended.items()}
        return Assembly(
            self.path, self.folder, self._recipe, self.identity, self.notes, current,
            [self.folder / journal_name(i, self.count) for i in ended], expected, self._void, self._say, sha256,
            self._rate(ended.values()),
        )  # fmt: skip

    def _rate(self, ended: Iterable[Mapping[str, Any]]) -> float | None:
        """Images per second of all shares together; where none of them computed, what the last report says."""
        rates = [rate for event in ended if isinstance(rate := event.get(RATE), float)]
        return sum(rates) if rates else (what_it_says(report_path(self.path)) or {}).get(RATE)

    def _void(self, image_id: str, place: str) -> None:
        self._stored.forget(image_id, place)
        self._journal.void(image_id, place)
        self._journal.sync()

    def _keep_plan(self, plan: str, ids: Iterable[str]) -> None:
        """Keep the list of images beside the journals, for ``by_hand``."""
        path = self.folder / plan_name(plan)
        if not path.exists():
            files.atomic_write(path, json.dumps(list(ids)))

    def _made_by_another(self, current: Mapping[str, FileStamp], failures: Sequence[Mapping[str, str]]) -> Outcome:
        """What the file holds that another process wrote while this one ended."""
        with open_features(self.path) as file:
            ids = set(image_ids(file))
        report = what_it_says(report_path(self.path)) or {}
        failed = [*report.get("failed", ()), *failures]
        missing = current.keys() - ids - {failure["id"] for failure in failed}
        if missing:
            raise StoreError(
                f"another run finished {self.path} in the meantime, without {len(missing):,} of {len(current):,} "
                "images: run the command again"
            )
        return Outcome(len(ids), list(report.get("failed", ())), [])

    def _clean_up(self) -> None:
        """Remove the work folder, unless another process has begun to work in it."""
        try:
            others = [j for j in journals(self.folder) if j != self._journal.path]
            if not any(map(files.is_locked, others)) and self._register.close():
                shares.remove(self.folder)
        except OSError as error:
            self._say(f"{self.path} is whole; its work folder {self.folder} could not be removed ({error}): delete it")

    @contextlib.contextmanager
    def _kept(self) -> Iterator[None]:
        """Errors in one line that says what is kept."""
        with in_one_line(
            "", f". Every image computed so far is kept in {self.folder}; mend the cause and run the same command again"
        ):
            yield


def plan_name(plan: str) -> str:
    return f"images-{plan[:16]}.json"


def what_it_says(path: Path) -> dict[str, Any] | None:
    """What a small file says; None if there is none, or it is damaged."""
    try:
        found = read_json(path)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


@contextlib.contextmanager
def in_one_line(what: str, behind: str = "") -> Iterator[None]:
    """Let every error but our own be a StoreError of one line."""
    try:
        yield
    except StoreError:
        raise
    except (OSError, MemoryError, RuntimeError, ValueError, TypeError, KeyError) as error:
        raise StoreError(f"{what}{': ' if what else ''}{reason(error)}{behind}") from error

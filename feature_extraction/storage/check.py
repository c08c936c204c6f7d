"""Whether a feature file still holds what was written: every array against its checksum, every image against the list.

Files of this kit carry the CRC-32 of each array; those of an earlier version, and the published ones, do not: their
structure alone can be checked, and that is said. Large files are checked by several processes, each its run of images.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from .. import catalog
from ..errors import StoreError, UsageError
from ..machine import usable_cpus
from ..terminal import run_main
from . import guard, layouts, store
from .reader import ArrayReader

LARGE: Final = 256 << 20
"""Bytes from which on several processes check a file."""
MOST_PROCESSES: Final = 8
MOST_SAID: Final = 1000
"""Findings of one kind that are listed; the rest is counted."""

Level = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing to know about a file."""

    level: Level
    """error: an image is damaged, missing or not as it should be; warning: the file is sound, but not all of a
    published set, or not made of real weights; note: what could not be checked."""
    text: str
    image: str | None = None
    """The image that it is about."""


def check_file(
    path: Path,
    *,
    expected_ids: Collection[str] | None = None,
    published_count: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Finding]:
    """Check a feature file bit by bit; returns what there is to say, errors first, nothing for a sound and whole file.

    ``expected_ids``: the images that it should hold, where they are known. ``published_count``: how many the published
    file holds; by default the catalogue's number for the data set and split that the file names. ``progress`` is called
    with the images checked and all of them. A file that cannot be read at all is one finding too: nothing is raised."""
    try:
        with store.open_features(path) as file:
            ids = store.image_ids(file)
            made = store.provenance(file)
    except (StoreError, OSError) as error:
        return [Finding("error", str(error))]
    findings = [*_of_the_set(ids, made, expected_ids, published_count), *_of_the_making(made)]
    tally = Tally()
    for found in _surveys(path, ids, lambda done: progress(done, len(ids)) if progress is not None else None):
        tally.add(found)
    findings += tally.findings(made, len(ids))
    return sorted(findings, key=lambda f: ("error", "warning", "note").index(f.level))


# --- the set of images ------------------------------------------------------------------------------------------


def _of_the_set(
    ids: Sequence[str], made: dict[str, Any], expected: Collection[str] | None, published: int | None
) -> Iterator[Finding]:
    if not ids:
        yield Finding("error", "holds no images")
    said = made.get("images")
    if isinstance(said, int) and said != len(ids):
        yield Finding("error", f"holds {len(ids):,} images, {said:,} were written")
    if expected is not None:
        there, wanted = set(ids), set(expected)
        yield from _some("error", "is missing", sorted(wanted - there))
        yield from _some("error", "is not expected in this file", sorted(there - wanted))
    split, name = _split_of(made)
    if published is None and split is not None:
        published = split.images
    if published is not None and len(ids) < published:
        failed = made.get("failed") or 0
        why = f"; {failed:,} failed when it was made" if failed else ""
        yield Finding("warning", f"{len(ids):,} of the {published:,} images of the published split{name}{why}")
    elif published is not None and len(ids) > published:
        yield Finding("warning", f"{len(ids):,} images, the published split{name} has {published:,}")


def _split_of(made: dict[str, Any]) -> tuple[catalog.Split | None, str]:
    try:
        data = catalog.data_set(str(made.get("dataset")))
        split = data.split(str(made.get("split") or ""))
    except UsageError:
        return None, ""
    return split, f" ({' '.join(filter(None, (data.title, split.name)))})"


def _some(level: Level, what: str, ids: Sequence[str]) -> Iterator[Finding]:
    for image_id in ids[:MOST_SAID]:
        yield Finding(level, f"{guard.shown(image_id)} {what}", image_id)
    if len(ids) > MOST_SAID:
        yield Finding(level, f"and {len(ids) - MOST_SAID:,} more: each {what}")


def _of_the_making(made: dict[str, Any]) -> Iterator[Finding]:
    if not made:
        yield Finding("note", "says nothing of its making, as the published files do")
    if made.get("synthetic_weights"):
        yield Finding("warning", "was made with SYNTHETIC weights: its values mean nothing")


# --- the images ---------------------------------------------------------------------------------------------------


@dataclass
class Survey:
    """What was seen of a run of images."""

    errors: list[tuple[str, str]]
    """(image, what is wrong); the image is empty where it is the file."""
    layouts: Counter[str]
    """How many images have which arrays, as JSON: name -> [dtype, shape]."""
    example: dict[str, str]
    """One image of each layout."""
    unchecked: int
    """Images without checksums."""


class Tally:
    """The surveys of all runs together."""

    def __init__(self) -> None:
        self.errors: list[tuple[str, str]] = []
        self.layouts: Counter[str] = Counter()
        self.images: dict[str, list[str]] = {}
        self.unchecked = 0

    def add(self, survey: Survey) -> None:
        self.errors += survey.errors
        self.layouts.update(survey.layouts)
        for layout, image_id in survey.example.items():
            self.images.setdefault(layout, []).append(image_id)
        self.unchecked += survey.unchecked

    def findings(self, made: dict[str, Any], count: int) -> Iterator[Finding]:
        for image_id, what in self.errors[:MOST_SAID]:
            yield Finding("error", f"{guard.shown(image_id)}: {what}" if image_id else what, image_id or None)
        if len(self.errors) > MOST_SAID:
            yield Finding("error", f"and {len(self.errors) - MOST_SAID:,} more images are damaged")
        most = json.loads(self.layouts.most_common(1)[0][0]) if self.layouts else {}
        expected = layouts.Expected.of(made, most)
        for layout, number in self.layouts.items():
            wrong = expected.wrong_with(json.loads(layout))
            if wrong:
                image_id = self.images[layout][0]
                more = f" (and {number - 1:,} more images)" if number > 1 else ""
                yield Finding("error", f"{guard.shown(image_id)}{more}: {wrong}", image_id)
        if self.unchecked:
            of = "" if self.unchecked == count else f" of {self.unchecked:,} of {count:,} images"
            yield Finding(
                "note", f"the structure{of} was checked, the values not: an earlier version or the published program, "
                "which wrote them, kept no checksums",
            )  # fmt: skip


def survey(path: Path, ids: Sequence[str], tell: Callable[[int], None] = lambda done: None) -> Survey:
    """Look at the arrays of these images, all their bytes included."""
    found = Survey([], Counter(), {}, 0)
    try:
        with store.open_features(path) as file:
            reader = ArrayReader(file)
            for done, image_id in enumerate(ids, 1):
                try:
                    layout, sums, written = reader.look(image_id)
                    wrong = _wrong_sums(sums, written)
                except (StoreError, OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
                    found.errors.append((image_id, " ".join(str(error).removeprefix(f"{path}: ").split())))
                    continue
                if wrong is None:
                    found.unchecked += 1
                elif wrong:
                    found.errors.append((image_id, wrong))
                found.layouts[layout] += 1
                found.example.setdefault(layout, image_id)
                if done % 256 == 0:
                    tell(done)
    except (StoreError, OSError) as error:
        found.errors.append(("", f"could not be read ({error})"))
    tell(len(ids))
    return found


def _wrong_sums(found: dict[str, int], written: dict[str, int]) -> str | None:
    """Which arrays are not what was written; empty if all are, None if that is not known."""
    if not written:
        return None
    if found == written:
        return ""
    wrong = [f"{guard.shown(name)} is missing" for name in written.keys() - found.keys()]
    wrong += [f"{guard.shown(name)} was not written by this program" for name in found.keys() - written.keys()]
    wrong += [
        f"{guard.shown(name)} is damaged: its bytes do not have the checksum they were written with"
        for name in found.keys() & written.keys()
        if found[name] != written[name]
    ]
    return "; ".join(sorted(wrong))


# --- several processes ------------------------------------------------------------------------------------------


def _surveys(path: Path, ids: Sequence[str], tell: Callable[[int], None]) -> list[Survey]:
    """Surveys of all images; ``tell`` is called with how many are done."""
    processes = max(1, min(MOST_PROCESSES, int(usable_cpus())))
    if processes == 1 or path.stat().st_size < LARGE:
        return [survey(path, ids, tell)]
    bounds = [len(ids) * n // processes for n in range(processes + 1)]
    done = [0] * processes

    def work(n: int) -> Survey:
        def told(images: int) -> None:
            done[n] = images
            tell(sum(done))

        return _in_a_process(path, bounds[n], bounds[n + 1], told)

    with ThreadPoolExecutor(processes) as pool:
        return list(pool.map(work, range(processes)))


def _in_a_process(path: Path, start: int, stop: int, tell: Callable[[int], None]) -> Survey:
    """The survey of images start..stop of the file, in row order, by a process of its own."""
    root = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    with subprocess.Popen(
        [sys.executable, "-m", __name__, os.fspath(path), str(start), str(stop)],
        env={**os.environ, "PYTHONPATH": paths}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            line = b""
            for line in process.stdout:  # numbers of images done, then the survey
                if line[:1].isdigit():
                    tell(int(line))
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        what = f"images {start:,} to {stop:,} could not be checked: their process ended with {process.returncode}"
        return Survey([("", what)], Counter(), {}, 0)
    found = json.loads(line)
    errors = [(str(image_id), str(what)) for image_id, what in found["errors"]]
    return Survey(errors, Counter(found["layouts"]), found["example"], int(found["unchecked"]))


def main() -> int:
    """One process of several: PATH START STOP; prints how many images are done, then its survey as JSON."""
    path, start, stop = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    with store.open_features(path) as file:
        ids = store.image_ids(file)
    found = survey(path, ids[start:stop], lambda done: print(done, flush=True))
    print(json.dumps(vars(found)))
    return 0


if __name__ == "__main__":
    run_main(main)

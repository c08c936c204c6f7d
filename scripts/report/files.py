"""What feature files there are below a data folder: each with its state, its provenance and its failures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np

from feature_extraction import catalog
from feature_extraction.catalog import FeatureFile
from feature_extraction.config import Boxes, Grid
from feature_extraction.errors import KitError, StoreError
from feature_extraction.storage import bounded
from feature_extraction.storage.assemble import RATE
from feature_extraction.storage.store import array_names, image_ids, open_features, provenance, report_path, work_dir

HOSTILE: Final = (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError, OverflowError, MemoryError)
"""What h5py and json raise over files that somebody made wrong, by intention or not."""


@dataclass
class FeatureEntry:
    """One feature file, as it lies here; or the place where a published one would lie."""

    name: str
    """Its path below the data folder."""
    path: Path
    spec: str
    """``Grid.name`` or ``Boxes.name``."""
    row: FeatureFile | None
    """Its row in the catalogue; None for files under other names."""
    label: str
    """What the k-means calls its source or target: ``mscoco_valid``, or the file's stem."""
    state: str = "missing"
    """missing, failed (no image gave features), unfinished, damaged or whole."""
    why: str = ""
    """Of a file that is not whole, in words."""
    ids: list[str] = field(default_factory=list)
    """In row order."""
    size: int = 0
    """Bytes."""
    made: dict[str, Any] = field(default_factory=dict)
    """Provenance; empty for the published files."""
    failures: list[dict[str, str]] = field(default_factory=list)
    rate: float | None = None
    """Images per second of the run that made it, where the report beside it says."""
    remark: str = ""
    """What cannot be told of it."""

    @property
    def whole(self) -> bool:
        return self.state == "whole"

    @property
    def title(self) -> str:
        """``COCO valid``, or the file's name."""
        if self.row is None:
            return self.path.stem
        return f"{self.row.data.title} {self.row.split.name}".strip()

    @property
    def published(self) -> int | None:
        """Images of the published split; None where this is no published file."""
        return None if self.row is None else self.row.split.images

    @property
    def synthetic(self) -> bool:
        """Whether the file says that it was made with weights without meaning."""
        return bool(self.made.get("synthetic_weights"))


def entries_in(datasets: Path) -> list[FeatureEntry]:
    """The 16 files of the catalogue, made or not, those of a split together; and every further file beside them."""
    rows = catalog.feature_files()
    splits = list(dict.fromkeys(row.split.kmeans_name for row in rows))
    found = [_entry_of(row, datasets) for row in sorted(rows, key=lambda row: splits.index(row.split.kmeans_name))]
    known = {entry.path.resolve() for entry in found}
    working = {path.with_name(path.name.removesuffix(".work")) for path in datasets.glob("*/features/*.h5.work")}
    for path in sorted({*datasets.glob("*/features/*.h5"), *working}):
        if path.resolve() not in known:
            found.append(_further(path, datasets))
    for entry in found:
        _look_into(entry)
    return found


def _entry_of(row: FeatureFile, datasets: Path) -> FeatureEntry:
    """The row's file under the folder of the published scripts, or that of the published downloads."""
    roots = dict.fromkeys((row.data.folder, row.data.published_folder))
    paths = [row.data.features_file(datasets / root, row.split, row.spec.suffix) for root in roots]
    path = next((p for p in paths if p.exists() or work_dir(p).exists()), paths[0])
    return FeatureEntry(str(path.relative_to(datasets)), path, row.spec.name, row, row.split.kmeans_name)


def _further(path: Path, datasets: Path) -> FeatureEntry:
    """A file of another grid size, number of boxes or name; what it holds is seen when it is opened."""
    return FeatureEntry(str(path.relative_to(datasets)), path, "", None, path.stem)


def _look_into(entry: FeatureEntry) -> None:
    """Fill in what the file and the report beside it say."""
    try:
        if entry.path.exists():
            entry.size = entry.path.stat().st_size
            with open_features(entry.path) as file:
                entry.ids = image_ids(file)
                entry.made = provenance(file)
                entry.spec = entry.spec or _spec_of(file, entry.ids)
                entry.state = "whole"
        elif work_dir(entry.path).is_dir():
            entry.state, entry.why = "unfinished", "in the making, or stopped: the same command goes on there"
    except (KitError, *HOSTILE) as error:
        entry.state, entry.why, entry.ids = "damaged", one_line(error).replace(str(entry.path), entry.name), []
    _look_beside(entry)


def _spec_of(file: h5py.File, ids: list[str]) -> str:
    return Boxes.name if ids and "boxes" in array_names(file, ids[0]) else Grid.name


def _look_beside(entry: FeatureEntry) -> None:
    """Fill in what the report of the run says: rate, and images without features."""
    report = report_path(entry.path)
    try:
        told = bounded.read_json(report)
        failures = [{key: str(f.get(key, "")) for key in ("id", "path", "reason")} for f in told.get("failed", [])]
        images, rate = told.get("images"), told.get(RATE)
    except FileNotFoundError:
        return
    except HOSTILE as error:
        beside = f"{Path(entry.name).parent}/{report.name}"
        entry.remark = f"{beside} cannot be read, which images failed is not known: {one_line(error)}"
        return
    if entry.state == "missing":
        if images or not failures:
            return  # it is about a file that was taken away
        entry.state, entry.why = "failed", "no image gave features, so there is no file"
    entry.failures = failures
    entry.rate = rate if isinstance(rate, float) and np.isfinite(rate) else None


def one_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def spread(count: int, wanted: int) -> list[int]:
    """Up to ``wanted`` of ``count`` positions, evenly spread, both ends among them."""
    return np.unique(np.linspace(0, count - 1, min(wanted, count)).astype(int)).tolist() if count else []


@contextmanager
def opened(entry: FeatureEntry) -> Iterator[h5py.File]:
    """The entry's file for reading. Raises StoreError, also for what h5py meets inside the block."""
    try:
        with open_features(entry.path) as file:
            yield file
    except HOSTILE as error:
        raise StoreError(f"{entry.path}: {one_line(error)}") from error


@dataclass
class Split:
    """The images of one data set's split, with the files that hold features of them."""

    title: str
    label: str
    """What the k-means calls it."""
    files: dict[str, FeatureEntry] = field(default_factory=dict)
    """By spec, ``Grid.name`` or ``Boxes.name``."""

    @property
    def first(self) -> FeatureEntry:
        """The file that decides which images there are: the grids, whose words are shown, before the boxes."""
        return self.files.get(Grid.name) or next(iter(self.files.values()))


def splits_of(entries: list[FeatureEntry]) -> list[Split]:
    """Whole files by split: the published grid and boxes of one split together, every other file for itself."""
    splits: dict[str, Split] = {}
    for entry in entries:
        if entry.whole and entry.ids:
            key = entry.label if entry.row is not None else entry.name
            splits.setdefault(key, Split(entry.title, entry.label)).files[entry.spec] = entry
    return list(splits.values())

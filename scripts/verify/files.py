"""Which files are compared, and the images of one pair, one in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
from numpy.typing import NDArray

from feature_extraction import catalog
from feature_extraction.compare import problems_of_form
from feature_extraction.config import Boxes, Grid, Spec
from feature_extraction.errors import DownloadError, StoreError
from feature_extraction.images.address import is_address, shown
from feature_extraction.names import printable
from feature_extraction.places import to_type
from feature_extraction.progress import Progress
from feature_extraction.storage import store
from feature_extraction.tolerance import Tolerance

from .evidence import Findings, look
from .remote import RemoteFile, Traffic

REMOTE_SAMPLE: Final = 100
"""Images of a file that is read where it lies, unless another number is asked for: 0.6 MB each."""
ABSENT: Final = "not in the published file"


@dataclass(frozen=True)
class Pair:
    """One of our files and the published one; that one may lie behind an address."""

    ours: Path
    published: str

    @property
    def name(self) -> str:
        return printable(self.ours)


def pairs(ours: Path, published: str) -> list[Pair]:
    """The one pair where ``ours`` is a file; else every file of the catalogue that both folders hold. What lies behind
    an address is not asked for here: every file of ours makes a pair. Raises StoreError where there is none."""
    if ours.is_file() or ours.suffix == ".h5":
        return [Pair(ours, _published_of(ours, published))]
    found = [Pair(mine, theirs) for file in catalog.feature_files()
             if (mine := file.path(ours)).is_file() and (theirs := _counterpart(file, mine, published))]  # fmt: skip
    if not found:
        fetch = "" if is_address(published) else f"{to_type('download-features')}, and "
        raise StoreError(
            f"no feature file is in both {printable(ours)} and {shown(published)}: {fetch}{to_type('extract-all')}; "
            "or --ours FILE --published FILE"
        )
    return found


def alone(ours: Path, found: Sequence[Pair]) -> list[str]:
    """Our files below the folder ``ours`` that are in no pair, as the catalogue calls them."""
    paired = {pair.ours for pair in found}
    there = {file.name: file.path(ours) for file in catalog.feature_files()}
    return [name for name, path in there.items() if path.is_file() and path not in paired]


def _published_of(ours: Path, published: str) -> str:
    """The published file of our file: the one that was named or, where all of them lie, the one of its place."""
    if published != catalog.FEATURES_BASE_URL and not Path(published).is_dir():
        return published
    mine = ours.resolve()
    known = [file for file in catalog.feature_files() if mine.parts[-3:] == file.path(Path()).parts]
    theirs = _counterpart(known[0], mine, published) if known else None
    if theirs is None:
        raise StoreError(f"no published file for {printable(ours)} in {shown(published)}: --published FILE names it")
    return theirs


def _counterpart(file: catalog.FeatureFile, mine: Path, published: str) -> str | None:
    if is_address(published):
        return f"{published.rstrip('/')}/{file.published_name}"
    # the published downloads call NLVR2's folder so, the scripts nlvr2
    folders = [Path(published) / folder for folder in (file.data.folder, file.data.published_folder)]
    places = [place / mine.name for folder in folders for place in (folder / "features", folder)]
    there = next((path for path in places if path.is_file()), None)
    return str(there) if there is not None and not mine.samefile(there) else None


@dataclass
class Opened:
    """A published file, open."""

    file: h5py.File
    traffic: Traffic | None = None
    """What its server was asked for; None of a local one."""


@contextmanager
def opened(published: str) -> Iterator[Opened]:
    """A published file, local or remote. Raises StoreError, DownloadError."""
    if not is_address(published):
        with store.open_features(Path(published)) as file:
            yield Opened(file)
        return
    far = RemoteFile(published)
    try:
        with store.open_remote_features(far) as file:
            yield Opened(file, far.traffic)
    except (StoreError, OSError, RuntimeError, KeyError, ValueError) as error:
        raise far.failure or error from None  # the server's part in it, if it had one


def compare_files(ours: h5py.File, published: Opened, sample: int | None, tolerance: Tolerance) -> Findings:
    """Two feature files. Raises StoreError, DownloadError, OSError."""
    found = Findings()
    mine = store.image_ids(ours)
    both = mine
    if published.traffic is None:  # a file elsewhere is not asked for all of its names
        theirs = set(store.image_ids(published.file))
        found.blame("not in ours", *sorted(theirs - set(mine)))
        found.blame(ABSENT, *sorted(set(mine) - theirs))
        both = [name for name in mine if name in theirs]
    elif sample is None:
        sample = REMOTE_SAMPLE
    chosen = spread(both, sample)
    progress = Progress(len(chosen), printable(Path(ours.filename).name))
    try:
        for name in chosen:
            if published.traffic is not None and not store.holds(published.file, name):
                found.blame(ABSENT, name)
            else:
                compare_image(ours, published.file, name, tolerance, found)
            progress.advance(1, progress.now + 1 - len(found.evidence))
    finally:
        progress.close()
    return found


def spread(ids: Sequence[str], sample: int | None) -> list[str]:
    """So many of them, evenly over the file; all where there are no more."""
    if sample is None or sample >= len(ids):
        return list(ids)
    return [ids[index] for index in np.linspace(0, len(ids) - 1, sample).round().astype(int).tolist()]


def compare_image(ours: h5py.File, theirs: h5py.File, name: str, tolerance: Tolerance, into: Findings) -> None:
    """One image's arrays; what is wrong of their form is blamed on it. Raises StoreError, OSError."""
    mine, published = (
        {array: store.array_of(file, name, array) for array in store.array_names(file, name)} for file in (ours, theirs)
    )
    if problems := problems_of_form(mine, published):
        into.blame(f"of another form than the published ({problems[0].replace('expected', 'published')})", name)
        return
    found, expected = ({key: store.read_array(arrays[key]) for key in published} for arrays in (mine, published))
    source = store.source_of(ours, name)
    evidence = look(name, found, expected, source.path if source is not None else "", tolerance)
    into.add(evidence, found, expected)
    for key in ("img_w", "img_h"):
        if key in expected and found[key] != expected[key]:
            into.blame(f"of another {key} ({found[key]}, published {expected[key]})", name)
            return


def spec_of(ours: h5py.File, arrays: dict[str, NDArray[Any]]) -> Spec:
    """What our file holds: the settings that its features were computed with. Raises StoreError."""
    if "boxes" in arrays:
        return Boxes(num_boxes=len(arrays["boxes"]))
    shape, imsize = arrays["features"].shape, store.provenance(ours).get("imsize") or None
    if len(shape) != 3 or not (imsize is None or (isinstance(imsize, int) and 0 < imsize <= 4096)):
        raise StoreError(f"{ours.filename}: features {shape}, imsize {imsize!r}: neither a grid nor boxes")
    return Grid(grid_size=shape[0], imsize=imsize)


ERRORS: Final = (StoreError, DownloadError, OSError, KeyError, IndexError, ValueError, RuntimeError)
"""What reading two files nobody vouches for may raise."""


def told(error: Exception) -> str:
    """An error of ``ERRORS`` as one line."""
    return f"no {error}" if isinstance(error, KeyError) else printable(" ".join(str(error).split()))

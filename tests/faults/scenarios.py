"""What is tried: small real programs, from what state they start, and what lies at the final paths afterwards.

Each program works in one folder, prints errors as the real commands do and returns the exit code.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
from numpy.typing import NDArray

from feature_extraction.errors import KitError
from feature_extraction.storage import store
from feature_extraction.storage.by_hand import assemble_by_hand
from feature_extraction.storage.output import Output
from feature_extraction.storage.source import Source

from .shim import Fault

Contents = dict[str, str]
"""Final path -> what is there, as a digest of what a reader finds."""
Program = Callable[[Path, str], int]
"""(folder, address of the file server) -> exit code."""


@dataclass(frozen=True)
class Scenario:
    """A program under faults, what goes before it, and how it is looked at."""

    program: Program
    final: Callable[[Path], Contents]
    before: tuple[tuple[Program, Fault | None], ...] = ()
    """What makes the folder that it starts from, itself with faults where something interrupted is to be there."""
    again: Program | None = None
    """What a user runs after a failure; None: the same program."""
    weight: int = 2
    """Its part of all faults, against those of the others."""


# --- extraction -------------------------------------------------------------------------------------------

IDENTITY: Final = {"kind": "boxes", "checkpoint_sha256": "abc", "precision": "float32"}
FEATURES: Final = "features.h5"
SIX: Final = tuple(f"COCO_val2014_{number:012d}" for number in range(6))
"""Images; each has 296 kB of features."""


def boxes_of(image_id: str, version: int) -> dict[str, NDArray[Any]]:
    """Arrays of the published names, shapes and dtypes."""
    rng = np.random.default_rng([int(image_id[-12:]), version])
    return {
        "features": rng.random((36, 2048), np.float32),
        "obj_id": rng.integers(0, 1600, 36),
        "boxes": rng.random((36, 4), np.float32),
        "img_w": np.array(640, np.int64),
        "img_h": np.array(480, np.int64),
    }


def image_of(image_id: str, version: int) -> Source:
    """The image file; ``version``: other bytes under the same name."""
    digest = hashlib.sha256(f"{image_id} {version}".encode()).hexdigest()
    return Source(f"/images/{image_id}.jpg", 100_000 + version, 10**18 + version, digest)


def extract(
    folder: Path,
    _: str = "",
    *,
    ids: Iterable[str] = SIX,
    replaced: Iterable[str] = (),
    shares: int = 1,
    leave_off: bool = False,
) -> int:
    """What the pipeline does with the storage, the shares one after the other; ``leave_off``: before the end."""
    images = {image_id: image_of(image_id, int(image_id in replaced)) for image_id in ids}
    codes = [_reported(_share, folder / FEATURES, images, index, shares, leave_off) for index in range(shares)]
    return max(codes)


def _share(path: Path, images: Mapping[str, Source], index: int, shares: int, leave_off: bool) -> None:
    output = Output(path, IDENTITY, {"note": "campaign"}, index, shares)
    try:
        for image_id, image in list(images.items())[index::shares]:
            if not output.is_current(image_id, *image.stamp, partial(str, image.sha256)):
                output.add(image_id, boxes_of(image_id, image.size - 100_000), image)
                output.sync()
        if not leave_off:
            output.finish({image_id: image.stamp for image_id, image in images.items()}, [])
    finally:
        output.close()


def assemble(folder: Path, _: str) -> int:
    return _reported(assemble_by_hand, folder / FEATURES)


def _reported(program: Callable[..., object], *arguments: object) -> int:
    """As the command lines report: what a user can mend in one line, anything else as a traceback."""
    try:
        program(*arguments)
    except KitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def feature_file(folder: Path) -> Contents:
    path = folder / FEATURES
    report = store.report_path(path)
    found = {FEATURES: _of_hdf5(path)} if path.exists() else {}
    return {**found, **({report.name: _of_report(report)} if report.exists() else {})}


def _of_hdf5(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with h5py.File(path, "r") as file:
            for image_id in file:
                for name, array in sorted(file[image_id].items()):
                    digest.update(f"{image_id} {name} {array.dtype} {array.shape} ".encode() + array[()].tobytes())
    except (OSError, KeyError, RuntimeError) as error:
        return f"unreadable: {error}"
    return digest.hexdigest()


def _of_report(path: Path) -> str:
    try:
        found = json.loads(path.read_text())
        return f"{found['images']} images, failed: {found['failed']}"
    except (ValueError, KeyError) as error:
        return f"unreadable: {error}"


# --- k-means ----------------------------------------------------------------------------------------------


def write_grids(folder: Path, _: str) -> int:
    rng = np.random.default_rng(1)
    with h5py.File(folder / "some.h5", "w") as file:
        for number in range(40):
            file[f"{number:06d}/features"] = rng.random((4, 4, 16), np.float32)
    return 0


def cluster(folder: Path, _: str, *, memory: str = "1") -> int:
    from kmeans.cli import main  # faiss is loaded where it is needed alone

    source = folder / "some.h5"
    return main(
        [
            *(f"--src={source}", f"--tgt={source}", f"--datasets_dir={folder}", f"--memory={memory}"),
            *("--n_centroids=8", "--n_iter=3", "--feat_dim=16", "--grid_size=4", "--device=cpu", "--assignment=faiss"),
        ]
    )


def vocabulary(folder: Path) -> Contents:
    """The published names in both folders, all names in the first; the statistics hold times: they are to be whole."""
    found = {}
    for path in [p for name in ("cluster_centroids", "clustering") for p in (folder / name).glob("[!.]*")]:
        published = path.suffix in (".npy", ".pkl")
        if path.parent.name == "clustering" and not published:
            continue  # where folders cannot be linked, it has links to the published names alone
        if path.is_file() and published:
            found[f"{path.parent.name}/{path.name}"] = _digest(path.read_bytes())
        elif path.is_file() and path.suffix == ".npz":
            found[f"{path.parent.name}/{path.name}"] = _of_arrays(path)
        elif path.is_file() and path.suffix == ".json":
            found[f"{path.parent.name}/{path.name}"] = _is_json(path)
    return found


def _of_arrays(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with np.load(path) as arrays:
            for name in sorted(arrays):
                digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode() + arrays[name].tobytes())
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        return f"unreadable: {error}"
    return digest.hexdigest()


def _is_json(path: Path) -> str:
    try:
        json.loads(path.read_text())
    except ValueError as error:
        return f"unreadable: {error}"
    return "whole"


# --- downloads and archives ---------------------------------------------------------------------------------


def album(top: str) -> bytes:
    """An archive of images as Visual Genome's two, stored and deflated."""
    rng = np.random.default_rng(2)
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for number in range(8):
            packed = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)[number % 2]
            archive.writestr(f"{top}/{number}.jpg", rng.bytes(60_000), packed)
    return made.getvalue()


def served() -> dict[str, bytes]:
    """Path -> content, of what the file server has."""
    return {
        "/detectron_model.pth": b"\x80" + np.random.default_rng(3).bytes(3_500_000),
        "/detectron_config.yaml": b"MODEL:\n  DEVICE: cpu\n",
        "/VG/images.zip": album("VG_100K"),
        "/VG/images2.zip": album("VG_100K_2"),
    }


def download(folder: Path, base_url: str, *, what: tuple[str, ...]) -> int:
    from scripts.download.__main__ import main

    return main(
        [
            *(*what, f"--datasets={folder / 'datasets'}", f"--checkpoint_dir={folder / 'checkpoint'}"),
            *(f"--lock={folder / 'downloads.lock.json'}", f"--base-url={base_url}"),
            *("--tries=3", "--first-wait=0.02", "--timeout=5"),
        ]
    )


def put_archive(folder: Path, _: str) -> int:
    (folder / "images.zip").write_bytes(album("VG_100K"))
    return 0


def unpack(folder: Path, _: str) -> int:
    from scripts.download.unpack import unpack

    if (folder / "images").exists():  # as the download asks before
        return 0
    return _reported(unpack, folder / "images.zip", "VG_100K", folder / "images")


def downloaded(folder: Path) -> Contents:
    """All but what is unfinished: partial files, archives, locks, and what begins with a dot."""
    found = {}
    for path in (p for p in folder.rglob("*") if p.is_file()):
        place = path.relative_to(folder)
        unfinished = any(part.startswith(".") for part in place.parts) or place.parent.name == "archives"
        if not unfinished and not path.name.endswith((".part", ".part.json", ".guard", ".lock", "lock.json")):
            found[place.as_posix()] = _digest(path.read_bytes())
        elif path.name == "downloads.lock.json":
            found[place.as_posix()] = _is_json(path)
    return found


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


CHECKPOINT: Final = partial(download, what=("checkpoint",))
FINISHED: Final = ((extract, None),)
SCENARIOS: Final = {
    "extract-fresh": Scenario(extract, feature_file),
    "extract-resumed": Scenario(extract, feature_file, ((partial(extract, ids=SIX[:3], leave_off=True), None),)),
    "extract-extended": Scenario(extract, feature_file, ((partial(extract, ids=SIX[1:5]), None),)),
    "extract-replaced": Scenario(partial(extract, replaced=SIX[2:4]), feature_file, FINISHED),
    "extract-shares": Scenario(partial(extract, shares=2), feature_file),
    "assemble": Scenario(assemble, feature_file, ((extract, Fault("pwrite", "KILL", 1)),), again=extract),
    "k-means": Scenario(cluster, vocabulary, ((write_grids, None),), weight=1),
    "k-means-on-disk": Scenario(partial(cluster, memory="0.00001"), vocabulary, ((write_grids, None),), weight=1),
    "download": Scenario(CHECKPOINT, downloaded),
    "download-resumed": Scenario(CHECKPOINT, downloaded, ((CHECKPOINT, Fault("write", "KILL", 7)),)),
    "download-images": Scenario(partial(download, what=("images", "vg")), downloaded),
    "unpack": Scenario(unpack, downloaded, ((put_archive, None),)),
}

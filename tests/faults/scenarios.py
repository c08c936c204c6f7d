"""What the campaign disturbs: programs of this kit at work on small inputs with arrays of the published sizes.

A scenario makes the state from which its program starts (``prepare``), is that program (``run``, which returns the exit
code a user sees), and names the files that users rely on (``finals``). To add one, write a subclass and list it in
``SCENARIOS``; it must end the same way, with the same files, however often it is run.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np

from feature_extraction.errors import StoreError
from feature_extraction.storage import files
from feature_extraction.storage.check import check_file
from feature_extraction.storage.output import Output, assemble_by_hand
from feature_extraction.storage.source import Source

IDENTITY = {"kind": "boxes", "num_boxes": 36, "dataset": "images", "split": "", "precision": "float32"}
files.PATIENCE_HERE = 0.2  # one kernel holds the file system that this works on
State = dict[str, str]
"""Name of a file that users rely on -> digest of what it holds."""


class Scenario:
    """One program at work. ``folder`` is always the same path, with what ``prepare`` left in it."""

    name: ClassVar[str]
    weight: ClassVar[int] = 4
    """How many of the faults fall on it, beside the others."""

    def prepare(self, folder: Path) -> None:
        """Make what the program starts from."""

    def load(self) -> None:
        """Import what takes long, once."""

    def run(self, folder: Path) -> int:
        """The program, to its exit code. May raise KitError, which a user sees as one line and code 1."""
        raise NotImplementedError

    def recover(self, folder: Path) -> int:
        """What a user does after it failed: the same again."""
        return self.run(folder)

    def finals(self, folder: Path) -> Iterator[Path]:
        """The files that users rely on, as far as they are there."""
        raise NotImplementedError

    def state(self, folder: Path) -> State:
        return {str(path.relative_to(folder)): digest(path) for path in self.finals(folder) if path.exists()}

    def left_over(self, folder: Path) -> list[str]:
        """What should not be there after an undisturbed run."""
        return []


def digest(path: Path) -> str:
    """What a file says to its readers: of .h5 the arrays, and what they were made from."""
    if path.suffix != ".h5":
        return hashlib.sha256(path.read_bytes()).hexdigest()
    found = hashlib.sha256()
    with h5py.File(path, "r", locking=False) as file:
        for image_id in sorted(file):
            for name in sorted(file[image_id]):
                array = file[image_id][name][()]
                found.update(f"{image_id}/{name} {array.dtype.str} {array.shape}".encode())
                found.update(array.tobytes())
            found.update(repr(sorted(file[image_id].attrs.items())).encode())
        found.update(repr(sorted(file.attrs.items())).encode())
    return found.hexdigest()


# --- a feature file -----------------------------------------------------------------------------------------


def boxes(seed: int) -> dict[str, Any]:
    """Arrays of the published sizes."""
    chance = np.random.default_rng(seed)
    return {
        "features": chance.random((36, 2048), dtype=np.float32),
        "obj_id": chance.integers(0, 1600, 36),
        "boxes": chance.random((36, 4), dtype=np.float32) * 500,
        "img_w": np.array(640 + seed),
        "img_h": np.array(480 + seed),
    }


def source(image_id: str, version: int = 0) -> Source:
    return Source(f"/images/{image_id}.jpg", 1000 + version, 10**18, f"{int(image_id) + 1000 * version:064x}")


def extract(
    path: Path,
    ids: Sequence[str],
    share: tuple[int, int] = (0, 1),
    *,
    failed: Iterable[str] = (),
    versions: Mapping[str, int] = {},
    stop_after: int | None = None,
) -> int:
    """What the extraction does with a file in the making, without images and detector."""
    index, count = share
    failed = set(failed)
    output = Output(path, IDENTITY, {"note": "x"}, index, count, say=print)
    try:
        now = {i: source(i, versions.get(i, 0)) for i in ids}
        mine = [i for n, i in enumerate(ids) if n % count == index and i not in failed]
        for i in mine[:stop_after]:
            if not output.is_current(i, *now[i].stamp, lambda i=i: now[i].sha256):
                output.add(i, boxes(int(i) + 100 * versions.get(i, 0)), now[i])
                output.sync()
        if stop_after is not None:
            return 1
        reasons = [{"id": i, "path": f"/images/{i}.jpg", "reason": "broken"} for i in sorted(failed) if not index]
        outcome = output.finish({i: s.stamp for i, s in now.items()}, reasons)
        print("waits" if outcome is None else f"{outcome.images} images")
        return 0
    finally:
        output.close()


class Extraction(Scenario):
    ids: ClassVar[Sequence[str]] = ("1", "2", "3", "4")

    def path(self, folder: Path) -> Path:
        return folder / "features.h5"

    def finals(self, folder: Path) -> Iterator[Path]:
        yield self.path(folder)
        yield folder / "features.report.json"

    def left_over(self, folder: Path) -> list[str]:
        return sorted({p.name for p in folder.iterdir()} - {"features.h5", "features.report.json"})


class Fresh(Extraction):
    name = "extraction, fresh"

    def run(self, folder: Path) -> int:
        return extract(self.path(folder), self.ids, failed=["3"])


class Resumed(Extraction):
    name = "extraction, resumed"

    def prepare(self, folder: Path) -> None:
        extract(self.path(folder), self.ids, stop_after=2)

    def run(self, folder: Path) -> int:
        return extract(self.path(folder), self.ids)


class Extended(Extraction):
    name = "extraction, extended"

    def prepare(self, folder: Path) -> None:
        extract(self.path(folder), self.ids[:3], failed=["2"])

    def run(self, folder: Path) -> int:
        return extract(self.path(folder), self.ids)


class Replaced(Extraction):
    name = "extraction, one image replaced, one removed"

    def prepare(self, folder: Path) -> None:
        extract(self.path(folder), self.ids)

    def run(self, folder: Path) -> int:
        return extract(self.path(folder), self.ids[1:], versions={"3": 1})


class FirstShare(Extraction):
    """Two shares; the first is disturbed, the other follows."""

    name = "two shares, the first"

    def run(self, folder: Path) -> int:
        return extract(self.path(folder), self.ids, (0, 2), failed=["1"])

    def recover(self, folder: Path) -> int:
        return self.run(folder) or extract(self.path(folder), self.ids, (1, 2), failed=["1"])


class LastShare(Extraction):
    """Three shares of which two have ended; the third writes the file."""

    name = "three shares, the last"

    def prepare(self, folder: Path) -> None:
        for index in range(2):
            extract(self.path(folder), self.ids, (index, 3), failed=["1"])

    def run(self, folder: Path) -> int:
        return extract(self.path(folder), self.ids, (2, 3), failed=["1"])

    def left_over(self, folder: Path) -> list[str]:
        return []  # one share again after the file is whole: it says that it waits for the others


class Assembly(Extraction):
    """Many images, all of them stored: little more than the assembly."""

    name = "assembly of 24 images"
    ids = tuple(map(str, range(24)))

    def prepare(self, folder: Path) -> None:
        extract(self.path(folder), self.ids, stop_after=24)

    def run(self, folder: Path) -> int:
        return extract(self.path(folder), self.ids)


class ByHand(Extraction):
    """All images are stored; the share that would have written the file was killed."""

    name = "assembly by hand"

    def prepare(self, folder: Path) -> None:
        extract(self.path(folder), self.ids, (0, 2))
        extract(self.path(folder), self.ids, (1, 2), stop_after=2)

    def run(self, folder: Path) -> int:
        try:
            assemble_by_hand(self.path(folder), say=print)
        except StoreError as error:
            if "is whole" not in str(error):
                raise
        return 0


class Check(Extraction):
    """Reading only: it may fail to, but must not call a damaged file sound nor a sound one damaged for ever."""

    name = "check"

    def prepare(self, folder: Path) -> None:
        extract(self.path(folder), self.ids)

    def run(self, folder: Path) -> int:
        findings = check_file(self.path(folder))
        print(*findings, sep="\n")
        return 1 if findings else 0


# --- k-means ---------------------------------------------------------------------------------------------------


class Clustering(Scenario):
    """A vocabulary of 8 words of 16 images, and the words of two targets."""

    name = "k-means"
    weight = 3
    flags: ClassVar[Sequence[str]] = ()

    def load(self) -> None:
        for name in ("faiss", "torch", "kmeans.pipeline"):
            importlib.import_module(name)

    def prepare(self, folder: Path) -> None:
        chance = np.random.default_rng(0)
        for name in ("source", "target"):
            with h5py.File(folder / f"{name}.h5", "w") as file:
                for n in range(16):
                    file[f"{n:03}/features"] = chance.random((8, 8, 24), dtype=np.float32)

    def run(self, folder: Path) -> int:
        from kmeans.cli import main

        files = [str(folder / name) for name in ("source.h5", "target.h5")]
        return main(
            ["--src", files[0], "--tgt", *files, "--n_centroids", "8", "--n_iter", "3", "--feat_dim", "24",
             "--datasets_dir", str(folder / "results"), "--memory", "0.5", *self.flags]
        )  # fmt: skip

    def finals(self, folder: Path) -> Iterator[Path]:
        for place in ("cluster_centroids", "clustering"):
            for pattern in ("*.npy", "*.pkl"):
                yield from sorted((folder / "results" / place).glob(pattern))


class Assigning(Clustering):
    """The words of a second target, of a vocabulary that is there."""

    name = "k-means, assignment only"
    flags = ("--assign_only",)

    def prepare(self, folder: Path) -> None:
        super().prepare(folder)
        flags, type(self).flags = self.flags, ()
        try:
            assert super().run(folder) == 0
        finally:
            type(self).flags = flags
        for path in self.finals(folder):
            if "_target_" in path.name:
                path.unlink()


class SampleOnDisk(Clustering):
    """Memory for hardly anything: the sample lies in a file."""

    name = "k-means, its sample on the disk"
    flags = ("--memory", "0.0005")


# --- downloads -----------------------------------------------------------------------------------------------------


class Features(Scenario):
    """Published features, from a folder that stands for the server."""

    name = "download of features"
    weight = 2

    def prepare(self, folder: Path) -> None:
        mirror = folder / "mirror" / "NLVR2"
        mirror.mkdir(parents=True)
        for name in self.names:
            with h5py.File(mirror / name, "w") as file:
                file["1/features"] = np.random.default_rng(len(name)).random((36, 2048), dtype=np.float32)

    names = tuple(f"maskrcnn_{s}_{k}.h5" for s in ("train", "valid", "test") for k in ("grid8", "boxes36"))

    def run(self, folder: Path) -> int:
        from scripts.download.__main__ import main

        return main(["features", "nlvr2", *self.flags(folder)])

    def flags(self, folder: Path) -> list[str]:
        return [
            "--base-url", str(folder / "mirror"), "--datasets", str(folder / "datasets"), "--lock",
            str(folder / "downloads.lock.json"), "--tries", "2", "--first-wait", "0.01", "--timeout", "5",
        ]  # fmt: skip

    def finals(self, folder: Path) -> Iterator[Path]:
        yield from sorted((folder / "datasets").rglob("*.h5"))


class Images(Features):
    """An archive of images, downloaded and unpacked."""

    name = "download and unpacking of images"

    def prepare(self, folder: Path) -> None:
        mirror = folder / "mirror" / "GQA"
        mirror.mkdir(parents=True)
        with zipfile.ZipFile(mirror / "images.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for n in range(20):
                archive.writestr(f"images/{n}.jpg", np.random.default_rng(n).bytes(20_000))

    def run(self, folder: Path) -> int:
        from scripts.download.__main__ import main

        return main(["images", "gqa", *self.flags(folder)])

    def finals(self, folder: Path) -> Iterator[Path]:
        """The folder appears whole or not at all, so it is looked at as one."""
        yield folder / "datasets" / "GQA" / "images"

    def state(self, folder: Path) -> State:
        (images,) = self.finals(folder)
        if not images.is_dir():
            return {}
        whole = [(p.name, hashlib.sha256(p.read_bytes()).hexdigest()) for p in sorted(images.iterdir())]
        return {"images": hashlib.sha256(json.dumps(whole).encode()).hexdigest()} if whole else {}


SCENARIOS: Sequence[Scenario] = (
    Fresh(), Resumed(), Extended(), Replaced(), FirstShare(), LastShare(), Assembly(), ByHand(), Check(),
    Clustering(), Assigning(), SampleOnDisk(), Features(), Images(),
)  # fmt: skip


def copy(template: Path, folder: Path) -> None:
    """Begin anew: ``folder`` as ``prepare`` left it, times included."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(template, folder, symlinks=True)

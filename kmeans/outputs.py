"""Names, atomic writes and formats of everything run_kmeans.py leaves behind.

All files are written aside and renamed: whatever stands at a final path is whole.
"""

from __future__ import annotations

import fcntl
import glob
import hashlib
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from kmeans.vectors import Indices, Rows

FOLDER = "cluster_centroids"
"""Below ``--datasets_dir``: where the published script writes and X-LXMERT's image generator reads."""
ALIAS = "clustering"
"""Where X-LXMERT's pretraining and its sampler read the same files."""


class OutputError(RuntimeError):
    """Results that cannot be written or read."""


@dataclass(frozen=True)
class Names:
    """The published names of the files of one run, ``<datasets_dir>/cluster_centroids/...``."""

    datasets_dir: Path
    encoder: str
    source: str
    n_centroids: int
    n_iter: int
    feat_dim: int
    grid_size: int
    imsize: int | None

    @property
    def folder(self) -> Path:
        return self.datasets_dir / FOLDER

    @property
    def _tail(self) -> str:
        tail = f"{self.n_centroids}_iter{self.n_iter}_d{self.feat_dim}_grid{self.grid_size}"
        return tail if self.imsize is None else f"{tail}_imsize{self.imsize}"

    @property
    def centroids(self) -> Path:
        """float32 (k, d)."""
        return self.folder / f"{self.encoder}_{self.source}_centroids{self._tail}.npy"

    @property
    def stats(self) -> Path:
        return self.centroids.with_name(self.centroids.name + ".stats.json")

    @property
    def work(self) -> Path:
        """Unfinished things of this run: checkpoint, scratch file, indices of the target in work."""
        return self.centroids.with_name(self.centroids.name + ".work")

    def cluster_index(self, target: str) -> Path:
        """int64 (rows, 1)."""
        return self.folder / f"{self.encoder}_{self.source}_{target}_cluster_index_centroids{self._tail}.npy"

    def image_clusters(self, target: str) -> Path:
        """Pickled dict: image id -> int64 (rows per image,). The same as ``.npz`` beside it."""
        return self.folder / f"{self.encoder}_{self.source}_{target}_img_id_to_cluster_id_{self._tail}.pkl"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold ``folder`` for this process. Raises OutputError while another one does. Ends with the process."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(
                f"another process is making {folder.name.removesuffix('.work')}: wait for it, or stop it"
            ) from None
        except OSError:
            pass  # a file system without locks
        yield


@contextmanager
def written_aside(path: Path) -> Iterator[IO[bytes]]:
    """A file that appears at ``path`` when it is whole and on the disk, and not at all if an error passes
    through."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.part")  # what a killed run left is written over
    try:
        with open(aside, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def save_array(path: Path, array: NDArray[Any]) -> None:
    with written_aside(path) as file:
        np.save(file, array, allow_pickle=False)


def save_json(path: Path, value: Any) -> None:
    with written_aside(path) as file:
        file.write(json.dumps(value, indent=2, allow_nan=False, default=str).encode() + b"\n")


def load_json(path: Path) -> dict[str, Any]:
    """The object in ``path``; empty where there is none or it cannot be read."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


class _Pickler(pickle.Pickler):
    """Writes arrays by names that every numpy has: numpy 2 would write ``numpy._core``, unknown to the
    numpy of the published readers' time."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, np.ndarray):
            empty = (np.ndarray, ((0,), np.dtype("b")))
            return (*empty, (1, obj.shape, obj.dtype, False, obj.tobytes()))
        return NotImplemented


def save_image_clusters(path: Path, ids: list[str], clusters: Indices) -> None:
    """Write clusters (images, rows per image) as ``.npz`` (read by us) and as the published ``.pkl`` (read
    by others)."""
    with written_aside(path.with_suffix(".npz")) as file:
        np.savez(file, image_ids=np.array(ids, dtype=np.str_), cluster_ids=clusters)
    with written_aside(path) as file:
        _Pickler(file, protocol=4).dump(dict(zip(ids, clusters, strict=True)))


def load_image_clusters(path: Path) -> tuple[list[str], Indices]:
    """Image ids and clusters (images, rows per image) from the ``.npz`` of ``save_image_clusters``. Raises
    OutputError."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return file["image_ids"].tolist(), file["cluster_ids"]
    except FileNotFoundError:
        raise OutputError(f"{path} does not exist: run run_kmeans.py with this target") from None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise OutputError(
            f"{path} is not an .npz file of image ids and clusters ({error}); pickles are not read"
        ) from error


def image_clusters_beside(centroids: Path) -> dict[str, Path]:
    """Target -> ``.npz``, for all targets that were assigned to these centroids in the same folder."""
    head, found, tail = centroids.stem.rpartition("_centroids")
    if not found:
        return {}
    start, end = f"{head}_", f"_img_id_to_cluster_id_{tail}"
    return {
        path.stem.removeprefix(start).removesuffix(end): path
        for path in sorted(centroids.parent.glob(f"{glob.escape(start)}*{glob.escape(end)}.npz"))
    }


def load_centroids(path: Path, k: int | None = None, d: int | None = None) -> Rows:
    """The centroids (k, d) in ``path``. Raises OutputError if they are missing or not what they should be."""
    try:
        centroids = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise OutputError(
            f"{path} does not exist: run without --assign_only first, or download the centroids"
        ) from None
    except (OSError, ValueError) as error:
        raise OutputError(
            f"{path} is not a whole .npy file ({error}): remove it and run again without --assign_only"
        ) from error
    expected = (k, d)
    if (
        not isinstance(centroids, np.ndarray)
        or centroids.ndim != 2
        or any(e is not None and e != s for e, s in zip(expected, centroids.shape, strict=True))
    ):
        raise OutputError(f"{path} holds an array of shape {getattr(centroids, 'shape', None)}, expected {expected}")
    if centroids.dtype != np.float32 or not np.isfinite(centroids).all():
        raise OutputError(f"{path} holds {centroids.dtype} values, expected finite float32")
    return np.ascontiguousarray(centroids)


def digest(array: NDArray[Any]) -> str:
    """SHA-256 of the values."""
    return hashlib.sha256(np.ascontiguousarray(array).view(np.uint8).data).hexdigest()


def save_checkpoint(path: Path, key: dict[str, Any], centroids: Rows, state: dict[str, Any]) -> None:
    """Centroids and what else is needed to go on, in one file that is replaced as a whole."""
    with written_aside(path) as file:
        np.savez(file, centroids=centroids, state=np.array(json.dumps({"key": key, **state})))


def load_checkpoint(path: Path, key: dict[str, Any]) -> tuple[Rows, dict[str, Any]] | None:
    """The checkpoint in ``path`` if there is one and it was made by a run with this ``key``."""
    try:
        with np.load(path, allow_pickle=False) as file:
            state = json.loads(str(file["state"]))
            centroids = file["centroids"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return (centroids, state) if state.pop("key", None) == key else None


def link(path: Path) -> None:
    """Make ``cluster_centroids/x`` readable as ``clustering/x``: by a relative link, by a copy where links
    fail."""
    alias = path.parent.with_name(ALIAS)
    if not alias.exists() and not alias.is_symlink():
        try:
            alias.symlink_to(path.parent.name, target_is_directory=True)
            return
        except OSError:
            alias.mkdir()
    if alias.resolve() == path.parent.resolve():
        return
    if not alias.is_dir():
        raise OutputError(f"{alias} is in the way: it should be a folder, or a link to {path.parent.name}")
    other = alias / path.name
    if other.exists() and other.samefile(path):
        return
    aside = alias / f".{path.name}.part"
    aside.unlink(missing_ok=True)
    try:
        aside.symlink_to(Path("..") / path.parent.name / path.name)
    except OSError:
        shutil.copyfile(path, aside)
    os.replace(aside, other)


def require_space(folder: Path, needed: int, what: str) -> None:
    """Raise OutputError unless ``folder`` has room for ``needed`` bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OutputError(
            f"{folder} has {free / 1e9:.2f} GB free, {what} needs {needed / 1e9:.2f} GB:"
            " make room, or give another place (--scratch for the scratch file, --datasets_dir for results)"
        )


class PartialIndex:
    """Cluster ids of a target while they are computed: appended block by block, resumed after a crash.

    ``path`` holds little-endian int64; ``path.json`` says what they belong to.
    """

    def __init__(self, path: Path, key: dict[str, Any], multiple: int) -> None:
        self.path = path
        note = path.with_name(path.name + ".json")
        if load_json(note) != key or not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            save_json(note, key)
        self._file = open(path, "ab")  # noqa: SIM115  closed by close()
        self.rows = self._file.tell() // 8 // multiple * multiple
        self._file.truncate(self.rows * 8)

    def append(self, ids: Indices) -> None:
        self._file.write(ids.astype("<i8").tobytes())
        self._file.flush()

    def close(self) -> Indices:
        """All ids so far (rows,)."""
        self._file.close()
        return np.fromfile(self.path, "<i8").astype(np.int64)

    def discard(self) -> None:
        self._file.close()
        self.path.unlink(missing_ok=True)
        self.path.with_name(self.path.name + ".json").unlink(missing_ok=True)
